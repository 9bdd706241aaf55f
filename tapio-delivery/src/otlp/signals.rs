//! Settings of the agent's own metrics and traces: configuration keys, which default to those of the sink,
//! and the corresponding OpenTelemetry variables.

use tapio_service::setting::{AbsolutePath, MS, Off, SEC, Same, Time, Wrong, settings};

use super::{
    Compression, Endpoint, Pairs, Protocol, Settings, Switch, Variable,
    settings::{as_it_is, milliseconds, whole_url, word},
};

settings! {
    /// The agent's own metrics and traces, by OTLP.
    pub struct Telemetry {
        /// The metrics that /metrics serves, with the same names and numbers.
        pub metrics: Signal = Signal::default(),
        /// Traces of the agent's work: deliveries, questions to the Kubernetes API, what is written to the state
        /// directory. OTEL_TRACES_SAMPLER and OTEL_BSP_* count.
        pub traces: Signal = Signal::default(),
        /// How often metrics are sent. OTEL_METRIC_EXPORT_INTERVAL, in milliseconds, sets it, too.
        pub interval: Time<SEC, { 3_600 * SEC }> = Time::of_ns(60 * SEC),
    }
    beside {
        /// Section otlp without the variables for logs alone, where they make it another.
        pub otlp: Option<Settings>,
    }
}

settings! {
    /// A signal. `same`: as section otlp has it without the variables for logs alone. The variables of OpenTelemetry for
    /// this signal set these keys, too, such as OTEL_EXPORTER_OTLP_METRICS_ENDPOINT.
    pub struct Signal {
        /// Whether it is sent.
        pub enabled: Switch = Switch::False,
        /// Its URL. With http/protobuf, /v1/metrics or /v1/traces is appended to one that has no path. `same`: that of
        /// otlp, with this for /v1/logs.
        pub endpoint: Same<Endpoint> = Same(None),
        /// The protocol.
        pub protocol: Same<Protocol> = Same(None),
        /// With grpc, whether an endpoint without http:// or https:// is without TLS.
        pub insecure: Same<Switch> = Same(None),
        /// Headers of each request.
        pub headers: Same<Pairs> = Same(None),
        /// How long a request may take, with the connection that it needs.
        pub timeout: Same<Time<MS, { 300 * SEC }>> = Same(None),
        /// How requests are compressed.
        pub compression: Same<Compression> = Same(None),
        /// PEM file with the certificates of the authorities that are trusted.
        pub certificate: Same<AbsolutePath> = Same(None),
        /// PEM file with the agent's own certificate.
        pub client_certificate: Same<AbsolutePath> = Same(None),
        /// PEM file with the key of that certificate.
        pub client_key: Same<AbsolutePath> = Same(None),
    }
}

/// The OpenTelemetry variables of one signal.
macro_rules! variables {
    ($name:literal, $key:literal) => {
        [
            Variable { name: concat!($name, "ENDPOINT"), key: concat!($key, "endpoint"), form: whole_url },
            Variable { name: concat!($name, "PROTOCOL"), key: concat!($key, "protocol"), form: word },
            Variable { name: concat!($name, "INSECURE"), key: concat!($key, "insecure"), form: word },
            Variable { name: concat!($name, "HEADERS"), key: concat!($key, "headers"), form: as_it_is },
            Variable { name: concat!($name, "TIMEOUT"), key: concat!($key, "timeout"), form: milliseconds },
            Variable { name: concat!($name, "COMPRESSION"), key: concat!($key, "compression"), form: word },
            Variable {
                name: concat!($name, "CERTIFICATE"),
                key: concat!($key, "certificate"),
                form: as_it_is,
            },
            Variable {
                name: concat!($name, "CLIENT_CERTIFICATE"),
                key: concat!($key, "client_certificate"),
                form: as_it_is,
            },
            Variable { name: concat!($name, "CLIENT_KEY"), key: concat!($key, "client_key"), form: as_it_is },
        ]
    };
}

const METRICS: &[Variable] = &variables!("OTEL_EXPORTER_OTLP_METRICS_", "metrics.");
const TRACES: &[Variable] = &variables!("OTEL_EXPORTER_OTLP_TRACES_", "traces.");
const INTERVAL: &[Variable] =
    &[Variable { name: "OTEL_METRIC_EXPORT_INTERVAL", key: "interval", form: milliseconds }];

/// All variables of <https://opentelemetry.io/docs/specs/otel/protocol/exporter/> that concern only metrics
/// or only traces, with keys of [`Telemetry`].
pub const OWN_VARIABLES: &[&[Variable]] = &[METRICS, TRACES, INTERVAL];

impl Telemetry {
    /// The effective settings of each enabled signal.
    ///
    /// # Errors
    /// Returns the invalid key, and the reason.
    pub fn enabled(&self, otlp: &Settings) -> Result<Enabled, (String, Wrong)> {
        let otlp = self.otlp.as_ref().unwrap_or(otlp);
        let of = |name, signal: &Signal| {
            let found = (signal.enabled == Switch::True).then(|| signal.over(name, otlp)).transpose();
            found.map_err(|(key, wrong)| (format!("{name}.{key}"), wrong))
        };
        Ok(Enabled { metrics: of("metrics", &self.metrics)?, traces: of("traces", &self.traces)? })
    }
}

