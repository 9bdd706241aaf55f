//! Sections: nodes of the configuration that are read in place, so that a key missing in one source retains
//! the value of the source with lower precedence.

use std::{cell::RefCell, fmt, marker::PhantomData};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{Value as Json, json};

use super::{Page, Value, Wrong, unknown};

/// A value or a section.
pub trait Node {
    /// Reads it from a file. On an error, `at` contains the position.
    ///
    /// # Errors
    /// An error of the file format, or [`Wrong`] as a custom error.
    fn read<'de, D: Deserializer<'de>>(&mut self, from: D, at: &Trail) -> Result<(), D::Error>;

    /// Sets the value at `path` (keys joined by dots; empty for the node itself) from text.
    ///
    /// # Errors
    /// There is no such path, or the text is not a valid value.
    fn assign(&mut self, path: &str, text: &str) -> Result<(), Wrong>;

    /// Prints its current state, with its documentation.
    fn print(&self, key: &str, docs: &[&str], page: &mut Page);

    /// Collects the paths of the values in it.
    fn paths(&self, prefix: &str, out: &mut Vec<String>);

    /// Its JSON Schema, with its documentation.
    fn schema(&self, docs: &[&str]) -> Json;
}

/// The path of keys to the node being read, and what is expected there.
#[derive(Debug, Default)]
pub struct Trail {
    keys: RefCell<Vec<&'static str>>,
    expected: RefCell<Option<String>>,
}

impl Trail {
    /// Enters a key.
    pub fn enter(&self, key: &'static str) {
        self.keys.borrow_mut().push(key);
    }

    /// Leaves the innermost key.
    pub fn leave(&self) {
        self.keys.borrow_mut().pop();
    }

    /// Sets what is expected next; `None` if the error that follows says it itself.
    pub fn expect(&self, what: Option<String>) {
        *self.expected.borrow_mut() = what;
    }

    /// What was expected where reading stopped.
    #[must_use]
    pub fn expected(&self) -> Option<String> {
        self.expected.borrow().clone()
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.keys.borrow().join("."))
    }
}

/// `prefix.key`, or the key where there is no prefix.
pub fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The key of a field: of one whose name is a keyword of Rust, such as `r#type`, that word.
#[must_use]
pub const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// Reads a node in place.
pub struct InPlace<'a, N>(pub &'a mut N, pub &'a Trail);

impl<'de, N: Node> DeserializeSeed<'de> for InPlace<'_, N> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.0.read(from, self.1)
    }
}

impl<V: Value> Node for V {
    fn read<'de, D: Deserializer<'de>>(&mut self, from: D, at: &Trail) -> Result<(), D::Error> {
        at.expect(Some(V::expected()));
        *self = V::read(from, at)?;
        at.expect(None);
        Ok(())
    }

    fn assign(&mut self, path: &str, text: &str) -> Result<(), Wrong> {
        if !path.is_empty() {
            return Err(Wrong(format!("is a value, there is no `{path}` in it")));
        }
        *self = text.parse()?;
        Ok(())
    }

    fn print(&self, key: &str, docs: &[&str], page: &mut Page) {
        page.gap();
        page.comment(docs);
        page.comment(&[&format!("Value: {}.", V::expected())]);
        page.value(key, self);
    }

    fn paths(&self, prefix: &str, out: &mut Vec<String>) {
        out.push(prefix.to_owned());
    }

    fn schema(&self, docs: &[&str]) -> Json {
        let mut schema = V::form().schema();
        let docs: Vec<_> = docs.iter().flat_map(|line| line.split_whitespace()).collect();
        schema["description"] = format!("{} Value: {}.", docs.join(" "), V::expected()).into();
        schema
    }
}

/// Reads a value that is a scalar in the file.
pub(super) fn read_scalar<'de, V: Value, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<V, D::Error> {
    from.deserialize_str(Scalar(at, PhantomData))
}

/// Takes a scalar as its text in the file, whatever type the file format would infer.
struct Scalar<'a, V>(&'a Trail, PhantomData<V>);

impl<V: Value> Visitor<'_> for Scalar<'_, V> {
    type Value = V;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&V::expected())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<V, E> {
        self.0.expect(None);
        text.parse().map_err(E::custom)
    }
}

/// The keys of a section, and the node behind each.
pub trait Section: Default {
    /// Its keys, in the order of the file.
    const KEYS: &'static [&'static str];

    /// Reads the value of `key`, which is one of [`Self::KEYS`].
    ///
    /// # Errors
    /// As [`Node::read`].
    fn read_key<'de, M: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut M,
        at: &Trail,
    ) -> Result<(), M::Error>;
}

