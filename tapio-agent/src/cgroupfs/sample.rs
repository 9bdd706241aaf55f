//! Samples one cgroup, or the node.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use tapio_common::{
    Header, WHOLE_NODE,
    node::{Sample, UNKNOWN, UNLIMITED, kind},
};
use tapio_service::clock;

use super::{
    above::is_set,
    hierarchy::{Cpus, Hierarchy},
    parse,
    tree::{Above, Group},
};

/// More than these files have: `memory.stat` has some 2 KiB.
const MAX_BYTES: usize = 16 << 10;
/// A cgroup's pressure is read again only when the node's has grown by this divided by the number of CPUs,
/// microseconds. The node's pressure is a mean over CPUs, each weighted by its busy time (kernel/sched/psi.c,
/// `collect_percpu_times`). One of n CPUs that stalls for g within a time t adds at least g^2 / (n t). A
/// cgroup that is not read has therefore waited for less than the root of this times t: 6.3 % of 5 s, which
/// is below every default floor.
const WAITED_US: u64 = 20_000;

/// The reader of the files, with the state that it keeps between scans.
#[derive(Clone, Debug)]
pub(super) struct Eyes {
    hierarchy: Hierarchy,
    node: Node,
    text: Vec<u8>,
    /// The node's sample of this scan.
    now: Sample,
    /// The node's pressure when the cgroups' pressure was last read.
    waited: Option<[u64; 2]>,
    /// Whether this scan reads the pressure of cgroups.
    reads_pressure: bool,
    /// The pressure of each cgroup when it was last read.
    last: HashMap<u64, [u64; 4]>,
    before: HashMap<u64, [u64; 4]>,
}

/// Values to read even if the cgroup has no limit for them.
#[derive(Clone, Copy, Debug)]
struct Wants {
    /// The memory that it holds.
    held: bool,
    /// The CPU time that it used.
    cpu: bool,
}

/// The node's files.
#[derive(Clone, Debug)]
pub(super) struct Node {
    meminfo: PathBuf,
    memory: PathBuf,
    io: PathBuf,
    /// How far the node's pressure has to grow before the cgroups' pressure is read again, microseconds.
    waited_us: u64,
}

impl Node {
    pub(super) fn new(proc_root: &Path) -> Self {
        let pressure = proc_root.join("pressure");
        let cpus = fs::read(proc_root.join("stat")).map_or(0, |text| parse::cpus(&text));
        Self {
            meminfo: proc_root.join("meminfo"),
            memory: pressure.join("memory"),
            io: pressure.join("io"),
            // With an unknown number of CPUs, the cgroups' pressure is read each time.
            waited_us: WAITED_US.checked_div(cpus).unwrap_or(0),
        }
    }
}

impl Eyes {
    pub(super) fn new(hierarchy: Hierarchy, node: Node) -> Self {
        Self {
            hierarchy,
            node,
            text: Vec::with_capacity(MAX_BYTES),
            now: Sample::unknown(kind::NODE, header(WHOLE_NODE)),
            waited: None,
            reads_pressure: true,
            last: HashMap::new(),
            before: HashMap::new(),
        }
    }

    /// Begins a scan by sampling the node.
    pub(super) fn begin(&mut self) {
        let mut now = Sample::unknown(kind::NODE, header(WHOLE_NODE));
        if self.read(self.node.meminfo.clone()) {
            let keys = ["MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:"];
            let [total, available, swap, swap_free] =
                parse::keyed(&self.text, keys).map(|kib| kib.and_then(|kib| kib.checked_mul(1024)));
            now.limit_bytes = total.unwrap_or(UNKNOWN);
            now.held_bytes =
                total.zip(available).and_then(|(all, free)| all.checked_sub(free)).unwrap_or(UNKNOWN);
            now.usage_bytes = now.held_bytes;
            now.swap_limit_bytes = swap.unwrap_or(UNKNOWN);
            now.swap_bytes =
                swap.zip(swap_free).and_then(|(all, free)| all.checked_sub(free)).unwrap_or(UNKNOWN);
        }
        [now.memory_some_us, now.memory_full_us] = self.pressure(self.node.memory.clone());
        [now.io_some_us, now.io_full_us] = self.pressure(self.node.io.clone());
        let waited = [now.memory_some_us, now.io_some_us];
        let least_us = self.node.waited_us;
        self.reads_pressure = self.waited.is_none_or(|then| {
            waited.iter().zip(then).any(|(now, then)| *now == UNKNOWN || now.abs_diff(then) >= least_us)
        });
        if self.reads_pressure {
            self.waited = Some(waited);
        }
        // Cgroups that this scan does not see are forgotten.
        self.before = std::mem::take(&mut self.last);
        self.now = now;
    }

    /// The node's sample, taken when the scan began.
    pub(super) fn node(&mut self) -> Option<Sample> {
        Some(self.now)
    }

