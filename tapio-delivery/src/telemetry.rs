//! The agent's own metrics and traces by OTLP, if enabled. An unreachable receiver affects nothing else.
//!
//! The metrics are those of `/metrics`: each is an observable instrument that reads the text served there.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use opentelemetry::{
    InstrumentationScope, KeyValue, global,
    metrics::{AsyncInstrument, Meter, MeterProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    resource::TelemetryResourceDetector,
    trace::SdkTracerProvider,
};

use tapio_service::{
    metrics::{Described, Kind, samples},
    span::SCOPE,
};
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    Trouble,
    otlp::{self, Enabled, Way},
};

/// How long one rendering of the metrics is valid, so that all instruments of a collection see the same one.
const FRESH: Duration = Duration::from_millis(200);
/// How long the last metrics and spans may take when the agent stops.
pub const LAST: Duration = Duration::from_secs(2);

/// The signals to send, and their destinations.
#[derive(Debug)]
pub struct Plan {
    metrics: Option<Way>,
    traces: Option<Way>,
    interval: Duration,
    resource: Resource,
}

/// The running providers.
#[derive(Debug, Default)]
pub struct Telemetry {
    metrics: Option<SdkMeterProvider>,
    traces: Option<SdkTracerProvider>,
}

impl Plan {
    /// Takes the settings. `known` are resource attributes with lower precedence than those of `otlp` and of
    /// the environment.
    ///
    /// # Errors
    /// A file for TLS cannot be used.
    pub fn new(
        telemetry: &otlp::Telemetry,
        otlp: &otlp::Settings,
        known: &[(&'static str, Option<&str>)],
    ) -> anyhow::Result<Self> {
        let enabled = telemetry.enabled(otlp);
        let Enabled { metrics, traces } =
            enabled.map_err(|(key, wrong)| anyhow::anyhow!("telemetry.{key}: {wrong}"))?;
        let way = |settings| Way::new(settings).map_err(|trouble| anyhow::anyhow!("{trouble}"));
        Ok(Self {
            metrics: metrics.map(way).transpose().context("telemetry.metrics")?,
            traces: traces.map(way).transpose().context("telemetry.traces")?,
            interval: telemetry.interval.get(),
            resource: resource(otlp, known),
        })
    }

    /// Starts sending; `metrics` returns the text of `/metrics`, and `described` lists its metrics. Call it
    /// within a tokio runtime.
    ///
    /// # Errors
    /// An exporter cannot be made.
    pub fn start(
        self,
        described: &[Described],
        metrics: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Telemetry> {
        let wrong = |trouble: Trouble| anyhow::anyhow!("telemetry: {trouble}");
        let mut telemetry = Telemetry::default();
        if let Some(way) = self.traces {
            let exporter = way.span_exporter().map_err(wrong)?;
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
            let provider = provider.with_resource(self.resource.clone()).build();
            global::set_tracer_provider(provider.clone());
            telemetry.traces = Some(provider);
        }
        if let Some(way) = self.metrics {
            let exporter = way.metric_exporter().map_err(wrong)?;
            let reader = PeriodicReader::builder(exporter).with_interval(self.interval).build();
            let provider =
                SdkMeterProvider::builder().with_reader(reader).with_resource(self.resource).build();
            let scope = InstrumentationScope::builder(SCOPE).with_version(env!("CARGO_PKG_VERSION")).build();
            let meter = provider.meter_with_scope(scope);
            let latest = Arc::new(Latest { source: Box::new(metrics), taken: Mutex::default() });
            described.iter().for_each(|described| instrument(&meter, *described, &latest));
            telemetry.metrics = Some(provider);
        }
        Ok(telemetry)
    }
}

impl Telemetry {
    /// Sends what is left, within [`LAST`]. Failures have been logged by then.
    pub async fn end(self) {
        let Self { metrics, traces } = self;
        let metrics = spawn_blocking(move || metrics.map(|metrics| metrics.shutdown_with_timeout(LAST)));
        let traces = spawn_blocking(move || traces.map(|traces| traces.shutdown_with_timeout(LAST)));
        let _ = timeout(LAST, async { tokio::join!(metrics, traces) }).await;
    }
}

/// The Resource of the agent's telemetry. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME take precedence.
fn resource(otlp: &otlp::Settings, known: &[(&'static str, Option<&str>)]) -> Resource {
    let known = known.iter().filter_map(|(key, value)| Some((*key, (*value)?)));
    let named = otlp.service_name.get().map(|name| ("service.name", name));
    let all = known.chain(otlp.resource_attributes.iter()).chain(named);
    let all = all.map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()));
    Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector)).with_attributes(all).build()
}

/// The metrics as last rendered.
struct Latest {
    source: Box<dyn Fn() -> String + Send + Sync>,
    taken: Mutex<Option<(Instant, Arc<Points>)>>,
}

/// Attributes and number of each sample, by the name of its family.
type Points = HashMap<String, Vec<(Vec<KeyValue>, String)>>;

impl Latest {
    fn points(&self) -> Arc<Points> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, points)) = &*taken
            && at.elapsed() < FRESH
        {
            return Arc::clone(points);
        }
        let text = (self.source)();
        let points = samples(&text).into_iter().map(|(name, samples)| {
            let points = samples.into_iter().map(|sample| {
                let labels = sample.labels.into_iter();
                let attributes = labels.map(|(key, value)| KeyValue::new(key.to_owned(), value.to_owned()));
                (attributes.collect(), sample.number.to_owned())
            });
            (name.to_owned(), points.collect())
        });
        let points = Arc::new(points.collect());
        *taken = Some((Instant::now(), Arc::clone(&points)));
        points
    }

    fn tell<T: FromStr>(&self, name: &str, observer: &dyn AsyncInstrument<T>) {
        for (attributes, number) in self.points().get(name).into_iter().flatten() {
            if let Ok(number) = number.parse() {
                observer.observe(number, attributes);
            }
        }
    }
}

fn instrument(meter: &Meter, described: Described, latest: &Arc<Latest>) {
    let Described { name, help, kind } = described;
    let latest = Arc::clone(latest);
    // UCUM units. A metric without a unit in its name counts what the name says.
    let unit = match name {
        _ if name.ends_with("_seconds") => "s",
        _ if name.ends_with("_bytes") => "By",
        _ => "",
    };
    match kind {
        Kind::Counter => {
            let counter = meter.u64_observable_counter(name).with_description(help).with_unit(unit);
            counter.with_callback(move |observer| latest.tell(name, observer)).build();
        }
        Kind::FloatCounter => {
            let counter = meter.f64_observable_counter(name).with_description(help).with_unit(unit);
            counter.with_callback(move |observer| latest.tell(name, observer)).build();
        }
        Kind::Gauge => {
            let gauge = meter.i64_observable_gauge(name).with_description(help).with_unit(unit);
            gauge.with_callback(move |observer| latest.tell(name, observer)).build();
        }
    }
}
