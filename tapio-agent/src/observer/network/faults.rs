//! Faults that the network observer reports, for the self-test.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::fault::{
    Caused, Child, Environment, Fault, NotCaused, REQUEST_BYTES, Role, Subject,
    role::{enter, send, send_and_wait},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "refused connect",
        kinds: &["network.connection_refused"],
        part: "inet_sock_set_state",
        cause: |_| Box::pin(refused_connect()),
    },
    Fault {
        name: "connect given up",
        kinds: &["network.connection_timeout"],
        part: "inet_sock_set_state",
        cause: |environment| Box::pin(connect_given_up(environment)),
    },
    Fault {
        name: "rising round trips",
        kinds: &["network.rtt_shift", "network.rtt_spike"],
        part: "tcp_probe",
        cause: |environment| Box::pin(slow_round_trips(environment)),
    },
];

pub(super) const ROLES: &[Role] = &[
    Role { name: "refused", run: |_| refused() },
    Role { name: "give-up", run: |arguments| give_up(enter_and_take(arguments)?) },
    Role { name: "answer", run: |arguments| answer(enter_and_take(arguments)?) },
    Role { name: "ask", run: |arguments| ask(enter_and_take(arguments)?) },
];

const REPLY_BYTES: usize = 10;
/// The first SYN is retransmitted after one second (RFC 6298).
const GIVE_UP: Duration = Duration::from_millis(1500);
/// Requests that build a baseline: it takes 16 readings, with one reading every four requests, and some margin.
const CALM: usize = 150;
/// Delayed requests. A shift takes five readings, and more after an unstable past. Each reading is the minimum of eight
/// requests, taken every four.
const SLOW: usize = 48;
/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(5);

async fn refused_connect() -> Result<Caused, NotCaused> {
    let mut child = Child::start("refused", &[])?;
    let to = child.wait_for("to").await?;
    let to = to.parse().map_err(|_| format!("{to:?} is no address"))?;
    child.end().await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

async fn connect_given_up(environment: &mut Environment) -> Result<Caused, NotCaused> {
    let link = environment.link()?;
    let to = link.black_hole();
    let mut child = Child::start("give-up", &[link.asking(), to.to_string()])?;
    child.end().await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

async fn slow_round_trips(environment: &mut Environment) -> Result<Caused, NotCaused> {
    let link = environment.link()?;
    let to = link.service();
    let mut server = Child::start("answer", &[link.answering(), to.to_string()])?;
    server.wait_for("ready").await?;
    let mut child = Child::start("ask", &[link.asking(), to.to_string()])?;
    child.wait_for("calm").await?;
    link.slow_down()?;
    child.resume().await?;
    child.end().await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

/// Enters the network namespace of the first argument, and returns the address of the second.
fn enter_and_take(arguments: &[String]) -> anyhow::Result<SocketAddr> {
    let [namespace, address] = arguments else { bail!("takes a network namespace and an address") };
    let address = address.parse().with_context(|| format!("{address:?} is no address"))?;
    enter(namespace)?;
    Ok(address)
}

/// Connects to a port of this host that was just closed.
fn refused() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    drop(listener);
    send("to", to)?;
    match TcpStream::connect(to) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!("the connect was not refused: {error}"),
        Ok(_) => bail!("the connect was not refused: someone listens at {to}"),
    }
}

/// Connects to an address that does not answer, and gives up after the second SYN.
fn give_up(to: SocketAddr) -> anyhow::Result<()> {
    match TcpStream::connect_timeout(&to, GIVE_UP) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        Err(error) => bail!("the connect ended before it was given up: {error}"),
        Ok(_) => bail!("someone answered at {to}"),
    }
}

/// Accepts one connection and answers its requests.
fn answer(at: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at)?;
    send("ready", "")?;
    let (mut connection, _) = listener.accept()?;
    connection.set_nodelay(true)?;
    let mut request = [0; REQUEST_BYTES];
    while connection.read_exact(&mut request).is_ok() {
        connection.write_all(&[0; REPLY_BYTES])?;
    }
    Ok(())
}

/// Sends requests over one connection: some at once, and more when the parent resumes it.
fn ask(to: SocketAddr) -> anyhow::Result<()> {
    let mut connection = TcpStream::connect_timeout(&to, PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut request = |times: usize| -> io::Result<()> {
        for _ in 0..times {
            connection.write_all(&[0; REQUEST_BYTES])?;
            connection.read_exact(&mut [0; REPLY_BYTES])?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    request(CALM)?;
    send_and_wait("calm")?;
    request(SLOW)?;
    Ok(())
}
