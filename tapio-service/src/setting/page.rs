//! Writes the commented default configuration.

use std::fmt::{Display, Write};

/// A YAML file being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    depth: usize,
}

/// The width at which comments are wrapped.
const WIDTH: usize = 100;

impl Page {
    /// Writes a comment. An empty line in a doc comment separates paragraphs.
    pub fn comment(&mut self, docs: &[&str]) {
        for (at, paragraph) in docs.split(|line| line.trim().is_empty()).enumerate() {
            if at > 0 {
                self.line("#");
            }
            let mut line = String::new();
            for word in paragraph.iter().flat_map(|line| line.split_whitespace()) {
                if !line.is_empty() && self.depth * 2 + line.len() + word.len() + 3 > WIDTH {
                    self.line(format_args!("# {line}"));
                    line.clear();
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            if !line.is_empty() {
                self.line(format_args!("# {line}"));
            }
        }
    }

    /// Writes a key with its value.
    pub fn value(&mut self, key: &str, value: impl Display) {
        let value = value.to_string();
        // YAML reads text of these characters literally; other text needs quotes.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '%' | ':');
        let bare = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
            && value.chars().all(plain)
            && !value.ends_with(':');
        if bare {
            self.line(format_args!("{key}: {value}"))
        } else {
            self.line(format_args!("{key}: {value:?}"))
        }
    }

    /// Writes a key with a list of words.
    pub fn list(&mut self, key: &str, words: &[&str]) {
        self.line(format_args!("{key}: [{}]", words.join(", ")));
    }

    /// Writes a key with what has nothing in it, such as `{}`.
    pub fn empty(&mut self, key: &str, text: &'static str) {
        self.line(format_args!("{key}: {text}"));
    }

    /// Writes a section: its documentation, its key and, indented, the output of `inside`. The whole file is
    /// the section without a key.
    pub fn section(&mut self, key: &str, docs: &[&str], inside: impl FnOnce(&mut Self)) {
        self.gap();
        self.comment(docs);
        if key.is_empty() {
            return inside(self);
        }
        self.line(format_args!("{key}:"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
    }

    /// Writes an empty line between two entries.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(":\n") {
            self.text.push('\n');
        }
    }

    /// The text written so far.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: impl Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 2);
    }
}
