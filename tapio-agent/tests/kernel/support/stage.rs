//! The child side of [`Process`](super::process::Process): this test binary runs again, reads one order per
//! line from standard input, carries it out and answers with one line.
//!
//! Sockets are numbered in order of creation; Nagle's algorithm is off for all.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    str::{FromStr, SplitWhitespace},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, getpid, kill_process, nice, set_child_subreaper};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{disk, exhaust, resolver, strain};

/// Set for the child; its value is the command name that the child takes.
pub(crate) const VARIABLE: &str = "TAPIO_TEST_PROCESS";
/// Begins each answer, to tell it from the output of the test harness.
pub(crate) const ANSWER: &str = "=> ";

/// Takes orders until standard input ends.
pub(crate) fn play(comm: &str) {
    // Each thread has a command name and passes it on to threads it creates; the first thread's is the
    // process's.
    for task in ["thread-self", "self"] {
        std::fs::write(format!("/proc/{task}/comm"), comm).unwrap();
    }
    let mut sockets = Sockets::default();
    answer("ready");
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let mut words = line.split_whitespace();
        match sockets.obey(words.next().unwrap_or_default(), &mut Words(words)) {
            Ok(text) => answer(&format!("ok {text}")),
            Err(error) => answer(&format!("error {}", name(&error))),
        }
    }
}

fn answer(text: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{ANSWER}{text}").unwrap();
    out.flush().unwrap();
}

/// The name of an errno that tests check. A timeout has no errno.
fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        None if error.kind() == io::ErrorKind::TimedOut => "gave up".to_owned(),
        None => error.to_string(),
        Some(101) => "ENETUNREACH".to_owned(),
        Some(104) => "ECONNRESET".to_owned(),
        Some(110) => "ETIMEDOUT".to_owned(),
        Some(99) => "EADDRNOTAVAIL".to_owned(),
        Some(111) => "ECONNREFUSED".to_owned(),
        Some(113) => "EHOSTUNREACH".to_owned(),
        Some(other) => format!("errno {other}"),
    }
}

pub(super) struct Words<'a>(SplitWhitespace<'a>);

impl Words<'_> {
    pub(super) fn next<T: FromStr>(&mut self) -> T {
        self.0.next().and_then(|word| word.parse().ok()).expect("an order with all its words")
    }

    fn micros(&mut self) -> Duration {
        Duration::from_micros(self.next())
    }

    pub(super) fn millis(&mut self) -> Duration {
        Duration::from_millis(self.next())
    }
}

#[derive(Default)]
struct Sockets {
    listeners: Vec<TcpListener>,
    connections: Vec<Option<TcpStream>>,
}

