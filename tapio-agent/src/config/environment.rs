//! The environment as a source of settings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{Config, Error};
use crate::{
    setting::{Node, Wrong, nearest, shown},
    sink::otlp,
};

/// Names the configuration file, as `--config` does.
pub(super) const CONFIG: &str = "TAPIO_CONFIG";

const PREFIX: &str = "TAPIO_";

/// Variables that others know, weaker than those with the prefix.
const ALIASES: &[(&str, &str)] = &[("NODE_NAME", "node_name"), ("POLKU_ENDPOINT", "polku.endpoint")];

/// What the environment says: the settings in the order in which they are laid over each other.
pub(super) struct Environment {
    file: Option<PathBuf>,
    values: Vec<Value>,
}

struct Value {
    variable: String,
    path: String,
    text: String,
}

/// A variable, the path of what it sets, and what makes of its text that of the setting.
struct Known {
    variable: String,
    path: String,
    form: fn(&str) -> Result<String, Wrong>,
}

impl Known {
    fn new(variable: impl Into<String>, path: impl Into<String>) -> Self {
        Self { variable: variable.into(), path: path.into(), form: |text| Ok(text.to_owned()) }
    }
}

/// The variable that sets the value at a path.
#[must_use]
pub fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

impl Environment {
    /// Takes what concerns the agent, and refuses a variable that begins as the agent's do and is none of them.
    pub(super) fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, Error> {
        let mut paths = Vec::new();
        Config::default().paths("", &mut paths);
        let mut known: Vec<_> = ALIASES.iter().map(|(name, path)| Known::new(*name, *path)).collect();
        let of_otlp = otlp::VARIABLES.iter().map(|variable| ("otlp", variable));
        let own = otlp::OWN_VARIABLES.iter().copied().flatten().map(|variable| ("telemetry", variable));
        known.extend(of_otlp.chain(own).map(|(section, variable)| Known {
            form: variable.form,
            ..Known::new(variable.name, format!("{section}.{}", variable.key))
        }));
        known.extend(paths.into_iter().map(|path| Known::new(variable(&path), path)));

        let mut found = Self { file: None, values: Vec::new() };
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let place = known.iter().position(|known| known.variable == name);
            let is_own = [PREFIX, otlp::PREFIX].iter().any(|prefix| name.starts_with(prefix));
            if (place.is_none() && !is_own) || value.is_empty() {
                continue;
            }
            if name == CONFIG {
                found.file = Some(value.into());
                continue;
            }
            let Some(Known { path, form, .. }) = place.and_then(|at| known.get(at)) else {
                if is_service_link(name) {
                    continue;
                }
                let names = known.iter().map(|known| known.variable.as_str()).chain([CONFIG]);
                let like = nearest(name, names).map(|name| format!(": did you mean `{name}`?"));
                let like = like.unwrap_or_else(|| ": `tapio config` lists the settings".to_owned());
                return Err(Error::at(shown(name), format!("unknown environment variable{like}")));
            };
            let Ok(text) = value.into_string() else {
                return Err(Error::at(name, "its value is not UTF-8"));
            };
            let text = form(&text).map_err(|wrong| Error::at(name, wrong))?;
            found.values.push(Value { variable: name.to_owned(), path: path.clone(), text });
        }
        // The order of the environment is arbitrary: that of the table is not.
        found.values.sort_by_key(|value| known.iter().position(|known| known.variable == value.variable));
        Ok(found)
    }

    pub(super) fn config_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Lays the variables whose names count over the configuration.
    pub(super) fn assign(&self, config: &mut Config, counts: fn(&str) -> bool) -> Result<(), Error> {
        for Value { variable, path, text } in self.values.iter().filter(|value| counts(&value.variable)) {
            config.assign(path, text).map_err(|wrong| Error::at(variable, wrong))?;
        }
        Ok(())
    }
}

/// Whether Kubernetes set it for a Service whose name begins with `tapio`: `TAPIO_SERVICE_HOST`,
/// `TAPIO_PORT_9090_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flag;

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
