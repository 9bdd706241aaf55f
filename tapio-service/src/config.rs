//! The sources of a configuration, each stronger than the one before: defaults, a YAML file, the environment, flags.

pub mod environment;
pub mod file;

use std::fmt;

use crate::setting::{Node, Wrong};

/// What is wrong in the configuration, and where. Its text is all that the user needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Error {
    place: String,
    what: String,
}

/// One value that a flag gives.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag, with its dashes.
    pub name: &'static str,
    /// The keys on the way to the setting, joined by dots.
    pub path: &'static str,
    /// What was given.
    pub text: String,
}

impl Error {
    /// That `what` is so at a place: a variable, a flag, a line of a file.
    pub fn at(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { place: place.to_string(), what: what.to_string() }
    }
}

impl Flag {
    /// Lays it over the configuration.
    ///
    /// # Errors
    /// Its text is no such value.
    pub fn assign(&self, config: &mut impl Node) -> Result<(), Error> {
        config.assign(self.path, &self.text).map_err(|wrong: Wrong| Error::at(self.name, wrong))
    }
}
