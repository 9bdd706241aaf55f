//! Standard output: JSON lines for programs, or a readable form for people.

mod pretty;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use tapio_occurrence::Occurrence;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval},
};

use super::{Batching, Destination, Failure, Receipt};
use pretty::Pretty;

/// How often the status line is refreshed.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// The agent's totals since it started, for the status line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusLine {
    /// Readings at all hooks.
    pub seen: u64,
    /// Destinations that have a baseline.
    pub keys: u64,
    /// Events that the kernel let through.
    pub kept: u64,
    /// Occurrences that sinks took.
    pub sent: u64,
}

/// Writes occurrences, one batch at a time.
#[derive(Debug)]
pub struct Stdout<W> {
    out: W,
    form: Form,
    buffer: Vec<u8>,
    /// Why output is no longer possible.
    gone: Option<String>,
}

#[derive(Debug)]
enum Form {
    Json,
    Pretty(Pretty, Option<StatusTicker>),
}

/// The source of the status line.
#[derive(Debug)]
struct StatusTicker {
    status_line: watch::Receiver<StatusLine>,
    tick: Option<Interval>,
    last: Option<(Instant, StatusLine)>,
    line: String,
}

impl Stdout<tokio::io::Stdout> {
    /// Writes JSON lines to standard output.
    #[must_use]
    pub fn json() -> Self {
        Self::json_to(tokio::io::stdout())
    }

    /// Writes the readable form to standard output. On a terminal it has a status line, and colour unless
    /// `NO_COLOR` is set (<https://no-color.org>).
    #[must_use]
    pub fn pretty(status_line: watch::Receiver<StatusLine>) -> Self {
        let terminal =
            io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
        Self::pretty_to(tokio::io::stdout(), colour, terminal.then_some(status_line))
    }
}

impl<W> Stdout<W> {
    /// Writes JSON lines to any writer.
    #[must_use]
    pub const fn json_to(out: W) -> Self {
        Self { out, form: Form::Json, buffer: Vec::new(), gone: None }
    }

    /// Writes the readable form to any writer; with a status line if one is given.
    #[must_use]
    pub fn pretty_to(out: W, colour: bool, status_line: Option<watch::Receiver<StatusLine>>) -> Self {
        let ticker = status_line.map(|status_line| StatusTicker {
            status_line,
            tick: None,
            last: None,
            line: String::new(),
        });
        Self { out, form: Form::Pretty(Pretty { colour }, ticker), buffer: Vec::new(), gone: None }
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> Stdout<W> {
    /// Writes the buffer.
    async fn write(&mut self) -> Result<(), Failure> {
        let written = async {
            self.out.write_all(&self.buffer).await?;
            self.out.flush().await
        };
        written.await.map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                let why = "the reader of standard output has gone".to_owned();
                self.gone = Some(why.clone());
                Failure::Reject(why)
            } else {
                Failure::Retry(format!("standard output: {error}"))
            }
        })
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> Destination for Stdout<W> {
    const NAME: &'static str = "stdout";
    const SPOOLED: bool = false;
    const FOR_PROGRAMS: bool = false;
    const STALLED: Option<&'static str> =
        Some("the reader of standard output does not read: the pipe is full, or the terminal is stopped");

    fn batching(&self) -> Batching {
        Batching { count: 256, age: Duration::ZERO }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        match &self.gone {
            Some(why) => Err(Failure::Reject(why.clone())),
            None => Ok(()),
        }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.buffer.clear();
        match &mut self.form {
            Form::Json => {
                for occurrence in batch {
                    occurrence.write_json(&mut self.buffer);
                    self.buffer.push(b'\n');
                }
            }
            Form::Pretty(pretty, ticker) => {
                if ticker.is_some() {
                    pretty::clear(&mut self.buffer);
                }
                for occurrence in batch {
                    pretty.occurrence(occurrence, &mut self.buffer);
                }
                if let Some(ticker) = ticker {
                    pretty.status(&ticker.line, &mut self.buffer);
                }
            }
        }
        self.write().await?;
        Ok(Receipt::taken(batch.len()))
    }

    async fn idle(&mut self) -> Failure {
        loop {
            let Form::Pretty(pretty, Some(ticker)) = &mut self.form else {
                return std::future::pending().await;
            };
            ticker.next().await;
            self.buffer.clear();
            pretty::clear(&mut self.buffer);
            pretty.status(&ticker.line, &mut self.buffer);
            if let Err(failure) = self.write().await {
                return failure;
            }
        }
    }

    async fn close(&mut self) {
        if let Form::Pretty(_, Some(_)) = self.form {
            self.buffer.clear();
            pretty::clear(&mut self.buffer);
            // This is the last write, so there is no one left to report an error to.
            let _ = self.write().await;
        }
    }
}

impl StatusTicker {
    /// Waits for the next refresh and builds the line. It can be cancelled without harm before that.
    async fn next(&mut self) {
        let tick = self.tick.get_or_insert_with(|| {
            let mut tick = interval(STATUS_INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick
        });
        let now = tick.tick().await;
        let status_line = *self.status_line.borrow();
        let readings_per_second = self.last.map_or(0.0, |(then, last)| {
            status_line.seen.saturating_sub(last.seen) as f64
                / now.duration_since(then).as_secs_f64().max(0.001)
        });
        self.last = Some((now, status_line));
        self.line = pretty::status_line(readings_per_second, &status_line);
    }
}

#[cfg(test)]
mod tests;
