//! What the children of the self-test do. They tell their parent on standard output, one word and its value a
//! line, and end when it ends.

use std::{
    ffi::CStr,
    fs::File,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use rustix::{
    process::{Signal, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, move_into_link_name_space, set_name},
};

/// One child's part.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Act {
    /// Connect to a port of this host that was listened on and is closed
    Refused,
    /// Connect where no one answers, and give up after a second SYN
    GiveUp {
        /// Network namespace
        namespace: String,
        /// Where
        to: SocketAddr,
    },
    /// Answer requests
    Answer {
        /// Network namespace
        namespace: String,
        /// Where
        at: SocketAddr,
    },
    /// Take more memory than there is, when told to
    Allocate,
    /// Abort, when told to
    Abort,
    /// Wait until the end
    Wait,
    /// Make requests over one connection: some at once, and some more when told to
    Ask {
        /// Network namespace
        namespace: String,
        /// Where
        to: SocketAddr,
    },
}

/// The command name of the children: agents that run on this host report it.
pub(super) const COMM: &CStr = c"tapio-fault";
/// Where `ip netns` keeps the names.
pub(super) const NAMESPACES: &str = "/var/run/netns";
/// A request fills one segment, so that a queue delays it once.
pub(super) const REQUEST_BYTES: usize = 1400;
const REPLY_BYTES: usize = 10;
/// The first SYN is retransmitted after one second (RFC 6298).
const GIVE_UP: Duration = Duration::from_millis(1500);
/// More than the limit of the group that it is moved to.
const TOO_MUCH: usize = 4 * super::group::LIMIT_BYTES;
/// Requests that make a baseline: 16 readings, each of four of them, and some more.
const CALM: usize = 150;
/// Requests through a queue. A shift takes five readings, and more where the past was flapping; a reading is the
/// least of eight requests, taken every four.
const SLOW: usize = 48;
/// No answer takes as long.
const PATIENCE: Duration = Duration::from_secs(5);

impl Act {
    /// Plays it.
    ///
    /// # Errors
    /// It cannot be played here; the parent is reported, too.
    pub fn play(&self) -> anyhow::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        set_name(COMM)?;
        let played = self.perform();
        match &played {
            Ok(()) => tell("done", "")?,
            Err(error) => tell("failed", format_args!("{error:#}"))?,
        }
        played
    }

    /// Its arguments after `tapio fault`.
    pub(super) fn arguments(&self) -> Vec<String> {
        let words = |name: &str, namespace: &str, address: &SocketAddr| {
            vec![name.to_owned(), namespace.to_owned(), address.to_string()]
        };
        match self {
            Self::Refused => vec!["refused".to_owned()],
            Self::Allocate => vec!["allocate".to_owned()],
            Self::Abort => vec!["abort".to_owned()],
            Self::Wait => vec!["wait".to_owned()],
            Self::GiveUp { namespace, to } => words("give-up", namespace, to),
            Self::Answer { namespace, at } => words("answer", namespace, at),
            Self::Ask { namespace, to } => words("ask", namespace, to),
        }
    }

    fn perform(&self) -> anyhow::Result<()> {
        match self {
            Self::Refused => refused(),
            Self::Allocate => {
                ready()?;
                std::hint::black_box(vec![1_u8; TOO_MUCH]);
                bail!("there was enough memory")
            }
            Self::Abort => {
                ready()?;
                std::process::abort()
            }
            Self::Wait => ready(),
            Self::GiveUp { namespace, to } => {
                enter(namespace)?;
                give_up(*to)
            }
            Self::Answer { namespace, at } => {
                enter(namespace)?;
                answer(*at)
            }
            Self::Ask { namespace, to } => {
                enter(namespace)?;
                ask(*to)
            }
        }
    }
}

/// Waits to be told to go on.
fn ready() -> anyhow::Result<()> {
    tell("ready", "")?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn enter(namespace: &str) -> anyhow::Result<()> {
    let file = File::open(Path::new(NAMESPACES).join(namespace)).context("the namespace is not there")?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("no way into the namespace")
}

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

fn give_up(to: SocketAddr) -> anyhow::Result<()> {
    match TcpStream::connect_timeout(&to, GIVE_UP) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
        Err(error) => bail!("the connect ended before it was given up: {error}"),
        Ok(_) => bail!("someone answered at {to}"),
    }
}

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
    tell("calm", "")?;
    io::stdin().lock().read_line(&mut String::new())?;
    request(SLOW)?;
    Ok(())
}

fn tell(word: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word} {value}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::{self, Command};

    #[test]
    fn a_child_understands_its_parent() {
        let namespace = "tapio-selftest-1-a".to_owned();
        let at: SocketAddr = ([198, 18, 0, 2], 9).into();
        for act in [
            Act::Refused,
            Act::Allocate,
            Act::Abort,
            Act::Wait,
            Act::GiveUp { namespace: namespace.clone(), to: at },
            Act::Answer { namespace: namespace.clone(), at },
            Act::Ask { namespace: namespace.clone(), to: at },
        ] {
            let words = ["tapio", "fault"].map(str::to_owned).into_iter().chain(act.arguments());
            match cli::parse(words.map(OsString::from), []) {
                Ok(Command::Fault(understood)) => assert_eq!(understood, act),
                other => panic!("{act:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn users_are_not_shown_it() {
        let help = cli::parse(["tapio", "--help"].map(OsString::from), []).unwrap_err().to_string();
        assert!(help.contains("selftest") && !help.contains("\n  fault"), "{help}");
    }
}
