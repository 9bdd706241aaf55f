//! What the agent costs a node: CPU per request with it and without, how much of healthy traffic leaves the
//! kernel, memory with many destinations, and CPU when nothing happens.

mod support;

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::time::{ClockId, clock_gettime};
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
        return slices();
    }
    request_response()?;
    memory_and_idle()
}

/// CPU per request and response on one CPU, with the observer attached against without, paired.
fn request_response() -> anyhow::Result<()> {
    let kernel = Kernel::open("/proc".as_ref())?;
    let built = Built::new::<Network>(&Default::default());
    let mut load = Load::start()?;
    load.slice()?;
    let mut ratios = Vec::new();
    let mut counts = Counts::default();
    for _ in 0..QUADS {
        let off = load.slice()?;
        let loaded = kernel.load(&built.object()?)?;
        support::all_attached([&loaded])?;
        // The first readings of a connection make its baseline.
        load.slice()?;
        let on = [load.slice()?, load.slice()?];
        loaded.counts.read()?.iter().for_each(|program| counts.add(program));
        drop(loaded);
        ratios.extend([on[0] / off, on[1] / load.slice()?]);
    }
    ratios.sort_by(f64::total_cmp);
    println!("request_response_ratio {:.4} x", ratios[ratios.len() / 2]);
    println!("request_response_ratio_p25 {:.4} x", ratios[ratios.len() / 4]);
    println!("request_response_ratio_p75 {:.4} x", ratios[ratios.len() * 3 / 4]);
    println!("crossing_percent {:.4} %", 100.0 * counts.emitted as f64 / counts.seen as f64);
    println!("crossing_readings {} readings", counts.seen);
    Ok(())
}

/// The whole agent: memory with ten thousand destinations and after a million, CPU when nothing happens.
fn memory_and_idle() -> anyhow::Result<()> {
    let agent = Agent::start()?;
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

/// A process that measures slices of requests on request.
struct Load(Child, BufReader<std::process::ChildStdout>);

impl Load {
    fn start() -> anyhow::Result<Self> {
        let mut child = support::on_one_cpu()?
            .arg("slices")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset (util-linux) is needed")?;
        let out = child.stdout.take().context("no pipe")?;
        Ok(Self(child, BufReader::new(out)))
    }

    /// CPU nanoseconds per request.
    fn slice(&mut self) -> anyhow::Result<f64> {
        writeln!(self.0.stdin.as_mut().context("no pipe")?)?;
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// In the load's process: a slice for each line.
fn slices() -> anyhow::Result<()> {
    let pair = support::Pair::connect()?;
    for line in std::io::stdin().lines() {
        line?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let end = Instant::now() + SLICE;
        let requests = pair.ask_until(|| Instant::now() >= end)?;
        let now = clock_gettime(ClockId::ProcessCPUTime);
        let spent = (now.tv_sec - cpu.tv_sec) as f64 * 1e9 + (now.tv_nsec - cpu.tv_nsec) as f64;
        println!("{}", spent / requests as f64);
    }
    Ok(())
}

/// The built agent, delivering to nowhere.
struct Agent(Child);

impl Agent {
    fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .args(["--observer=network", "--output=none", "--listen=off"])
            .stderr(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stderr.take().context("no pipe")?);
        let agent = Self(child);
        let mut lines = log.lines();
        ensure!(lines.any(|line| line.is_ok_and(|line| line.contains("ready"))), "the agent did not start");
        thread::spawn(move || lines.for_each(drop));
        Ok(agent)
    }

    fn rss_mb(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Time on a CPU of all its threads.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            total += stat.split_whitespace().next().context("empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(total))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
