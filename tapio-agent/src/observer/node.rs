//! Node: memory, CPUs and waiting, of each container and unit, and of the node itself.
//!
//! Judges what is read from the files of cgroups and from `/proc`, a [`Sample`](tapio_common::node::Sample) a
//! group and pass. Says `node.memory_pressure`, `node.oom_predicted`, `node.cpu_throttled` and `node.io_pressure`.
//!
//! Watches `sched_switch` (tp_btf), where its program reads counters of cycles and instructions, and judges them in the
//! kernel. Says `node.cpi_outlier` and `node.ipc_degraded`. What a run costs is in docs/observers.md.
//!
//! Limits and quotas of the pods and slices above containers and units ([`Ancestor`](tapio_common::node::Ancestor)) are judged
//! as those of groups are, and reported for the container or unit that fills them.
//!
//! One fault is one anomaly: a limit further up is reported where none further down explains it; growth that was predicted to
//! end badly is not reported again as pressure; the node's waiting is reported only where no group's explains it, and so are its
//! instructions per cycle; and of groups in groups, waiting is that of the innermost.

mod above;
mod cpu;
pub mod cycles;
mod gauge;
mod memory;
mod message;
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

use self::{cpu::Cpu, cycles::Used, memory::Memory, settings::Limits, waiting::Waiting};
use super::{Anomaly, Attach, Counters, Hook, Kind, Malformed, Observer, Reads, SnapshotMap};

/// What is kept of a [`Track`]: not the window under way, nor how many before it were over what is normal.
const TRACK: SnapshotMap = SnapshotMap {
    map: "",
    key: None,
    value: size_of::<Track>(),
    moment: &[(0, offset_of!(Track, cpi)), (offset_of!(Track, since_ns), size_of::<Track>())],
    baselines: &[offset_of!(Track, cpi), offset_of!(Track, time), offset_of!(Track, work)],
    used: None,
};
/// A group that was not seen for so long is gone, or the passes are that far apart.
const FORGET_NS: u64 = 15 * 60 * 1_000_000_000;
/// How often it is looked which those are.
const SWEEP_NS: u64 = 60 * 1_000_000_000;
/// Groups that are known at a time. As many as a reader looks at.
const MAX_GROUPS: usize = 20_000;
/// What a group's waiting explains of the node's: for so long, since the two are judged one after another.
const EXPLAINS_NS: u64 = 30 * 1_000_000_000;
/// What a group's cycles per instruction explain of the node's: for so many windows, and until they are reported again.
const EXPLAINS_WINDOWS: u64 = 3;
/// What an agent before this one has reported is reported again where it looked last longer ago: it may have been over since.
const TOLD_NS: u64 = 5 * 60 * 1_000_000_000;
/// A group that is met later than this after the first look is new; those before it may be as old as the node.
const FIRST_LOOKS_NS: u64 = 60 * 1_000_000_000;

// Records are distinguished by their sizes.
const _: () = assert!(
    size_of::<Ancestor>() != size_of::<Sample>() && size_of::<Ancestor>() != size_of::<CyclesEvent>()
);

/// The node observer.
#[derive(Debug)]
pub struct Node {
    limits: Arc<Limits>,
    groups: HashMap<u64, Group>,
    /// What an agent before this one knew of groups that were not met yet.
    before: HashMap<u64, Group>,
    /// When groups that are gone were forgotten last.
    swept_ns: u64,
    /// When some group waited for memory more than is normal for it, and when for input or output.
    waited: [Option<u64>; 2],
    /// When the first look was: a group that was met well after it is new.
    began_ns: Option<u64>,
    /// The node's instructions per cycle, until it is known whether a group's explain it.
    degraded: Option<Anomaly>,
    /// When a group's cycles per instruction were reported.
    outlier_ns: Option<u64>,
}

/// What is known of a group, or of the node. What is of the moment is not kept for the next agent.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Group {
    seen_ns: u64,
    /// It was not there at the first looks.
    #[serde(skip)]
    is_new: bool,
    /// Containers or units that are looked at themselves are below it.
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
    const KINDS: &'static [&'static Kind] =
        &[&MEMORY_PRESSURE, &OOM_PREDICTED, &CPU_THROTTLED, &IO_PRESSURE, &CPI_OUTLIER, &IPC_DEGRADED];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self {
            limits: Arc::new(settings.limits()),
            groups: HashMap::new(),
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
        Some(Reads { interval: settings.interval.get() })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        // Each kind of record has a size of its own, and the same beginning.
        if let Ok(sample) = bytemuck::try_pod_read_unaligned::<Sample>(record) {
            is_whole(&sample.header, sample.kind, kind::CGROUP, kind::NODE)?;
            self.look(&sample, out);
            return Ok(());
        }
        if let Ok(above) = bytemuck::try_pod_read_unaligned::<Ancestor>(record) {
            if above.sample.kind != kind::ANCESTOR || above.header().cgroup_id == WHOLE_NODE {
                return Err(Malformed::Kind(above.sample.kind));
            }
            self.look_above(&above, out);
            return Ok(());
        }
        let event: CyclesEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        is_whole(event.header(), event.kind, kind::CPI_OUTLIER, kind::IPC_DEGRADED)?;
        self.count(&event, out);
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
        // Nothing in it can fail to be written.
        serde_json::to_vec(&known).ok()
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.before = serde_json::from_slice(snapshot)?;
        Ok(())
    }
}

