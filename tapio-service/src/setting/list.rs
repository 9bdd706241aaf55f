//! List values, with a word for the empty list.

use std::{fmt, marker::PhantomData};

use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use super::{Trail, Value, Wrong};

/// A list of unique items. In a file it may also be one comma-separated text.
pub trait List: Value + Default {
    /// The word for the empty list.
    const WORD: &'static str;
    /// The name of an item in messages.
    const ITEM: &'static str;

    /// Adds an item.
    ///
    /// # Errors
    /// The item is invalid, or already in the list.
    fn add(&mut self, item: &str) -> Result<(), Wrong>;

    /// Whether the list is empty.
    fn is_empty(&self) -> bool;
}

/// Parses the word, or comma-separated items.
pub fn parse<L: List>(text: &str) -> Result<L, Wrong> {
    let mut list = L::default();
    if text.trim() != L::WORD {
        text.split(',').try_for_each(|item| list.add(item.trim()))?;
    }
    Ok(list)
}

/// Reads the list from a file.
pub fn read<'de, L: List, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<L, D::Error> {
    from.deserialize_any(Items(at, PhantomData))
}

/// The error that an item is already in the list.
pub fn twice(what: &str, item: impl fmt::Display) -> Wrong {
    Wrong(format!("{what} `{item}` is named twice: name it once"))
}

struct Items<'a, L>(&'a Trail, PhantomData<L>);

impl<'de, L: List> Visitor<'de> for Items<'_, L> {
    type Value = L;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&L::expected())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<L, E> {
        self.0.expect(None);
        text.parse().map_err(E::custom)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<L, S::Error> {
        let mut list = L::default();
        while seq.next_element_seed(Item(&mut list, self.0))?.is_some() {}
        if list.is_empty() { Err(S::Error::custom(format!("no {} is named", L::ITEM))) } else { Ok(list) }
    }
}

/// Reads one item of a list, so that an error has the right position.
struct Item<'a, L>(&'a mut L, &'a Trail);

impl<'de, L: List> DeserializeSeed<'de> for Item<'_, L> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl<L: List> Visitor<'_> for Item<'_, L> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&L::expected())
    }

    fn visit_str<E: serde::de::Error>(self, item: &str) -> Result<(), E> {
        self.1.expect(None);
        self.0.add(item).map_err(E::custom)?;
        self.1.expect(Some(L::expected()));
        Ok(())
    }
}
