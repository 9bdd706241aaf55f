//! What a run of the RTT program costs, against an empty program on the same hook in the same run.
//!
//! Prints `rtt_program_ratio` and `rtt_program_net_ns`: the kernel's own measure (`bpf_stats`, its two clock
//! reads included), least of five windows of loopback requests and responses.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tapio_agent::{
    kernel::{self, Kernel, RunTime},
    observer::{Attach, Hook, Object, Observer as _, network::Network},
};

const WINDOWS: usize = 5;
const WINDOW: Duration = Duration::from_millis(800);

fn main() -> anyhow::Result<()> {
    let kernel = Kernel::open("/proc".as_ref())?;
    let settings = Network::kernel_settings(&Default::default());
    let network = kernel.load(&observer::object::<Network>(&settings)?)?;
    let empty = kernel.load(&Object { name: "bench", hooks: EMPTY, ..bench_object()? })?;
    for hook in network.hooks.iter().chain(&empty.hooks) {
        hook.state.clone()?;
    }
    let _measuring = kernel::measure()?;
    let mut best = [f64::MAX; 2];
    let (mut runs, mut readings) = (0, 0);
    for _ in 0..WINDOWS {
        let before = [network.run_times()[0].1, empty.run_times()[0].1];
        let seen = network.counts.read()?[0].seen;
        load(WINDOW)?;
        let after = [network.run_times()[0].1, empty.run_times()[0].1];
        for (best, (before, after)) in best.iter_mut().zip(before.into_iter().zip(after)) {
            *best = best.min(per_run(before, after));
        }
        runs += after[0].runs - before[0].runs;
        readings += network.counts.read()?[0].seen - seen;
    }
    let [rtt_ns, empty_ns] = best;
    // A run without a new sample ends early: the share of those that went all the way.
    println!("rtt_readings_per_run {:.3} x", readings as f64 / runs as f64);
    println!("rtt_program_ns {rtt_ns:.1} ns");
    println!("empty_program_ns {empty_ns:.1} ns");
    println!("rtt_program_ratio {:.2} x", rtt_ns / empty_ns);
    println!("rtt_program_net_ns {:.1} ns", rtt_ns - empty_ns);
    Ok(())
}

fn per_run(before: RunTime, after: RunTime) -> f64 {
    (after.total - before.total).as_nanos() as f64 / (after.runs - before.runs) as f64
}

/// Requests and responses over one loopback connection.
fn load(window: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let echo = thread::spawn(move || {
        let mut message = [0; 64];
        while server.read_exact(&mut message).is_ok() && server.write_all(&message).is_ok() {}
    });
    let end = Instant::now() + window;
    let mut message = [0; 64];
    while Instant::now() < end {
        client.write_all(&message)?;
        client.read_exact(&mut message)?;
    }
    drop(client);
    let _ = echo.join();
    Ok(())
}
