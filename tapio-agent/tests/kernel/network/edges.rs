//! Edges as a collector gets them: who talked to whom, each once.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Cgroup, Collector, Process, Record, Service, Tapio, Version, guest, needs_a_kernel, skip,
};

const EDGES: &str = "tapio.network.edges";
/// From one digest to the next. The first one comes as late after the start: time for a few connections.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time allowed until all digests have arrived, on an emulated machine, too.
const ARRIVED: Duration = Duration::from_secs(60);
/// How many ports a workload may fail to connect to, with an edge for each.
const PORTS: usize = tapio_common::network::edge::MAX_FAILED_PORTS as usize;

/// Number of ports of the scan; `SCAN` raises it.
fn scanned() -> u32 {
    std::env::var("SCAN").map_or(200, |ports| ports.parse().unwrap())
}

/// Number of destinations of one workload; `DESTINATIONS` raises it.
fn destinations() -> u32 {
    std::env::var("DESTINATIONS").map_or(450, |count| count.parse().unwrap())
}

/// How many ports of each address are scanned.
const OF_AN_ADDRESS: u32 = 50_000;

/// A port that nothing listens on, of an address that nothing else uses.
fn scan(nth: u32) -> SocketAddr {
    let (address, port) = (nth / OF_AN_ADDRESS, 10_000 + nth % OF_AN_ADDRESS);
    (Ipv4Addr::new(127, 0, 9, address as u8), port as u16).into()
}

/// Counts of an edge, by direction, address and port.
type Edges = BTreeMap<(String, String, Option<i64>), (i64, i64)>;

/// Adds the edges of a digest, none of which was there before.
#[track_caller]
fn add(edges: &mut Edges, digest: &Record) {
    let texts = |key| digest.texts(&format!("tapio.data.edges.{key}"));
    let numbers = |key| digest.numbers(&format!("tapio.data.edges.{key}"));
    let (directions, addresses, ports) = (texts("direction"), texts("address"), numbers("port"));
    let (connections, failures) = (numbers("connections"), numbers("failures"));
    println!("a digest of {} edges: {} bytes", directions.len(), digest.bytes());
    for at in 0..directions.len() {
        let port = ports.get(at).copied().flatten();
        let key = (directions[at].clone().unwrap(), addresses[at].clone().unwrap(), port);
        let before = edges.insert(key, (connections[at].unwrap(), failures[at].unwrap()));
        assert_eq!(before, None, "{digest:?}");
    }
}

