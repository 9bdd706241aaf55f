//! The CPU's performance counters, opened for kernel programs that read them: one of each on each CPU, in
//! groups, so that all of a CPU count at the same times.
//!
//! They count next to those of others (`perf`, another agent). Where there are not enough for all, the kernel has them
//! take turns, and cycles and instructions are those of the same part of the time; programs judge by how large that is.

use std::{
    fmt, fs, io,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, XskMap},
};
use perf_event::{
    Builder, Counter as Opened,
    events::{Hardware, Software},
};

use super::HookError;
use crate::observer::{Counter, Counters, Quantity};

/// CPUs that are there to be counted on.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// How long counters may take until they count: others may have to make room, each for a tick of the kernel.
const PATIENCE: Duration = Duration::from_millis(100);

// include/uapi/asm-generic/errno-base.h, errno.h
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const EMFILE: i32 = 24;
const EOPNOTSUPP: i32 = 95;

/// Counters that count. Closed when dropped.
pub(super) struct Group {
    /// What each of [`Counters::all`] counts: 0 for one that is not there, else the place in its list, from 1.
    pub(super) chosen: Vec<u32>,
    of: &'static Counters,
    /// By CPU, in the order of those that are there.
    opened: Vec<(usize, Vec<Opened>)>,
}

/// The same, where programs read them.
pub struct Counting {
    group: Group,
    /// What the programs' maps hold goes with their descriptors.
    _maps: Vec<XskMap<MapData>>,
}

impl Group {
    /// Opens them on each CPU, and waits until they count.
    pub(super) fn open(of: &'static Counters) -> Result<Self, HookError> {
        let cpus = online().map_err(|error| HookError::Failed(format!("{ONLINE}: {error}")))?;
        let Some(first) = cpus.first() else {
            return Err(HookError::Failed(format!("{ONLINE} names no CPU")));
        };
        let mut group = Self { chosen: choose(of, *first)?, of, opened: Vec::new() };
        for cpu in cpus {
            let counters =
                open_all(of, &group.chosen, cpu).map_err(|(quantity, error)| explain(quantity, &error))?;
            group.opened.push((cpu, counters));
        }
        group.wait()?;
        Ok(group)
    }

    /// Waits until each that is needed has counted: on an idle CPU it may not, on this one it does.
    fn wait(&mut self) -> Result<(), HookError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some((counter, running_ns)) = self.silent()? else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(HookError::Unsupported(if running_ns == 0 {
                    format!("{}: the counters of this CPU are in use by others", counter.name)
                } else {
                    format!("{}: the counter is there, and does not count (a virtual machine?)", counter.name)
                }));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// One that is needed and has not counted yet, and for how long it could have.
    fn silent(&mut self) -> Result<Option<(&'static Counter, u64)>, HookError> {
        let mut nth = 0;
        for (counter, chosen) in self.of.all.iter().zip(&self.chosen) {
            if *chosen == 0 {
                continue;
            }
            let (mut count, mut running_ns) = (0, 0);
            for opened in self.opened.iter_mut().filter_map(|(_, opened)| opened.get_mut(nth)) {
                let read = opened.read_count_and_time().map_err(|error| unreadable(counter, &error))?;
                count += read.count;
                running_ns += read.time_running;
            }
            if counter.needed && count == 0 {
                return Ok(Some((counter, running_ns)));
            }
            nth += 1;
        }
        Ok(None)
    }

    /// Puts the counters where the programs read them.
    pub(super) fn place(self, programs: &mut Ebpf) -> anyhow::Result<Counting> {
        let mut maps = Vec::new();
        let mut nth = 0;
        for (counter, chosen) in self.of.all.iter().zip(&self.chosen) {
            let map = super::take(programs, counter.map)?;
            let Map::PerfEventArray(data) = map else {
                anyhow::bail!("map {} is no array of performance counters", counter.map)
            };
            // The loader's type for this array opens counters of its own, and has no call that takes one. Its type for
            // sockets has: the update that it makes is the same system call, with the index of a CPU and a
            // descriptor.
            let mut map = XskMap::try_from(Map::XskMap(data))?;
            if *chosen != 0 {
                for (cpu, opened) in &self.opened {
                    if let Some(opened) = opened.get(nth) {
                        map.set(u32::try_from(*cpu)?, opened.as_raw_fd(), 0)?;
                    }
                }
                nth += 1;
            }
            maps.push(map);
        }
        Ok(Counting { group: self, _maps: maps })
    }
}

impl Counting {
    /// The program that they are for.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        self.group.of.program
    }

    /// What is counted, and what part of the time, for people.
    #[must_use]
    pub fn shown(&mut self) -> String {
        let chosen = self.group.of.all.iter().zip(&self.group.chosen);
        let names: Vec<_> = chosen
            .filter_map(|(counter, chosen)| counter.of.get((*chosen as usize).checked_sub(1)?))
            .map(|quantity| quantity.name())
            .collect();
        let (mut enabled_ns, mut running_ns) = (0, 0);
        for (_, opened) in &mut self.group.opened {
            // One that cannot be read is one that does not count.
            let Some(Ok(read)) = opened.first_mut().map(Opened::read_count_and_time) else { continue };
            enabled_ns += read.time_enabled;
            running_ns += read.time_running;
        }
        let percent = u128::from(running_ns) * 100 / u128::from(enabled_ns.max(1));
        let cpus = self.group.opened.len();
        let turns = if percent < 99 {
            format!(", {percent} % of the time: others use the counters, too, and what is counted is scaled")
        } else {
            String::new()
        };
        format!("{} on {cpus} CPUs{turns}", names.join(", "))
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").field("chosen", &self.group.chosen).finish_non_exhaustive()
    }
}

