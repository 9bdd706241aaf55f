//! Shared by the benchmarks: the load, and the object file of programs that only benchmarks use.
#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod agent;
pub(crate) mod compare;
pub(crate) mod slices;

use std::{
    collections::BTreeSet,
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tapio_agent::{
    kernel::{HookError, Loaded},
    observer::{self, ByHelper, Object, Observer as _, network::Network},
};

/// Argument that makes this program a load.
const LOAD: &str = "load";

/// The settings of the network observer, in the form its object file takes.
pub(crate) fn settings() -> Vec<u8> {
    Network::kernel_settings(&Default::default())
}

/// Loads the programs of `tapio-ebpf/src/bin/bench.rs`; the caller names their hooks.
pub(crate) fn bench_object(settings: &[u8]) -> anyhow::Result<Object<'_>> {
    Ok(Object {
        name: "bench",
        bytes: observer::programs("bench")?,
        hooks: &[],
        by_helper: ByHelper::default(),
        snapshot_maps: &[],
        ..Object::of::<Network>(settings)?
    })
}

/// Fails unless every program is attached that this kernel supports. Names the others once, since what is measured is
/// without them.
pub(crate) fn all_attached<'a>(loaded: impl IntoIterator<Item = &'a Loaded>) -> anyhow::Result<()> {
    static NAMED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    for hook in loaded.into_iter().flat_map(|loaded| &loaded.hooks) {
        match hook.state.clone() {
            Err(HookError::Unsupported(reason)) => {
                if NAMED.lock().unwrap_or_else(PoisonError::into_inner).insert(hook.hook.program) {
                    eprintln!("without {}: {reason}", hook.hook.program);
                }
            }
            state => state?,
        }
    }
    Ok(())
}

/// Sends requests and responses over one loopback connection, one at a time, from a separate process, because
/// the agent never judges its own traffic. Returns the number of requests.
pub(crate) fn requests(window: Duration) -> anyhow::Result<u64> {
    let load = on_one_cpu()?.arg(LOAD).arg(window.as_millis().to_string()).output()?;
    anyhow::ensure!(load.status.success(), "the load failed: {}", String::from_utf8_lossy(&load.stderr));
    Ok(String::from_utf8(load.stdout)?.trim().parse()?)
}

/// Starts a shell that runs one process after the other. Each exits at once.
pub(crate) fn short_processes(window: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + window;
    while Instant::now() < end {
        let script = "i=0; while [ $i -lt 200 ]; do (exit 1); i=$((i + 1)); done";
        anyhow::ensure!(Command::new("sh").args(["-c", script]).status()?.success(), "the load failed");
    }
    Ok(())
}

/// Starts this program again with all its threads on one CPU. With the two ends on different CPUs, whichever
/// touches a socket first pays for moving its cache lines, and the benchmark would measure where the
/// scheduler placed them.
pub(crate) fn on_one_cpu() -> anyhow::Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(env::current_exe()?);
    Ok(command)
}

/// Runs the load if [`requests`] started this process, and then returns true.
pub(crate) fn was_load() -> anyhow::Result<bool> {
    let mut arguments = env::args().skip_while(|argument| argument != LOAD).skip(1);
    let Some(window) = arguments.next() else { return Ok(false) };
    let end = Instant::now() + Duration::from_millis(window.parse()?);
    println!("{}", Pair::connect()?.ask_until(|| Instant::now() >= end)?);
    Ok(true)
}

/// A loopback connection with an echo server at the other end.
pub(crate) struct Pair(TcpStream);

impl Pair {
    /// Connects. The echo server stops with the connection.
    pub(crate) fn connect() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        thread::spawn(move || {
            let mut message = [0; 64];
            while server.read_exact(&mut message).is_ok() && server.write_all(&message).is_ok() {}
        });
        Ok(Self(client))
    }

    /// Sends requests until `stop` returns true.
    pub(crate) fn ask_until(&self, stop: impl Fn() -> bool) -> anyhow::Result<u64> {
        let mut count = 0;
        while !stop() {
            self.ask_once()?;
            count += 1;
        }
        Ok(count)
    }

    pub(crate) fn ask_once(&self) -> anyhow::Result<()> {
        let mut message = [0; 64];
        (&self.0).write_all(&message)?;
        Ok((&self.0).read_exact(&mut message)?)
    }
}
