//! A build without telemetry: settings that ask for it are refused.

use tapio_service::metrics::Described;

use crate::otlp::{self, Enabled};

/// Nothing is to be sent.
#[derive(Debug)]
pub struct Plan;

/// Nothing is sent.
#[derive(Debug, Default)]
pub struct Telemetry;

impl Plan {
    /// As the settings have it.
    ///
    /// # Errors
    /// They ask for what this build does not have.
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
    /// None.
    pub fn start(
        self,
        _described: &[Described],
        _metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Telemetry> {
        Ok(Telemetry)
    }
}

impl Telemetry {
    /// Nothing is left to send.
    pub async fn end(self) {}
}
