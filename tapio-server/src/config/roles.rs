//! Which roles run.

use std::{fmt, str::FromStr};

use serde::de::Deserializer;
use tapio_service::setting::{Form, List, Trail, Value, Wrong, list, unknown};

use crate::role;

/// The roles that run: all, or some that the user asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles(Option<Vec<&'static str>>);

impl Roles {
    /// Their names, each once.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        self.0.as_deref().unwrap_or(role::NAMES)
    }
}

impl List for Roles {
    const WORD: &'static str = "all";
    const ITEM: &'static str = "role";

    fn add(&mut self, name: &str) -> Result<(), Wrong> {
        let Some(known) = role::NAMES.iter().find(|known| **known == name) else {
            return Err(unknown("role", name, role::NAMES));
        };
        let names = self.0.get_or_insert_default();
        if names.contains(known) {
            return Err(list::twice("role", known));
        }
        names.push(known);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Value for Roles {
    fn expected() -> String {
        format!("all, or a list of some of {}", role::NAMES.join(", "))
    }

    fn form() -> Form {
        Form::List { item: role::NAMES.join("|"), word: Self::WORD }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        list::read(from, at)
    }
}

impl FromStr for Roles {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        list::parse(text)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str(Self::WORD),
            Some(names) => f.write_str(&names.join(",")),
        }
    }
}
