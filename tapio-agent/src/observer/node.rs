//! Node: memory, CPU and pressure of each container and unit, and of the node itself.
//!
//! Judges one [`Sample`](tapio_common::node::Sample) per cgroup and scan, read from cgroup files and from `/proc`.
//! Reports `node.memory_pressure`, `node.oom_predicted`, `node.cpu_throttled` and `node.io_pressure`; and
//! `node.service_stopped`, of services that the node needs.
//!
//! Watches `sched_switch` (tp_btf): its program reads the counters of cycles and instructions there, and judges them in
//! the kernel. Reports `node.cpi_outlier` and `node.ipc_degraded`. docs/observers.md has the cost of a run.
//!
//! Limits and quotas of the pods and slices above containers and units ([`Ancestor`](tapio_common::node::Ancestor)) are
//! judged in the same way, and reported for the container or unit that uses most of them.
//!
//! One fault is one anomaly. A limit is reported only if no limit further down explains it. Memory growth that was
//! reported as a predicted OOM is not reported again as pressure. The node's stalls and instructions per cycle are
//! reported only if no cgroup explains them. Stalls of nested cgroups are those of the innermost.

mod above;
mod cpu;
pub mod cycles;
mod memory;
mod message;
mod services;
mod settings;
mod trend;
mod waiting;

use std::{
    collections::{BTreeMap, HashMap},
    mem::offset_of,
    sync::Arc,
};

pub use settings::Settings;

use serde::{Deserialize, Serialize};
use tapio_common::{
    Event as _, Header, WHOLE_NODE,
    node::{
        Ancestor, Sample, UNKNOWN,
        cycles::{self as counted, CyclesEvent, Track},
        kind,
    },
};
use tapio_occurrence::{Data, Normal, Outcome, Severity};

use self::{cpu::Cpu, cycles::Used, memory::Memory, services::Services, settings::Limits, waiting::Waiting};
use super::{Anomaly, Attach, Counters, Hook, Kind, Malformed, Observer, Reads, SnapshotMap, gauge};

/// Snapshots of a [`Track`] omit the current window, and the number of abnormal windows before it.
const TRACK: SnapshotMap = SnapshotMap {
    map: "",
    key: None,
    value: size_of::<Track>(),
    transient: &[(0, offset_of!(Track, cpi)), (offset_of!(Track, since_ns), size_of::<Track>())],
    baselines: &[offset_of!(Track, cpi), offset_of!(Track, time), offset_of!(Track, work)],
    used: None,
};
/// A cgroup that no sample has shown for this long is forgotten: it is gone, or scans are that far apart.
const FORGET_NS: u64 = 15 * 60 * 1_000_000_000;
/// How often such cgroups are removed.
const SWEEP_NS: u64 = 60 * 1_000_000_000;
/// Maximum number of cgroups with state: as many as a reader samples.
const MAX_GROUPS: usize = 20_000;
/// How long the stall of a cgroup explains a stall of the node: the two are judged one after the other.
const EXPLAINS_NS: u64 = 30 * 1_000_000_000;
/// For how many windows a cgroup's cycles per instruction explain the node's: at least this many, and until the cgroup's
/// cool-down is over.
const EXPLAINS_WINDOWS: u64 = 3;
/// A report of an earlier agent is repeated if its last sample is older than this: the fault may have ended in between.
const REPORT_AGAIN_NS: u64 = 5 * 60 * 1_000_000_000;
/// A cgroup that appears later than this after the first sample is new. Cgroups before it may be as old as the node.
const STARTUP_NS: u64 = 60 * 1_000_000_000;

// Records are distinguished by their sizes.
const _: () = assert!(
    size_of::<Ancestor>() != size_of::<Sample>()
        && size_of::<Ancestor>() != size_of::<CyclesEvent>()
        && size_of::<Sample>() != size_of::<CyclesEvent>()
);

