//! The server and the clients, with each other.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{
    Ask, Client, Transport, client, lookup_by,
    message::{A, AAAA, Answer, query},
};
use crate::support::{Namespace, Process, process::exists, skip};

/// A short wait for an answer that never comes.
const BRIEF: Ask = Ask::ONCE.waiting(Duration::from_millis(150));
/// A wait that is long enough for a busy machine.
const PATIENT: Ask = Ask::ONCE.waiting(Duration::from_secs(5));
const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Unconnected, Transport::Tcp];
const TXT: u16 = 16;

fn server() -> (Process, SocketAddr) {
    let mut process = Process::start("dns-server");
    let address = process.serve_dns("127.0.0.1:0");
    (process, address)
}

fn answer(server: SocketAddr, name: &str, kind: u16, over: Transport) -> Answer {
    client::ask(server, name, kind, PATIENT.over(over))
        .unwrap_or_else(|error| panic!("{name}, {kind}, {over}: {error}"))
}

#[test]
fn each_name_has_its_response_code_over_each_transport() {
    let (_process, to) = server();
    for over in TRANSPORTS {
        for (name, rcode, count) in [
            ("ok.example.test", 0, 1),
            ("OK-too.Example.Test", 0, 1),
            ("redis.ok.test", 0, 1),
            ("redis.search1.test", 3, 0),
            ("nodata.example.test", 0, 0),
            ("formerr.example.test", 1, 0),
            ("servfail.example.test", 2, 0),
            ("nx.example.test", 3, 0),
            ("notimp.example.test", 4, 0),
            ("refused.example.test", 5, 0),
            ("big.example.test", 0, 40),
        ] {
            let answer = answer(to, name, A, over);
            assert_eq!((answer.rcode(), answer.count()), (rcode, count), "{name} over {over}");
            assert!(!answer.is_truncated(), "{name} over {over}");
        }
    }
    let big = answer(to, "big.example.test", A, Transport::Udp).0.len();
    assert!((650..750).contains(&big), "{big}");
}

#[test]
fn addresses_are_of_the_type_that_was_asked_for() {
    let (_process, to) = server();
    let v4 = answer(to, "ok.test", A, Transport::Udp).last_address(A);
    assert_eq!(v4, Some(IpAddr::from([192, 0, 2, 1])));
    let v6 = answer(to, "ok.test", AAAA, Transport::Udp).last_address(AAAA);
    assert_eq!(v6, Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])));
    let text = answer(to, "ok.test", TXT, Transport::Udp);
    assert_eq!((text.rcode(), text.count()), (0, 0));
}

#[test]
fn a_truncated_answer_is_complete_over_tcp() {
    let (_process, to) = server();
    let truncated = answer(to, "trunc.test", A, Transport::Udp);
    assert!(truncated.is_truncated());
    assert_eq!(truncated.count(), 0);
    let complete = answer(to, "trunc.test", A, Transport::Tcp);
    assert!(!complete.is_truncated());
    assert_eq!(complete.count(), 1);
}

#[test]
fn the_case_of_a_question_changes() {
    let (_process, to) = server();
    let contains = |name: &str, text: &[u8]| {
        answer(to, name, A, Transport::Udp).0.windows(text.len()).any(|bytes| bytes == text)
    };
    assert!(contains("case.test", b"\x04CASE\x04TEST\0"));
    assert!(contains("ok.test", b"\x02ok\x04test\0"));
}

#[test]
fn what_is_no_answer_is_a_timeout() {
    let (mut process, to) = server();
    let mut asks = Process::start("asks");
    for name in ["drop.test", "wrongid.test", "garbage.test"] {
        for over in TRANSPORTS {
            let rcode = asks.ask(to, name, A, BRIEF.trying(2).over(over));
            assert_eq!(rcode, Err("TIMEOUT".to_owned()), "{name} over {over}");
        }
    }
    // Nobody accepts the message, but the kernel accepts the connection.
    let full = process.listen("127.0.0.1:0").port;
    let rcode = asks.ask(([127, 0, 0, 1], full).into(), "ok.test", A, BRIEF.over(Transport::Tcp));
    assert_eq!(rcode, Err("TIMEOUT".to_owned()));
}

#[test]
fn wrong_answers_are_sent() {
    let (_process, to) = server();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for name in ["wrongid.test", "garbage.test"] {
        socket.send_to(&query(0x1234, name, A), to).unwrap();
        let mut answer = [0; 512];
        assert!(socket.recv(&mut answer).unwrap() > 2, "{name}");
        assert_eq!(answer[..2], [!0x12, 0x34], "{name}");
    }
}

#[test]
fn the_first_query_of_each_question_is_dropped() {
    let (_process, to) = server();
    let mut asks = Process::start("asks");
    for kind in [A, AAAA] {
        assert_eq!(asks.ask(to, "drop1.test", kind, BRIEF), Err("TIMEOUT".to_owned()));
        assert_eq!(asks.ask(to, "Drop1.Test", kind, PATIENT), Ok(0));
    }
    assert_eq!(asks.ask(to, "drop1-again.test", A, BRIEF.trying(20)), Ok(0));
}

