//! Whose it is: known where the kernel knew, empty where it did not.

use std::net::SocketAddr;

use aya::maps::{HashMap, Map, MapData, MapInfo, loaded_maps};
use tapio_common::network::{Listener, Port};

use crate::support::{Process, Tapio, needs_a_kernel};

/// A container in the hierarchy that sockets know, or the end of the test.
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
    let tapio = Tapio::start();
    client.send(connection, 400);
    server.receive(accepted, 400);
    server.reset(accepted);
    assert_eq!(client.await_end(connection), "ECONNRESET");

    let told = tapio.expect_one(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
    let told = told.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(told.text("direction"), "outbound");
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
    let tapio = Tapio::start();
    client.send(connection, 400);
    server.receive(accepted, 400);
    client.reset(connection);
    assert_eq!(server.await_end(accepted), "ECONNRESET");

    let told = tapio.expect_one(|o| o.is_to(to) || o.is_from(to.ip(), to.port()));
    let told = told.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(told.text("direction"), "inbound");
}

#[test]
fn a_server_whose_port_another_has_on_another_address_is_its_cgroups_and_no_processs() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = Tapio::start();
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

    let told = tapio.expect_one(|o| o.is_from(to.ip(), to.port()));
    let told = told.named("connection_reset").of_no_process().in_container(&cgroup);
    assert_eq!(told.text("direction"), "inbound");
}

#[test]
fn a_port_is_forgotten_with_its_listener_whoever_chose_it() {
    needs_a_kernel!();
    let tapio = Tapio::start();
    let before = ports();
    let mut server = Process::start("listens");
    for _ in 0..50 {
        let listener = server.listen("127.0.0.1:0");
        server.stop_listening(listener);
    }
    let after = ports();
    drop(tapio);
    // Others on this machine may begin to listen meanwhile.
    assert!(after < before + 10, "{before}, {after}");
}

/// How many the agent that was started last has noted.
fn ports() -> usize {
    let of_agents = loaded_maps().flatten().filter(|map| map.name_as_str() == Some("LISTENERS"));
    let newest = of_agents.max_by_key(MapInfo::id).unwrap();
    let map = Map::HashMap(MapData::from_id(newest.id()).unwrap());
    let map = HashMap::<_, [u8; size_of::<Port>()], [u8; size_of::<Listener>()]>::try_from(map).unwrap();
    map.keys().map(Result::unwrap).count()
}

#[test]
fn two_processes_on_one_destination_are_told_apart() {
    needs_a_kernel!();
    let namespace = crate::support::Namespace::new();
    let to = SocketAddr::from(([127, 0, 0, 1], 4601));
    let tapio = Tapio::start();
    let mut first = Process::start_in(&namespace, "first");
    let mut second = Process::start_in(&namespace, "second");
    assert_eq!(first.connect(to).unwrap_err(), "ECONNREFUSED");
    assert_eq!(second.connect(to).unwrap_err(), "ECONNREFUSED");

    for process in [&first, &second] {
        tapio.expect_one(|o| o.is_to(to) && o.is_of(process)).named("connection_refused").of(process);
    }
}
