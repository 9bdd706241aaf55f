//! Which observers run.

use std::{fmt, str::FromStr};

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use crate::{
    observer,
    setting::{Node, Page, Trail, Wrong, unknown},
};

/// The observers that run: all, or some that the user asked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observers(Option<Vec<&'static str>>);

impl Observers {
    /// Their names, each once.
    #[must_use]
    pub fn names(&self) -> &[&'static str] {
        self.0.as_deref().unwrap_or(observer::NAMES)
    }

    /// Whether the user asked for them by name, so that one that cannot run is worth an error.
    #[must_use]
    pub const fn named(&self) -> bool {
        self.0.is_some()
    }

    fn add(&mut self, name: &str) -> Result<(), Wrong> {
        let Some(known) = observer::NAMES.iter().find(|known| **known == name) else {
            return Err(unknown("observer", name, observer::NAMES));
        };
        let names = self.0.get_or_insert_default();
        if names.contains(known) {
            return Err(Wrong(format!("observer `{known}` is named twice: name it once")));
        }
        names.push(known);
        Ok(())
    }

    fn expected() -> String {
        format!("all, or a list of some of {}", observer::NAMES.join(", "))
    }
}

impl FromStr for Observers {
    type Err = Wrong;

    /// `all`, or names parted by commas.
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let mut observers = Self::default();
        if text.trim() != "all" {
            text.split(',').try_for_each(|name| observers.add(name.trim()))?;
        }
        Ok(observers)
    }
}

impl Node for Observers {
    fn read<'de, D: Deserializer<'de>>(&mut self, from: D, at: &Trail) -> Result<(), D::Error> {
        at.expect(Some(Self::expected()));
        *self = from.deserialize_any(List(at))?;
        at.expect(None);
        Ok(())
    }

    fn assign(&mut self, _: &str, text: &str) -> Result<(), Wrong> {
        *self = text.parse()?;
        Ok(())
    }

    fn print(&self, key: &str, docs: &[&str], page: &mut Page) {
        page.gap();
        page.comment(docs);
        page.comment(&[&format!("Value: {}.", Self::expected())]);
        match &self.0 {
            None => page.value(key, "all"),
            Some(names) => page.value(key, names.join(",")),
        }
    }

    fn paths(&self, prefix: &str, out: &mut Vec<String>) {
        out.push(prefix.to_owned());
    }
}

struct List<'a>(&'a Trail);

impl<'de> Visitor<'de> for List<'_> {
    type Value = Observers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Observers::expected())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Observers, E> {
        self.0.expect(None);
        text.parse().map_err(E::custom)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Observers, S::Error> {
        let mut observers = Observers::default();
        while seq.next_element_seed(One(&mut observers, self.0))?.is_some() {}
        if observers.named() { Ok(observers) } else { Err(S::Error::custom("no observer is named")) }
    }
}

/// Reads one of a list, so that an error stands where its name stands.
struct One<'a>(&'a mut Observers, &'a Trail);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of {}", observer::NAMES.join(", "))
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        self.1.expect(None);
        self.0.add(name).map_err(E::custom)?;
        self.1.expect(Some(Observers::expected()));
        Ok(())
    }
}