/// The effective settings of the enabled signals.
#[derive(Clone, Debug, Default)]
pub struct Enabled {
    /// Settings of metrics, if enabled.
    pub metrics: Option<Settings>,
    /// Settings of traces, if enabled.
    pub traces: Option<Settings>,
}

impl Signal {
    fn over(&self, name: &'static str, otlp: &Settings) -> Result<Settings, (&'static str, Wrong)> {
        let endpoint = match (&self.endpoint.0, &otlp.endpoint.0) {
            (Some(own), _) => own.or_of_signal(name),
            (None, Some(of_logs)) => of_logs.of_signal(name).ok_or_else(|| {
                let what = format!(
                    "is that of otlp, whose path does not end in /v1/logs ({of_logs}): write the URL for {name}"
                );
                ("endpoint", Wrong(what))
            })?,
            (None, None) => {
                let what = format!(
                    "no endpoint: it follows otlp.endpoint, which is not set; set telemetry.{name}.endpoint, \
                     otlp.endpoint or OTEL_EXPORTER_OTLP_ENDPOINT (OTEL_EXPORTER_OTLP_LOGS_ENDPOINT is for logs alone)"
                );
                return Err(("endpoint", Wrong(what)));
            }
        };
        let file =
            |own: &Same<AbsolutePath>, other: &Off<AbsolutePath>| Off(own.0.clone().or(other.0.clone()));
        let settings = Settings {
            endpoint: Off(Some(endpoint)),
            protocol: self.protocol.0.unwrap_or(otlp.protocol),
            insecure: self.insecure.0.unwrap_or(otlp.insecure),
            headers: self.headers.0.clone().unwrap_or_else(|| otlp.headers.clone()),
            timeout: self.timeout.0.unwrap_or(otlp.timeout),
            compression: self.compression.0.unwrap_or(otlp.compression),
            certificate: file(&self.certificate, &otlp.certificate),
            client_certificate: file(&self.client_certificate, &otlp.client_certificate),
            client_key: file(&self.client_key, &otlp.client_key),
            ..otlp.clone()
        };
        settings.check()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_service::setting::Node as _;

    fn enabled(otlp: &[(&str, &str)], own: &[(&str, &str)]) -> Result<Enabled, String> {
        let (mut settings, mut telemetry) = (Settings::default(), Telemetry::default());
        otlp.iter().for_each(|(key, text)| settings.assign(key, text).unwrap());
        own.iter().for_each(|(key, text)| telemetry.assign(key, text).unwrap());
        telemetry.enabled(&settings).map_err(|(key, Wrong(why))| format!("{key}: {why}"))
    }

    #[test]
    fn what_is_not_said_is_as_the_sink_has_it() {
        let otlp = [("endpoint", "http://c:4318"), ("headers", "a=1"), ("certificate", "/ca")];
        let own = [
            ("metrics.enabled", "true"),
            ("traces.enabled", "true"),
            ("traces.endpoint", "https://t:4317/"),
            ("traces.protocol", "grpc"),
            ("traces.headers", "b=2"),
        ];
        let Enabled { metrics: Some(metrics), traces: Some(traces) } = enabled(&otlp, &own).unwrap() else {
            panic!("both are on");
        };
        assert_eq!(metrics.endpoint.to_string(), "http://c:4318/v1/metrics");
        assert_eq!((metrics.protocol, metrics.headers), (Protocol::HttpProtobuf, "a=1".parse().unwrap()));
        assert_eq!(traces.endpoint.to_string(), "https://t:4317/");
        assert_eq!((traces.protocol, traces.headers), (Protocol::Grpc, "b=2".parse().unwrap()));
        assert_eq!(
            (metrics.certificate.to_string(), traces.certificate.to_string()),
            ("/ca".into(), "/ca".into())
        );
        assert!(enabled(&otlp, &[]).is_ok_and(|none| none.metrics.is_none() && none.traces.is_none()));
    }

    #[test]
    fn what_does_not_go_together_is_said() {
        let on = ("metrics.enabled", "true");
        let error = enabled(&[], &[on]).unwrap_err();
        assert!(error.starts_with("metrics.endpoint: no endpoint: it follows otlp.endpoint"), "{error}");
        assert!(error.contains("set telemetry.metrics.endpoint, otlp.endpoint or OTEL_"), "{error}");
        let error = enabled(&[("endpoint", "http://c:4318/in")], &[on]).unwrap_err();
        assert!(
            error.contains("does not end in /v1/logs (http://c:4318/in): write the URL for metrics"),
            "{error}"
        );
        let error = enabled(&[], &[on, ("metrics.endpoint", "c:4318")]).unwrap_err();
        assert!(error.starts_with("metrics.endpoint: c:4318 has no scheme"), "{error}");
        assert!(enabled(&[], &[("metrics.endpoint", "c:4318")]).is_ok(), "it is off");
    }
}
