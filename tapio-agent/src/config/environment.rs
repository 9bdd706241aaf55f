//! The environment as a source of settings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{Config, Error};
use crate::setting::{Node, nearest, shown};

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
        let mut known: Vec<(String, String)> =
            ALIASES.iter().map(|(name, path)| (name.to_string(), path.to_string())).collect();
        known.extend(paths.into_iter().map(|path| (variable(&path), path)));

        let mut found = Self { file: None, values: Vec::new() };
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let place = known.iter().position(|(known, _)| known == name);
            if (place.is_none() && !name.starts_with(PREFIX)) || value.is_empty() {
                continue;
            }
            if name == CONFIG {
                found.file = Some(value.into());
                continue;
            }
            let Some((_, path)) = place.and_then(|at| known.get(at)) else {
                if is_service_link(name) {
                    continue;
                }
                let names = known.iter().map(|(name, _)| name.as_str()).chain([CONFIG]);
                let like = nearest(name, names).map(|name| format!(": did you mean `{name}`?"));
                let like = like.unwrap_or_else(|| ": `tapio config` lists the settings".to_owned());
                return Err(Error::at(shown(name), format!("unknown environment variable{like}")));
            };
            let Ok(text) = value.into_string() else {
                return Err(Error::at(name, "its value is not UTF-8"));
            };
            found.values.push(Value { variable: name.to_owned(), path: path.clone(), text });
        }
        // The order of the environment is arbitrary: that of the table is not.
        found.values.sort_by_key(|value| known.iter().position(|(name, _)| *name == value.variable));
        Ok(found)
    }

    pub(super) fn config_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    pub(super) fn assign(&self, config: &mut Config) -> Result<(), Error> {
        for Value { variable, path, text } in &self.values {
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
