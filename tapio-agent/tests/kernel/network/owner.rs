//! The owner and the direction of a connection: present if the kernel knew, absent otherwise. The agent has a
//! pod's capabilities, which do not show other network namespaces.

use std::net::SocketAddr;

use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use tapio_common::network::{Listener, Port};

use crate::support::{Namespace, Process, Tapio, is_confidential, needs_a_kernel};

/// Creates a container in the cgroup hierarchy that sockets belong to, or ends the test.
macro_rules! container {
    () => {
        match crate::support::Cgroup::container(crate::support::Version::Two) {
            Ok(cgroup) => cgroup,
            Err(reason) => crate::support::skip!("{reason}"),
        }
    };
}

#[test]
fn a_connection_older_than_the_agent_is_its_cgroups_and_no_processs() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut server = Process::start("resetting");
    let listener = server.listen("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let mut client = Process::start("older");
    client.enter(&cgroup);
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    let tapio = Tapio::start_as_shipped();
    client.send(connection, 400);
    server.receive(accepted, 400);
    server.reset(accepted);
    assert_eq!(client.await_end(connection), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
    let reported = reported.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(reported.text("direction"), "outbound");
}

#[test]
fn a_server_older_than_the_agent_is_its_cgroups_and_no_processs() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut server = Process::start("older");
    server.enter(&cgroup);
    let listener = server.listen("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let mut client = Process::start("resetting");
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    let tapio = Tapio::start_as_shipped();
    client.send(connection, 400);
    server.receive(accepted, 400);
    client.reset(connection);
    assert_eq!(server.await_end(accepted), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
    let reported = reported.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(reported.text("direction"), "inbound");
}

#[test]
fn a_server_whose_port_another_has_on_another_address_is_its_cgroups_and_no_processs() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = Tapio::start_as_shipped();
    let mut server = Process::start("its-own");
    server.enter(&cgroup);
    let listener = server.listen("127.0.0.1:0");
    let mut other = Process::start("another");
    other.listen(&format!("127.0.0.2:{}", listener.port));
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let mut client = Process::start("resetting");
    let connection = client.connect(to).unwrap();
    let accepted = server.accept(listener);
    client.send(connection, 400);
    server.receive(accepted, 400);
    client.reset(connection);
    assert_eq!(server.await_end(accepted), "ECONNRESET");

    let reported = tapio.expect_one(|o| o.is_from(to.ip(), to.port()));
    let reported = reported.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(reported.text("direction"), "inbound");
}

#[test]
fn a_port_is_forgotten_with_its_listener_whoever_chose_it() {
    needs_a_kernel!();
    let tapio = Tapio::start_as_shipped();
    let before = ports();
    let mut server = Process::start("listens");
    for _ in 0..50 {
        let listener = server.listen("127.0.0.1:0");
        server.stop_listening(listener);
    }
    let after = ports();
    drop(tapio);
    // Other processes on this machine may start to listen meanwhile.
    assert!(after < before + 10, "{before}, {after}");
}

/// Number of ports that the most recently started agent has recorded.
fn ports() -> usize {
    newest::<{ size_of::<Port>() }, { size_of::<Listener>() }>("LISTENERS").keys().map(Result::unwrap).count()
}

/// The map of this name that belongs to the most recently started agent.
fn newest<const KEY: usize, const VALUE: usize>(name: &str) -> HashMap<MapData, [u8; KEY], [u8; VALUE]> {
    let of_agents = loaded_maps().flatten().filter(|map| map.name_as_str() == Some(name));
    let newest = MapData::from_id(of_agents.max_by_key(MapInfo::id).unwrap().id()).unwrap();
    let map = if name == "LISTENERS" { Map::HashMap(newest) } else { Map::LruHashMap(newest) };
    HashMap::try_from(map).unwrap()
}

#[test]
fn a_server_older_than_the_agent_in_a_namespace_that_it_cannot_read_shows_its_side_when_it_accepts() {
    needs_a_kernel!();
    let namespace = Namespace::new();
    let mut server = Process::start_in(&namespace, "older");
    let mut client = Process::start_in(&namespace, "resetting");
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (silent, busy) = (server.listen(&at(4611).to_string()), server.listen(&at(4612).to_string()));
    let of_silent = (client.connect(at(4611)).unwrap(), server.accept(silent));
    let of_busy = (client.connect(at(4612)).unwrap(), server.accept(busy));
    let tapio = Tapio::start_as_shipped();
    let mut reset = |(connection, accepted)| {
        client.send(connection, 400);
        server.receive(accepted, 400);
        client.reset(connection);
        assert_eq!(server.await_end(accepted), "ECONNRESET");
    };

    // Nothing reveals which side opened it.
    reset(of_silent);
    let reported = tapio.expect_one(|o| o.peer().is_some_and(|peer| peer.port() == of_silent.0.client_port));
    assert_eq!(reported.named("connection_reset").text("direction"), "");

    // An accept on a port reveals the direction of all its connections, including older ones.
    let mut another = Process::start_in(&namespace, "another");
    another.connect(at(4612)).unwrap();
    reset(of_busy);
    let reported = tapio.expect_one(|o| o.is_from(at(4612).ip(), 4612));
    assert_eq!(reported.named("connection_reset").peer().unwrap().port(), of_busy.0.client_port);
    let log = tapio.end().log;
    assert!(is_confidential() || !log.contains("degraded("), "{log}");
}

/// The kernel skips a run of a program that interrupts itself. This test puts back the entries that the end
/// of a connection would have removed.
#[test]
fn a_socket_at_the_address_of_one_that_ended_unseen_inherits_nothing() {
    /// Size of the map's values: owner, time, identity.
    const VALUE: usize = size_of::<tapio_common::network::Owner>() + 16;
    needs_a_kernel!();
    let tapio = Tapio::start_as_shipped();
    let mut server = Process::start("serves");
    let listener = server.listen("127.0.0.1:0");
    let to = SocketAddr::from(([127, 0, 0, 1], listener.port));
    let (mut former, mut client) = (Process::start("former"), Process::start("client"));
    let mut connections = newest::<8, VALUE>("CONNECTIONS");
    let mut inherited = 0;
    // Where a socket comes to lie depends on what else the machine does.
    for _ in 0..4_000 {
        let before: Vec<[u8; 8]> = connections.keys().map(Result::unwrap).collect();
        let connection = former.connect(to).unwrap();
        let accepted = server.accept(listener);
        let all = connections.iter().map(Result::unwrap);
        let left: Vec<_> = all.filter(|(key, _)| !before.contains(key)).collect();
        former.close(connection);
        assert_eq!(server.await_end(accepted), "closed");
        left.iter().for_each(|(key, value)| connections.insert(key, value, 0).unwrap());

        let connection = client.connect(to).unwrap();
        let accepted = server.accept(listener);
        client.send(connection, 100);
        server.receive(accepted, 100);
        client.reset(connection);
        assert_eq!(server.await_end(accepted), "ECONNRESET");
        let is_gone = |key| connections.get(key, 0).is_err();
        inherited += left.iter().filter(|(key, _)| is_gone(key)).count();
        left.iter().for_each(|(key, _)| drop(connections.remove(key)));
        if inherited >= 10 {
            break;
        }
    }
    assert!(inherited >= 10, "no socket came to the address of another: {inherited}");
    let ended = tapio.end();
    let reported =
        ended.occurrences.iter().filter(|o| o.is_to(to) || o.is_from(to.ip(), to.port()) || o.is_of(&former));
    let reported: Vec<_> = reported.collect();
    assert!(!reported.is_empty());
    for reported in reported {
        let reported = reported.clone().named("connection_reset").of(&server);
        assert_eq!(reported.text("direction"), "inbound");
    }
}

#[test]
fn two_processes_on_one_destination_are_distinguished() {
    needs_a_kernel!();
    let namespace = Namespace::new();
    let to = SocketAddr::from(([127, 0, 0, 1], 4601));
    let tapio = Tapio::start_as_shipped();
    let mut first = Process::start_in(&namespace, "first");
    let mut second = Process::start_in(&namespace, "second");
    assert_eq!(first.connect(to).unwrap_err(), "ECONNREFUSED");
    assert_eq!(second.connect(to).unwrap_err(), "ECONNREFUSED");

    for process in [&first, &second] {
        tapio.expect_one(|o| o.is_to(to) && o.is_of(process)).named("connection_refused").of(process);
    }
}
