//! What the benchmarks share: the load, and the object of programs that only they use.
#![allow(dead_code, reason = "each benchmark uses a part")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tapio_agent::{
    kernel::Loaded,
    observer::{self, Object, Observer as _, network::Network},
};

/// The settings of the network observer, as its object takes them.
pub fn settings() -> Vec<u8> {
    Network::kernel_settings(&Default::default())
}

/// The programs of `tapio-ebpf/src/bin/bench.rs`; the caller names its hooks.
pub fn bench_object(settings: &[u8]) -> anyhow::Result<Object<'_>> {
    let bytes = observer::programs("bench")?;
    Ok(Object { name: "bench", bytes, hooks: &[], fields: Network::FIELDS, settings })
}

/// A benchmark of what is not there measures nothing.
pub fn all_attached<'a>(loaded: impl IntoIterator<Item = &'a Loaded>) -> anyhow::Result<()> {
    for hook in loaded.into_iter().flat_map(|loaded| &loaded.hooks) {
        hook.state.clone()?;
    }
    Ok(())
}

/// Requests and responses over one loopback connection, one at a time. Returns how many there were.
pub fn requests(window: Duration) -> anyhow::Result<u64> {
    let pair = Pair::connect()?;
    let end = Instant::now() + window;
    pair.ask_until(|| Instant::now() >= end)
}

/// A loopback connection with an echo at its other end.
pub struct Pair(TcpStream);

impl Pair {
    /// Connects; the echo ends with the connection.
    pub fn connect() -> anyhow::Result<Self> {
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
    pub fn ask_until(&self, stop: impl Fn() -> bool) -> anyhow::Result<u64> {
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
