//! The YAML file as a source of settings.

use std::{fs::File, io::Read, path::Path};

use serde_saphyr::{MessageFormatter, UserMessageFormatter, options};

use super::Error;
use crate::setting::{Node, Trail, join, shown};

/// Far more than any configuration needs. Keeps a wrong path from filling the memory.
const MAX_BYTES: u64 = 1 << 20;

/// An error that may have to name the source of the file's path.
#[derive(Debug)]
pub struct Refused {
    /// The error.
    pub error: Error,
    unreadable: bool,
}

impl Refused {
    /// The error; if the file cannot be read, with the source of its path.
    #[must_use]
    pub fn named_by(self, source: &str) -> Error {
        let Self { mut error, unreadable } = self;
        if unreadable {
            error.what = format!("{} (named by {source})", error.what);
        }
        error
    }
}

/// Applies a file to the configuration.
///
/// # Errors
/// Returns the first invalid value, with its place and what would be valid.
pub fn read(path: &Path, config: &mut impl Node) -> Result<(), Refused> {
    let unreadable = |what| Refused { error: Error::at(path.display(), what), unreadable: true };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| unreadable(format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(format!("is no configuration: it has more than {MAX_BYTES} bytes")));
    }
    parse(&path.display().to_string(), &bytes, config).map_err(|error| Refused { error, unreadable: false })
}

/// Applies the text of a file to the configuration.
///
/// # Errors
/// As [`read`].
pub fn parse(name: &str, bytes: &[u8], config: &mut impl Node) -> Result<(), Error> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let before = &bytes[..e.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
            return Err(Error::at(
                format_args!("{name}:{line}:{column}"),
                "is not UTF-8: save the file as UTF-8",
            ));
        }
    };
    let trail = Trail::default();
    // With strict booleans, `off` is a plain word.
    let options = options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |from| config.read(from, &trail))
        .map_err(|e| explain(name, &e, &trail))
}

/// `file:line:column: key: what was found and what would be right`.
fn explain(name: &str, error: &serde_saphyr::Error, trail: &Trail) -> Error {
    let at = error.location().filter(|at| at.line() > 0);
    let place = at.map_or_else(|| name.to_owned(), |at| format!("{name}:{}:{}", at.line(), at.column()));
    if let serde_saphyr::Error::DuplicateMappingKey { key, .. } = error.without_snippet() {
        let what = "this key is set a second time: keep one of the two";
        let key = key.iter().fold(trail.to_string(), |section, key| join(&section, &shown(key)));
        return if key.is_empty() {
            Error::at(place, what)
        } else {
            Error::at(place, format_args!("{key}: {what}"))
        };
    }
    let what = match error.without_snippet() {
        serde_saphyr::Error::NullIntoString { .. } => "has no value".to_owned(),
        error => UserMessageFormatter.format_message(error).into_owned(),
    };
    let what = match trail.expected() {
        Some(expected) => format!("{}: expected {expected}", found(&what)),
        None => what,
    };
    match trail.to_string() {
        key if key.is_empty() => Error::at(place, what),
        key => Error::at(place, format_args!("{key}: {what}")),
    }
}

/// The format's description of a value of the wrong type, without its own list of what would be valid.
fn found(what: &str) -> String {
    match what.strip_prefix("invalid type: ") {
        Some(rest) => format!("found {}", rest.split_once(", expected").map_or(rest, |(found, _)| found)),
        None if what == "expected string scalar" => "found a list or keys where one value belongs".to_owned(),
        None if what.starts_with("expected ") => "found something else than keys with values".to_owned(),
        None => what.to_owned(),
    }
}
