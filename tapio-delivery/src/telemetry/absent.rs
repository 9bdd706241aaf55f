//! A build without telemetry: settings that ask for it are rejected.

use tapio_service::metrics::Described;

use crate::otlp::{self, Enabled};

/// Telemetry that never sends anything.
#[derive(Debug)]
pub struct Plan;

/// Telemetry that never sends anything.
#[derive(Debug, Default)]
pub struct Telemetry;

impl Plan {
    /// Checks the settings.
    ///
    /// # Errors
    /// The settings ask for telemetry, which this build does not have.
    pub fn new(
        telemetry: &otlp::Telemetry,
        otlp: &otlp::Settings,
        _known: &[(&'static str, Option<&str>)],
    ) -> anyhow::Result<Self> {
        let enabled = telemetry.enabled(otlp);
        let Enabled { metrics, traces } =
            enabled.map_err(|(key, wrong)| anyhow::anyhow!("telemetry.{key}: {wrong}"))?;
        if metrics.is_some() || traces.is_some() {
            anyhow::bail!(
                "telemetry: this build has none; switch telemetry.metrics.enabled and telemetry.traces.enabled off, or \
                 build with the feature `telemetry`"
            );
        }
        Ok(Self)
    }

    /// Starts nothing.
    ///
    /// # Errors
    /// Never fails.
    pub fn start(
        self,
        _described: &[Described],
        _metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Telemetry> {
        Ok(Telemetry)
    }
}

impl Telemetry {
    /// Returns at once, because nothing is left to send.
    pub async fn end(self) {}
}
