//! The environment as a source of settings.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::Error;
use crate::setting::{Node, Wrong, nearest, shown};

/// Names the configuration file, as `--config` does.
pub const CONFIG: &str = "TAPIO_CONFIG";

const PREFIX: &str = "TAPIO_";

/// What the environment says: the settings in the order in which they are laid over each other.
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

/// A variable, the path of what it sets, and what makes of its text that of the setting.
#[derive(Debug)]
pub struct Known {
    variable: String,
    path: String,
    form: fn(&str) -> Result<String, Wrong>,
}

impl Known {
    /// As it, but its text is another's: what makes of it that of the setting.
    #[must_use]
    pub fn read_by(self, form: fn(&str) -> Result<String, Wrong>) -> Self {
        Self { form, ..self }
    }

    /// One whose text is the setting's.
    pub fn new(variable: impl Into<String>, path: impl Into<String>) -> Self {
        Self { variable: variable.into(), path: path.into(), form: |text| Ok(text.to_owned()) }
    }
}

/// The variable that sets the value at a path.
#[must_use]
pub fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

impl Environment {
    /// Takes what concerns a program: a variable for each of its settings, and `others`, which are weaker. Refuses one that
    /// begins as they do, or with one of `prefixes`, and that nobody knows.
    ///
    /// # Errors
    /// Which, and which it is like.
    pub fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        settings: &impl Node,
        others: impl IntoIterator<Item = Known>,
        prefixes: &[&str],
    ) -> Result<Self, Error> {
        let mut paths = Vec::new();
        settings.paths("", &mut paths);
        let own = paths.into_iter().map(|path| Known::new(variable(&path), path));
        let known: Vec<_> = others.into_iter().chain(own).collect();

        let mut found = Self { file: None, values: Vec::new() };
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            let place = known.iter().position(|known| known.variable == name);
            let is_own = name.starts_with(PREFIX) || prefixes.iter().any(|prefix| name.starts_with(prefix));
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

    /// The configuration file that it names.
    #[must_use]
    pub fn config_file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Lays the variables whose names count over the configuration.
    ///
    /// # Errors
    /// A text is no value of its setting.
    pub fn assign(&self, config: &mut impl Node, counts: fn(&str) -> bool) -> Result<(), Error> {
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
