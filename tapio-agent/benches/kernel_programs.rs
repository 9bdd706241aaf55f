//! Measures a run of the RTT program against an empty program on the same hook in the same run, then the
//! programs at each signal and at each process exit in the same way.
//!
//! The times are the kernel's (`bpf_stats`, including its two clock reads), the least of five windows of
//! loopback requests and responses, where nearly every segment brings a new sample.

mod support;

use std::time::Duration;

use anyhow::Context as _;
use tapio_agent::{
    kernel::{self, Kernel, Loaded},
    observer::{Attach, Built, Hook, Object, container::Container, network::Network},
    source::{RunTime, Source as _},
};

/// The program that judges round trips.
const ROUND_TRIP: &str = "tcp_probe";
const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(800);
const EMPTY: &[Hook] =
    &[Hook { program: "empty", attach: Attach::BtfTracepoint("tcp_probe"), needs: &[], gives: "", or: &[] }];

fn main() -> anyhow::Result<()> {
    if support::was_load()? {
        return Ok(());
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    let network = Built::new::<Network>(&Default::default());
    let network = kernel.load(&network.object()?)?;
    let settings = support::settings();
    let empty = kernel.load(&Object { hooks: EMPTY, ..support::bench_object(&settings)? })?;
    support::all_attached([&network, &empty])?;
    let _measuring = kernel::measure()?;
    let mut best = [f64::MAX; 2];
    let (mut runs, mut readings) = (0, 0);
    for _ in 0..WINDOWS {
        let seen = network.counts.read()?[0].seen;
        let before = [of(&network, ROUND_TRIP)?, of(&empty, "empty")?];
        support::requests(WINDOW)?;
        let after = [of(&network, ROUND_TRIP)?, of(&empty, "empty")?];
        for (best, (before, after)) in best.iter_mut().zip(before.into_iter().zip(after)) {
            *best =
                best.min((after.total - before.total).as_nanos() as f64 / (after.runs - before.runs) as f64);
        }
        runs += after[0].runs - before[0].runs;
        readings += network.counts.read()?[0].seen - seen;
    }
    let [rtt_ns, empty_ns] = best;
    println!("rtt_program_ratio {:.2} x", rtt_ns / empty_ns);
    println!("rtt_program_net_ns {:.1} ns", rtt_ns - empty_ns);
    println!("rtt_program_ns {rtt_ns:.1} ns");
    println!("rtt_program_empty_ns {empty_ns:.1} ns");
    // A run without a new sample returns early; this many ran to the end.
    println!("rtt_program_readings_per_run {:.3} x", readings as f64 / runs as f64);
    drop(network);
    ends(&kernel)
}

const EMPTY_ENDS: &[Hook] = &[
    Hook {
        program: "empty_signal",
        attach: Attach::BtfTracepoint("signal_generate"),
        needs: &[],
        gives: "",
        or: &[],
    },
    Hook {
        program: "empty_exit",
        attach: Attach::BtfTracepoint("sched_process_exit"),
        needs: &[],
        gives: "",
        or: &[],
    },
];

/// Runs short processes; each exits and sends its parent a signal.
fn ends(kernel: &Kernel) -> anyhow::Result<()> {
    let container = Built::new::<Container>(&Default::default());
    let container = kernel.load(&container.object()?)?;
    let settings = support::settings();
    let empty = kernel.load(&Object { hooks: EMPTY_ENDS, ..support::bench_object(&settings)? })?;
    support::all_attached([&container, &empty])?;
    for (name, program, empty_program) in
        [("signal", "signal_generate", "empty_signal"), ("exit", "sched_process_exit", "empty_exit")]
    {
        let mut best = [f64::MAX; 2];
        for _ in 0..WINDOWS {
            let before = [of(&container, program)?, of(&empty, empty_program)?];
            support::short_processes(WINDOW)?;
            let after = [of(&container, program)?, of(&empty, empty_program)?];
            for (best, (before, after)) in best.iter_mut().zip(before.into_iter().zip(after)) {
                let ns = (after.total - before.total).as_nanos() as f64;
                *best = best.min(ns / (after.runs - before.runs) as f64);
            }
        }
        let [ns, empty_ns] = best;
        println!("{name}_program_ratio {:.2} x", ns / empty_ns);
        println!("{name}_program_net_ns {:.1} ns", ns - empty_ns);
        println!("{name}_program_ns {ns:.1} ns");
    }
    Ok(())
}

fn of(loaded: &Loaded, program: &str) -> anyhow::Result<RunTime> {
    let times = loaded.run_times();
    let found = times.iter().find(|(name, _)| *name == program);
    found.map(|(_, time)| *time).with_context(|| format!("{program} is not attached"))
}
