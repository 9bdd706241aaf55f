//! Faults that the link observer reports, for the self-test.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::fault::{
    Caused, Child, Environment, Fault, NotCaused, Role, Subject,
    role::{send, send_and_wait},
};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "full listen queue",
    kinds: &["link.listen_overflow"],
    part: "netstat",
    cause: |environment| Box::pin(overflow(environment)),
}];

pub(super) const ROLES: &[Role] = &[Role { name: "not-accept", run: |_| not_accept() }];

/// More than wait at any server that works, as the report names the longest queue of the namespace.
const BACKLOG: i32 = 63;
/// By then the counters were read for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The kernel drops a SYN that finds no room, so that nothing comes back.
const PATIENCE: Duration = Duration::from_millis(100);

async fn overflow(environment: &mut Environment) -> Result<Caused, NotCaused> {
    let mut child = Child::start("not-accept", &[])?;
    let port = child.wait_for("port").await?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    child.wait_for("full").await?;
    let pid = child.pid();
    // Its queue stays full until the next look.
    environment.keep(child);
    Ok(Caused { subject: Subject::Listener(port), pid })
}

/// Listens on this host, and lets one connection more than there is room for come.
fn not_accept() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&listener, BACKLOG)?;
    let to = listener.local_addr()?;
    send("port", to.port())?;
    // The kernel has room for one more than it is asked for.
    let waiting: Result<Vec<_>, _> =
        (0..=BACKLOG).map(|_| TcpStream::connect_timeout(&to, PATIENCE)).collect();
    let _waiting = waiting.context("a connection found no room")?;
    thread::sleep(FIRST_LOOK);
    if TcpStream::connect_timeout(&to, PATIENCE).is_ok() {
        bail!("one more connection found room");
    }
    Ok(send_and_wait("full")?)
}
