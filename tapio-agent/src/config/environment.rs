//! Variables of other conventions that set the agent's settings, in addition to the agent's own variables.

use tapio_delivery::otlp;
use tapio_service::config::environment::Known;

/// Variables that Kubernetes manifests and POLKU commonly use.
const ALIASES: &[(&str, &str)] = &[("NODE_NAME", "node_name"), ("POLKU_ENDPOINT", "polku.endpoint")];

pub(super) fn others() -> impl Iterator<Item = Known> {
    let aliases = ALIASES.iter().map(|(name, path)| Known::new(*name, *path));
    let of_otlp = otlp::VARIABLES.iter().map(|variable| ("otlp", variable));
    let own = otlp::OWN_VARIABLES.iter().copied().flatten().map(|variable| ("telemetry", variable));
    aliases.chain(of_otlp.chain(own).map(|(section, variable)| {
        Known::new(variable.name, format!("{section}.{}", variable.key)).read_by(variable.form)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Error, Flag};

    fn metrics(variables: &[(&str, &str)], flags: &[Flag]) -> Result<otlp::Settings, Error> {
        let on = [("TAPIO_TELEMETRY_METRICS_ENABLED", "true")];
        let variables = on.iter().chain(variables).map(|(name, value)| (name.into(), value.into()));
        let config = Config::load(None, variables, flags)?;
        Ok(config.telemetry.enabled(&config.otlp).unwrap().metrics.unwrap())
    }

    #[test]
    fn what_is_for_logs_alone_goes_nowhere_else() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        let of_logs = [
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs.vendor/v1/logs"),
            ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=Bearer%20S"),
            ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/ca"),
        ];
        let found = metrics(&[&[all], &of_logs[..]].concat(), &[]).unwrap();
        assert_eq!(found.endpoint.to_string(), "http://collector:4318/v1/metrics");
        assert_eq!((found.headers.iter().count(), found.certificate.file()), (0, None));

        let own = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://metrics:4318/v1/metrics");
        let shared = ("OTEL_EXPORTER_OTLP_HEADERS", "tenant=a");
        let found = metrics(&[&[own, shared], &of_logs[..]].concat(), &[]).unwrap();
        assert_eq!(found.endpoint.to_string(), "http://metrics:4318/v1/metrics");
        assert_eq!(found.headers.iter().collect::<Vec<_>>(), [("tenant", "a")]);

        let error = metrics(&of_logs, &[]).unwrap_err().to_string();
        assert!(error.starts_with("telemetry.metrics.endpoint: no endpoint"), "{error}");
    }

    #[test]
    fn keys_of_the_sink_are_for_all_signals_as_strong_as_they_are_for_logs() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318/v1/logs"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
            ("TAPIO_OTLP_HEADERS", "b=2"),
        ];
        let flag = Flag { name: "--otlp", path: "otlp.endpoint", text: "http://flag:4318".to_owned() };
        let found = metrics(&variables, &[flag]).unwrap();
        assert_eq!(found.endpoint.to_string(), "http://flag:4318/v1/metrics");
        assert_eq!(found.headers.iter().collect::<Vec<_>>(), [("b", "2")]);
    }
}
