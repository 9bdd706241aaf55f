//! A program's own log, on standard error.

use std::{fmt::Write as _, io};

use tapio_occurrence::printable::{Json, Printable};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    field::MakeExt as _,
    filter::Targets,
    fmt::{self, MakeWriter, format},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::setting::{choices, settings};

settings! {
    /// A program's log.
    pub struct Log {
        /// The least that is logged.
        pub level: Level = Level::Info,
        /// How it is written.
        pub format: Format = Format::Text,
    }
}

choices! {
    /// The least that is logged.
    pub enum Level {
        /// What failed.
        Error = "error",
        /// What is degraded.
        Warn = "warn",
        /// What the agent does.
        Info = "info",
        /// Each decision.
        Debug = "debug",
        /// Each event.
        Trace = "trace",
    }
}

choices! {
    /// How the log is written.
    pub enum Format {
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

/// Starts the log, once per process.
pub fn start(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let registry = tracing_subscriber::registry().with(targets(level));
    match log.format {
        Format::Text => registry.with(text(io::IsTerminal::is_terminal(&io::stderr()), io::stderr)).init(),
        Format::Json => registry.with(json(io::stderr)).init(),
    }
}

/// Text lines for people. Text from outside is escaped, so that it cannot affect a terminal.
fn text<S>(ansi: bool, to: impl for<'w> MakeWriter<'w> + 'static) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let fields = format::debug_fn(|to, field, value| match (field.name(), to.has_ansi_escapes()) {
        ("message", _) => write!(Printable(to), "{value:?}"),
        (name, false) => write!(Printable(to), "{name}={value:?}"),
        (name, true) => {
            write!(to, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?;
            write!(Printable(to), "{value:?}")
        }
    });
    fmt::layer().with_target(false).with_ansi(ansi).fmt_fields(fields.delimited(" ")).with_writer(to)
}

/// One JSON object per line.
fn json<S, W>(to: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fmt::layer().with_target(false).json().with_writer(Escaping(to))
}

/// Escapes what is written to it, in whole lines.
struct Escaping<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Escaping<W> {
    type Writer = Json<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Json(self.0.make_writer())
    }
}

/// Excludes the API client's own messages about each attempt: the agent logs the failure itself, once and
/// with the remedy.
fn targets(level: LevelFilter) -> Targets {
    let own = if level == LevelFilter::TRACE { level } else { LevelFilter::OFF };
    Targets::new().with_default(level).with_targets([("kube_client", own), ("kube_runtime", own)])
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use tapio_occurrence::samples::{HOSTILE, is_harmless};

    /// Collects what is written to it.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged<L: Layer<tracing_subscriber::Registry> + Send + Sync>(
        layer: impl FnOnce(Screen) -> L,
        events: impl FnOnce(),
    ) -> String {
        let screen = Screen::default();
        let subscriber = tracing_subscriber::registry().with(layer(screen.clone()));
        tracing::subscriber::with_default(subscriber, events);
        String::from_utf8(screen.0.lock().unwrap().clone()).unwrap()
    }

    fn hostile() {
        let error = io::Error::other(HOSTILE);
        tracing::warn!(%error, why = HOSTILE, debug = ?Some(HOSTILE), "{HOSTILE}");
    }

    #[test]
    fn nothing_that_others_said_reaches_the_terminal_as_it_is() {
        let in_text = logged(|screen| text(false, move || screen.clone()), hostile);
        let in_json = logged(|screen| json(move || screen.clone()), hostile);
        for text in [in_text, in_json] {
            assert!(is_harmless(&text), "{text:?}");
            assert_eq!(text.lines().count(), 1, "{text:?}");
        }
    }

    #[test]
    fn the_client_of_the_api_server_says_nothing_of_its_tries() {
        let event = || {
            tracing::error!(target: "kube_client::client::builder", "failed with error");
            tracing::error!(target: "kube_runtime::watcher", "failed");
            tracing::error!(target: "tapio_agent::enrich", "own");
        };
        let at = |level| {
            logged(|screen| text(false, move || screen.clone()).with_filter(targets(level)), event)
                .lines()
                .count()
        };
        assert_eq!([LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE].map(at), [1, 1, 3]);
    }

    #[test]
    fn a_line_is_as_it_was() {
        let event = || tracing::info!(observer = "network", count = 7, why = %"a b", "running");
        let plain = logged(|screen| text(false, move || screen.clone()), event);
        assert!(plain.ends_with(" INFO running observer=\"network\" count=7 why=a b\n"), "{plain:?}");
        let colour = logged(|screen| text(true, move || screen.clone()), event);
        assert!(colour.ends_with("running \x1b[3mobserver\x1b[0m\x1b[2m=\x1b[0m\"network\" \x1b[3mcount\x1b[0m\x1b[2m=\x1b[0m7 \x1b[3mwhy\x1b[0m\x1b[2m=\x1b[0ma b\n"), "{colour:?}");
    }
}
