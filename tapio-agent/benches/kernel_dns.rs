//! Measures the DNS observer: a run of its programs for packets that are no DNS, and for a look-up, against empty programs
//! on the same hooks in the same run; and the CPU of an application's requests with the observer and without.
//!
//! The times of programs are the kernel's (`bpf_stats`, including its two clock reads), the least of five windows.

mod support;

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::time::{ClockId, clock_gettime};
use support::slices::{self, Slices};
use tapio_agent::{
    kernel::{self, Kernel, Loaded},
    observer::{Attach, Built, Hook, Object, dns::Dns},
    source::{RunTime, Source as _},
};

const WINDOWS: usize = 5;
/// Slices of a window.
const SLICES: usize = 8;
/// Groups of four slices, in the order off, on, on, off, so that drift of the machine affects both equally.
const QUADS: usize = 75;
const SLICE: Duration = Duration::from_millis(50);
const LOAD: &str = "slices";
/// A loopback address that nobody uses, with the port of a resolver.
const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 84, 65, 80), 53);
/// Bytes of a write to a stream.
const WRITE: usize = 64 << 10;

const EMPTY: &[Hook] = &[
    Hook {
        program: "empty_received",
        attach: Attach::BtfTracepoint("netif_receive_skb"),
        needs: &[],
        gives: "",
        or: &[],
    },
    Hook {
        program: "empty_sent",
        attach: Attach::BtfTracepoint("net_dev_queue"),
        needs: &[],
        gives: "",
        or: &[],
    },
];

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip_while(|argument| argument != LOAD).skip(1);
    if let Some(name) = arguments.next() {
        return load(&name);
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    programs(&kernel)?;
    let dns = Built::new::<Dns>(&Default::default());
    let settings = support::settings();
    let empty = Object { hooks: EMPTY, ..support::bench_object(&settings)? };
    for name in ["tcp", "stream", "udp"] {
        paired(&kernel, &dns.object()?, &format!("dns_{name}_request_ratio"), name)?;
    }
    // What the hooks cost by themselves.
    paired(&kernel, &empty, "dns_tcp_request_empty_ratio", "tcp")
}

fn start(name: &str) -> anyhow::Result<Slices> {
    let mut load = Slices::start(support::on_one_cpu()?.args([LOAD, name]))?;
    load.next()?;
    Ok(load)
}

/// The time of a run, per kind of packet.
fn programs(kernel: &Kernel) -> anyhow::Result<()> {
    let dns = Built::new::<Dns>(&Default::default());
    let dns = kernel.load(&dns.object()?)?;
    let settings = support::settings();
    let empty = kernel.load(&Object { hooks: EMPTY, ..support::bench_object(&settings)? })?;
    support::all_attached([&dns, &empty])?;
    let _measuring = kernel::measure()?;
    for name in ["tcp", "udp", "unconnected", "lookup"] {
        let mut load = start(name)?;
        let mut best = [[f64::MAX; 2]; 2];
        for _ in 0..WINDOWS {
            let before = [times(&dns), times(&empty)];
            (0..SLICES).try_for_each(|_| load.next().map(drop))?;
            let after = [times(&dns), times(&empty)];
            for (best, (before, after)) in best.iter_mut().zip(before.iter().zip(&after)) {
                for (best, (before, after)) in best.iter_mut().zip(before.iter().zip(after)) {
                    let ns = (after.total - before.total).as_nanos() as f64;
                    *best = best.min(ns / (after.runs - before.runs) as f64);
                }
            }
        }
        for (at, hook) in ["received", "sent"].into_iter().enumerate() {
            let [ns, empty_ns] = [best[0][at], best[1][at]];
            println!("dns_{hook}_{name}_ratio {:.2} x", ns / empty_ns);
            println!("dns_{hook}_{name}_net_ns {:.1} ns", ns - empty_ns);
        }
    }
    Ok(())
}

/// Of both programs, in the order of the hooks.
fn times(loaded: &Loaded) -> Vec<RunTime> {
    loaded.run_times().into_iter().map(|(_, time)| time).collect()
}

/// CPU of a request on one CPU, with the observer attached and without, compared in pairs.
fn paired(kernel: &Kernel, object: &Object<'_>, figure: &str, name: &str) -> anyhow::Result<()> {
    let mut load = start(name)?;
    let mut ratios = Vec::new();
    for _ in 0..QUADS {
        let off = load.next()?;
        let loaded = kernel.load(object)?;
        support::all_attached([&loaded])?;
        load.next()?;
        let on = [load.next()?, load.next()?];
        drop(loaded);
        ratios.extend([on[0] / off, on[1] / load.next()?]);
    }
    slices::print_ratios(figure, &mut ratios);
    Ok(())
}

/// Runs in the load process: CPU nanoseconds per request.
fn load(name: &str) -> anyhow::Result<()> {
    let mut request: Box<dyn FnMut() -> anyhow::Result<()>> = match name {
        "tcp" => {
            let pair = support::Pair::connect()?;
            Box::new(move || pair.ask_once())
        }
        "stream" => {
            let (mut client, mut server) = connected()?;
            thread::spawn(move || while server.read(&mut [0; WRITE]).is_ok_and(|read| read > 0) {});
            Box::new(move || Ok(client.write_all(&[0; WRITE])?))
        }
        "udp" | "unconnected" => datagrams(name == "udp", (Ipv4Addr::LOCALHOST, 0).into())?,
        "lookup" => datagrams(true, RESOLVER.into())?,
        other => bail!("no such load: {other}"),
    };
    slices::each(|| {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let end = Instant::now() + SLICE;
        let mut requests = 0;
        while Instant::now() < end {
            request()?;
            requests += 1;
        }
        let now = clock_gettime(ClockId::ProcessCPUTime);
        let spent = (now.tv_sec - cpu.tv_sec) as f64 * 1e9 + (now.tv_nsec - cpu.tv_nsec) as f64;
        Ok(spent / f64::from(requests))
    })
}

fn connected() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((client, listener.accept()?.0))
}

/// A question for `www.example.com`, or any other datagram, and the answer: the same, with the flag of an answer.
fn datagrams(is_connected: bool, at: SocketAddr) -> anyhow::Result<Box<dyn FnMut() -> anyhow::Result<()>>> {
    const ANSWER: u8 = 0x80;
    let server = UdpSocket::bind(at)?;
    let at = server.local_addr()?;
    thread::spawn(move || {
        let mut message = [0; 64];
        while let Ok((len, from)) = server.recv_from(&mut message) {
            message[2] |= ANSWER;
            if server.send_to(&message[..len], from).is_err() {
                break;
            }
        }
    });
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    if is_connected {
        client.connect(at)?;
    }
    let mut message = *b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03com\0\0\x01\0\x01";
    let mut id = 0_u16;
    Ok(Box::new(move || {
        id = id.wrapping_add(1);
        message[..2].copy_from_slice(&id.to_be_bytes());
        if is_connected {
            client.send(&message)?;
        } else {
            client.send_to(&message, at)?;
        }
        client.recv(&mut [0; 64])?;
        Ok(())
    }))
}
