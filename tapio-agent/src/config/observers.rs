//! Which observers run.

use std::{fmt, str::FromStr};

use serde::de::Deserializer;
use tapio_service::setting::{Form, List, Trail, Value, Wrong, list, unknown};

use crate::observer;

/// The observers that run: all, or some that the user asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observers(Option<Vec<&'static str>>);

impl Observers {
    /// Their names, each once.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        self.0.as_deref().unwrap_or(observer::NAMES)
    }

    /// Whether the user named the observers, so that one that cannot run is an error.
    #[must_use]
    pub const fn named(&self) -> bool {
        self.0.is_some()
    }
}

impl List for Observers {
    const WORD: &'static str = "all";
    const ITEM: &'static str = "observer";

    fn add(&mut self, name: &str) -> Result<(), Wrong> {
        let Some(known) = observer::NAMES.iter().find(|known| **known == name) else {
            return Err(unknown("observer", name, observer::NAMES));
        };
        let names = self.0.get_or_insert_default();
        if names.contains(known) {
            return Err(list::twice("observer", known));
        }
        names.push(known);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        !self.named()
    }
}

impl Value for Observers {
    fn expected() -> String {
        format!("all, or a list of some of {}", observer::NAMES.join(", "))
    }

    fn form() -> Form {
        Form::List { item: observer::NAMES.join("|"), word: Self::WORD }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        list::read(from, at)
    }
}

impl FromStr for Observers {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        list::parse(text)
    }
}

impl fmt::Display for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str(Self::WORD),
            Some(names) => f.write_str(&names.join(",")),
        }
    }
}
