//! The agent's own log, on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{Format, Level, Log};

/// Starts it, once for the process.
pub fn start(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match log.format {
        Format::Text => builder.finish().with(targets(level)).init(),
        Format::Json => builder.json().finish().with(targets(level)).init(),
    }
}

/// What the client of the API server warns of is told by the agent itself: once, and with the remedy.
fn targets(level: LevelFilter) -> Targets {
    let own = if level == LevelFilter::TRACE { level } else { LevelFilter::ERROR };
    Targets::new().with_default(level).with_targets([("kube_client", own), ("kube_runtime", own)])
}
