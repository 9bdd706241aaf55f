//! Faults that the network observer reports, for the self-test.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::fault::{
    Act, Caused, Child, Fault, NotCaused, REQUEST_BYTES, Stage, Subject,
    act::{enter, tell, wait_after},
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
        cause: |stage| Box::pin(connect_given_up(stage)),
    },
    Fault {
        name: "round trips that rise",
        kinds: &["network.rtt_shift", "network.rtt_spike"],
        part: "tcp_probe",
        cause: |stage| Box::pin(slow_round_trips(stage)),
    },
];

pub(super) const ACTS: &[Act] = &[
    Act { name: "refused", run: |_| refused() },
    Act { name: "give-up", run: |arguments| give_up(enter_and_take(arguments)?) },
    Act { name: "answer", run: |arguments| answer(enter_and_take(arguments)?) },
    Act { name: "ask", run: |arguments| ask(enter_and_take(arguments)?) },
];

const REPLY_BYTES: usize = 10;
/// The first SYN is retransmitted after one second (RFC 6298).
const GIVE_UP: Duration = Duration::from_millis(1500);
/// Requests that make a baseline: 16 readings, each of four of them, and some more.
const CALM: usize = 150;
/// Requests through a queue. A shift takes five readings, and more where the past was restless; a reading is the
/// least of eight requests, taken every four.
const SLOW: usize = 48;
/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(5);

async fn refused_connect() -> Result<Caused, NotCaused> {
    let mut child = Child::start("refused", &[])?;
    let to = child.tells("to").await?;
    let to = to.parse().map_err(|_| format!("{to:?} is no address"))?;
    child.tells("done").await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

async fn connect_given_up(stage: &mut Stage) -> Result<Caused, NotCaused> {
    let link = stage.link()?;
    let to = link.black_hole();
    let mut child = Child::start("give-up", &[link.asking(), to.to_string()])?;
    child.tells("done").await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

async fn slow_round_trips(stage: &mut Stage) -> Result<Caused, NotCaused> {
    let link = stage.link()?;
    let to = link.service();
    let mut server = Child::start("answer", &[link.answering(), to.to_string()])?;
    server.tells("ready").await?;
    let mut child = Child::start("ask", &[link.asking(), to.to_string()])?;
    child.tells("calm").await?;
    link.slow_down()?;
    child.go_on().await?;
    child.tells("done").await?;
    Ok(Caused { subject: Subject::To(to), pid: child.pid() })
}

/// Goes into the first argument, a network namespace, and gives the second, an address.
fn enter_and_take(arguments: &[String]) -> anyhow::Result<SocketAddr> {
    let [namespace, address] = arguments else { bail!("takes a network namespace and an address") };
    let address = address.parse().with_context(|| format!("{address:?} is no address"))?;
    enter(namespace)?;
    Ok(address)
}

/// Connects to a port of this host that was listened on and is closed.
fn refused() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    drop(listener);
    tell("to", to)?;
    match TcpStream::connect(to) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => bail!("the connect was not refused: {error}"),
        Ok(_) => bail!("the connect was not refused: someone listens at {to}"),
    }
}

/// Connects where no one answers, and gives up after a second SYN.
fn give_up(to: SocketAddr) -> anyhow::Result<()> {
    match TcpStream::connect_timeout(&to, GIVE_UP) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        Err(error) => bail!("the connect ended before it was given up: {error}"),
        Ok(_) => bail!("someone answered at {to}"),
    }
}

/// Answers requests.
fn answer(at: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at)?;
    tell("ready", "")?;
    let (mut connection, _) = listener.accept()?;
    connection.set_nodelay(true)?;
    let mut request = [0; REQUEST_BYTES];
    while connection.read_exact(&mut request).is_ok() {
        connection.write_all(&[0; REPLY_BYTES])?;
    }
    Ok(())
}

/// Makes requests over one connection: some at once, and some more when told to.
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
    wait_after("calm")?;
    request(SLOW)?;
    Ok(())
}
