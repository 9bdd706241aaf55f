//! The node observer with counters of the test's choice, in this process. The kernel program, the files, the
//! judge and the names are the agent's own.

use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tapio_agent::{
    cgroupfs::Files,
    config::Config,
    enrich::Identity,
    kernel::{HookError, Kernel, Loaded},
    metrics::Metrics,
    observer::{
        Counter, Counters, Object, Observer as _, Quantity,
        node::{Node, Settings, cycles},
    },
    pipeline,
    source::{Records, Source as _},
};
use tapio_common::Header;
use tapio_service::setting::{Count, Percent, SEC, Time};
use tokio::runtime::Runtime;

use super::{Cgroup, Occurrence, guest};

/// Windows used for learning.
const LEARNING: u32 = 10;
/// Windows that a change has to last, in which CPU time has to be sampled more than once.
const SUSTAIN: u32 = 6;

/// Length of a window, in seconds. A scan may use one part in 200 of a CPU, so that on an emulated one of arm64, where it
/// takes 75 ms, scans are 15 s apart.
fn window() -> u32 {
    if guest::is_one() { 6 } else { 2 }
}

pub(crate) struct Counted {
    runtime: Runtime,
    loaded: Loaded,
    records: Vec<Box<dyn Records>>,
    node: Node,
    identity: Identity,
    /// The containers it observes. It excludes the containers of other tests, because their load would count
    /// as a noisy neighbour.
    containers: Vec<String>,
    reported: Vec<Occurrence>,
}

impl Counted {
    /// Observes these cgroups, with these quantities in place of cycles and instructions.
    pub(crate) fn start(
        cgroups: &[&Cgroup],
        cycles: Quantity,
        instructions: Quantity,
    ) -> Result<Self, HookError> {
        let settings = settings();
        let kernel_settings = Node::kernel_settings(&settings);
        let [first, second, third] = cycles::COUNTERS.all else { panic!("three counters") };
        let all = vec![
            Counter { of: vec![cycles].leak(), ..*first },
            Counter { of: vec![instructions].leak(), ..*second },
            Counter { of: &[], ..*third },
        ];
        let object = Object {
            counters: Some(Box::leak(Box::new(Counters { program: "sched_switch", all: all.leak() }))),
            snapshot_maps: &[],
            ..Object::of::<Node>(&kernel_settings).unwrap()
        };
        let mut loaded = Kernel::open(Path::new("/proc")).unwrap().load(&object).unwrap();
        loaded.hooks[0].state.clone()?;
        let config = Config::load(None, [], &[]).unwrap();
        let interval = Duration::from_secs(1);
        let (cgroups_at, proc) = (config.cgroup_root.as_path(), config.proc_root.as_path());
        let mut files = Files::open(cgroups_at, proc, interval, Arc::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build().unwrap();
        let records = {
            let _guard = runtime.enter();
            vec![loaded.records().unwrap(), files.records().unwrap()]
        };
        let identity = Identity::new(&config);
        let node = Node::new(&settings);
        let containers = cgroups.iter().map(|cgroup| cgroup.container_id.clone()).collect();
        Ok(Self { runtime, loaded, records, node, identity, containers, reported: Vec::new() })
    }

    /// Milliseconds from the beginning of a change until it is reported.
    pub(crate) fn reported_after() -> Range<u64> {
        let least = u64::from(window() * (SUSTAIN - 1)) * 1_000;
        least..least * 2
    }

    /// Runs until baselines are learned, and a little longer.
    pub(crate) fn learn(&mut self) {
        self.run(window() * (LEARNING + 4) * Duration::from_secs(1));
    }

    /// Runs until a change has lasted long enough to be reported, and a little longer.
    pub(crate) fn last(&mut self) {
        self.run(window() * (SUSTAIN + 3) * Duration::from_secs(1));
    }

    fn run(&mut self, length: Duration) {
        let end = Instant::now() + length;
        let metrics = Arc::new(Metrics::default());
        let mut out = Vec::new();
        while Instant::now() < end {
            let ready =
                async { tokio::time::timeout(Duration::from_millis(100), self.records.ready()).await };
            if let Ok(ready) = self.runtime.block_on(ready) {
                ready.unwrap();
            }
            let (node, identity, containers) = (&mut self.node, &mut self.identity, &self.containers);
            let mut is_looked_at = |record: &[u8]| {
                let header: Header = bytemuck::pod_read_unaligned(&record[..size_of::<Header>()]);
                self.runtime.block_on(identity.find(header.cgroup_id, header.time_ns));
                let owner = identity.owner(header.cgroup_id, header.pid, header.time_ns).workload();
                owner.is_some_and(|owner| {
                    owner.container_id.as_ref().is_some_and(|id| containers.contains(id))
                })
            };
            let mut judge = |record: &[u8]| {
                if is_looked_at(record) {
                    node.observe(record, &mut out).unwrap();
                }
            };
            while self.records.next(&mut judge) {}
            for mut anomaly in out.drain(..) {
                let identity = &mut self.identity;
                self.runtime.block_on(identity.find_all(&mut anomaly));
                let mut line = Vec::new();
                pipeline::name(anomaly, identity, &metrics).unwrap().write_json(&mut line);
                let line = String::from_utf8(line).unwrap();
                println!("{line}");
                self.reported.push(Occurrence::parse(&line).unwrap());
            }
        }
    }

    /// The occurrences reported for a container.
    pub(crate) fn reported_for(&self, cgroup: &Cgroup) -> Vec<Occurrence> {
        self.reported.iter().filter(|reported| reported.is_in(cgroup)).cloned().collect()
    }

    /// The program's counts, with exact sums.
    pub(crate) fn counts(&self) -> tapio_common::Counts {
        self.loaded.detach();
        let counts = self.loaded.counts.read().unwrap()[0];
        assert_eq!(counts.seen, counts.accounted(), "{counts:?}");
        counts
    }
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.cycles.window = Time::of_ns(u64::from(window()) * SEC);
    settings.cycles.min_samples = Count::of(LEARNING);
    settings.cycles.share = Percent::of(1);
    settings.cycles.sustain = Count::of(SUSTAIN);
    settings.cycles.run = Count::of(40);
    settings
}
