//! Measures the delay of an occurrence from the kernel's event time until a POLKU gateway receives it, on an
//! idle host and on one with all CPUs busy. The load is refused connects, each of which is reported; a batch
//! waits for 100 ms.

#[path = "../../tapio-delivery/benches/support/receiver.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod receiver;

use std::{
    env,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use receiver::{Receiver, Taken};

const CONNECTS: u32 = 1_000;
/// 100 connects a second.
const BETWEEN: Duration = Duration::from_millis(10);
/// Time allowed for the last occurrences to arrive.
const LAST: Duration = Duration::from_secs(5);
/// Argument that makes this program a busy loop.
const BUSY: &str = "busy";

fn main() -> anyhow::Result<()> {
    if receiver::was_receiver()? {
        return Ok(());
    }
    if env::args().any(|argument| argument == BUSY) {
        loop {
            std::hint::spin_loop();
        }
    }
    let mut receiver = Receiver::start(Duration::ZERO)?;
    let idle = delays(&mut receiver)?;
    let spin = || Ok(Process(Command::new(env::current_exe()?).arg(BUSY).spawn()?));
    let cpus = thread::available_parallelism()?.get();
    let busy = (0..cpus).map(|_| spin()).collect::<anyhow::Result<Vec<_>>>()?;
    let loaded = delays(&mut receiver)?;
    drop(busy);
    println!("delay_idle_p50 {:.1} ms", idle.p50_ms);
    println!("delay_idle_p99 {:.1} ms", idle.p99_ms);
    println!("delay_loaded_p50 {:.1} ms", loaded.p50_ms);
    println!("delay_loaded_p99 {:.1} ms", loaded.p99_ms);
    println!("delay_loaded_p50_ratio {:.2} x", loaded.p50_ms / idle.p50_ms);
    println!("delay_loaded_p99_ratio {:.2} x", loaded.p99_ms / idle.p99_ms);
    Ok(())
}

/// Delays of all connects in a window, with a new agent.
fn delays(receiver: &mut Receiver) -> anyhow::Result<Taken> {
    let state = tempfile::tempdir()?;
    let agent = Command::new(env!("CARGO_BIN_EXE_tapio"))
        .env_clear()
        .envs(env::var_os("PATH").map(|path| ("PATH", path)))
        // Each event that arrives is one of the load's.
        .env("TAPIO_HEARTBEAT", "off")
        .env("TAPIO_EDGES", "off")
        .args(["--observer=network", "--output=none", "--listen=off", "--kubernetes=off"])
        .arg(format!("--polku={}", receiver.address))
        .arg(format!("--state-dir={}", state.path().display()))
        .stderr(Stdio::piped())
        .spawn()?;
    let mut agent = Process(agent);
    let mut log = BufReader::new(agent.0.stderr.take().context("no pipe")?).lines();
    // The agent may become ready and connect to the gateway in either order.
    let started = ["ready", "sink delivers"].len();
    let seen = log.by_ref().map_while(Result::ok);
    let seen = seen.filter(|line| line.contains(" ready") || line.contains("sink delivers")).take(started);
    ensure!(seen.count() == started, "the agent did not start");
    thread::spawn(move || log.for_each(drop));
    // Discard everything from before this window.
    receiver.taken()?;
    refused_connects()?;
    thread::sleep(LAST);
    let taken = receiver.taken()?;
    // The host may have refused connects of its own.
    ensure!(taken.count >= u64::from(CONNECTS), "{} of {CONNECTS} came", taken.count);
    Ok(taken)
}

/// Each connect goes to a new address, and the command changes after every 16. Otherwise the agent would fold
/// most of them into a few occurrences.
fn refused_connects() -> anyhow::Result<()> {
    let closed = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    let mut due = Instant::now();
    for nth in 0..CONNECTS {
        if nth % 16 == 0 {
            rustix::thread::set_name(&std::ffi::CString::new(format!("delay-{nth}"))?)?;
        }
        let address = Ipv4Addr::from(0x7f01_0000 + nth);
        let refused = TcpStream::connect(SocketAddr::from((address, closed)));
        ensure!(refused.is_err(), "{address}:{closed} is taken");
        due += BETWEEN;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Kills its process on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
