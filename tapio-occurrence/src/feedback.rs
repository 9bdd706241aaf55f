//! What people say of an answer: the `data` of the occurrence that the server keeps of it.

use serde::{Deserialize, Serialize};

use crate::kubernetes::Fact;

/// The `source` of feedback.
pub const SOURCE: &str = "feedback";
/// Longest note, in characters.
pub const MAX_NOTE: usize = 512;

/// Whether the answer named the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It was the cause.
    Right,
    /// It has to do with it, but is not the cause.
    NotQuite,
    /// It was something else.
    Wrong,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::NotQuite => "not quite",
            Self::Wrong => "wrong",
        }
    }
}

/// `tapio.feedback`: somebody judged an incident's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// The incident, `TAP-142`.
    pub incident: String,
    /// Its fingerprint: the same for incidents of the same kind of cause and the same workload.
    pub fingerprint: String,
    /// The kind of the cause, in a word; absent if the answer named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Whether the answer named the cause.
    pub verdict: Verdict,
    /// How likely that cause was held to be, from failures of other clusters, from 0 to 1; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// In the person's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Fact for Feedback {
    const TYPE: &'static str = "tapio.feedback";
}
