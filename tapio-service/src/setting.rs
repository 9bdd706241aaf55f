//! Settings: values that describe what is valid, in sections whose doc comments become the default
//! configuration file. File, environment and flags all use them, so that an invalid value is reported in the
//! same words from any source.

mod form;
pub mod list;
mod many;
mod page;
mod section;
mod text;
mod value;

pub use form::Form;
pub use list::List;
pub use many::{Many, Named};
pub use page::Page;
pub use section::{InPlace, join, key, read_section, section_schema};
pub use section::{Node, Section, Trail};
pub use serde_json::Value as Json;
pub use text::{AbsolutePath, Listen, Name, Off, Same, Switch};
pub use value::shown;
pub use value::{Bytes, Count, MIB, MS, Percent, Ratio, SEC, Time, US, Value};

pub use crate::{choices, settings};

/// Why a value was rejected: what was found, and what would be valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

/// The one of `known` that is most similar to `given`, if any is similar.
#[must_use]
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), name))
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3))
        .min()
        .map(|(_, name)| name)
}

/// The error that there is no such `what`, with the list of valid ones.
#[must_use]
pub fn unknown(what: &str, given: &str, known: &[&str]) -> Wrong {
    let (given, list) = (shown(given), known.join(", "));
    Wrong(match nearest(&given, known.iter().copied()) {
        Some(name) => format!("unknown {what} `{given}`: did you mean `{name}`? Known: {list}"),
        None => format!("unknown {what} `{given}`. Known: {list}"),
    })
}
