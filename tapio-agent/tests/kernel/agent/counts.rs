//! Every event received is either reported or counted as dropped.

use std::net::SocketAddr;

use tapio_common::Counts;

use crate::support::{Namespace, Process, Service, Tapio, needs_a_kernel};

const CONNECTS: u64 = 300;

#[test]
fn every_reading_is_accounted_for() {
    needs_a_kernel!();
    let namespace = Namespace::new();
    let to = SocketAddr::from(([127, 0, 0, 1], 4501));
    let refused = SocketAddr::from(([127, 0, 0, 1], 4502));
    let tapio = Tapio::start();
    let mut server = Process::start_in(&namespace, "counts");
    let listener = server.serve(&to.to_string(), Service::echo(300));
    let manual = server.listen("127.0.0.1:4503");
    let mut client = Process::start_in(&namespace, "counts");
    for _ in 0..CONNECTS {
        assert_eq!(client.connect(refused).unwrap_err(), "ECONNREFUSED");
    }
    let connection = client.connect(to).unwrap();
    client.request(connection, Service::echo(300), 10_000, 0);
    client.close(connection);
    for _ in 0..10 {
        let connection = client.connect(SocketAddr::from(([127, 0, 0, 1], manual.port))).unwrap();
        let accepted = server.accept(manual);
        client.send(connection, 10);
        server.receive(accepted, 10);
        client.reset(connection);
        server.await_end(accepted);
    }
    server.stop_listening(listener);

    let ended = tapio.end();
    assert_eq!(ended.programs.len(), 6, "{:?}", ended.programs);
    for (program, counts) in &ended.programs {
        assert_eq!(counts.seen, counts.accounted(), "{program}: {counts:?}");
    }
    let of = |name: &str| -> Counts {
        ended.programs.iter().find(|(program, _)| program == name).map(|(_, counts)| *counts).unwrap()
    };
    // A reading takes four samples over two milliseconds; the requests take more than fifty.
    assert!(of("tcp_probe").seen >= 20, "{:?}", of("tcp_probe"));
    // Other processes on this machine connect too.
    let state = of("inet_sock_set_state");
    assert!(state.suppressed + state.emitted >= CONNECTS, "{state:?}");
    let reset = of("tcp_receive_reset");
    assert!(reset.suppressed + reset.emitted >= 10, "{reset:?}");
    // Every emitted event was read and judged; a folded one is included in the count of its first.
    let emitted: u64 = ended.programs.iter().map(|(_, counts)| counts.emitted).sum();
    let suppressed: u64 = ended.programs.iter().map(|(_, counts)| counts.suppressed).sum();
    let reported = ended.occurrences.iter().map(|o| o.count).sum::<u64>() + ended.out_of_scope;
    assert!(
        (emitted..=emitted + suppressed).contains(&reported),
        "{emitted} and {suppressed}, reported {reported}"
    );
}