#[test]
fn a_slow_answer_delays_no_other() {
    let (_process, to) = server();
    for over in TRANSPORTS {
        let start = Instant::now();
        let slow = thread::spawn(move || {
            answer(to, "slow700x.test", A, over);
            start.elapsed()
        });
        thread::sleep(Duration::from_millis(50));
        answer(to, "ok.test", A, over);
        let other = start.elapsed();
        let slow = slow.join().unwrap();
        assert!(slow >= Duration::from_millis(700), "{slow:?}");
        assert!(other < slow, "{over}: {other:?}, {slow:?}");
    }
}

#[test]
fn a_mode_overrides_names() {
    let (mut process, to) = server();
    let mut asks = Process::start("asks");
    process.dns_mode("drop");
    assert_eq!(asks.ask(to, "ok.test", A, BRIEF), Err("TIMEOUT".to_owned()));
    for (mode, rcode) in [("servfail", 2), ("nx", 3)] {
        process.dns_mode(mode);
        assert_eq!(asks.ask(to, "ok.test", A, PATIENT), Ok(rcode), "{mode}");
    }
    process.dns_mode("delay 300");
    let start = Instant::now();
    assert_eq!(asks.ask(to, "refused.test", A, PATIENT), Ok(5));
    assert!(start.elapsed() >= Duration::from_millis(300));
    process.dns_mode("normal");
    assert_eq!(asks.ask(to, "ok.test", A, PATIENT), Ok(0));
}

#[test]
fn a_forwarder_passes_answers_back() {
    let (mut process, upstream) = server();
    let mut forwards = Process::start("dns-forwarder");
    let to = forwards.forward_dns("127.0.0.1:0", upstream);
    let mut asks = Process::start("asks");
    for (name, rcode) in [("ok.test", 0), ("servfail.test", 2), ("nx.test", 3)] {
        assert_eq!(asks.ask(to, name, A, PATIENT), Ok(rcode), "{name}");
    }
    assert_eq!(answer(to, "big.test", A, Transport::Udp).count(), 40);
    process.dns_mode("drop");
    assert_eq!(asks.ask(to, "ok.test", A, BRIEF), Err("TIMEOUT".to_owned()));
}

#[test]
fn a_server_that_is_not_there_refuses() {
    let (process, to) = server();
    drop(process);
    let mut asks = Process::start("asks");
    for over in [Transport::Udp, Transport::Tcp] {
        assert_eq!(asks.ask(to, "ok.test", A, PATIENT.over(over)), Err("ECONNREFUSED".to_owned()));
    }
    // Without a connection, the kernel reports no error.
    let unconnected = BRIEF.over(Transport::Unconnected);
    assert_eq!(asks.ask(to, "ok.test", A, unconnected), Err("TIMEOUT".to_owned()));
}

#[test]
fn a_flood_is_answered() {
    let (_process, to) = server();
    let start = Instant::now();
    assert_eq!(Process::start("floods").flood_dns(to, "ok.test", 2_000, 5_000), Ok(2_000));
    assert!(start.elapsed() >= Duration::from_millis(390), "{:?}", start.elapsed());
}

#[test]
fn the_c_library_and_real_programs_resolve() {
    if !rustix::process::geteuid().is_root() {
        skip!("not root");
    }
    if let Some(missing) = ["ip", "unshare"].into_iter().find(|program| !exists(program)) {
        skip!("there is no {missing}");
    }
    let namespace = Namespace::new();
    let mut process = Process::start_in(&namespace, "dns-server");
    process.serve_dns("127.0.0.53:53");
    let text = "nameserver 127.0.0.53\nsearch search1.test ok.test\noptions timeout:3 attempts:3\n";

    let mut resolves = Process::start_with_resolv_conf(&namespace, "resolves", text);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", resolves.pid())).unwrap();
    assert_eq!(comm.trim_end(), resolves.comm());
    let both = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    for name in ["ok.example.test", "redis", "drop1.example.test"] {
        let found = resolves.resolve(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(both.iter().all(|address| found.contains(address)), "{name}: {found:?}");
    }
    resolves.resolve("nx.example.test").unwrap_err();

    for client in [Client::Glibc, Client::Busybox, Client::Go] {
        let ok = match lookup_by(client, &namespace, None, text, "ok.example.test") {
            Ok(ok) => ok,
            Err(reason) => {
                println!("{client:?}: {reason}");
                continue;
            }
        };
        let said = String::from_utf8_lossy(&[ok.output.stdout, ok.output.stderr].concat()).into_owned();
        assert!(said.contains("192.0.2.1") || said.contains("2001:db8::1"), "{client:?}: {said}");
        let absent = lookup_by(client, &namespace, None, text, "nx.example.test").unwrap();
        assert!(!absent.output.status.success(), "{client:?}: {absent:?}");
        assert!(absent.pid != ok.pid, "{} is a new process each time", ok.comm);
    }
}
