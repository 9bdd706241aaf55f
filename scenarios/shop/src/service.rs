//! A service: answers HTTP with what the services behind it answer.
//!
//! Paths: `/healthz` for probes; `/crash` aborts the process; `/leak/MB` takes so many megabytes a second from then
//! on; any other is a request.

use std::cell::Cell;
use std::fs::File;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use crate::settings::Settings;
use crate::{call, configuration, memory, stop};

/// Time for a client to send its request.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest line of a request.
const MAX_LINE: u64 = 4 << 10;
/// How long a stopping service goes on: until nobody sends it requests any more.
const GOES_ON: Duration = Duration::from_secs(4);

struct Service {
    role: String,
    next: &'static [&'static str],
    settings: Settings,
    requests: Cell<u64>,
}

/// Serves until it is asked to stop. A worker is asked by its parent, any other service by SIGTERM.
pub(crate) async fn run(
    role: &str,
    next: &'static [&'static str],
    settings: Settings,
    is_worker: bool,
) -> Result<()> {
    if let (Some(file), Some(expected)) = (&settings.config_file, &settings.expected) {
        configuration::check(file, expected)?;
    }
    let listener = listen(&settings).with_context(|| format!("cannot listen on port {}", settings.port))?;
    println!("{role} listens on port {}", settings.port);
    LocalSet::new().run_until(serve(listener, role, next, settings, is_worker)).await
}

/// Listens on all addresses, as [`TcpListener::bind`] does, with the backlog of the settings.
fn listen(settings: &Settings) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, settings.port).into())?;
    socket.listen(settings.backlog)
}

async fn serve(
    listener: TcpListener,
    role: &str,
    next: &'static [&'static str],
    settings: Settings,
    is_worker: bool,
) -> Result<()> {
    let held = memory::held(settings.hold_mb);
    for _ in 0..settings.busy {
        // They end with the process.
        std::thread::spawn(|| work(Duration::MAX));
    }
    if settings.leak_mb_per_s > 0 {
        spawn_local(memory::leak(settings.leak_mb_per_s));
    }
    if settings.leak_files > 0 {
        let most = Some(settings.leak_files);
        setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    }
    let service = Rc::new(Service { role: role.to_owned(), next, settings, requests: Cell::new(0) });
    let served = Rc::clone(&service);
    spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    drop(spawn_local(Rc::clone(&served).answer(stream)));
                    tokio::time::sleep(Duration::from_millis(served.settings.accept_ms)).await;
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    let stopped = async {
        match is_worker {
            true => stop::of_parent().await,
            false => stop::asked().await,
        }
    };
    let Settings { config_file, expected, .. } = &service.settings;
    match (config_file, expected) {
        (Some(file), Some(expected)) => tokio::select! {
            wrong = configuration::watch(file, expected) => return wrong,
            stopped = stopped => stopped?,
        },
        _ => stopped.await?,
    }
    tokio::time::sleep(GOES_ON).await;
    drop(held);
    Ok(())
}

impl Service {
    async fn answer(self: Rc<Self>, mut stream: TcpStream) {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(tokio::io::AsyncReadExt::take(read, MAX_LINE)).lines();
        let request = timeout(PATIENCE, async {
            let first = lines.next_line().await.ok().flatten()?;
            // Up to the empty line: closing before would reset the connection.
            while lines.next_line().await.ok().flatten().is_some_and(|line| !line.is_empty()) {}
            Some(first)
        });
        // Who connects and asks nothing gets no answer.
        let Some(request) = request.await.ok().flatten() else { return };
        let path = request.split(' ').nth(1).unwrap_or("/");
        let status = self.status(path).await;
        let text =
            format!("HTTP/1.0 {status} {}\r\nConnection: close\r\n\r\n{}\n", reason(status), self.role);
        // The caller may be gone.
        let _ = write.write_all(text.as_bytes()).await;
        let _ = write.shutdown().await;
    }

    async fn status(&self, path: &str) -> u16 {
        match path.trim_start_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["healthz"] => 200,
            ["crash"] => std::process::abort(),
            ["leak", megabytes] => match megabytes.parse() {
                Ok(megabytes) => {
                    spawn_local(memory::leak(megabytes));
                    200
                }
                Err(_) => 400,
            },
            _ => {
                if self.settings.leak_files > 0 {
                    // Without one left, it answers those that it has accepted.
                    let _ = File::open("/dev/null").map(std::mem::forget);
                }
                self.request(path).await
            }
        }
    }

    async fn request(&self, path: &str) -> u16 {
        self.requests.set(self.requests.get() + 1);
        if self.requests.get() == self.settings.crash_on {
            std::process::abort();
        }
        work(Duration::from_micros(self.settings.work_us));
        for next in self.next {
            match call::get(next, self.settings.port, path).await {
                Ok(200) => {}
                Ok(status) => {
                    eprintln!("{next} answered {status}");
                    return 502;
                }
                Err(error) => {
                    eprintln!("{error:#}");
                    return 502;
                }
            }
        }
        200
    }
}

/// Takes CPU time.
fn work(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        _ => "Bad Gateway",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service with nothing behind it, and one whose next does not listen.
    #[tokio::test(flavor = "current_thread")]
    async fn it_answers_what_those_behind_it_answer() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let mut settings = Settings::of(|_| None)?;
        settings.port = 1;
        let service = |next| {
            let settings = settings.clone();
            Rc::new(Service { role: "a".into(), next, settings, requests: Cell::new(0) })
        };
        let alone = service(&[]);
        let broken = service(&["127.0.0.1"]);
        LocalSet::new()
            .run_until(async move {
                spawn_local(async move {
                    for service in [&alone, &alone, &broken, &broken] {
                        let Ok((stream, _)) = listener.accept().await else { return };
                        Rc::clone(service).answer(stream).await;
                    }
                });
                for (path, status) in [("/buy", 200), ("/healthz", 200), ("/buy", 502), ("/leak/x", 400)] {
                    assert_eq!(call::get("127.0.0.1", port, path).await?, status, "{path}");
                }
                Ok(())
            })
            .await
    }
}
