//! The server's own state: `/livez`, `/readyz`, `/status`, `/metrics`, and the log's last line.

use std::{sync::Arc, time::Instant};

use serde_json::{Map, Value, json};
use tapio_service::admin;

use crate::{
    journal::Journal,
    metrics::Metrics,
    role::{Context, State},
};

/// State that the server's tasks share.
pub(super) struct Shared {
    started: Instant,
    cluster: Option<String>,
    journal: Journal,
    metrics: Arc<Metrics>,
    roles: Vec<(&'static str, Arc<dyn State>)>,
}

impl Shared {
    pub(super) fn new(context: &Context, roles: Vec<(&'static str, Arc<dyn State>)>) -> Self {
        Self {
            started: Instant::now(),
            cluster: context.config.cluster.get().map(str::to_owned),
            journal: context.journal.clone(),
            metrics: Arc::clone(&context.metrics),
            roles,
        }
    }

    /// Logs the final ledger.
    pub(super) fn log_ledger(&self) {
        let journal = self.journal.status();
        tracing::info!(ledger = %self.ledger(), facts = journal.facts, newest = journal.newest, "stopped");
    }

    /// The accounts of each role.
    fn ledger(&self) -> Value {
        let of = |name: &'static str| (name.to_owned(), json!(self.metrics.ledger(name)));
        Value::Object(self.roles.iter().map(|(name, _)| of(name)).collect())
    }
}

impl admin::State for Shared {
    fn ready(&self) -> Result<(), String> {
        self.journal.works()?;
        self.roles.iter().try_for_each(|(name, role)| role.ready().map_err(|why| format!("{name}: {why}")))
    }

    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let roles: Map<_, _> =
            self.roles.iter().map(|(name, role)| ((*name).to_owned(), role.status())).collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cluster": self.cluster,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "roles": roles,
            "journal": self.journal.status(),
            "ledger": self.ledger(),
        })
    }

    fn metrics(&self) -> String {
        self.metrics.process();
        self.roles.iter().for_each(|(_, role)| role.measure());
        self.metrics.render().unwrap_or_else(|error| format!("# {error}\n"))
    }
}
