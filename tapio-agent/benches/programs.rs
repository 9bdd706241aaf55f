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
    let rtt = Network::HOOKS[0];
    let empty = Hook { program: "empty", attach: Attach::BtfTracepoint("tcp_probe"), ..rtt };
    let hooks: &'static [Hook] = Box::leak(Box::new([rtt, Network::HOOKS[1], empty]));
    let settings = Network::kernel_settings(&Default::default());
    let object = Object { hooks, ..tapio_agent::observer::object::<Network>(&settings)? };
    let loaded = Kernel::open("/proc".as_ref())?.load(&object)?;
    for hook in &loaded.hooks {
        hook.state.clone()?;
    }
    let _measuring = kernel::measure()?;
    let mut best = [f64::MAX; 2];
    for _ in 0..WINDOWS {
        let before = loaded.run_times();
        load(WINDOW)?;
        let after = loaded.run_times();
        for (best, at) in best.iter_mut().zip([0, 2]) {
            *best = best.min(per_run(before[at].1, after[at].1));
        }
    }
    let [rtt_ns, empty_ns] = best;
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
