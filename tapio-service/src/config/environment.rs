//! The environment as a source of settings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::Error;
use crate::setting::{Node, Wrong, nearest, shown};

/// The variable that names the agent's configuration file, as `--config` does.
pub const CONFIG: &str = "TAPIO_CONFIG";

/// The agent's variables.
pub const AGENT: Program = Program { command: "tapio", prefix: "TAPIO_", config: CONFIG };

/// A program with variables of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its command, for messages.
    pub command: &'static str,
    /// The prefix of its variables.
    pub prefix: &'static str,
    /// The variable that names its configuration file.
    pub config: &'static str,
}

/// The settings in the environment, in the order in which they are applied.
#[derive(Debug)]
pub struct Environment {
    file: Option<PathBuf>,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Value {
    variable: String,
    path: String,
    text: String,
}

/// A variable, the path of the setting, and the conversion of its text.
#[derive(Debug)]
pub struct Known {
    variable: String,
    path: String,
    form: fn(&str) -> Result<String, Wrong>,
}

impl Known {
    /// Sets the conversion for a variable whose text has another format than the setting.
    #[must_use]
    pub fn read_by(self, form: fn(&str) -> Result<String, Wrong>) -> Self {
        Self { form, ..self }
    }

    /// A variable whose text has the format of the setting.
    pub fn new(variable: impl Into<String>, path: impl Into<String>) -> Self {
        Self { variable: variable.into(), path: path.into(), form: |text| Ok(text.to_owned()) }
    }
}

/// The agent's variable that sets the value at a path.
#[must_use]
pub fn variable(path: &str) -> String {
    AGENT.variable(path)
}

impl Program {
    /// The variable that sets the value at a path.
    #[must_use]
    pub fn variable(&self, path: &str) -> String {
        format!("{}{}", self.prefix, path.replace('.', "_").to_ascii_uppercase())
    }
}

impl Environment {
    /// Reads the agent's variables, as [`Self::of`] does.
    ///
    /// # Errors
    /// As for [`Self::of`].
    pub fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &impl Node,
        others: impl IntoIterator<Item = Known>,
        prefixes: &[&str],
    ) -> Result<Self, Error> {
        Self::of(AGENT, variables, settings, others, prefixes)
    }

    /// Reads the variables of a program: one per setting, and `others`, which have lower precedence. Rejects
    /// unknown variables with the same prefix, or with one of `prefixes`.
    ///
    /// # Errors
    /// Names the unknown variable, and the most similar known one.
    pub fn of(
        program: Program,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &impl Node,
        others: impl IntoIterator<Item = Known>,
        prefixes: &[&str],
    ) -> Result<Self, Error> {
        let mut paths = Vec::new();
        settings.paths("", &mut paths);
        let own = paths.into_iter().map(|path| Known::new(program.variable(&path), path));
        let known: Vec<_> = others.into_iter().chain(own).collect();

        let mut found = Self { file: None, values: Vec::new() };
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let place = known.iter().position(|known| known.variable == name);
            let is_own =
                name.starts_with(program.prefix) || prefixes.iter().any(|prefix| name.starts_with(prefix));
            if (place.is_none() && !is_own) || value.is_empty() {
                continue;
            }
            if name == program.config {
                found.file = Some(value.into());
                continue;
            }
            let Some(Known { path, form, .. }) = place.and_then(|at| known.get(at)) else {
                if is_service_link(name) {
                    continue;
                }
                let names = known.iter().map(|known| known.variable.as_str()).chain([program.config]);
                let like = nearest(name, names).map(|name| format!(": did you mean `{name}`?"));
                let like =
                    like.unwrap_or_else(|| format!(": `{} config` lists the settings", program.command));
                return Err(Error::at(shown(name), format!("unknown environment variable{like}")));
            };
            let Ok(text) = value.into_string() else {
                return Err(Error::at(name, "its value is not UTF-8"));
            };
            let text = form(&text).map_err(|wrong| Error::at(name, wrong))?;
            found.values.push(Value { variable: name.to_owned(), path: path.clone(), text });
        }
        // The order of the environment is arbitrary, so use the table's.
        found.values.sort_by_key(|value| known.iter().position(|known| known.variable == value.variable));
        Ok(found)
    }

    /// The configuration file that the environment names.
    #[must_use]
    pub fn config_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Applies the variables whose names `counts` accepts to the configuration.
    ///
    /// # Errors
    /// A text is not a valid value of its setting.
    pub fn assign(&self, config: &mut impl Node, counts: fn(&str) -> bool) -> Result<(), Error> {
        for Value { variable, path, text } in self.values.iter().filter(|value| counts(&value.variable)) {
            config.assign(path, text).map_err(|wrong| Error::at(variable, wrong))?;
        }
        Ok(())
    }
}

/// Whether Kubernetes set the variable for a Service whose name begins with `tapio`: `TAPIO_SERVICE_HOST`,
/// `TAPIO_PORT_9090_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}