    /// Samples a cgroup above others; `None` if it has no limits or has vanished.
    pub(super) fn above(&mut self, above: &Above) -> Option<Sample> {
        let mut sample = Sample { inner: 1, ..Sample::unknown(kind::ANCESTOR, header(above.id)) };
        let wants = Wants { held: false, cpu: false };
        self.own(&above.path, wants, &mut sample);
        (is_set(sample.limit_bytes) || is_set(sample.quota_us)).then_some(sample)
    }

    /// Samples a cgroup; `None` if nothing of it can be read, unless it is a service that has not ended. Its memory use is
    /// read even without a limit of its own if a cgroup above it has one.
    pub(super) fn group(&mut self, group: &Group, is_limited: bool) -> Option<Sample> {
        let mut sample = Sample::unknown(kind::CGROUP, header(group.id));
        sample.inner = u32::from(group.inner);
        sample.service = group.service;
        let nothing = sample;
        let pressure = self.own(&group.path, Wants { held: is_limited, cpu: true }, &mut sample);
        if let Some(path) = pressure {
            // A vanished cgroup may have an old pressure value, which is dropped.
            if sample == nothing {
                self.before.remove(&group.id);
            }
            self.waiting(&path, group.id, &mut sample);
        }
        let is_running = || group.service != 0 && self.hierarchy.may_have(&group.path);
        (sample != nothing || is_running()).then_some(sample)
    }

    /// Reads memory and CPU time of the cgroup at this path. Returns the directory with its pressure files.
    fn own(&mut self, path: &Path, wants: Wants, sample: &mut Sample) -> Option<PathBuf> {
        let of_group = |root: &PathBuf| root.join(path);
        let (pressure, cpus) = match &self.hierarchy {
            Hierarchy::None => return None,
            Hierarchy::Two { root, cpus } => {
                let (path, cpus) = (of_group(root), cpus.as_ref().map(|one| one.each(of_group)));
                self.two(&path, wants, sample);
                (Some(path), cpus)
            }
            Hierarchy::One { memory, cpus, unified } => {
                let cpus = cpus.as_ref().map(|one| one.each(of_group));
                let (memory, unified) = (of_group(memory), unified.as_ref().map(of_group));
                self.memory_one(&memory, wants, sample);
                (unified, cpus)
            }
        };
        if let Some(Cpus { cpu, cpuacct }) = cpus {
            self.cpu_one(&cpu, cpuacct.as_deref(), wants, sample);
        }
        pressure
    }

    /// Fills in the pressure of a cgroup: the old value if it cannot have changed by much, because that also
    /// teaches the baseline.
    fn waiting(&mut self, path: &Path, id: u64, sample: &mut Sample) {
        let waited = match self.before.remove(&id) {
            Some(waited) if !self.reads_pressure => waited,
            _ => {
                let [memory, memory_full] = self.pressure(path.join("memory.pressure"));
                let [io, io_full] = self.pressure(path.join("io.pressure"));
                [memory, memory_full, io, io_full]
            }
        };
        self.last.insert(id, waited);
        [sample.memory_some_us, sample.memory_full_us, sample.io_some_us, sample.io_full_us] = waited;
    }

    fn two(&mut self, path: &Path, wants: Wants, sample: &mut Sample) {
        let limit = self.one(path.join("memory.max"), parse::limit);
        sample.limit_bytes = limit.unwrap_or(UNKNOWN);
        // Without a limit there is nothing to compare with, and reading the rest is expensive.
        let has_limit = limit.is_some_and(|limit| limit != UNLIMITED);
        if has_limit || (wants.held && limit.is_some()) {
            let usage = self.one(path.join("memory.current"), parse::number);
            sample.usage_bytes = usage.unwrap_or(UNKNOWN);
            if self.read(path.join("memory.stat")) {
                let keys = ["inactive_file", "active_file", "slab_reclaimable"];
                let [inactive, active, slab] = parse::keyed(&self.text, keys);
                sample.held_bytes = held(usage, [inactive, active, slab.or(Some(0))]).unwrap_or(UNKNOWN);
            }
            match self.now.swap_limit_bytes {
                _ if !has_limit => {}
                UNKNOWN => {}
                0 => (sample.swap_bytes, sample.swap_limit_bytes) = (0, 0),
                _ => {
                    let swap = self.one(path.join("memory.swap.current"), parse::number);
                    let most = self.one(path.join("memory.swap.max"), parse::limit);
                    self.swap(swap, most, sample);
                }
            }
        }
        if let Some((quota, period)) = self.one(path.join("cpu.max"), parse::quota) {
            (sample.quota_us, sample.period_us) = (quota, period);
        }
        // CPU time is read for every cgroup, because it may have risen with another cgroup's shortage. The
        // file exists without the controller, too.
        if (wants.cpu || is_set(sample.quota_us)) && self.read(path.join("cpu.stat")) {
            let keys = ["usage_usec", "nr_periods", "nr_throttled", "throttled_usec"];
            [sample.cpu_us, sample.periods, sample.throttled, sample.throttled_us] =
                parse::keyed(&self.text, keys).map(|value| value.unwrap_or(UNKNOWN));
        }
    }

