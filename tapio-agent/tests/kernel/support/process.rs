//! A process that uses the network on a test's orders, in a network namespace and a cgroup of the test's
//! choice, with a chosen command name. It is killed on drop.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{
    cgroup::Cgroup,
    namespace::Namespace,
    stage::{ANSWER, VARIABLE},
};

pub(crate) struct Process {
    child: Child,
    pid: u32,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    comm: String,
}

/// A listening socket of a [`Process`].
#[derive(Clone, Copy)]
pub(crate) struct Listener {
    id: usize,
    pub(crate) port: u16,
}

/// A connection of a [`Process`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    id: usize,
    /// Port of the side that connected.
    pub(crate) client_port: u16,
}

/// How a server replies; see `stage::Sockets::serve`.
#[derive(Clone, Copy)]
pub(crate) struct Service {
    pub(crate) request_bytes: usize,
    pub(crate) reply_bytes: usize,
    pub(crate) max_delay_ms: u64,
}

impl Service {
    /// Replies at once with as many bytes as it received.
    pub(crate) const fn echo(bytes: usize) -> Self {
        Self { request_bytes: bytes, reply_bytes: bytes, max_delay_ms: 0 }
    }

    /// Never replies.
    pub(crate) const SINK: Self = Self { request_bytes: 0, reply_bytes: 0, max_delay_ms: 0 };
}

impl Process {
    /// Starts one in the namespace and the cgroup of the test itself.
    pub(crate) fn start(comm: &str) -> Self {
        let binary = std::env::current_exe().unwrap();
        Self::spawn(comm, Command::new(binary))
    }

    pub(crate) fn start_in(namespace: &Namespace, comm: &str) -> Self {
        Self::spawn(comm, namespace.command(&std::env::current_exe().unwrap()))
    }

    /// Starts one as the first process of a pid namespace, like a container's main process. Its parent is
    /// outside that namespace, like a container runtime.
    pub(crate) fn start_as_init(comm: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        // Its parent complains on stderr when the child is killed.
        command.stderr(Stdio::null());
        let mut process = Self::spawn(comm, command);
        process.pid = child_of(process.child.id()).expect("unshare has a child");
        process
    }

