//! Performance counters for kernel programs: one of each kind per CPU, and one group per CPU, so that all counters of a
//! CPU count at the same times.
//!
//! They share the PMU with other users (`perf`, another agent). If there are too few hardware counters, the kernel
//! multiplexes them. Cycles and instructions then cover the same share of the time, and programs take that share into
//! account.

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

/// Lists the online CPUs.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// How long counters may take to start: other users may have to release the PMU, each for a kernel tick.
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

/// Counters that are counting. Dropping it closes them.
pub(super) struct Group {
    /// For each of [`Counters::all`], the position of the chosen candidate in its list, from 1; 0 if the CPU has none.
    pub(super) chosen: Vec<u32>,
    of: &'static Counters,
    /// The open counters of each CPU, in the order of the chosen ones.
    opened: Vec<(usize, Vec<Opened>)>,
}

/// Counters that are counting, in the maps where programs read them.
pub struct Counting {
    group: Group,
    /// Closing these descriptors clears the maps.
    _maps: Vec<XskMap<MapData>>,
}

impl Group {
    /// Opens the counters on each CPU and waits until they count.
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

    /// Waits until each required counter has counted. On an idle CPU it may not, but on the current CPU it does.
    fn wait(&mut self) -> Result<(), HookError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some((counter, running_ns)) = self.idle_counter()? else { return Ok(()) };
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

    /// Returns a required counter that has not counted yet, and for how many nanoseconds it was scheduled.
    fn idle_counter(&mut self) -> Result<Option<(&'static Counter, u64)>, HookError> {
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

    /// Stores the counters in the maps from which the programs read them.
    pub(super) fn place(self, programs: &mut Ebpf) -> anyhow::Result<Counting> {
        let mut maps = Vec::new();
        let mut nth = 0;
        for (counter, chosen) in self.of.all.iter().zip(&self.chosen) {
            let map = super::take(programs, counter.map)?;
            let Map::PerfEventArray(data) = map else {
                anyhow::bail!("map {} is no array of performance counters", counter.map)
            };
            // The loader's type for this kind of array opens its own counters and accepts no open descriptor. Its type
            // for XDP sockets does, and makes the same system call: an update with the index of a CPU and a descriptor.
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
    /// The program that reads them.
    #[must_use]
    pub const fn program(&self) -> &'static str {
        self.group.of.program
    }

    /// Says what is counted, and for what share of the time. Human-readable.
    #[must_use]
    pub fn shown(&mut self) -> String {
        let chosen = self.group.of.all.iter().zip(&self.group.chosen);
        let names: Vec<_> = chosen
            .filter_map(|(counter, chosen)| counter.of.get((*chosen as usize).checked_sub(1)?))
            .map(|quantity| quantity.name())
            .collect();
        let (mut enabled_ns, mut running_ns) = (0, 0);
        for (_, opened) in &mut self.group.opened {
            // A counter that cannot be read does not count.
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

/// Chooses the first supported candidate of each counter. Fails if the CPU lacks a required one.
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

/// Opens the chosen counters on one CPU, as one group.
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
        // The first is the group leader: it starts the whole group once all are open.
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

/// Explains why a counter cannot be opened, with the remedy.
fn explain(quantity: Quantity, error: &io::Error) -> HookError {
    let name = quantity.name();
    match error.raw_os_error() {
        Some(ENOENT | ENODEV | EOPNOTSUPP | EINVAL) => HookError::Unsupported(format!(
            "no counter for {name}: this machine has no PMU, like most virtual machines ({error})"
        )),
        Some(EBUSY) => HookError::Unsupported(format!(
            "no counter for {name} is free: the PMU is in use by another program ({error})"
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
            "no file descriptor is left for a counter for {name} ({error}): RLIMIT_NOFILE must be larger than four per \
             CPU"
        )),
        _ => HookError::Failed(format!("the counter for {name} cannot be opened ({error})")),
    }
}

fn unreadable(counter: &Counter, error: &io::Error) -> HookError {
    HookError::Failed(format!("{}: the counter cannot be read ({error})", counter.name))
}

/// The numbers of the online CPUs.
fn online() -> io::Result<Vec<usize>> {
    let text = fs::read_to_string(ONLINE)?;
    parse(text.trim()).ok_or_else(|| io::Error::other(format!("odd list {text:?}")))
}

/// Parses a list of CPUs such as `0-3,8`.
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
    fn each_refusal_has_its_explanation() {
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