impl Sockets {
    fn obey(&mut self, order: &str, words: &mut Words<'_>) -> io::Result<String> {
        match order {
            "listen" => {
                let socket = TcpListener::bind(words.next::<SocketAddr>())?;
                let port = socket.local_addr()?.port();
                self.listeners.push(socket);
                return Ok(format!("{} {port}", self.listeners.len() - 1));
            }
            "accept" => {
                let (connection, peer) = self.listeners[words.next::<usize>()].accept()?;
                return Ok(format!("{} {}", self.keep(connection), peer.port()));
            }
            "disk_read" => disk::read(&words.next::<String>(), words.next(), words.next())?,
            "disk_write" => disk::write(&words.next::<String>(), words.next(), words.next())?,
            "exhaust" => exhaust::exhaust(&words.next::<String>(), words.next())?,
            "grow" => strain::grow(words.next(), words.next()),
            "grow_to" => strain::grow_to(words.next()),
            "fill_cache" => strain::fill_cache(words.next())?,
            "write_through" => strain::write_through()?,
            "burn" => strain::burn(words.next(), words.millis(), words.millis()),
            "slice" => strain::slice(words.next(), words.micros(), words.micros()),
            "call" => strain::call(words.next(), words.micros(), words.micros()),
            "serve" => self.serve(words)?,
            "connect" => {
                let connection = connect(words.next(), words.millis())?;
                let port = connection.local_addr()?.port();
                return Ok(format!("{} {port}", self.keep(connection)));
            }
            "send" => {
                let (mut connection, bytes) = (self.connection(words), words.next());
                connection.write_all(&vec![b'x'; bytes])?;
            }
            "receive" => {
                let (mut connection, bytes) = (self.connection(words), words.next());
                connection.read_exact(&mut vec![0; bytes])?;
            }
            // How the peer ended the connection.
            "await_end" => match io::copy(&mut self.connection(words), &mut io::sink()) {
                Ok(_) => return Ok("closed".to_owned()),
                Err(error) => return Ok(name(&error)),
            },
            "request" => {
                let mut connection = self.connection(words);
                let (times, bytes, reply) = (words.next::<usize>(), words.next(), words.next());
                let pause = words.millis();
                for _ in 0..times {
                    connection.write_all(&vec![b'x'; bytes])?;
                    connection.read_exact(&mut vec![0; reply])?;
                    thread::sleep(pause);
                }
            }
            "trickle" => {
                let mut connection = self.connection(words);
                let (times, bytes, pause) = (words.next::<usize>(), words.next(), words.millis());
                for _ in 0..times {
                    connection.write_all(&vec![b'x'; bytes])?;
                    thread::sleep(pause);
                }
            }
            "allocate" => {
                // Every page is written to, so that it is resident.
                let memory = vec![1_u8; words.next()];
                std::hint::black_box(&memory);
                std::mem::forget(memory);
            }
            "kill" => {
                let (signal, pid) = (words.next::<i32>(), words.next::<i32>());
                let signal = Signal::from_named_raw(signal).expect("a signal");
                kill_process(Pid::from_raw(pid).expect("a process"), signal)?;
            }
            // In hexadecimal, because it may be any bytes.
            "comm" => {
                let hex: String = words.next();
                let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
                let comm: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
                for task in ["thread-self", "self"] {
                    std::fs::write(format!("/proc/{task}/comm"), &comm)?;
                }
            }
            "in_thread" => {
                let (name, order) = (words.next::<String>(), words.next::<String>());
                let rest = (&mut words.0).collect::<Vec<_>>().join(" ");
                let obey = move || {
                    std::fs::write("/proc/thread-self/comm", name)?;
                    Self::default().obey(&order, &mut Words(rest.split_whitespace()))
                };
                return thread::spawn(obey).join().expect("a thread that ends");
            }
            "exit" => std::process::exit(words.next()),
            "abort" => std::process::abort(),
            // Both for threads that this one creates.
            "be_nice" => drop(nice(19)?),
            "be_on" => {
                let mut cpus = CpuSet::new();
                cpus.set(words.next());
                sched_setaffinity(None, &cpus)?;
            }
            "adopt" => set_child_subreaper(Some(getpid()))?,
            "run" => {
                let script = (&mut words.0).collect::<Vec<_>>().join(" ");
                Command::new("sh").arg("-c").arg(script).stdin(Stdio::null()).status()?;
            }
            "script" => {
                let script = (&mut words.0).collect::<Vec<_>>().join(" ");
                return Err(Command::new("sh").arg("-c").arg(script).exec());
            }
            "exec" => return Err(Command::new(words.next::<String>()).exec()),
            "reset" => {
                let connection = self.connections[words.next::<usize>()].take().expect("an open connection");
                SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
            }
            "close" => drop(self.connections[words.next::<usize>()].take()),
            "stop_listening" => drop(self.listeners.remove(words.next())),
            dns if dns.starts_with("dns_") || dns == "resolve" => return resolver::obey(dns, words),
            other => return Err(io::Error::other(format!("no such order: {other}"))),
        }
        Ok(String::new())
    }

    fn keep(&mut self, connection: TcpStream) -> usize {
        connection.set_nodelay(true).expect("a socket option");
        self.connections.push(Some(connection));
        self.connections.len() - 1
    }

    fn connection(&self, words: &mut Words<'_>) -> TcpStream {
        let connection = self.connections[words.next::<usize>()].as_ref().expect("an open connection");
        connection.try_clone().expect("a file descriptor")
    }

    /// Accepts all connections of a listener in the background. For each `bytes` received (0: never) it
    /// replies with `reply` bytes, after a random delay of 0 to `delay` milliseconds. It closes when the peer
    /// has closed.
    fn serve(&self, words: &mut Words<'_>) -> io::Result<()> {
        let listener = self.listeners[words.next::<usize>()].try_clone()?;
        let (bytes, reply, delay) = (words.next::<usize>(), words.next::<usize>(), words.next::<u64>());
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                thread::spawn(move || -> io::Result<()> {
                    connection.set_nodelay(true)?;
                    if bytes == 0 {
                        io::copy(&mut connection, &mut io::sink())?;
                        return connection.shutdown(Shutdown::Both);
                    }
                    let mut buffer = vec![0; bytes];
                    loop {
                        connection.read_exact(&mut buffer)?;
                        if delay > 0 {
                            thread::sleep(Duration::from_millis(fastrand::u64(0..=delay)));
                        }
                        connection.write_all(&vec![b'y'; reply])?;
                    }
                });
            }
        });
        Ok(())
    }
}

/// A deadline of zero means none: the kernel's own timeout applies.
fn connect(to: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if deadline.is_zero() {
        socket.connect(&to.into())?;
    } else {
        socket.connect_timeout(&to.into(), deadline)?;
    }
    Ok(socket.into())
}