    fn memory_one(&mut self, path: &Path, wants: Wants, sample: &mut Sample) {
        let limit = self.one(path.join("memory.limit_in_bytes"), parse::limit_v1);
        sample.limit_bytes = limit.unwrap_or(UNKNOWN);
        let has_limit = limit.is_some_and(|limit| limit != UNLIMITED);
        if !has_limit && (!wants.held || limit.is_none()) {
            return;
        }
        let usage = self.one(path.join("memory.usage_in_bytes"), parse::number);
        sample.usage_bytes = usage.unwrap_or(UNKNOWN);
        if self.read(path.join("memory.stat")) {
            // cgroup v1 does not report how much kernel memory could be reclaimed, so none of it counts as
            // held.
            let keys = ["total_inactive_anon", "total_active_anon", "total_unevictable"];
            let [inactive, active, unevictable] = parse::keyed(&self.text, keys);
            let held = inactive
                .zip(active)
                .zip(unevictable)
                .and_then(|((a, b), c)| a.checked_add(b)?.checked_add(c));
            sample.held_bytes = held.unwrap_or(UNKNOWN);
        }
        match self.now.swap_limit_bytes {
            _ if !has_limit => {}
            UNKNOWN => {}
            0 => (sample.swap_bytes, sample.swap_limit_bytes) = (0, 0),
            _ => {
                let both = self.one(path.join("memory.memsw.usage_in_bytes"), parse::number);
                let most = self.one(path.join("memory.memsw.limit_in_bytes"), parse::limit_v1);
                let swap = both.zip(usage).map(|(both, usage)| both.saturating_sub(usage));
                let most = most.zip(limit).map(|(most, limit)| match most {
                    UNLIMITED => UNLIMITED,
                    most => most.saturating_sub(limit),
                });
                self.swap(swap, most, sample);
            }
        }
    }

    /// The swap that a cgroup may use is also bounded by the node's free swap.
    fn swap(&self, swap: Option<u64>, most: Option<u64>, sample: &mut Sample) {
        let (Some(swap), Some(most)) = (swap, most) else { return };
        let free = self.now.swap_limit_bytes.saturating_sub(self.now.swap_bytes);
        sample.swap_bytes = swap;
        sample.swap_limit_bytes = most.min(swap.saturating_add(free));
    }

    fn cpu_one(&mut self, path: &Path, cpuacct: Option<&Path>, wants: Wants, sample: &mut Sample) {
        let quota = self.one(path.join("cpu.cfs_quota_us"), parse::quota_v1);
        sample.quota_us = quota.unwrap_or(UNKNOWN);
        // A cgroup that exists only in cgroup v2 was sampled there.
        if let Some(cpuacct) = cpuacct.filter(|_| wants.cpu || is_set(sample.quota_us))
            && let Some(ns) = self.one(cpuacct.join("cpuacct.usage"), parse::number)
        {
            sample.cpu_us = ns / 1000;
        }
        if quota.is_none_or(|quota| quota == UNLIMITED) {
            return;
        }
        sample.period_us = self.one(path.join("cpu.cfs_period_us"), parse::number).unwrap_or(UNKNOWN);
        if self.read(path.join("cpu.stat")) {
            let [periods, throttled, ns] =
                parse::keyed(&self.text, ["nr_periods", "nr_throttled", "throttled_time"]);
            sample.periods = periods.unwrap_or(UNKNOWN);
            sample.throttled = throttled.unwrap_or(UNKNOWN);
            sample.throttled_us = ns.map_or(UNKNOWN, |ns| ns / 1000);
        }
    }

    fn pressure(&mut self, path: PathBuf) -> [u64; 2] {
        if !self.read(path) {
            return [UNKNOWN; 2];
        }
        parse::pressure(&self.text).map(|us| us.unwrap_or(UNKNOWN))
    }

    fn one<T>(&mut self, path: PathBuf, parse: fn(&[u8]) -> Option<T>) -> Option<T> {
        if self.read(path) { parse(&self.text) } else { None }
    }

    /// Reads a file with as few system calls as possible, because the kernel generates it on read. A file
    /// longer than the buffer is rejected, because its last number may be cut off.
    fn read(&mut self, path: PathBuf) -> bool {
        self.text.resize(MAX_BYTES, 0);
        let read = File::open(path).and_then(|mut file| fill(&mut file, &mut self.text));
        self.text.truncate(*read.as_ref().unwrap_or(&0));
        read.is_ok_and(|length| length < MAX_BYTES)
    }
}

/// Reads until the end of the file, or until the buffer is full.
fn fill(file: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = into.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

/// Usage minus what can be reclaimed. The numbers are read one after another, so they may be inconsistent.
fn held(usage: Option<u64>, dropped: [Option<u64>; 3]) -> Option<u64> {
    let dropped = dropped.into_iter().try_fold(0_u64, |sum, part| sum.checked_add(part?))?;
    Some(usage?.saturating_sub(dropped))
}

fn header(cgroup_id: u64) -> Header {
    Header { time_ns: clock::boot_ns(), cgroup_id, pid: 0, suppressed: 0, comm: [0; 16].into() }
}