    pub(super) fn spawn(comm: &str, mut command: Command) -> Self {
        assert!(comm.len() < 16, "the kernel keeps 15 bytes of {comm}");
        let mut child = command
            .args(["--exact", "support::a_process_does_what_it_is_told", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, comm)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let pid = child.id();
        let mut process = Self { child, pid, orders, answers, comm: comm.to_owned() };
        assert_eq!(process.answer(), "ready");
        process
    }

    /// Moves it into a cgroup. Sockets opened from now on belong there.
    pub(crate) fn enter(&self, cgroup: &Cgroup) {
        cgroup.add(self.pid());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn comm(&self) -> &str {
        &self.comm
    }

    /// Changes its command name, to any bytes.
    pub(crate) fn call_itself(&mut self, comm: &[u8]) {
        let hex: String = comm.iter().map(|byte| format!("{byte:02x}")).collect();
        self.order(&format!("comm {hex}")).unwrap();
        self.comm = String::from_utf8_lossy(comm).into_owned();
    }

    pub(crate) fn listen(&mut self, address: &str) -> Listener {
        let numbers = self.numbers(&format!("listen {address}"));
        Listener { id: numbers[0].into(), port: numbers[1] }
    }

    pub(crate) fn stop_listening(&mut self, listener: Listener) {
        self.order(&format!("stop_listening {}", listener.id)).unwrap();
    }

    /// Accepts and answers in the background until the process exits.
    pub(crate) fn serve(&mut self, address: &str, service: Service) -> Listener {
        let listener = self.listen(address);
        let Service { request_bytes, reply_bytes, max_delay_ms } = service;
        self.order(&format!("serve {} {request_bytes} {reply_bytes} {max_delay_ms}", listener.id)).unwrap();
        listener
    }

    pub(crate) fn accept(&mut self, listener: Listener) -> Connection {
        let numbers = self.numbers(&format!("accept {}", listener.id));
        Connection { id: numbers[0].into(), client_port: numbers[1] }
    }

    /// Connects, or returns the name of the errno.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> Result<Connection, String> {
        self.connect_within(to, Duration::ZERO)
    }

    /// Connects like an application with a timeout: closes the socket when the timeout has passed.
    pub(crate) fn connect_within(
        &mut self,
        to: SocketAddr,
        deadline: Duration,
    ) -> Result<Connection, String> {
        self.begin(&format!("connect {to} {}", deadline.as_millis()));
        self.end_connect()
    }

    /// Connects in the background until [`Self::end_connect`].
    pub(crate) fn begin_connect(&mut self, to: SocketAddr) {
        self.begin(&format!("connect {to} 0"));
    }

    pub(crate) fn end_connect(&mut self) -> Result<Connection, String> {
        let text = self.end()?;
        let numbers = parse(&text);
        Ok(Connection { id: numbers[0].into(), client_port: numbers[1] })
    }

    /// Like [`Self::connect`], from a thread with another name. The connection is closed again.
    pub(crate) fn connect_in_thread(&mut self, thread: &str, to: SocketAddr) -> Result<(), String> {
        self.order(&format!("in_thread {thread} connect {to} 0")).map(drop)
    }

    pub(crate) fn send(&mut self, connection: Connection, bytes: usize) {
        self.order(&format!("send {} {bytes}", connection.id)).unwrap();
    }

    pub(crate) fn receive(&mut self, connection: Connection, bytes: usize) {
        self.order(&format!("receive {} {bytes}", connection.id)).unwrap();
    }

    /// Sends `times` requests of `service`, each after the reply to the previous one and a pause.
    pub(crate) fn request(&mut self, connection: Connection, service: Service, times: usize, pause_ms: u64) {
        self.begin_request(connection, service, times, pause_ms);
        self.end().unwrap();
    }

    /// Like [`Self::request`], in the background until [`Self::end`].
    pub(crate) fn begin_request(
        &mut self,
        connection: Connection,
        service: Service,
        times: usize,
        pause_ms: u64,
    ) {
        let Service { request_bytes, reply_bytes, .. } = service;
        self.begin(&format!("request {} {times} {request_bytes} {reply_bytes} {pause_ms}", connection.id));
    }

    /// Writes `times` times, without a reply.
    pub(crate) fn begin_trickle(
        &mut self,
        connection: Connection,
        times: usize,
        bytes: usize,
        pause_ms: u64,
    ) {
        self.begin(&format!("trickle {} {times} {bytes} {pause_ms}", connection.id));
    }

    /// Allocates this much memory, in the background; the process may not survive.
    pub(crate) fn begin_allocate(&mut self, bytes: usize) {
        self.begin(&format!("allocate {bytes}"));
    }

    /// Sends a signal.
    pub(crate) fn kill(&mut self, signal: u32, pid: u32) {
        self.order(&format!("kill {signal} {pid}")).unwrap();
    }

    /// Like [`Self::kill`], from a thread with another name.
    pub(crate) fn kill_in_thread(&mut self, thread: &str, signal: u32, pid: u32) {
        self.order(&format!("in_thread {thread} kill {signal} {pid}")).unwrap();
    }

    /// Like [`Self::kill`], for a process that may be dead already.
    pub(crate) fn kill_if_there(&mut self, signal: u32, pid: u32) {
        let _ = self.order(&format!("kill {signal} {pid}"));
    }

    /// Becomes a subreaper: the parent of the orphans among its descendants.
    pub(crate) fn adopt(&mut self) {
        self.order("adopt").unwrap();
    }

    /// Runs a script and waits until it exits.
    pub(crate) fn run(&mut self, script: &str) {
        self.order(&format!("run {script}")).unwrap();
    }

    /// Becomes a shell that runs a script, with the command name `sh`.
    pub(crate) fn begin_script(&mut self, script: &str) {
        "sh".clone_into(&mut self.comm);
        self.begin(&format!("script {script}"));
    }

    /// Becomes another program. The command name stays if the file has the same one.
    pub(crate) fn become_program(&mut self, path: &Path) {
        self.begin(&format!("exec {}", path.display()));
    }

    /// Ends in this way: `exit 1`, `abort`.
    pub(crate) fn die(&mut self, how: &str) -> ExitStatus {
        self.begin(how);
        self.child.wait().unwrap()
    }

    /// Waits for its death. This closes its standard input, which alone ends nothing.
    pub(crate) fn await_death(&mut self) {
        self.child.wait().unwrap();
    }

    /// Waits until its only child, or that child's only child, has this name, and returns the pid.
    pub(crate) fn await_descendant(&self, comm: &str) -> u32 {
        for _ in 0..500 {
            let mut descendants = std::iter::successors(child_of(self.pid), |pid| child_of(*pid));
            let has_name = |pid: &u32| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == comm)
            };
            if let Some(pid) = descendants.find(has_name) {
                return pid;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} has no descendant {comm}", self.comm)
    }