/// Creates a container in the cgroup hierarchy that sockets belong to, or ends the test.
macro_rules! container {
    () => {
        match Cgroup::container(Version::Two) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

/// The digests of a container that have arrived.
fn digests(collector: &Collector, cgroup: &Cgroup) -> Vec<Record> {
    let mut digests = collector.arrived(EDGES);
    digests.retain(|digest| digest.resource("container.id").as_ref() == Some(&cgroup.container_id));
    digests
}

#[test]
fn each_is_reported_once_with_its_owner_and_its_counts() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut outside = Process::start("outside");
    let served: Vec<u16> = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"]
        .map(|address| outside.serve(address, Service::echo(10)).port)
        .into();
    let mut inside = Process::start("inside");
    inside.enter(&cgroup);
    let collector = Collector::start();
    let settings = format!("edges: {}s\n{}", INTERVAL.as_secs(), Collector::SETTINGS);
    let tapio = Tapio::start_with(&[&*collector.argument()], &settings);

    let to = |address: &str, port: u16| SocketAddr::new(address.parse().unwrap(), port);
    for _ in 0..3 {
        inside.connect(to("127.0.0.1", served[0])).unwrap();
    }
    inside.connect(to("127.0.0.2", served[1])).unwrap();
    inside.connect(to("::1", served[2])).unwrap();
    assert_eq!(inside.connect(to("127.0.0.1", 4641)).unwrap_err(), "ECONNREFUSED");
    // Its listener is younger than the agent.
    let own = inside.serve("127.0.0.1:0", Service::echo(10)).port;
    outside.connect(to("127.0.0.1", own)).unwrap();
    for nth in 0..scanned() {
        assert_eq!(inside.connect(scan(nth)).unwrap_err(), "ECONNREFUSED");
    }

    thread::sleep(INTERVAL * 3);
    let mut edges = Edges::new();
    digests(&collector, &cgroup).iter().for_each(|digest| add(&mut edges, digest));
    let edge = |direction: &str, address: &str, port| {
        (direction.to_owned(), address.to_owned(), Some(i64::from(port)))
    };
    let (scanned_edges, edges): (Edges, Edges) =
        edges.into_iter().partition(|((_, address, _), _)| address.starts_with("127.0.9."));
    let expected = Edges::from([
        (edge("outbound", "127.0.0.1", served[0]), (3, 0)),
        (edge("outbound", "127.0.0.2", served[1]), (1, 0)),
        (edge("outbound", "::1", served[2]), (1, 0)),
        (edge("outbound", "127.0.0.1", 4641), (0, 1)),
        (edge("inbound", "127.0.0.1", own), (1, 0)),
    ]);
    let addresses = scanned().div_ceil(OF_AN_ADDRESS) as usize;
    let of_one_port = scanned_edges.keys().filter(|(.., port)| port.is_some()).count();
    assert_eq!(
        (of_one_port, scanned_edges.len()),
        (addresses * PORTS, addresses * (PORTS + 1)),
        "{scanned_edges:?}"
    );

    let ended = tapio.end();
    // The kernel skips a run that interrupts another.
    let differ = expected.iter().filter(|(edge, counts)| edges.get(edge) != Some(counts)).count();
    assert!(differ as u64 <= ended.missed, "{edges:?}, not {expected:?}");
    assert!(edges.keys().all(|edge| expected.contains_key(edge)), "{edges:?}, not {expected:?}");
    assert!(
        ended.occurrences.iter().all(|reported| reported.kind != "network.edges"),
        "people are not shown them"
    );
    assert_eq!(digests(&collector, &cgroup).len(), 0, "each is reported once");
}

#[test]
fn many_destinations_follow_in_further_digests_the_oldest_first() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut outside = Process::start("outside");
    let port = outside.serve("0.0.0.0:0", Service::echo(10)).port;
    let mut inside = Process::start("inside");
    inside.enter(&cgroup);
    let collector = Collector::start();
    let settings = format!("edges: 1s\n{}", Collector::SETTINGS);
    let tapio = Tapio::start_with(&[&*collector.argument()], &settings);
    let all: Vec<Ipv4Addr> = (0..destinations()).map(|nth| Ipv4Addr::from_bits(0x7f01_0000 + nth)).collect();
    for address in &all {
        let connection = inside.connect((*address, port).into()).unwrap();
        inside.close(connection);
    }
    let (mut digests, mut addresses) = (Vec::new(), Vec::new());
    let end = Instant::now() + ARRIVED;
    // The kernel skips a run that interrupts another, so that not all may arrive.
    while addresses.iter().map(Vec::len).sum::<usize>() < all.len() && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
        digests.extend(self::digests(&collector, &cgroup));
        addresses = digests.iter().map(|digest| digest.texts("tapio.data.edges.address")).collect();
    }
    assert!(addresses.iter().all(|addresses| addresses.len() <= 200));
    let mut reported: Vec<Ipv4Addr> =
        addresses.concat().into_iter().map(|address| address.unwrap().parse().unwrap()).collect();
    // The clock of an emulated kernel steps back by milliseconds while it is adjusted.
    if guest::is_one() {
        reported.sort_unstable();
    }
    let ended = tapio.end();
    let (known, lost): (Vec<Ipv4Addr>, Vec<_>) =
        all.into_iter().partition(|address| reported.contains(address));
    assert_eq!(reported, known);
    assert!(lost.len() as u64 <= ended.missed, "{lost:?}");
    let more: Vec<_> = digests.iter().map(|digest| digest.number("tapio.data.more").unwrap()).collect();
    let bytes: usize = digests.iter().map(Record::bytes).sum();
    println!("{} edges: {bytes} bytes; more follow: {more:?}", reported.len());
    assert_eq!(more.last(), Some(&0), "{more:?}");
}
