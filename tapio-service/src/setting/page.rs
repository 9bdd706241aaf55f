//! The commented default configuration, as it is written.

use std::fmt::{Display, Write};

/// A YAML file under way.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    depth: usize,
}

/// Where a comment is broken.
const WIDTH: usize = 100;

impl Page {
    /// Writes a comment: paragraphs are the lines that a doc comment separates by an empty one.
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
        // YAML reads these as they are; anything else might mean something to it.
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

    /// Writes a section: its documentation, its key and, indented, what `inside` writes. The whole file is the
    /// section without a key.
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

    /// Parts one entry from the next.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(":\n") {
            self.text.push('\n');
        }
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: impl Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = self.depth * 2);
    }
}
