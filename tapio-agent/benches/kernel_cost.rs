//! What the agent costs a node: CPU per request with it and without, how much of healthy traffic leaves the
//! kernel, memory with many destinations, and CPU when nothing happens.

mod support;

use std::{
    env,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use support::{
    agent::Agent,
    slices::{self, Slices},
};
use tapio_agent::{
    kernel::Kernel,
    observer::{Built, network::Network},
};
use tapio_common::Counts;

/// Pairs of slices, in the order off, on, on, off: a drift of the machine falls on both.
const QUADS: usize = 75;
const SLICE: Duration = Duration::from_millis(50);
const IDLE: Duration = Duration::from_secs(10);
const FEW_DESTINATIONS: u32 = 10_000;
const MANY_DESTINATIONS: u32 = 1_000_000;

fn main() -> anyhow::Result<()> {
    if env::args().nth(1).as_deref() == Some("slices") {
        return load();
    }
    request_response()?;
    memory_and_idle()
}

/// CPU per request and response on one CPU, with the observer attached against without, paired.
fn request_response() -> anyhow::Result<()> {
    let kernel = Kernel::open("/proc".as_ref())?;
    let built = Built::new::<Network>(&Default::default());
    let mut load = Slices::start(support::on_one_cpu()?.arg("slices"))?;
    load.next()?;
    let mut ratios = Vec::new();
    let mut counts = Counts::default();
    for _ in 0..QUADS {
        let off = load.next()?;
        let loaded = kernel.load(&built.object()?)?;
        support::all_attached([&loaded])?;
        // The first readings of a connection make its baseline.
        load.next()?;
        let on = [load.next()?, load.next()?];
        loaded.counts.read()?.iter().for_each(|program| counts.add(program));
        drop(loaded);
        ratios.extend([on[0] / off, on[1] / load.next()?]);
    }
    slices::print_ratios("request_response_ratio", &mut ratios);
    println!("crossing_percent {:.4} %", 100.0 * counts.emitted as f64 / counts.seen as f64);
    println!("crossing_readings {} readings", counts.seen);
    Ok(())
}

/// The whole agent: memory with ten thousand destinations and after a million, CPU when nothing happens.
fn memory_and_idle() -> anyhow::Result<()> {
    let agent = Agent::start(&["--observer=network", "--output=none"])?;
    let before = agent.cpu()?;
    let start = Instant::now();
    thread::sleep(IDLE);
    let busy = (agent.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("idle_cpu_percent {:.4} %", 100.0 * busy);
    connect_to(FEW_DESTINATIONS)?;
    let few = agent.rss_mb()?;
    println!("rss_mb {few:.1} MB");
    connect_to(MANY_DESTINATIONS)?;
    println!("rss_growth_ratio {:.3} x", agent.rss_mb()? / few);
    Ok(())
}

/// In the load's process: CPU nanoseconds per request.
fn load() -> anyhow::Result<()> {
    let pair = support::Pair::connect()?;
    slices::each(|| {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let end = Instant::now() + SLICE;
        let requests = pair.ask_until(|| Instant::now() >= end)?;
        let now = clock_gettime(ClockId::ProcessCPUTime);
        let spent = (now.tv_sec - cpu.tv_sec) as f64 * 1e9 + (now.tv_nsec - cpu.tv_nsec) as f64;
        Ok(spent / requests as f64)
    })
}

/// One connection to each of so many loopback addresses, with enough samples for a reading.
fn connect_to(destinations: u32) -> anyhow::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Until the other side resets it.
            let _ = stream.read(&mut [0]);
        }
    });
    for n in 1..=destinations {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::from(0x7f00_0000 + n), port)))?;
        // Closes with a reset: a million connections would wait for their end otherwise.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    Ok(())
}
