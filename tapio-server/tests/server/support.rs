//! A server as a process, and what is in its journal.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tapio_occurrence::event::v1::Event;
use tapio_server::journal::{FILE, Journal, Limits};

/// A running server, killed on drop.
pub(crate) struct Server {
    child: Child,
    directory: PathBuf,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) api: SocketAddr,
}

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tapio-server");

/// An address that nothing listens at, and that is given out once: each process begins at another port. Below those that the
/// kernel gives out.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let nth = std::process::id().wrapping_mul(977).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let address = ([127, 0, 0, 1], 10_000 + (nth % 20_000) as u16).into();
        if TcpListener::bind::<SocketAddr>(address).is_ok() {
            return address;
        }
    }
}

impl Server {
    /// Starts one with its state in a directory, and these flags.
    pub(crate) fn start(directory: &Path, flags: &[&str]) -> Self {
        Self::start_on(free_address(), directory, flags)
    }

    pub(crate) fn start_on(address: SocketAddr, directory: &Path, flags: &[&str]) -> Self {
        Self::start_as(Command::new(PROGRAM), address, directory, flags)
    }

    /// Starts one by a command that begins with the program, and waits until it is ready.
    pub(crate) fn start_as(
        mut command: Command,
        address: SocketAddr,
        directory: &Path,
        flags: &[&str],
    ) -> Self {
        let (admin, api) = (free_address(), free_address());
        let log = File::options().create(true).append(true).open(directory.join("server.log")).unwrap();
        command
            .arg(format!("--state-dir={}", directory.join("state").display()))
            .arg(format!("--polku-listen={address}"))
            .arg(format!("--listen={admin}"))
            .args(flags)
            // By default its port is the same for all of them.
            .env("TAPIO_SERVER_AHTI_API", api.to_string())
            .env("TAPIO_SERVER_AHTI_AUTH", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().unwrap();
        let mut server = Self { child, directory: directory.to_owned(), address, admin, api };
        let ready = || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", server.log());
            server.ask("/readyz")
        };
        let _ = wait_until(ready, |answer| {
            answer.as_ref().is_ok_and(|text| text.split(' ').nth(1) == Some("200"))
        });
        server
    }

    fn ask(&self, path: &str) -> std::io::Result<String> {
        ask(self.admin, path)
    }

    /// The answer of the API: its first line, and its body.
    pub(crate) fn answer(&self, path: &str) -> (String, String) {
        let (head, body) = self.request("GET", path, None, "");
        (head.lines().next().unwrap().to_owned(), body)
    }

    /// The same for JSON that is sent.
    pub(crate) fn post(&self, path: &str, body: &str) -> (String, String) {
        let (head, body) = self.request("POST", path, None, body);
        (head.lines().next().unwrap().to_owned(), body)
    }

    /// The answer to somebody with a token: its head, and its body.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> (String, String) {
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: x\r\n{token}content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        let answer = exchange(self.api, &(head + body)).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The body that it serves at a path.
    pub(crate) fn get(&self, path: &str) -> String {
        self.ask(path).unwrap().split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status")).unwrap()
    }

    /// The accounts of what it has received by POLKU.
    pub(crate) fn ledger(&self) -> Value {
        self.status()["ledger"]["polku"].clone()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("server.log")).unwrap()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM, waits for its exit, and returns its last line.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        assert!(self.wait().success(), "{}", self.log());
        self.log().lines().last().unwrap().to_owned()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

pub(crate) fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n"))
}

pub(crate) fn exchange(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything in the journal of a server that is not running.
pub(crate) async fn journaled(directory: &Path) -> Vec<(u64, Event)> {
    let limits = Limits { max_bytes: 1 << 40, max_age: Duration::from_secs(86_400) };
    let file = directory.join("state").join(FILE);
    let (journal, task) = Journal::open(&file, limits, Arc::default()).unwrap();
    let task = tokio::spawn(task.run());
    let mut all: Vec<(u64, Event)> = Vec::new();
    loop {
        let from = all.last().map_or(0, |(seq, _)| seq + 1);
        let read = journal.read(from, 5_000).await.unwrap();
        if read.is_empty() {
            break;
        }
        all.extend(read);
    }
    journal.close().await;
    task.await.unwrap().unwrap();
    all
}

/// The ids in the journal, in order.
pub(crate) async fn journaled_ids(directory: &Path) -> Vec<String> {
    journaled(directory).await.into_iter().map(|(_, event)| event.id).collect()
}

/// Waits for a condition. On failure it prints the last value.
pub(crate) fn wait_until<T: std::fmt::Debug>(mut look: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let now = look();
        if enough(&now) {
            return now;
        }
        assert!(Instant::now() < end, "still {now:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