/// The node observer.
#[derive(Debug)]
pub struct Node {
    limits: Arc<Limits>,
    groups: HashMap<u64, Group>,
    services: Services,
    /// State that an earlier agent had of cgroups without a sample so far.
    before: HashMap<u64, Group>,
    /// When vanished cgroups were last removed.
    swept_ns: u64,
    /// When a cgroup last stalled abnormally long: on memory, and on I/O.
    waited: [Option<u64>; 2],
    /// Time of the first sample: a cgroup that appears well after it is new.
    began_ns: Option<u64>,
    /// An anomaly of the node's instructions per cycle, until it is known whether a cgroup explains it.
    degraded: Option<Anomaly>,
    /// When a cgroup's cycles per instruction were last reported.
    outlier_ns: Option<u64>,
}

/// The state of a cgroup, or of the node. The snapshot omits its transient fields.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Group {
    seen_ns: u64,
    /// It appeared after [`STARTUP_NS`].
    #[serde(skip)]
    is_new: bool,
    /// Containers or units with samples of their own are below it.
    #[serde(skip)]
    is_inner: bool,
    #[serde(skip)]
    used: Used,
    memory: Memory,
    memory_waiting: Waiting,
    io_waiting: Waiting,
    cpu: Cpu,
}

impl Observer for Node {
    const NAME: &'static str = "node";
    const FIELDS: &'static [&'static str] = counted::FIELDS;
    const COUNTERS: Option<&'static Counters> = Some(&cycles::COUNTERS);
    // In the order of `tapio_common::node::cycles::program`.
    const HOOKS: &'static [Hook] = &[Hook {
        program: cycles::COUNTERS.program,
        attach: Attach::BtfTracepoint("sched_switch"),
        needs: &[counted::PID, counted::CGROUPS, counted::CGROUP, counted::CGROUP_KN, counted::KN_ID],
        gives: "node.cpi_outlier, node.ipc_degraded",
        or: &[],
    }];
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[
        SnapshotMap { map: "CGROUPS", key: Some(size_of::<u64>()), ..TRACK },
        SnapshotMap { map: "NODE", key: None, ..TRACK },
    ];
    const KINDS: &'static [&'static Kind] = &[
        &MEMORY_PRESSURE,
        &OOM_PREDICTED,
        &CPU_THROTTLED,
        &IO_PRESSURE,
        &SERVICE_STOPPED,
        &CPI_OUTLIER,
        &IPC_DEGRADED,
    ];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self {
            limits: Arc::new(settings.limits()),
            groups: HashMap::new(),
            services: Services::default(),
            before: HashMap::new(),
            swept_ns: 0,
            waited: [None; 2],
            began_ns: None,
            degraded: None,
            outlier_ns: None,
        }
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.cycles.kernel()).to_vec()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads::Cgroups { interval: settings.interval.get() })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        // The size of a record determines its type. All begin with the same header.
        if let Ok(sample) = bytemuck::try_pod_read_unaligned::<Sample>(record) {
            check_kind(&sample.header, sample.kind, kind::CGROUP, kind::NODE)?;
            self.judge_sample(&sample, out);
            return Ok(());
        }
        if let Ok(above) = bytemuck::try_pod_read_unaligned::<Ancestor>(record) {
            if above.sample.kind != kind::ANCESTOR || above.header().cgroup_id == WHOLE_NODE {
                return Err(Malformed::Kind(above.sample.kind));
            }
            self.judge_ancestor(&above, out);
            return Ok(());
        }
        let event: CyclesEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        check_kind(event.header(), event.kind, kind::CPI_OUTLIER, kind::IPC_DEGRADED)?;
        self.judge_cycles(&event, out);
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        self.groups.retain(|_, group| now_ns.saturating_sub(group.seen_ns) < FORGET_NS);
        self.swept_ns = now_ns;
        let settle_ns = self.limits.window_ns;
        out.extend(self.degraded.take_if(|degraded| now_ns.saturating_sub(degraded.time_ns) >= settle_ns));
    }

    fn wake_at(&self) -> Option<u64> {
        let settled = |degraded: &Anomaly| degraded.time_ns.saturating_add(self.limits.window_ns);
        let sweep = (!self.groups.is_empty()).then(|| self.swept_ns.saturating_add(SWEEP_NS));
        self.degraded.as_ref().map(settled).into_iter().chain(sweep).min()
    }

    fn pending(&self) -> u64 {
        self.degraded.iter().map(|degraded| degraded.count).sum()
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        let known: BTreeMap<_, _> = self.before.iter().chain(&self.groups).collect();
        // Serialising it cannot fail.
        serde_json::to_vec(&known).ok()
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.before = serde_json::from_slice(snapshot)?;
        Ok(())
    }
}

