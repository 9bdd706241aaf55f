//! What a run of the RTT program costs, against an empty program on the same hook in the same run.
//!
//! The kernel's own measure (`bpf_stats`, its two clock reads included), least of five windows of loopback
//! requests and responses, where nearly every segment brings a new sample.

mod support;

use std::time::Duration;

use tapio_agent::{
    kernel::{self, Kernel, Loaded, RunTime},
    observer::{Attach, Built, Hook, Object, network::Network},
};

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(800);
const EMPTY: &[Hook] =
    &[Hook { program: "empty", attach: Attach::BtfTracepoint("tcp_probe"), needs: &[], gives: "" }];

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
        let before = [first(&network), first(&empty)];
        support::requests(WINDOW)?;
        let after = [first(&network), first(&empty)];
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
    // A run without a new sample ends early; this many went all the way.
    println!("rtt_program_readings_per_run {:.3} x", readings as f64 / runs as f64);
    Ok(())
}

fn first(loaded: &Loaded) -> RunTime {
    loaded.run_times().first().map(|(_, time)| *time).unwrap_or_default()
}
