//! Measures a run of the program at each context switch against an empty program on the same hook in the same
//! run.
//!
//! The times are the kernel's (`bpf_stats`, including its two clock reads), the least of five windows, under
//! two loads: loopback requests and responses on one CPU, with a few switches per request, and a CPU that
//! switches rarely. Without a PMU, a clock and the number of switches replace its counters; they are more
//! expensive to read.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use tapio_agent::{
    kernel::{self, Kernel, Loaded},
    observer::{
        Attach, Counter, Counters, Hook, Object, Observer as _, Quantity,
        node::{Node, cycles::COUNTERS},
    },
    source::{RunTime, Source as _},
};

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(800);
const EMPTY: &[Hook] = &[Hook {
    program: "empty_switch",
    attach: Attach::BtfTracepoint("sched_switch"),
    needs: &[],
    gives: "",
    or: &[],
}];
const STAND_IN: Counters = Counters {
    program: "sched_switch",
    all: &[
        Counter { name: "cycles", map: "CYCLES", of: &[Quantity::Clock], needed: true },
        Counter { name: "instructions", map: "INSTRUCTIONS", of: &[Quantity::Switches], needed: true },
        Counter { name: "nothing", map: "EXTRA", of: &[], needed: false },
    ],
};

fn main() -> anyhow::Result<()> {
    if support::was_load()? {
        return Ok(());
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    let settings = Node::kernel_settings(&Default::default());
    let object = |counters| {
        anyhow::Ok(Object { counters: Some(counters), snapshot_maps: &[], ..Object::of::<Node>(&settings)? })
    };
    let mut node = kernel.load(&object(&COUNTERS)?)?;
    let has_pmu = node.hooks.iter().all(|hook| hook.state.is_ok());
    if !has_pmu {
        node = kernel.load(&object(&STAND_IN)?)?;
    }
    let bench_settings = support::settings();
    let empty = kernel.load(&Object { hooks: EMPTY, ..support::bench_object(&bench_settings)? })?;
    support::all_attached([&node, &empty])?;
    let _measuring = kernel::measure()?;
    println!("switch_counters_are_the_pmus {} yes", u8::from(has_pmu));
    let storm = measure(&node, &empty, || support::requests(WINDOW).map(drop))?;
    storm.print("switch_program");
    let calm = measure(&node, &empty, || {
        thread::sleep(WINDOW);
        Ok(())
    })?;
    calm.print("switch_program_calm");
    Ok(())
}

struct Cost {
    program_ns: f64,
    empty_ns: f64,
    /// Runs per second.
    runs: f64,
    /// The program's time, summed over all CPUs, as a share of one CPU.
    share: f64,
}

fn measure(node: &Loaded, empty: &Loaded, load: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let mut best = Cost { program_ns: f64::MAX, empty_ns: f64::MAX, runs: 0.0, share: f64::MAX };
    for _ in 0..WINDOWS {
        let (before, start) = ([first(node), first(empty)], Instant::now());
        load()?;
        let (after, seconds) = ([first(node), first(empty)], start.elapsed().as_secs_f64());
        let each = |at: usize| {
            let runs = (after[at].runs - before[at].runs).max(1) as f64;
            ((after[at].total - before[at].total).as_nanos() as f64 / runs, runs / seconds)
        };
        let ((program_ns, runs), (empty_ns, _)) = (each(0), each(1));
        best.share = best.share.min((program_ns - empty_ns) * runs / 1e9);
        best.program_ns = best.program_ns.min(program_ns);
        best.empty_ns = best.empty_ns.min(empty_ns);
        best.runs = best.runs.max(runs);
    }
    Ok(best)
}

impl Cost {
    fn print(&self, name: &str) {
        println!("{name}_ratio {:.2} x", self.program_ns / self.empty_ns);
        println!("{name}_net_ns {:.1} ns", self.program_ns - self.empty_ns);
        println!("{name}_ns {:.1} ns", self.program_ns);
        println!("{name}_empty_ns {:.1} ns", self.empty_ns);
        println!("{name}_runs {:.0} a_second", self.runs);
        println!("{name}_share {:.4} %_of_a_core", 100.0 * self.share);
    }
}

fn first(loaded: &Loaded) -> RunTime {
    loaded.run_times().first().map(|(_, time)| *time).unwrap_or_default()
}