/// Which of each list this CPU has. One that is needed has to be there.
fn choose(of: &'static Counters, cpu: usize) -> Result<Vec<u32>, HookError> {
    let mut chosen = vec![0; of.all.len()];
    for (at, counter) in of.all.iter().enumerate() {
        let mut refused = None;
        for nth in (1..).take(counter.of.len()) {
            chosen[at] = nth;
            match open_all(of, &chosen, cpu) {
                Ok(_) => break,
                Err(error) => refused = Some(error),
            }
            chosen[at] = 0;
        }
        match refused {
            Some((quantity, error)) if chosen[at] == 0 && counter.needed => {
                return Err(explain(quantity, &error));
            }
            Some((quantity, error)) if chosen[at] == 0 => {
                tracing::debug!(counter = quantity.name(), %error, "not counted");
            }
            _ => {}
        }
    }
    Ok(chosen)
}

/// Opens the chosen ones on one CPU, as one group.
fn open_all(of: &'static Counters, chosen: &[u32], cpu: usize) -> Result<Vec<Opened>, (Quantity, io::Error)> {
    let mut opened: Vec<Opened> = Vec::new();
    let mut last = Quantity::Cycles;
    for (counter, chosen) in of.all.iter().zip(chosen) {
        let Some(quantity) = (*chosen as usize).checked_sub(1).and_then(|nth| counter.of.get(nth)) else {
            continue;
        };
        let mut builder = match quantity {
            Quantity::Cycles => Builder::new(Hardware::CPU_CYCLES),
            Quantity::Instructions | Quantity::InstructionsOfUser => Builder::new(Hardware::INSTRUCTIONS),
            Quantity::StalledCycles => Builder::new(Hardware::STALLED_CYCLES_BACKEND),
            Quantity::CacheMisses => Builder::new(Hardware::CACHE_MISSES),
            Quantity::Clock => Builder::new(Software::CPU_CLOCK),
            Quantity::Switches => Builder::new(Software::CONTEXT_SWITCHES),
        };
        // The first, which the others go with, begins when all are there.
        builder.any_pid().one_cpu(cpu).enabled(!opened.is_empty());
        if *quantity != Quantity::InstructionsOfUser {
            builder.include_kernel();
        }
        let result = match opened.first_mut() {
            Some(leader) => builder.build_with_group(leader),
            None => builder.build(),
        };
        opened.push(result.map_err(|error| (*quantity, error))?);
        last = *quantity;
    }
    if let Some(leader) = opened.first_mut() {
        leader.enable().map_err(|error| (last, error))?;
    }
    Ok(opened)
}

/// Why there is none, and what would help.
fn explain(quantity: Quantity, error: &io::Error) -> HookError {
    let name = quantity.name();
    match error.raw_os_error() {
        Some(ENOENT | ENODEV | EOPNOTSUPP | EINVAL) => HookError::Unsupported(format!(
            "no counter of {name}: this machine has no PMU, as most virtual ones ({error})"
        )),
        Some(EBUSY) => HookError::Unsupported(format!(
            "no counter of {name} is free: the PMU is in use by another ({error})"
        )),
        Some(EPERM | EACCES) => {
            let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
            HookError::Failed(format!(
                "no right to count {name} ({error}): it takes CAP_PERFMON, or CAP_SYS_ADMIN where a distribution's \
                 kernel.perf_event_paranoid is 3 or more (it is {}), and a seccomp profile that allows perf_event_open(2)",
                paranoid.trim()
            ))
        }
        Some(EMFILE) => HookError::Failed(format!(
            "no descriptor is left for a counter of {name} ({error}): RLIMIT_NOFILE has to be larger than four for each \
             cpu"
        )),
        _ => HookError::Failed(format!("no counter of {name} can be opened ({error})")),
    }
}

fn unreadable(counter: &Counter, error: &io::Error) -> HookError {
    HookError::Failed(format!("{}: the counter cannot be read ({error})", counter.name))
}

/// The numbers of the CPUs that are on.
fn online() -> io::Result<Vec<usize>> {
    let text = fs::read_to_string(ONLINE)?;
    parse(text.trim()).ok_or_else(|| io::Error::other(format!("odd list {text:?}")))
}

/// `0-3,8`
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse("0-"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn each_refusal_has_its_words() {
        let said = |errno| explain(Quantity::Cycles, &io::Error::from_raw_os_error(errno));
        for errno in [ENOENT, ENODEV, EOPNOTSUPP, EINVAL] {
            assert!(said(errno).is_unsupported());
            assert!(said(errno).to_string().contains("no PMU"), "{}", said(errno));
        }
        assert!(said(EBUSY).to_string().contains("in use by another"), "{}", said(EBUSY));
        for errno in [EPERM, EACCES] {
            assert!(said(errno).to_string().contains("CAP_PERFMON"), "{}", said(errno));
            assert!(!said(errno).is_unsupported());
        }
        assert!(said(EMFILE).to_string().contains("RLIMIT_NOFILE"), "{}", said(EMFILE));
    }
}
