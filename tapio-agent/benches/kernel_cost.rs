//! Measures the cost of the agent on a node: CPU per request with and without it, the share of healthy
//! traffic that leaves the kernel, memory with many destinations, and CPU when idle.

mod support;

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{
    Request, Response,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use support::{
    agent::Agent,
    compare,
    slices::{self, Slices},
};
use tapio_agent::{
    kernel::Kernel,
    observer::{Built, network::Network},
};
use tapio_common::Counts;

/// Groups of four slices, in the order off, on, on, off, so that drift of the machine affects both equally.
const QUADS: usize = 75;
const SLICE: Duration = Duration::from_millis(50);
/// Arguments that make this program a load.
const ECHO: &str = "echo";
const HTTP: &str = "http";
const RESPONSE: &[u8] = &[b'.'; 1024];
const SETTLE: Duration = Duration::from_secs(10);
/// A snapshot is written in it, too.
const IDLE: Duration = Duration::from_secs(60);
const FEW_DESTINATIONS: u32 = 10_000;
const MANY_DESTINATIONS: u32 = 1_000_000;
/// Connections open at once; the numbers above are multiples of it. While the others take their turns, the
/// samples of each connection become spaced out: the samples of one reading span at least the floor, which is
/// 2 ms.
const AT_ONCE: u32 = 200;
/// Requests that make a reading: two blocks of four samples. Each sample is read with the next segment.
const REQUESTS: usize = 10;
/// Writes the state snapshot as often as allowed, because that takes memory too.
const EACH_SECOND: (&str, &str) = ("TAPIO_SNAPSHOT", "1s");
/// Long enough for two snapshots.
const TWICE: Duration = Duration::from_millis(2_200);

fn main() -> anyhow::Result<()> {
    match env::args().nth(1).as_deref() {
        Some(ECHO) => return echo(),
        Some(HTTP) => return http(),
        _ => {}
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    request_response(&kernel)?;
    compare::print_paired_all("request_response_all_ratio", &kernel, start(ECHO)?)?;
    compare::print_paired_all("http_request_all_ratio", &kernel, start(HTTP)?)?;
    idle()?;
    memory()
}

/// CPU per request and response on one CPU, with the observer attached and without, compared in pairs.
fn request_response(kernel: &Kernel) -> anyhow::Result<()> {
    let built = Built::new::<Network>(&Default::default());
    let mut load = start(ECHO)?;
    let mut ratios = Vec::new();
    let mut counts = Counts::default();
    for _ in 0..QUADS {
        let off = load.next()?;
        let loaded = kernel.load(&built.object()?)?;
        support::all_attached([&loaded])?;
        // The first readings of a connection build its baseline.
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

fn start(load: &str) -> anyhow::Result<Slices> {
    Slices::on_one_cpu(&[load])
}

/// CPU of the whole agent when idle, once it has read everything for the first time.
fn idle() -> anyhow::Result<()> {
    let agent = Agent::start(&["--output=none"], &[])?;
    thread::sleep(SETTLE);
    let before = agent.cpu()?;
    let start = Instant::now();
    thread::sleep(IDLE);
    let busy = (agent.cpu()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("idle_cpu_percent {:.4} %", 100.0 * busy);
    Ok(())
}

/// Memory of the whole agent with ten thousand destinations, and after a million, once it has written its
/// state snapshot.
fn memory() -> anyhow::Result<()> {
    let agent = Agent::start(&["--output=none"], &[EACH_SECOND])?;
    let after = |destinations| {
        connect_to(destinations)?;
        thread::sleep(TWICE);
        agent.rss_mb()
    };
    let few = after(FEW_DESTINATIONS)?;
    println!("rss_mb {few:.1} MB");
    println!("rss_growth_ratio {:.3} x", after(MANY_DESTINATIONS)? / few);
    Ok(())
}

/// Runs in a load process: CPU nanoseconds per request of 64 bytes and its echo, the least that a request can cost.
fn echo() -> anyhow::Result<()> {
    let pair = support::Pair::connect()?;
    slices::each(|| {
        let cpu = slices::cpu_ns();
        let end = Instant::now() + SLICE;
        let requests = pair.ask_until(|| Instant::now() >= end)?;
        Ok((slices::cpu_ns() - cpu) / requests as f64)
    })
}

/// Runs in a load process: CPU nanoseconds per HTTP request and its response of 1 KiB, of client and server.
fn http() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut client = runtime.block_on(connect())?;
    slices::each(|| {
        let cpu = slices::cpu_ns();
        let end = Instant::now() + SLICE;
        let mut requests = 0;
        while Instant::now() < end {
            runtime.block_on(async {
                client.ready().await?;
                let request = Request::get("/").header("host", "server").body(Empty::new())?;
                let response = client.send_request(request).await?.into_body().collect().await?;
                anyhow::ensure!(response.to_bytes().len() == RESPONSE.len(), "another response");
                Ok(())
            })?;
            requests += 1;
        }
        Ok((slices::cpu_ns() - cpu) / f64::from(requests))
    })
}

/// Connects to a server of this process. Both run as long as the runtime does.
async fn connect() -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
    let (server, _) = listener.accept().await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let respond = |_| async { anyhow::Ok(Response::new(Full::new(Bytes::from_static(RESPONSE)))) };
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(respond)));
    let (client, connection) = handshake(TokioIo::new(client)).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Opens one connection to each of this many loopback addresses, with enough samples for a reading.
fn connect_to(destinations: u32) -> anyhow::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let connect = |n| {
        let client = TcpStream::connect(SocketAddr::from((Ipv4Addr::from(0x7f00_0000 + n), port)))?;
        // Close with a reset; otherwise a million connections would stay in TIME_WAIT.
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        anyhow::Ok((client, listener.accept()?.0))
    };
    let mut message = [0; 64];
    for first in (1..=destinations).step_by(AT_ONCE as usize) {
        let pairs = (first..first + AT_ONCE).map(connect).collect::<anyhow::Result<Vec<_>>>()?;
        for (mut client, mut server) in (0..REQUESTS).flat_map(|_| pairs.iter().map(|(a, b)| (a, b))) {
            client.write_all(&message)?;
            server.read_exact(&mut message)?;
            server.write_all(&message)?;
            client.read_exact(&mut message)?;
        }
    }
    Ok(())
}
