//! What the benchmarks share: the load, and the object of programs that only they use.
#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod agent;
pub(crate) mod slices;

use std::{
    env,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tapio_agent::{
    kernel::Loaded,
    observer::{self, ByHelper, Object, Observer as _, network::Network},
};

/// Tells a process that it is a load.
const LOAD: &str = "load";

/// The settings of the network observer, as its object takes them.
pub(crate) fn settings() -> Vec<u8> {
    Network::kernel_settings(&Default::default())
}

/// The programs of `tapio-ebpf/src/bin/bench.rs`; the caller names its hooks.
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

/// A benchmark of what is not there measures nothing.
pub(crate) fn all_attached<'a>(loaded: impl IntoIterator<Item = &'a Loaded>) -> anyhow::Result<()> {
    for hook in loaded.into_iter().flat_map(|loaded| &loaded.hooks) {
        hook.state.clone()?;
    }
    Ok(())
}

/// Requests and responses over one loopback connection, one at a time, from a process of its own: the agent's
/// own traffic is never judged. Returns how many there were.
pub(crate) fn requests(window: Duration) -> anyhow::Result<u64> {
    let load = on_one_cpu()?.arg(LOAD).arg(window.as_millis().to_string()).output()?;
    anyhow::ensure!(load.status.success(), "the load failed: {}", String::from_utf8_lossy(&load.stderr));
    Ok(String::from_utf8(load.stdout)?.trim().parse()?)
}

/// Starts a shell that starts one process after the other, each of which ends at once.
pub(crate) fn short_processes(window: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + window;
    while Instant::now() < end {
        let script = "i=0; while [ $i -lt 200 ]; do (exit 1); i=$((i + 1)); done";
        anyhow::ensure!(Command::new("sh").args(["-c", script]).status()?.success(), "the load failed");
    }
    Ok(())
}

/// This program again, with all its threads on one CPU: with its ends on two, whoever touches a socket first pays
/// for bringing its memory over, and what is measured is where the scheduler put them.
pub(crate) fn on_one_cpu() -> anyhow::Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(env::current_exe()?);
    Ok(command)
}

/// True in a process that [`requests`] started, when it is done.
pub(crate) fn was_load() -> anyhow::Result<bool> {
    let mut arguments = env::args().skip_while(|argument| argument != LOAD).skip(1);
    let Some(window) = arguments.next() else { return Ok(false) };
    let end = Instant::now() + Duration::from_millis(window.parse()?);
    println!("{}", Pair::connect()?.ask_until(|| Instant::now() >= end)?);
    Ok(true)
}

/// A loopback connection with an echo at its other end.
pub(crate) struct Pair(TcpStream);

impl Pair {
    /// Connects; the echo ends with the connection.
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

    /// Asks until it is told to stop.
    pub(crate) fn ask_until(&self, stop: impl Fn() -> bool) -> anyhow::Result<u64> {
        let mut message = [0; 64];
        let mut count = 0;
        while !stop() {
            (&self.0).write_all(&message)?;
            (&self.0).read_exact(&mut message)?;
            count += 1;
        }
        Ok(count)
    }
}
