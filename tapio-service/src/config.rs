//! The sources of a configuration in increasing precedence: defaults, a YAML file, the environment, flags.

pub mod environment;
pub mod file;

use std::fmt;

use crate::setting::{Node, Wrong};

/// An error in the configuration, and its place. Its text is all that the user needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Error {
    place: String,
    what: String,
}

/// A value given by a flag.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag, with its dashes.
    pub name: &'static str,
    /// The path of the setting: its keys, joined by dots.
    pub path: &'static str,
    /// The value's text.
    pub text: String,
}

impl Error {
    /// An error at a place: a variable, a flag, or a line of a file.
    pub fn at(place: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self { place: place.to_string(), what: what.to_string() }
    }
}

impl Flag {
    /// Applies the value to the configuration.
    ///
    /// # Errors
    /// The text is not a valid value.
    pub fn assign(&self, config: &mut impl Node) -> Result<(), Error> {
        config.assign(self.path, &self.text).map_err(|wrong: Wrong| Error::at(self.name, wrong))
    }
}
