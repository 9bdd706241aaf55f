//! The link observer.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::support::{
    Cgroup, Link, Namespace, Occurrence, Process, Service, Tapio, Version, needs_a_kernel, skip,
};

/// Looks often, and learns fast.
const CONFIGURATION: &str =
    "observer: {link: {interval: 500ms, drops: {min_samples: 2, floor: 100}, flapping: {losses: 3}}}\n";
/// Time allowed from a fault until it is reported: looks may use one part in 1,000 of a CPU, so on an emulated one, where a
/// look takes 0.1 s, they are minutes apart.
const REPORTED: Duration = Duration::from_secs(300);

macro_rules! container {
    () => {
        match Cgroup::container(Version::Any) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

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
    let pods = [container!(), container!()];
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

/// Of two gateways, one has answered before. Nobody has the address beside them.
#[test]
fn gateways_that_do_not_answer_are_reported_once_and_other_neighbours_are_not() {
    needs_a_kernel!();
    let pod = container!();
    let link = Link::new();
    let client = Process::start_in(&link.client, "client");
    client.enter(&pod);
    let [gone, absent] = [link.v4(2), link.v6(9)].map(|address| address.to_string());
    link.client.ip(&format!("route add 203.0.113.0/24 via {gone}"));
    link.client.ip(&format!("-6 route add 2001:db8:ffff::/48 via {absent}"));
    let send = |to: IpAddr| {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        link.client.within(|| UdpSocket::bind((any, 0)).unwrap().send_to(b"?", (to, 9)).unwrap());
    };
    let behind: [IpAddr; 2] = ["203.0.113.1", "2001:db8:ffff::1"].map(|address| address.parse().unwrap());
    assert!(link.sysctl("net.ipv4.neigh.DEVICE.delay_first_probe_time", 1));
    send(behind[0]);
    link.server.ip(&format!("address delete {gone}/24 dev wire"));
    link.client.ip(&format!("neigh change {gone} dev wire nud stale"));
    let tapio = observed();
    for to in [behind[0], behind[1], link.v4(8)] {
        send(to);
    }
    let reported = |gateway: &str| {
        let reported = tapio.expect_within(REPORTED, |o| o.is_in_pod(&pod) && o.text("gateway") == gateway);
        reported.of_observer("link", "neighbor_failed").of_no_process().severe("error").says("device", "wire")
    };
    assert!(reported(&gone).has_data("hardware_address"));
    reported(&absent).has_no("hardware_address");
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert!(counts.seen == counts.accounted() && counts.emitted >= 3, "{counts:?}");
    let of_pod: Vec<_> = ended.occurrences.iter().filter(|o| o.is_in_pod(&pod)).collect();
    assert_eq!(of_pod.len(), 2, "{of_pod:#?}");
}

/// As where a bridge has lost the address that is the gateway of all who are attached to it.
#[test]
fn a_gateway_that_several_pods_miss_is_reported_once_of_the_node() {
    const GATEWAY: &str = "198.18.7.1";
    needs_a_kernel!();
    let pods = [container!(), container!(), container!()];
    let links = [Link::new(), Link::new(), Link::new()];
    let clients = links.each_ref().map(|link| Process::start_in(&link.client, "client"));
    for ((client, pod), link) in clients.iter().zip(&pods).zip(&links) {
        client.enter(pod);
        link.client.ip(&format!("route add 203.0.113.0/24 via {GATEWAY} dev wire onlink"));
        // The kernel asks three times, a second apart by default.
        assert!(link.sysctl("net.ipv4.neigh.DEVICE.retrans_time_ms", 200));
    }
    let tapio = observed();
    // Returns when the kernel has given up on the gateway.
    let connect = |from: &Link| {
        let refused = from.client.within(|| TcpStream::connect("203.0.113.1:9")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::HostUnreachable, "{refused}");
    };
    let is_missed = |o: &Occurrence| o.has_data("gateway") && o.text("gateway") == GATEWAY;
    connect(&links[0]);
    let first = tapio.expect_within(REPORTED, is_missed).of_observer("link", "neighbor_failed");
    assert!(first.is_in_pod(&pods[0]), "{first:?}");
    first.has_no("network_namespaces");
    connect(&links[1]);
    let of_node = |o: &Occurrence| is_missed(o) && !o.has_workload();
    let of_node =
        tapio.expect_within(REPORTED, of_node).of_observer("link", "neighbor_failed").of_no_process();
    of_node.has("network_namespaces", 2..3);
    of_node.has_no("device");
    connect(&links[2]);
    let ended = tapio.end();
    let of_node = ended.occurrences.iter().filter(|o| is_missed(o) && !o.has_workload());
    assert_eq!(of_node.map(|o| o.number("network_namespaces")).max(), Some(3), "{:#?}", ended.occurrences);
    let of_pods = ended.occurrences.iter().filter(|o| is_missed(o) && o.has_workload()).count();
    assert_eq!(of_pods, 1, "{:#?}", ended.occurrences);
}

/// Of two devices of the pod, one loses its carrier once. A bridge loses it whenever its only port does.
#[test]
fn a_carrier_that_comes_and_goes_is_reported_once() {
    needs_a_kernel!();
    let pod = container!();
    let link = Link::new();
    let client = Process::start_in(&link.client, "client");
    client.enter(&pod);
    link.client.ip("link add once type veth peer name other");
    if let Err(reason) = link.client.bridge("over", "wire") {
        println!("without a bridge: {reason}");
    }
    for device in ["once", "other"] {
        link.client.ip(&format!("link set {device} up"));
    }
    let tapio = observed();
    link.client.ip("link set other down");
    for state in ["down", "up"].iter().cycle().take(6) {
        link.server.ip(&format!("link set wire {state}"));
        // The kernel looks at carriers some time later, and at most once a second.
        std::thread::sleep(Duration::from_millis(1_200));
    }
    let reported = tapio.expect_one_within(REPORTED, |o| o.is_in_pod(&pod));
    let reported = reported.of_observer("link", "flapping").of_no_process().says("device", "wire");
    reported.has("losses", 3..4);
    reported.has("window_ms", 2_000..60_000);
}

/// What is larger than the other end takes is lost without an error.
#[test]
fn datagrams_that_a_device_cannot_send_are_reported_of_the_pod() {
    needs_a_kernel!();
    let pod = container!();
    let link = Link::new();
    let client = Process::start_in(&link.client, "client");
    client.enter(&pod);
    link.server.ip("link set wire mtu 600");
    let tapio = observed();
    tapio.expect_scans(4);
    let sender = link.client.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
    let reported =
        while_sending(&sender, link.server_at(9), || tapio.expect_within(REPORTED, |o| o.is_in_pod(&pod)));
    let reported = reported.of_observer("link", "packet_drops").of_no_process();
    let reported = reported.says("reason", "device_transmit").says("device", "wire");
    reported.has("rate_packets", 100..100_000_000);
}

/// Sends datagrams until the work is done.
fn while_sending<T>(sender: &UdpSocket, to: SocketAddr, work: impl FnOnce() -> T) -> T {
    let sending = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while sending.load(Ordering::Relaxed) {
                // A receive buffer holds a few hundred.
                (0..200).for_each(|_| drop(sender.send_to(&[0; 1400], to)));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let done = work();
        sending.store(false, Ordering::Relaxed);
        done
    })
}

/// A queue within another is reset before it has a device.
#[test]
fn queues_that_are_made_and_removed_are_nothing() {
    needs_a_kernel!();
    let link = Link::new();
    let tapio = observed();
    for millis in 1..=8 {
        link.slow(millis);
        link.clear();
    }
    tapio.expect_none(|_| true);
}

/// As many flows as the table has places, each with an answer and two seconds old, so that none makes room for another one.
#[test]
fn a_table_without_a_place_for_another_connection_is_reported() {
    needs_a_kernel!();
    let pod = container!();
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
    let reported = while_sending(&sender, to, || tapio.expect_within(REPORTED, is_meant));
    let reported = reported.of_observer("link", "packet_drops").of_no_process();
    assert!(!reported.has_workload());
    reported.has("rate_packets", 100..100_000_000);
    assert!(reported.baseline("mean") < 100.0);
}
