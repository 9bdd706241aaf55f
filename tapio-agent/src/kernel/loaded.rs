//! Loaded programs: their hooks, their ring buffer, their counts and their learned state.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, RingBuf},
};
use tapio_common::Counts;
use tokio::io::{Interest, unix::AsyncFd};

use super::{Counting, HookError, runs, snapshot};
use crate::{
    observer::{Fallback, Hook},
    source::{Absent, Lack, Part, Put, Ready, Records, RunTime, Source},
};

const COUNTS_WORDS: usize = size_of::<Counts>() / size_of::<u64>();

const ANOTHER_KERNEL: &str = "run a kernel that allows it; the other hooks work without it";
const ANOTHER_MACHINE: &str = "run on a machine with free performance counters (KVM: -cpu host,pmu=on)";
const LESS_PARANOID: &str = "sysctl -w kernel.perf_event_paranoid=2, or grant what the line names";

/// A hook and whether it is attached.
#[derive(Clone, Debug)]
pub struct HookState {
    /// The hook.
    pub hook: &'static Hook,
    /// The program that is attached: the hook's own, or one of its fallbacks.
    pub by: Fallback,
    /// Attached, or the reason why not.
    pub state: Result<(), HookError>,
}

/// An observer's loaded programs. Dropping it detaches them.
pub struct Loaded {
    /// Its hooks, in the order of [`Object::hooks`](crate::observer::Object::hooks).
    pub hooks: Vec<HookState>,
    /// Its counts.
    pub counts: CountsReader,
    pub(super) degraded: Option<String>,
    pub(super) ring: Option<RingBuf<MapData>>,
    /// The program that reads performance counters.
    pub(super) counted: Option<&'static str>,
    pub(super) counting: Mutex<Option<Counting>>,
    pub(super) snapshot_maps: snapshot::Maps,
    /// `None` once they are detached.
    pub(super) programs: Arc<Mutex<Option<Ebpf>>>,
    /// The last known numbers: they stay readable after the programs are detached.
    pub(super) missed: Mutex<Vec<(&'static str, u64)>>,
}

/// The consumer of an observer's ring buffer.
pub struct Events(AsyncFd<RingBuf<MapData>>);

/// Reads an observer's counts.
pub struct CountsReader {
    pub(super) map: PerCpuArray<MapData, [u64; COUNTS_WORDS]>,
    pub(super) programs: u32,
}

impl Loaded {
    /// Returns its ring buffer, once. Call it within the async runtime, which starts after the programs are attached.
    ///
    /// # Errors
    /// The ring was taken before, or the runtime cannot wait for it.
    pub fn events(&mut self) -> anyhow::Result<Events> {
        let ring = self.ring.take().context("the ring is read by someone else")?;
        Events::new(ring).context("the ring cannot be waited for")
    }

    /// Detaches the programs. The ring and the counts stay readable and no longer change.
    pub fn detach(&self) {
        // Records the missed runs, which the ledger needs afterwards.
        drop(self.missed());
        drop(self.programs.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn part(&self, HookState { hook, by, state }: &HookState) -> Part {
        let is_counted = self.counted == Some(hook.program);
        let state = match state {
            Ok(()) => {
                let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
                let counting = counting.as_mut().filter(|_| is_counted);
                let counting = counting.map(|counting| format!(" with {}", counting.shown()));
                let how = by.attach.to_string();
                // Most programs have the name of their attach point.
                let how = how.strip_suffix(hook.program).map_or(&*how, str::trim_end);
                Ok(format!("attached ({how}){}", counting.unwrap_or_default()))
            }
            Err(error) => Err(Absent {
                why: error.to_string(),
                lack: if error.is_unsupported() { Lack::Unsupported } else { Lack::Failed },
                remedy: match (error.is_unsupported(), is_counted) {
                    (true, true) => Some(ANOTHER_MACHINE),
                    (true, false) => Some(ANOTHER_KERNEL),
                    (false, true) => Some(LESS_PARANOID),
                    (false, false) => None,
                },
            }),
        };
        Part { name: hook.program, state, gives: hook.gives }
    }
}

impl Source for Loaded {
    fn of(&self) -> &'static str {
        "hooks"
    }

    fn parts(&self) -> Vec<Part> {
        self.hooks.iter().map(|hook| self.part(hook)).collect()
    }

    /// Always true: the agent runs even if the kernel supports none of the hooks.
    fn observes(&self) -> bool {
        true
    }

    fn degraded(&self) -> Option<&str> {
        self.degraded.as_deref()
    }

    fn records(&mut self) -> anyhow::Result<Box<dyn Records>> {
        Ok(Box::new(self.events()?))
    }

    fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        Ok(self.hooks.iter().map(|hook| hook.hook.program).zip(self.counts.read()?).collect())
    }

    fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        self.per_program(runs::run_time)
    }

    fn missed(&self) -> Vec<(&'static str, u64)> {
        let mut known = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.programs.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            *known = self.per_program(runs::missed);
        }
        known.clone()
    }

    fn snapshot(&self, put: &mut Put<'_>) -> anyhow::Result<Vec<(&'static str, usize)>> {
        self.snapshot_maps.write(put)
    }

    fn read(&self, map: &str, take: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        self.snapshot_maps.read(map, take)
    }

    fn element(&self, map: &str, index: u32) -> Option<Vec<u8>> {
        self.snapshot_maps.element(map, index)
    }

    fn close(&self) {
        self.detach();
    }
}

impl Events {
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; a ring owns its descriptor as long as it lives"
    )]
    fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        AsyncFd::with_interest(ring, Interest::READABLE).map(Self)
    }

    /// Returns the next record, if there is one. Dropping it frees its space in the ring.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the ring, which an iterator cannot"
    )]
    pub fn next(&mut self) -> Option<impl std::ops::Deref<Target = [u8]>> {
        self.0.get_mut().next()
    }
}

impl Records for Events {
    fn ready(&mut self) -> Ready<'_> {
        Box::pin(async {
            self.0.readable_mut().await?.clear_ready();
            Ok(())
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(record) = Self::next(self) else { return false };
        take(&record);
        true
    }
}

impl CountsReader {
    /// Returns the counts of each program, in the order of the hooks, summed over the CPUs.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn read(&self) -> anyhow::Result<Vec<Counts>> {
        (0..self.programs)
            .map(|program| {
                let mut sum = Counts::default();
                for cpu in self.map.get(&program, 0)?.iter() {
                    sum.add(&bytemuck::cast(*cpu));
                }
                Ok(sum)
            })
            .collect()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}