/// Reads a section, key by key.
pub fn read_section<'de, S: Section, D: Deserializer<'de>>(
    section: &mut S,
    from: D,
    at: &Trail,
) -> Result<(), D::Error> {
    at.expect(Some(format!("keys with values ({})", S::KEYS.join(", "))));
    from.deserialize_option(Keys(section, at))
}

/// The JSON Schema of a section that has these keys and no others.
#[must_use]
pub fn section_schema<const N: usize>(keys: [(&'static str, Json); N]) -> Json {
    let properties: serde_json::Map<_, _> =
        keys.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

struct Keys<'a, S>(&'a mut S, &'a Trail);

impl<'de, S: Section> Visitor<'de> for Keys<'_, S> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "keys with values ({})", S::KEYS.join(", "))
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }

    /// A section whose keys are all commented out is empty.
    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.1.expect(None);
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.visit_none()
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Self(section, at) = self;
        loop {
            at.expect(Some(format!("one of the keys {}", S::KEYS.join(", "))));
            let Some(key) = map.next_key_seed(Key(S::KEYS, at))? else { break };
            at.enter(key);
            section.read_key(key, &mut map, at)?;
            at.leave();
        }
        at.expect(None);
        Ok(())
    }
}

/// Reads one of the known keys, so that the error for an unknown one has the right position.
struct Key<'a>(&'static [&'static str], &'a Trail);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<&'static str, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = &'static str;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "one of the keys {}", self.0.join(", "))
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<&'static str, E> {
        self.1.expect(None);
        self.0
            .iter()
            .find(|known| **known == key)
            .copied()
            .ok_or_else(|| E::custom(unknown("key", key, self.0)))
    }
}

/// Declares a section: a struct whose fields have defaults and whose documentation is printed with them.
/// Fields under `beside` are not keys.
#[macro_export]
macro_rules! settings {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $($(#[doc = $field_doc:literal])* pub $field:ident: $type:ty = $default:expr,)*
        }
        $(beside { $($(#[doc = $beside_doc:literal])* pub $beside:ident: $beside_type:ty,)* })?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)*
            $($($(#[doc = $beside_doc])* pub $beside: $beside_type,)*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* $($($beside: Default::default(),)*)? }
            }
        }

        impl $name {
            /// Its documentation, line by line.
            pub const DOCS: &'static [&'static str] = &[$($doc),*];
        }

        impl $crate::setting::Section for $name {
            const KEYS: &'static [&'static str] = &[$($crate::setting::key(stringify!($field))),*];

            fn read_key<'de, M: ::serde::de::MapAccess<'de>>(
                &mut self,
                key: &str,
                map: &mut M,
                at: &$crate::setting::Trail,
            ) -> Result<(), M::Error> {
                $(if key == $crate::setting::key(stringify!($field)) {
                    return map.next_value_seed($crate::setting::InPlace(&mut self.$field, at));
                })*
                Ok(())
            }
        }

        impl $crate::setting::Node for $name {
            fn read<'de, D: ::serde::de::Deserializer<'de>>(
                &mut self,
                from: D,
                at: &$crate::setting::Trail,
            ) -> Result<(), D::Error> {
                $crate::setting::read_section(self, from, at)
            }

            fn assign(&mut self, path: &str, text: &str) -> Result<(), $crate::setting::Wrong> {
                let (key, rest) = path.split_once('.').unwrap_or((path, ""));
                $(if key == $crate::setting::key(stringify!($field)) {
                    return self.$field.assign(rest, text);
                })*
                Err($crate::setting::unknown("key", key, <Self as $crate::setting::Section>::KEYS))
            }

            fn print(&self, key: &str, docs: &[&str], page: &mut $crate::setting::Page) {
                page.section(key, docs, |page| {
                    $($crate::setting::Node::print(&self.$field, $crate::setting::key(stringify!($field)), &[$($field_doc),*], page);)*
                });
            }

            fn paths(&self, prefix: &str, out: &mut Vec<String>) {
                $($crate::setting::Node::paths(&self.$field, &$crate::setting::join(prefix, $crate::setting::key(stringify!($field))), out);)*
            }

            fn schema(&self, _docs: &[&str]) -> $crate::setting::Json {
                $crate::setting::section_schema([
                    $(($crate::setting::key(stringify!($field)), $crate::setting::Node::schema(&self.$field, &[$($field_doc),*])),)*
                ])
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let mut section = Self::default();
                $crate::setting::Node::read(&mut section, from, &$crate::setting::Trail::default())?;
                Ok(section)
            }
        }
    };
}