impl Node {
    /// Takes over the verdict of the kernel program.
    fn judge_cycles(&mut self, event: &CyclesEvent, out: &mut Vec<Anomaly>) {
        let now_ns = event.header.time_ns;
        let Limits { window_ns, cooldown_ns, .. } = *self.limits;
        let explains_ns =
            window_ns.saturating_mul(EXPLAINS_WINDOWS).max(cooldown_ns.saturating_add(window_ns));
        if event.kind == kind::CPI_OUTLIER {
            self.outlier_ns = Some(now_ns);
            self.degraded = None;
            out.push(cycles::judge(event, self.noisy_neighbour(event)));
        } else if self.outlier_ns.is_none_or(|then| now_ns.saturating_sub(then) >= explains_ns) {
            self.degraded = Some(cycles::judge(event, None));
        }
    }

    /// Finds the cgroup whose CPU time rose together with the cycles per instruction of the event's cgroup.
    fn noisy_neighbour(&self, event: &CyclesEvent) -> Option<(u64, cycles::Rise)> {
        let others = self
            .groups
            .iter()
            .filter(|(id, group)| **id != event.header.cgroup_id && **id != WHOLE_NODE && !group.is_inner);
        cycles::likeliest(
            others.filter_map(|(id, group)| Some((*id, group.used.rise(event.since_ns, group.is_new)?))),
        )
    }

    /// Returns the state for a sample of a cgroup or of the node. `None` if there are too many cgroups, or the sample is
    /// older than the last one.
    fn state_for(&mut self, sample: &Sample) -> Option<&mut Group> {
        let (id, now_ns) = (sample.header.cgroup_id, sample.header.time_ns);
        let began_ns = *self.began_ns.get_or_insert(now_ns);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&id) {
            return None;
        }
        let is_new = now_ns.saturating_sub(began_ns) > STARTUP_NS;
        if is_new {
            // Every cgroup that still exists has had a sample. A new cgroup may reuse the id of a vanished one.
            self.before = HashMap::new();
        }
        let group = self.groups.entry(id).or_insert_with(|| {
            let Some(mut known) = self.before.remove(&id) else {
                return Group { is_new, ..Group::default() };
            };
            if now_ns.saturating_sub(known.seen_ns) > REPORT_AGAIN_NS {
                known.memory.forget_reported();
            }
            known
        });
        if now_ns < group.seen_ns {
            return None;
        }
        group.seen_ns = now_ns;
        group.is_inner = sample.inner != 0;
        Some(group)
    }

    /// Judges a sample of the limits of a pod or slice.
    fn judge_ancestor(&mut self, above: &Ancestor, out: &mut Vec<Anomaly>) {
        let limits = Arc::clone(&self.limits);
        if let Some(group) = self.state_for(&above.sample) {
            // Its CPU time is the sum of the cgroups below it.
            group.is_inner = true;
            out.extend(above::memory(&mut group.memory, above, &limits));
            out.extend(above::cpu(&mut group.cpu, above, group.is_new, &limits));
        }
    }

    /// Judges a sample of a cgroup's files, or of the node's.
    fn judge_sample(&mut self, sample: &Sample, out: &mut Vec<Anomaly>) {
        let is_node = sample.kind == kind::NODE;
        let now_ns = sample.header.time_ns;
        let limits = Arc::clone(&self.limits);
        self.services.look(sample);
        if is_node {
            out.extend(self.services.gone(&sample.header));
        }
        let Some(group) = self.state_for(sample) else { return };
        group.used.look(sample);
        out.extend(group.memory.judge(sample, &limits));
        out.extend(group.cpu.judge(sample, 0, group.is_new, &limits.cpu));
        if sample.inner != 0 {
            return;
        }
        let waits = [
            group.memory_waiting.judge(
                sample,
                [sample.memory_some_us, sample.memory_full_us],
                &limits.memory,
            ),
            group.io_waiting.judge(sample, [sample.io_some_us, sample.io_full_us], &limits.io),
        ];
        // A cgroup that grows towards its limit stalls on memory before it is OOM-killed: the prediction was reported.
        let is_reported = [group.memory.is_predicted(), false];
        for (at, found) in waits.into_iter().enumerate() {
            let Some(waited) = found else { continue };
            if is_node && self.waited[at].is_some_and(|then| now_ns.saturating_sub(then) < EXPLAINS_NS) {
                continue;
            }
            if !is_node {
                self.waited[at] = Some(now_ns);
            }
            if let Some(wait) = waited.filter(|_| !is_reported[at]) {
                out.push(if at == 0 { wait.of_memory(sample) } else { wait.of_io(sample) });
            }
        }
    }
}

