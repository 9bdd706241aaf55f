//! Faults that the DNS observer reports, for the self-test.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::bail;

use crate::fault::{Caused, Child, Fault, NotCaused, Role, Subject};

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "refused look-up",
    kinds: &["network.dns_failure"],
    part: "netif_receive_skb",
    cause: |_| Box::pin(refused_lookup()),
}];

pub(super) const ROLES: &[Role] = &[Role { name: "ask-nobody", run: |_| ask_nobody() }];

/// A loopback address that nobody uses, and a resolver's port.
const NOBODY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::new(127, 84, 65, 80), 53));
/// A question for the address of `tapio.invalid` (RFC 6761), which does not exist.
const QUESTION: &[u8] = b"\x54\x50\x01\0\0\x01\0\0\0\0\0\0\x05tapio\x07invalid\0\0\x01\0\x01";
/// The kernel rejects the query at once.
const PATIENCE: Duration = Duration::from_secs(2);

async fn refused_lookup() -> Result<Caused, NotCaused> {
    let mut child = Child::start("ask-nobody", &[])?;
    child.end().await?;
    Ok(Caused { subject: Subject::To(NOBODY), pid: child.pid() })
}

/// Sends a question to a port without a listener.
fn ask_nobody() -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(NOBODY)?;
    socket.send(QUESTION)?;
    match socket.recv(&mut [0; 512]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!("the question was not rejected: {error}"),
        Ok(_) => bail!("someone answers at {NOBODY}"),
    }
}
