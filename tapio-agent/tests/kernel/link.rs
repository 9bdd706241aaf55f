//! The link observer.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::support::{Cgroup, Namespace, Occurrence, Process, Service, Tapio, Version, needs_a_kernel, skip};

/// Looks often, and learns fast.
const CONFIGURATION: &str = "observer: {link: {interval: 500ms, drops: {min_samples: 2, floor: 100}}}\n";
/// Time allowed from a fault until it is reported: looks may use one part in 1,000 of a CPU, so on an emulated one they are
/// seconds apart.
const REPORTED: Duration = Duration::from_secs(90);

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn observed() -> Tapio {
    let tapio = Tapio::start_with(&["--observer=link"], CONFIGURATION);
    tapio.expect_scans(1);
    tapio
}

#[test]
fn a_server_that_does_not_accept_is_reported_once_and_one_that_does_is_not() {
    needs_a_kernel!();
    let pods = match (Cgroup::container(Version::Any), Cgroup::container(Version::Any)) {
        (Ok(full), Ok(healthy)) => [full, healthy],
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    let namespaces = [Namespace::new(), Namespace::new()];
    if !namespaces[0].sysctl("net.core.somaxconn", 2) {
        skip!("a network namespace has no somaxconn of its own here");
    }
    let [mut full, mut healthy] = [0, 1].map(|at| {
        let server = Process::start_in(&namespaces[at], "server");
        server.enter(&pods[at]);
        server
    });
    let listener = full.listen("127.0.0.1:0");
    let served = healthy.serve("127.0.0.1:0", Service::echo(1));
    let [mut client, mut other] = [0, 1].map(|at| Process::start_in(&namespaces[at], "client"));
    let tapio = observed();
    // Three find room.
    for _ in 0..8 {
        let _ = client.connect_within(at(listener.port), Duration::from_millis(200));
        other.connect(at(served.port)).unwrap();
    }
    let reported = tapio.expect_one_within(REPORTED, |o| o.is_in_pod(&pods[0]));
    let reported = reported.of_observer("link", "listen_overflow").of_no_process();
    assert_eq!(reported.container_id(), None, "a namespace is the pod's");
    reported.has("dropped_connections", 1..100);
    reported.has("port", u64::from(listener.port)..u64::from(listener.port) + 1);
    reported.has("waiting_connections", 3..4);
    tapio.expect_none(|o| o.is_in_pod(&pods[1]));
}

/// As many flows as the table has places, each with an answer and two seconds old, so that none makes room for another one.
#[test]
fn a_table_without_a_place_for_another_connection_is_reported() {
    needs_a_kernel!();
    let pod = match Cgroup::container(Version::Any) {
        Ok(pod) => pod,
        Err(reason) => skip!("{reason}"),
    };
    let limit: u64 = match std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max") {
        Ok(limit) => limit.trim().parse().unwrap(),
        Err(error) => skip!("no connection can be tracked: {error}"),
    };
    let namespace = Namespace::new();
    if let Err(reason) = namespace.track() {
        skip!("{reason}");
    }
    let client = Process::start_in(&namespace, "client");
    client.enter(&pod);
    let tapio = observed();
    let refused = namespace.within(|| {
        let ports = 10_000..=u16::MAX;
        let hosts = 2..u8::try_from(limit / ports.len() as u64 + 4).unwrap();
        let servers: Vec<_> = hosts
            .map(|host| UdpSocket::bind(SocketAddr::from(([127, 0, 0, host], 9))))
            .map(Result::unwrap)
            .collect();
        let flow = |nth: u64| {
            let client = UdpSocket::bind(at(10_000 + (nth % ports.len() as u64) as u16)).ok()?;
            let server = servers.get((nth / ports.len() as u64) as usize)?;
            client.send_to(b"?", server.local_addr().ok()?).ok()?;
            let (_, from) = server.recv_from(&mut [0]).ok()?;
            server.send_to(b"!", from).ok()
        };
        let pass = || (0..limit).filter(|nth| flow(*nth).is_some()).count();
        pass();
        std::thread::sleep(Duration::from_secs(2));
        pass();
        (limit..limit + 5_000).filter(|nth| flow(*nth).is_none()).count()
    });
    assert!(refused > 1_000, "{refused} of 5000");
    let reported = tapio.expect_within(REPORTED, |o| o.is_in_pod(&pod) && o.number("dropped_packets") > 0);
    let reported = reported.of_observer("link", "conntrack_full").severe("error");
    reported.has("limit_connections", limit..limit + 1);
    reported.has("tracked_connections", limit / 10 * 9..limit + 1000);
}

#[test]
fn datagrams_that_nobody_reads_are_reported_of_the_node() {
    needs_a_kernel!();
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let tapio = observed();
    tapio.expect_scans(4);
    let is_meant = |o: &Occurrence| o.text("reason") == "udp_receive_buffer";
    let sending = AtomicBool::new(true);
    let reported = std::thread::scope(|scope| {
        scope.spawn(|| {
            while sending.load(Ordering::Relaxed) {
                // It holds a few hundred.
                (0..200).for_each(|_| drop(sender.send_to(&[0; 1400], to)));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reported = tapio.expect_within(REPORTED, is_meant);
        sending.store(false, Ordering::Relaxed);
        reported
    });
    let reported = reported.of_observer("link", "packet_drops").of_no_process();
    assert!(!reported.has_workload());
    reported.has("rate_packets", 100..100_000_000);
    assert!(reported.baseline("mean") < 100.0);
}
