//! The kernel side: loads an observer's object, attaches its hooks, reads its ring and its counts.
//!
//! The only place that names the loader. A hook, field or right that this kernel does not grant makes that
//! one hook unsupported, with the reason; it never stops the agent.

pub mod btf;
mod counters;
mod listeners;
mod rights;
mod runs;
mod snapshot;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, FExit, ProgramError},
};
use tapio_common::{
    ABSENT, AGENT, Agent, COUNTERS, COUNTS, Counts, EVENTS, NESTS, OFFSETS, PAGE_BYTES, SEED, SETTINGS,
};
use tapio_service::clock;
use tokio::io::{Interest, unix::AsyncFd};

use self::rights::{forbids_reading, has_needed, needed, raise_memlock_limit};
pub use self::{
    counters::Counting,
    listeners::{Listening, listening},
    rights::{memlock_limit, version},
    runs::{RunTime, measure},
    snapshot::Entries,
};
use crate::{
    observer::{Attach, Hook, Object},
    snapshot::{Snapshot, Writer},
};

/// Where a kernel shows its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why a hook is not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// This kernel does not have what it takes: no failure.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// It should have worked.
    #[error("failed: {0}")]
    Failed(String),
}

impl HookError {
    /// It is nobody's fault.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }
}

/// A hook and what became of it.
#[derive(Clone, Debug)]
pub struct HookState {
    /// The hook.
    pub hook: &'static Hook,
    /// Attached, or why not.
    pub state: Result<(), HookError>,
}

/// This host's kernel.
pub struct Kernel {
    btf: Btf,
    types: Vec<u8>,
    agent: Agent,
    proc_root: PathBuf,
    snapshot: Snapshot,
}

/// An observer's programs in the kernel. Dropping it detaches them.
pub struct Loaded {
    /// Its hooks, in the order of [`Object::hooks`].
    pub hooks: Vec<HookState>,
    /// What it knows less than it should, for people.
    pub degraded: Option<String>,
    ring: Option<RingBuf<MapData>>,
    /// The performance counters that its programs read.
    counting: Mutex<Option<Counting>>,
    /// Its counts.
    pub counts: CountsReader,
    snapshot_maps: snapshot::Maps,
    /// `None` once they are detached.
    programs: Mutex<Option<Ebpf>>,
    /// As far as it was looked at.
    missed: Mutex<Vec<(&'static str, u64)>>,
}

/// The consumer of an observer's ring buffer.
pub struct Events(AsyncFd<RingBuf<MapData>>);

/// Reads an observer's counts.
pub struct CountsReader {
    map: PerCpuArray<MapData, [u64; COUNTS_WORDS]>,
    programs: u32,
}

const COUNTS_WORDS: usize = size_of::<Counts>() / size_of::<u64>();

impl Kernel {
    /// Reads the kernel's types and finds out who the agent is.
    ///
    /// # Errors
    /// One sentence with the remedy: no BTF, no rights.
    pub fn open(proc_root: &Path) -> anyhow::Result<Self> {
        Self::open_with(Path::new(BTF), proc_root)
    }

    /// As [`Self::open`], with the kernel's types in another place.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(types: &Path, proc_root: &Path) -> anyhow::Result<Self> {
        let types = std::fs::read(types).with_context(|| {
            format!(
                "{} cannot be read: Tapio needs a kernel of 5.10 or later built with CONFIG_DEBUG_INFO_BTF=y \
                 (in a container: mount the host's /sys/kernel/btf read-only)",
                types.display()
            )
        })?;
        let btf =
            Btf::parse(&types, aya::Endianness::default()).context("the kernel's BTF cannot be read")?;
        let namespace = rustix::fs::stat("/proc/self/ns/pid").context("/proc/self/ns/pid cannot be read")?;
        let agent = Agent {
            pid_namespace_device: namespace.st_dev,
            pid_namespace_inode: namespace.st_ino,
            pid: u64::from(std::process::id()),
            tick_ns: clock::tick_ns(),
        };
        raise_memlock_limit();
        let snapshot = Snapshot::new().context("the kernel gives no random seed")?;
        Ok(Self { btf, types, agent, proc_root: proc_root.to_owned(), snapshot })
    }

    /// Knows what was learned before; its programs begin with that.
    #[must_use]
    pub fn with(self, snapshot: Snapshot) -> Self {
        Self { snapshot, ..self }
    }