/// Checks the kind of a record: `of_node` for the whole node, `of_cgroup` for a cgroup.
fn check_kind(header: &Header, kind: u32, of_cgroup: u32, of_node: u32) -> Result<(), Malformed> {
    let is_right = if header.cgroup_id == WHOLE_NODE { kind == of_node } else { kind == of_cgroup };
    if is_right { Ok(()) } else { Err(Malformed::Kind(kind)) }
}

static MEMORY_PRESSURE: Kind =
    Kind::new("node.memory_pressure", Severity::Warning, Outcome::Unknown, message::near);
static OOM_PREDICTED: Kind =
    Kind::new("node.oom_predicted", Severity::Error, Outcome::Unknown, message::predicted);
static CPU_THROTTLED: Kind =
    Kind::new("node.cpu_throttled", Severity::Warning, Outcome::Unknown, message::throttled);
static IO_PRESSURE: Kind =
    Kind::new("node.io_pressure", Severity::Warning, Outcome::Unknown, message::io_waiting);
static SERVICE_STOPPED: Kind =
    Kind::new("node.service_stopped", Severity::Error, Outcome::Failure, message::stopped).not_measured();
static CPI_OUTLIER: Kind =
    Kind::new("node.cpi_outlier", Severity::Warning, Outcome::Unknown, message::cpi_outlier);
static IPC_DEGRADED: Kind =
    Kind::new("node.ipc_degraded", Severity::Warning, Outcome::Unknown, message::ipc_degraded);

/// Creates an anomaly from a sample of files. It has no process.
fn anomaly(sample: &Sample, kind: &'static Kind) -> Anomaly {
    let of = if sample.kind == kind::NODE { "node" } else { "cgroup" };
    Anomaly { data: Data::from([("of", of.into())]), ..Anomaly::new(kind, &sample.header) }
}

/// Adds a value unless it is unknown.
fn put(data: &mut Data, key: &'static str, value: u64) {
    if value != UNKNOWN {
        data.push(key, value);
    }
}

/// Returns the normal value of a share in units of 1/1024.
fn normal(baseline: &tapio_common::baseline::Baseline, share: u64) -> Normal {
    gauge::normal(baseline, share, "1/1024")
}

/// Converts a share in units of 1/1024 to percent.
const fn percent(share_1024: u64) -> u64 {
    (share_1024 * 100 + 512) / 1024
}

#[cfg(test)]
mod tests;
