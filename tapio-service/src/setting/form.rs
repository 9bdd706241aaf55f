//! The valid texts of a value as a JSON Schema (draft 7, which Helm uses), for programs that check it before
//! Tapio does.

use serde_json::{Value as Json, json};

/// The valid texts of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A whole number between two bounds, both included.
    Whole(u64, u64),
    /// A number between two bounds, both included.
    Number(f64, f64),
    /// One of these words; also `true` and `false` without quotes.
    OneOf(Vec<&'static str>),
    /// A text that this regular expression matches as a whole.
    Text(String),
    /// A list of texts that this regular expression matches as a whole, the same comma-separated in one text,
    /// or the word.
    List {
        /// The regular expression.
        item: String,
        /// The word for the empty list.
        word: &'static str,
    },
    /// Any text or number.
    Any,
}

impl Form {
    /// Adds a word that is also valid.
    #[must_use]
    pub fn or(self, word: &'static str) -> Self {
        match self {
            Self::OneOf(words) => Self::OneOf(words.into_iter().chain([word]).collect()),
            Self::Text(pattern) => Self::Text(format!("{pattern}|{word}")),
            // A list has its own word, and a number is written as text if a word is valid, too.
            Self::List { .. } | Self::Any => self,
            Self::Whole(..) | Self::Number(..) => Self::Any,
        }
    }

    /// The JSON Schema.
    #[must_use]
    pub fn schema(&self) -> Json {
        match self {
            Self::Whole(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
            Self::Number(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
            Self::OneOf(words) if words.contains(&"true") => {
                let both = [true, false].map(Json::from).into_iter();
                json!({ "enum": both.chain(words.iter().map(|word| Json::from(*word))).collect::<Vec<_>>() })
            }
            Self::OneOf(words) => json!({ "type": "string", "enum": words }),
            Self::Text(pattern) => json!({ "type": "string", "pattern": format!("^({pattern})$") }),
            Self::List { item, word } => json!({
                "type": ["string", "array"], "pattern": format!("^(({item})(,({item}))*|{word})$"),
                "items": { "type": "string", "pattern": format!("^({item})$") },
                "uniqueItems": true, "minItems": 1,
            }),
            Self::Any => json!({ "type": ["string", "number"] }),
        }
    }
}