    /// Loads an observer's object and attaches what can be attached.
    ///
    /// # Errors
    /// The object as a whole cannot be loaded: no rights, no ring buffers, no memory.
    pub fn load(&self, object: &Object<'_>) -> anyhow::Result<Loaded> {
        let types = btf::Types::parse(&self.types)?;
        let offsets: Vec<_> = object.fields.iter().map(|path| types.offset(path)).collect();
        // What is done with an absent field the verifier does not look at.
        let by_helper = object.by_helper;
        let is_locked_down = !by_helper.fields.is_empty() && forbids_reading();
        let forbidden = if is_locked_down { by_helper.fields } else { &[] };
        let value = |(field, offset): (usize, &Result<u32, _>)| match offset {
            Ok(offset) if !forbidden.contains(&field) => *offset,
            _ => ABSENT,
        };
        let values: Vec<u32> = offsets.iter().enumerate().map(value).collect();
        let mut group = object.counters.map(counters::Group::open).transpose();
        let chosen = match (&group, object.counters) {
            (Ok(Some(group)), _) => group.chosen.clone(),
            (_, counters) => vec![0; counters.map_or(0, |counters| counters.all.len())],
        };
        let Agent { pid_namespace_device, pid_namespace_inode, pid, tick_ns } = self.agent;
        let agent = [pid_namespace_device, pid_namespace_inode, pid, tick_ns];
        let page_bytes = rustix::param::page_size() as u64;
        let nests = u32::from(rights::programs_nest());
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&self.btf))
            .override_global(OFFSETS, values.as_slice(), true)
            .override_global(SETTINGS, object.settings, !object.settings.is_empty())
            .override_global(PAGE_BYTES, &page_bytes, false)
            .override_global(NESTS, &nests, true)
            .override_global(SEED, &self.snapshot.seed, false)
            .override_global(AGENT, agent.as_slice(), true);
        if object.counters.is_some() {
            loader.override_global(COUNTERS, chosen.as_slice(), true);
        }
        let mut programs = loader.load(object.bytes).map_err(|error| explain_load(object.name, error))?;
        let counting = match &mut group {
            Ok(group) => group.take().map(|group| group.place(&mut programs)).transpose()?,
            Err(_) => None,
        };
        let snapshot_maps =
            snapshot::Maps::take(&mut programs, object.name, object.snapshot_maps, &self.snapshot)?;
        let uncounted = |hook: &Hook| match (&group, object.counters) {
            (Err(error), Some(counters)) if counters.program == hook.program => Some(error.clone()),
            _ => None,
        };

        let hooks = object
            .hooks
            .iter()
            .map(|hook| {
                let missing = hook.needs.iter().find_map(|field| match offsets.get(*field)? {
                    Err(absent) => Some(absent.to_string()),
                    Ok(_) => forbidden.contains(field).then(|| FORBIDDEN.to_owned()),
                });
                let state = match (missing, uncounted(hook)) {
                    (Some(missing), _) => Err(HookError::Unsupported(missing)),
                    (None, Some(error)) => Err(error),
                    (None, None) => attach(&mut programs, hook, &self.btf),
                };
                HookState { hook, state }
            })
            .collect();
        if let Some(map) = programs.take_map(listeners::MAP) {
            listeners::fill(&mut HashMap::try_from(map)?, &self.proc_root);
        }
        let degraded = is_locked_down.then(|| {
            let lost = by_helper.lost;
            format!("{FORBIDDEN}: {lost}")
        });
        let ring = Some(RingBuf::try_from(take(&mut programs, EVENTS)?)?);
        let counts = CountsReader {
            map: PerCpuArray::try_from(take(&mut programs, COUNTS)?)?,
            programs: u32::try_from(object.hooks.len())?,
        };
        Ok(Loaded {
            hooks,
            degraded,
            ring,
            counting: Mutex::new(counting),
            counts,
            snapshot_maps,
            programs: Mutex::new(Some(programs)),
            missed: Mutex::default(),
        })
    }
}

impl Loaded {
    /// Its ring of events, once. Within a runtime only: programs are attached before there is one.
    ///
    /// # Errors
    /// It was taken before, or the runtime cannot wait for it.
    pub fn events(&mut self) -> anyhow::Result<Events> {
        let ring = self.ring.take().context("the ring is read by someone else")?;
        Events::new(ring).context("the ring cannot be waited for")
    }

    /// Of the program that reads performance counters: its name, which they are, and what part of the time they count.
    #[must_use]
    pub fn counting(&self) -> Option<(&'static str, String)> {
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        counting.as_mut().map(|counting| (counting.program(), counting.shown()))
    }

    /// Writes what its programs have learned; says how many entries each of their maps has.
    ///
    /// # Errors
    /// A map cannot be read, or the file not be written.
    pub fn snapshot(&self, to: &mut Writer<impl io::Write>) -> anyhow::Result<Entries> {
        self.snapshot_maps.write(to)
    }

