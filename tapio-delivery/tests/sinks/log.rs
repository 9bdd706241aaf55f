//! Captures the log.

use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Dispatch, Level,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::MakeWriter;

/// With a single subscriber, tracing caches for every call site whether the thread that reaches it first is
/// interested, for all threads: a test without a log would silence those with one. A second subscriber
/// prevents this.
static ANOTHER: OnceLock<Dispatch> = OnceLock::new();

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures messages of this level or more severe, until the guard is dropped.
    pub(crate) fn start(level: Level) -> (Self, DefaultGuard) {
        ANOTHER.get_or_init(|| Dispatch::new(NoSubscriber::default()));
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        (log.clone(), tracing::subscriber::set_default(subscriber.with_writer(log).finish()))
    }

    /// Captures messages from threads without another subscriber, until the process exits.
    #[allow(dead_code, reason = "each kind of sink uses a part")]
    pub(crate) fn of_all_threads() -> Self {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false);
        tracing::subscriber::set_global_default(subscriber.with_writer(log.clone()).finish()).unwrap();
        log
    }

    /// The number of lines that contain all of these texts.
    pub(crate) fn lines(&self, texts: &[&str]) -> usize {
        self.to_string().lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0.lock().unwrap()))
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
