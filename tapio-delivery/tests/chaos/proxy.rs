//! A TCP proxy in front of the gateway, with toxics.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::watch,
};

/// A toxic. It also affects existing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toxic {
    /// Forwards without a fault.
    None,
    /// Delays each piece by this much.
    Latency(Duration),
    /// Forwards requests but no answers: the gateway accepts batches that it can never acknowledge.
    HalfOpen,
    /// Closes the connection within a frame, after this many bytes of requests.
    Cut(usize),
    /// Forwards this few bytes at a time.
    Drip(usize),
    /// Accepts connections and all their data, and answers nothing.
    BlackHole,
    /// Resets new connections.
    Refuse,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    toxic: watch::Sender<Toxic>,
    _runtime: Runtime,
}

impl Proxy {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (toxic, now) = watch::channel(Toxic::None);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, gateway, now.clone()));
            }
        });
        Self { address, toxic, _runtime: runtime }
    }

    pub(crate) fn turn(&self, toxic: Toxic) {
        self.toxic.send_replace(toxic);
    }
}

async fn connection(client: TcpStream, gateway: SocketAddr, toxic: watch::Receiver<Toxic>) {
    if *toxic.borrow() == Toxic::Refuse {
        client.set_zero_linger().unwrap();
        return;
    }
    let Ok(server) = TcpStream::connect(gateway).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // When either end closes, both do.
    tokio::select! {
        () = pump(from_client, to_server, toxic.clone(), true) => {}
        () = pump(from_server, to_client, toxic, false) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut toxic: watch::Receiver<Toxic>,
    requests: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut sent = 0;
    loop {
        let now = *toxic.borrow_and_update();
        let most = match now {
            Toxic::Drip(bytes) => bytes,
            _ => buffer.len(),
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read,
            // The toxic may have changed by the time that data arrives.
            changed = toxic.changed() => {
                if changed.is_err() { return }
                continue;
            }
        };
        let Ok(read @ 1..) = read else { return };
        let piece = &buffer[..read];
        match now {
            Toxic::None => {}
            Toxic::Latency(wait) => tokio::time::sleep(wait).await,
            Toxic::HalfOpen if requests => {}
            Toxic::Drip(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Toxic::Cut(after) if requests && sent + read > after => {
                let _ = to.write_all(&piece[..after.saturating_sub(sent).min(read)]).await;
                return;
            }
            Toxic::Cut(_) => {}
            Toxic::HalfOpen | Toxic::BlackHole => continue,
            Toxic::Refuse => return,
        }
        sent += read;
        if to.write_all(piece).await.is_err() {
            return;
        }
    }
}
