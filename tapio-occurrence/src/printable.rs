//! Makes text from outside safe for a terminal. Processes choose their own names, gateways and API servers
//! their answers; none of them may move the cursor, change colours, fake a line or reverse the reading
//! direction.
//!
//! [`Printable`] and [`printable`] are for text, [`json`] is for JSON, whose parsed value does not change.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io,
};

/// Whether a terminal acts on a character instead of showing it: C0, DEL and C1, line and paragraph
/// separators, and the marks, embeddings, overrides and isolates of the bidirectional algorithm (UAX 9).
#[must_use]
pub const fn is_active(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}')
}

/// The text, with such characters in Rust's escapes: `\n`, `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let mut escaped = Printable(String::with_capacity(text.len() + 16));
    // Writing to a String does not fail.
    let _ = escaped.write_str(text);
    Cow::Owned(escaped.0)
}

/// A writer that escapes what is written through it.
#[derive(Debug)]
pub struct Printable<W>(pub W);

impl<W: fmt::Write> fmt::Write for Printable<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_active) {
            let (before, active) = rest.split_at(at);
            self.0.write_str(before)?;
            let mut chars = active.chars();
            if let Some(c) = chars.next() {
                write!(self.0, "{}", c.escape_default())?;
            }
            rest = chars.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Serialized JSON, with such characters in JSON's escapes. Every serializer already escapes those below a
/// space, and outside of strings JSON is pure ASCII, so line breaks and indentation stay.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let is_left = |c: char| c > ' ' && is_active(c);
    if !text.contains(is_left) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // Writing to a String does not fail.
        let _ = match is_left(c) {
            true => write!(escaped, "\\u{:04x}", u32::from(c)),
            false => escaped.write_char(c),
        };
    }
    Cow::Owned(escaped)
}

/// Like [`json`], for a writer of bytes. Each write has to be whole UTF-8 text.
#[derive(Debug)]
pub struct Json<W>(pub W);

impl<W: io::Write> io::Write for Json<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(json(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::samples::{HOSTILE, is_harmless};

    #[test]
    fn what_a_terminal_acts_on_is_escaped_and_nothing_else() {
        assert!(is_harmless(&printable(HOSTILE)), "{}", printable(HOSTILE));
        assert_eq!(printable("a\x1b[2J\n\u{9b}\u{202e}b"), "a\\u{1b}[2J\\n\\u{9b}\\u{202e}b");
        for harmless in
            ["", "checkout-7d9f", "caf\u{e9} \u{6f22}\u{5b57} \u{1f680} µs ± · \u{a0}", "\\n \"quoted\""]
        {
            assert!(matches!(printable(harmless), Cow::Borrowed(text) if text == harmless));
            assert!(matches!(json(harmless), Cow::Borrowed(text) if text == harmless));
        }
        let c1 = |c: char| ('\u{80}'..='\u{9f}').contains(&c);
        for c in (0..0x11_0000).filter_map(char::from_u32) {
            let is_bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c);
            let expected = c.is_ascii_control() || c1(c) || "\u{2028}\u{2029}".contains(c) || is_bidi;
            assert_eq!(is_active(c), expected, "{c:?}");
        }
    }

    #[test]
    fn json_stays_the_same_to_whoever_parses_it() {
        let value = serde_json::json!({ "text": HOSTILE, HOSTILE: [1] });
        for text in [value.to_string(), format!("{value:#}")] {
            let escaped = json(&text);
            assert!(is_harmless(&escaped), "{escaped}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
            let mut written = Json(Vec::new());
            written.write_all(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written.0).unwrap(), escaped);
        }
    }
}
