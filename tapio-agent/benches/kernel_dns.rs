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
    time::Instant,
};

use anyhow::bail;
use support::{
    compare::{self, SLICE},
    slices::{self, Slices},
};
use tapio_agent::{
    kernel::Kernel,
    observer::{Attach, Built, Hook, Object, dns::Dns},
};

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
        let figure = format!("dns_{name}_request_ratio");
        compare::print_paired(&figure, &kernel, &dns.object()?, start(name)?)?;
    }
    // What the hooks cost by themselves.
    compare::print_paired("dns_tcp_request_empty_ratio", &kernel, &empty, start("tcp")?)
}

fn start(name: &str) -> anyhow::Result<Slices> {
    Slices::on_one_cpu(&[LOAD, name])
}

/// The time of a run, per kind of packet.
fn programs(kernel: &Kernel) -> anyhow::Result<()> {
    let dns = Built::new::<Dns>(&Default::default());
    let dns = kernel.load(&dns.object()?)?;
    let settings = support::settings();
    let empty = kernel.load(&Object { hooks: EMPTY, ..support::bench_object(&settings)? })?;
    support::all_attached([&dns, &empty])?;
    for name in ["tcp", "udp", "unconnected", "lookup"] {
        let least = compare::least(&[&dns, &empty], &mut start(name)?)?;
        for (at, hook) in ["received", "sent"].into_iter().enumerate() {
            let (ns, empty_ns) = (least[0][at], least[1][at]);
            println!("dns_{hook}_{name}_ratio {:.2} x", ns / empty_ns);
            println!("dns_{hook}_{name}_net_ns {:.1} ns", ns - empty_ns);
        }
    }
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
        let (cpu_ns, end) = (slices::cpu_ns(), Instant::now() + SLICE);
        let mut requests = 0;
        while Instant::now() < end {
            request()?;
            requests += 1;
        }
        Ok((slices::cpu_ns() - cpu_ns) / f64::from(requests))
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
