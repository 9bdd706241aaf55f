//! What is logged.

use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock},
};

use tracing::{
    Dispatch, Level,
    subscriber::{DefaultGuard, NoSubscriber},
};
use tracing_subscriber::fmt::MakeWriter;

/// Where there is one subscriber alone, tracing takes that of the thread which is first at a line for all that there is:
/// a test without a log would silence those with one.
static ANOTHER: OnceLock<Dispatch> = OnceLock::new();

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Writes down what is of this level or graver, until the guard goes.
    pub(crate) fn start(level: Level) -> (Self, DefaultGuard) {
        ANOTHER.get_or_init(|| Dispatch::new(NoSubscriber::default()));
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        (log.clone(), tracing::subscriber::set_default(subscriber.with_writer(log).finish()))
    }

    /// Writes down what is logged on threads that have nothing else, for as long as the process lives.
    #[allow(dead_code, reason = "each kind of sink uses a part")]
    pub(crate) fn of_all_threads() -> Self {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_ansi(false);
        tracing::subscriber::set_global_default(subscriber.with_writer(log.clone()).finish()).unwrap();
        log
    }

    /// How many lines have all of these texts.
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