    /// Takes the programs off their hooks. The ring and the counts stay, and change no more.
    pub fn detach(&self) {
        // It is asked for afterwards, too.
        drop(self.missed());
        drop(self.programs.lock().unwrap_or_else(PoisonError::into_inner).take());
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

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    pub async fn ready(&mut self) -> io::Result<()> {
        self.0.readable_mut().await?.clear_ready();
        Ok(())
    }

    /// The next record, if there is one; its place in the ring is free again when it is dropped.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the ring, which an iterator cannot"
    )]
    pub fn next(&mut self) -> Option<impl std::ops::Deref<Target = [u8]>> {
        self.0.get_mut().next()
    }
}

impl CountsReader {
    /// The counts of each program, in the order of its hooks, summed over the CPUs.
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

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

fn take(programs: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    programs.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"))
}

fn attach(programs: &mut Ebpf, hook: &Hook, btf: &Btf) -> Result<(), HookError> {
    let program = programs
        .program_mut(hook.program)
        .ok_or_else(|| HookError::Failed(format!("the object has no program {}", hook.program)))?;
    match hook.attach {
        Attach::BtfTracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(explain_hook)?;
            program.load(tracepoint, btf).map_err(explain_hook)?;
            program.attach().map_err(explain_hook)?;
        }
        Attach::FunctionExit(function) => {
            let program: &mut FExit = program.try_into().map_err(explain_hook)?;
            let attached = program.load(function, btf).and_then(|()| program.attach().map(drop));
            attached.map_err(|error| explain_function(function, error))?;
        }
    }
    Ok(())
}

/// Kernels without a way from functions to programs refuse one or the other.
fn explain_function(function: &str, error: ProgramError) -> HookError {
    let errno = |error: &io::Error| match error.raw_os_error() {
        Some(EPERM) => has_needed(),
        errno => errno == Some(ENOTSUPP),
    };
    match &error {
        ProgramError::Btf(_) => {
            HookError::Unsupported(format!("this kernel does not have the function {function}"))
        }
        ProgramError::LoadError { io_error, .. } if errno(io_error) => {
            HookError::Unsupported(NO_FENTRY.to_owned())
        }
        ProgramError::SyscallError(call) if errno(&call.io_error) => {
            HookError::Unsupported(NO_FENTRY.to_owned())
        }
        _ => explain_hook(error),
    }
}

const FORBIDDEN: &str = "lockdown forbids to read what has no type";

const NO_FENTRY: &str = "this kernel attaches no program to functions (fentry)";

/// What arm64 says before 6.4, include/linux/errno.h.
const ENOTSUPP: i32 = 524;

/// What this kernel does not have is no failure of the agent.
fn explain_hook(error: ProgramError) -> HookError {
    match error {
        ProgramError::Btf(_) => HookError::Unsupported("this kernel does not have the tracepoint".to_owned()),
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            log.lines().for_each(|line| tracing::debug!("{line}"));
            HookError::Failed(match io_error.raw_os_error() {
                Some(EPERM) => format!("no right to load it ({io_error}): it takes {}", needed()),
                _ => format!("refused by the verifier ({io_error}): {}", reason(&log)),
            })
        }
        error => HookError::Failed(error.to_string()),
    }
}

/// The verifier's last words. Statistics follow them, of which newer kernels have more.
fn reason(log: &str) -> &str {
    const STATISTICS: [&str; 4] = ["processed ", "insns processed ", "stack depth ", "verification time "];
    let is_reason = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    log.lines().rev().find(is_reason).unwrap_or("no reason given")
}

/// `EPERM`, include/uapi/asm-generic/errno-base.h.
const EPERM: i32 = 1;

fn explain_load(name: &str, error: aya::EbpfError) -> anyhow::Error {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.raw_os_error() == Some(EPERM)) {
            tracing::debug!(%error, "the refusal");
            // The cause apart from the remedy: who may do so already gets another one from `tapio doctor`.
            let remedy =
                format!("no right to load the programs of {name}: run as root, or with {}", needed());
            return anyhow!("{cause}").context(remedy);
        }
        source = cause.source();
    }
    anyhow!("the programs of {name} cannot be loaded: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words() {
        let log = "0: (79) r1 = *(u64 *)(r1 +0)\nunknown func bpf_probe_read#4\nverification time 9 usec\n\
                   stack depth 152+0 max 0\ninsns processed 992\nprocessed 992 insns (limit 1000000)\n\n";
        assert_eq!(reason(log), "unknown func bpf_probe_read#4");
        assert_eq!(reason(""), "no reason given");
    }
}
