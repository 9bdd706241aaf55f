//! What a value may be, for programs that check it before Tapio reads it: as a JSON Schema (draft 7, as Helm takes it).

use serde_json::{Value as Json, json};

/// The form of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// A whole number between two, both included.
    Whole(u64, u64),
    /// A number between two, both included.
    Number(f64, f64),
    /// One of these words; `true` and `false` without quotes, too.
    OneOf(Vec<&'static str>),
    /// A text that this regular expression is all of.
    Text(String),
    /// One or several of what this regular expression is all of, or a word: a list, or a text separated by commas.
    List {
        /// The regular expression.
        item: String,
        /// The word in place of a list.
        word: &'static str,
    },
    /// Some text or number.
    Any,
}

impl Form {
    /// A word may stand in its place, too.
    #[must_use]
    pub fn or(self, word: &'static str) -> Self {
        match self {
            Self::OneOf(words) => Self::OneOf(words.into_iter().chain([word]).collect()),
            Self::Text(pattern) => Self::Text(format!("{pattern}|{word}")),
            // A list has its own word, and a number is written as a text where there may be one.
            Self::List { .. } | Self::Any => self,
            Self::Whole(..) | Self::Number(..) => Self::Any,
        }
    }

    /// As a JSON Schema.
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
