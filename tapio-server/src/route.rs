//! Sends facts on, by type, severity and namespace.
//!
//! Each sink follows the journal by itself, from where it was: the journal is its queue and its spool. A slow one, or one
//! that is away, delays neither Acks nor another one, and loses nothing that the journal still has.

mod cursor;
mod settings;
mod sink;

use std::sync::Arc;

use anyhow::Context as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use tapio_delivery::{Destination, otlp::Otlp, polku, stdout::Stdout};
use tapio_service::{
    metrics::{gauge, metrics},
    setting::Switch,
};
use tokio::task::JoinSet;

pub(crate) use self::settings::check;
pub use self::settings::{Match, Route, Severities, Sink, Words};
use self::{
    cursor::Cursor,
    sink::{Follower, State},
};
use crate::role::Context;

metrics! {
    /// What the sinks have beside the metrics of all sinks.
    struct Own {
        sink_behind_facts: Family<OfSink, Gauge> = "Facts in the journal that a sink has not looked at yet",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSink {
    sink: &'static str,
}

/// The sinks.
pub(crate) struct Routes {
    sinks: Vec<Arc<State>>,
    metrics: Option<(Own, tapio_delivery::Metrics)>,
}

/// Starts a task for each sink. Call it within a tokio runtime.
///
/// # Errors
/// A file for TLS cannot be used, or the state directory.
pub(crate) fn start(context: &Context, tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<Routes> {
    let config = &context.config;
    let mut sinks = Vec::new();
    for (name, settings) in &config.sinks.0 {
        // There are few of them, and labels live as long as the process.
        let name: &'static str = String::leak(name.clone());
        let of = |trouble: tapio_delivery::Trouble| anyhow::anyhow!("sinks.{name}: {trouble}");
        let routes = config.routes.0.iter().filter(|route| route.to.get() == Some(name));
        let state = Arc::new(State::new(name, routes.map(|route| route.r#match.clone()).collect()));
        let cursor =
            Cursor::new(config.state_dir.as_path(), name).with_context(|| format!("sinks.{name}"))?;
        let follower = Follower::new(Arc::clone(&state), context, cursor)?;
        let cluster = config.cluster.get().map(Into::into);
        if let Some(polku) =
            polku::Polku::new(&settings.polku, cluster, polku::Timings::default()).map_err(of)?
        {
            tasks.spawn(follower.run(polku));
        } else if let Some(otlp) = Otlp::new(&settings.otlp, true).map_err(of)? {
            tasks.spawn(follower.run(otlp));
        } else if settings.stdout == Switch::True {
            tasks.spawn(follower.run(Stdout::json()));
        }
        sinks.push(state);
    }
    let metrics = (!sinks.is_empty()).then(|| {
        context
            .metrics
            .of_role(|registry| (Own::registered(registry), tapio_delivery::Metrics::registered(registry)))
    });
    Ok(Routes { sinks, metrics })
}

impl Routes {
    /// The state and the accounts of each sink.
    pub(crate) fn status(&self) -> Vec<sink::Status> {
        self.sinks.iter().map(|sink| sink.status()).collect()
    }

    /// Copies that into the metrics.
    pub(crate) fn measure(&self) {
        let Some((own, delivery)) = &self.metrics else { return };
        for sink::Status { sink, behind_facts } in self.status() {
            own.sink_behind_facts.get_or_create(&OfSink { sink: sink.sink }).set(gauge(behind_facts));
            delivery.set(&sink);
        }
    }
}

/// How many facts a destination takes at once.
fn at_once(destination: &impl Destination) -> usize {
    destination.batching().count.max(1)
}
