//! Whose it is: known where the kernel knew, empty where it did not.

use std::net::SocketAddr;

use crate::support::{Cgroup, Process, Tapio, Version, needs_a_kernel, skip};

#[test]
fn a_connection_older_than_the_agent_is_its_cgroups_and_no_processs() {
    needs_a_kernel!();
    let cgroup = match Cgroup::container(Version::Two) {
        Ok(cgroup) => cgroup,
        Err(reason) => skip!("{reason}"),
    };
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
    let cgroup = match Cgroup::container(Version::Two) {
        Ok(cgroup) => cgroup,
        Err(reason) => skip!("{reason}"),
    };
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