impl Node {
    /// What the kernel program judged.
    fn count(&mut self, event: &CyclesEvent, out: &mut Vec<Anomaly>) {
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

    /// The group whose CPU time rose with a group's cycles per instruction.
    fn noisy_neighbour(&self, event: &CyclesEvent) -> Option<(u64, cycles::Rise)> {
        let others = self
            .groups
            .iter()
            .filter(|(id, group)| **id != event.header.cgroup_id && **id != WHOLE_NODE && !group.is_inner);
        cycles::likeliest(
            others.filter_map(|(id, group)| Some((*id, group.used.rise(event.since_ns, group.is_new)?))),
        )
    }

    /// What is known of a group, or of the node, that is looked at. `None` where there are too many, or time goes back.
    fn meet(&mut self, sample: &Sample) -> Option<&mut Group> {
        let (id, now_ns) = (sample.header.cgroup_id, sample.header.time_ns);
        let began_ns = *self.began_ns.get_or_insert(now_ns);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&id) {
            return None;
        }
        let is_new = now_ns.saturating_sub(began_ns) > FIRST_LOOKS_NS;
        if is_new {
            // Those that are still there were met. Another may have the number of one that is not.
            self.before = HashMap::new();
        }
        let group = self.groups.entry(id).or_insert_with(|| {
            let Some(mut known) = self.before.remove(&id) else {
                return Group { is_new, ..Group::default() };
            };
            if now_ns.saturating_sub(known.seen_ns) > TOLD_NS {
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

    /// One look at the limits of a group above others.
    fn look_above(&mut self, above: &Ancestor, out: &mut Vec<Anomaly>) {
        let limits = Arc::clone(&self.limits);
        if let Some(group) = self.meet(&above.sample) {
            // Its CPU time is that of those below it.
            group.is_inner = true;
            out.extend(above::memory(&mut group.memory, above, &limits));
            out.extend(above::cpu(&mut group.cpu, above, &limits));
        }
    }

    /// One look at a group's files, or the node's.
    fn look(&mut self, sample: &Sample, out: &mut Vec<Anomaly>) {
        let is_node = sample.kind == kind::NODE;
        let now_ns = sample.header.time_ns;
        let limits = Arc::clone(&self.limits);
        let Some(group) = self.meet(sample) else { return };
        group.used.look(sample);
        out.extend(group.memory.judge(sample, &limits));
        out.extend(group.cpu.judge(sample, 0, &limits.cpu));
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
        // What grows towards its end waits for memory before it: that is reported.
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

/// Whether a record is of one of two kinds, the second of which is of the whole node.
fn is_whole(header: &Header, kind: u32, of_group: u32, of_node: u32) -> Result<(), Malformed> {
    let is_right = if header.cgroup_id == WHOLE_NODE { kind == of_node } else { kind == of_group };
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
static CPI_OUTLIER: Kind =
    Kind::new("node.cpi_outlier", Severity::Warning, Outcome::Unknown, message::cpi_outlier);
static IPC_DEGRADED: Kind =
    Kind::new("node.ipc_degraded", Severity::Warning, Outcome::Unknown, message::ipc_degraded);

/// What those that samples of files show have in common: they are of no process.
fn anomaly(sample: &Sample, kind: &'static Kind) -> Anomaly {
    let of = if sample.kind == kind::NODE { "node" } else { "cgroup" };
    Anomaly { data: Data::from([("of", of.into())]), ..Anomaly::new(kind, &sample.header) }
}

/// Adds what is known.
fn put(data: &mut Data, key: &'static str, value: u64) {
    if value != UNKNOWN {
        data.push(key, value);
    }
}

/// What was normal, of a share in 1/1024.
fn normal(baseline: &tapio_common::baseline::Baseline, share: u64) -> Normal {
    let mean = baseline.mean();
    Normal {
        mean,
        deviation: baseline.deviation(),
        unit: "1/1024".into(),
        samples: baseline.samples(),
        ratio: (mean > 0).then(|| (share as f64 / mean as f64 * 10.0).round() / 10.0),
    }
}

/// A share as people read it.
const fn percent(share_1024: u64) -> u64 {
    (share_1024 * 100 + 512) / 1024
}

#[cfg(test)]
mod tests;