    /// Waits for a line of a script.
    pub(crate) fn await_line(&mut self, line: &str) {
        assert_eq!(self.answer(), line);
    }

    /// Allocates this many KiB per second and frees everything at `most_bytes`, in the background.
    pub(crate) fn grow(&mut self, kib_per_second: u64, most_bytes: u64) {
        self.order(&format!("grow {kib_per_second} {most_bytes}")).unwrap();
    }

    /// Allocates up to this much memory.
    pub(crate) fn grow_to(&mut self, bytes: u64) {
        self.order(&format!("grow_to {bytes}")).unwrap();
    }

    /// Writes and reads a file of that size, or returns why it cannot be cached.
    pub(crate) fn fill_cache(&mut self, bytes: u64) -> Result<(), String> {
        self.order(&format!("fill_cache {bytes}")).map(|_| ())
    }

    /// Goes on asking for more than it may have, in the background.
    pub(crate) fn exhaust(&mut self, what: &str, argument: &str) {
        self.order(&format!("exhaust {what} {argument}")).unwrap();
    }

    /// Writes to a disk repeatedly in the background, or returns why it cannot.
    pub(crate) fn write_through(&mut self) -> Result<(), String> {
        self.order("write_through").map(|_| ())
    }

    /// Computes and sleeps by turns, in this many background threads.
    pub(crate) fn burn(&mut self, threads: usize, work_ms: u64, rest_ms: u64) {
        self.order(&format!("burn {threads} {work_ms} {rest_ms}")).unwrap();
    }

    /// Uses this much CPU time in each slice, however long it has to wait for a CPU.
    pub(crate) fn slice(&mut self, work_us: u64, rest_us: u64) {
        self.slices(1, work_us, rest_us);
    }

    /// Like [`Self::slice`], in this many threads.
    pub(crate) fn slices(&mut self, threads: usize, work_us: u64, rest_us: u64) {
        self.order(&format!("slice {threads} {work_us} {rest_us}")).unwrap();
    }

    /// Like [`Self::slice`], mostly in the kernel.
    pub(crate) fn call(&mut self, work_us: u64, rest_us: u64) {
        self.order(&format!("call 1 {work_us} {rest_us}")).unwrap();
    }

    /// Lets others run first, from now on.
    pub(crate) fn be_nice(&mut self) {
        self.order("be_nice").unwrap();
    }

    /// Runs on this CPU only, from now on.
    pub(crate) fn be_on(&mut self, cpu: usize) {
        self.order(&format!("be_on {cpu}")).unwrap();
    }

    /// Whether it is still running.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the background work.
    pub(crate) fn end(&mut self) -> Result<String, String> {
        let text = self.answer();
        match text.split_once(' ').unwrap_or((&text, "")) {
            ("ok", result) => Ok(result.to_owned()),
            ("error", name) => Err(name.to_owned()),
            _ => panic!("{}: unknown answer {text}", self.comm),
        }
    }

    /// Reads until the connection ends, and returns how: `closed` or the name of an errno.
    pub(crate) fn await_end(&mut self, connection: Connection) -> String {
        self.order(&format!("await_end {}", connection.id)).unwrap()
    }

    /// Closes with a reset.
    pub(crate) fn reset(&mut self, connection: Connection) {
        self.order(&format!("reset {}", connection.id)).unwrap();
    }

    pub(crate) fn close(&mut self, connection: Connection) {
        self.order(&format!("close {}", connection.id)).unwrap();
    }

    fn numbers(&mut self, order: &str) -> Vec<u16> {
        parse(&self.order(order).unwrap_or_else(|error| panic!("{}: {order}: {error}", self.comm)))
    }

    pub(super) fn order(&mut self, order: &str) -> Result<String, String> {
        self.begin(order);
        self.end()
    }

    fn begin(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line).unwrap() == 0 {
                panic!("{} has ended: {:?}", self.comm, self.child.wait());
            }
            // The test harness prints the test's name on the same line.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }
}

fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().nth(1));
        after.flatten() == Some(&parent.to_string())
    })
}

fn parse(text: &str) -> Vec<u16> {
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program is in `PATH`.
pub(crate) fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// The path of a program in `PATH`.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}
