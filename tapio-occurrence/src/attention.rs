//! What people take care of, and what they do not want to hear of: the `data` of the occurrence that the server keeps of it.

use serde::{Deserialize, Serialize};

use crate::kubernetes::Fact;

/// The `source` of these.
pub const SOURCE: &str = "attention";
/// Longest reason, in characters.
pub const MAX_REASON: usize = 512;

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// They take care of it.
    Ack,
    /// They do not.
    Unack,
    /// They want to hear nothing of it until a time.
    Mute,
    /// They want to hear of it again.
    Unmute,
}

impl Act {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ack => "acknowledged",
            Self::Unack => "no longer acknowledged",
            Self::Mute => "muted",
            Self::Unmute => "no longer muted",
        }
    }
}

/// `tapio.attention`: somebody acknowledged or muted an incident, or muted all incidents of an object or a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// What they do.
    pub act: Act,
    /// The user's name; absent where the server does not ask who it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The incident, `TAP-142`; absent if it is about an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// Its fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When its first symptom began, nanoseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
    /// Kind of the object; `Namespace` for all that is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The end of a mute, nanoseconds since 1970 UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_unix_ns: Option<u64>,
    /// In the person's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Fact for Attention {
    const TYPE: &'static str = "tapio.attention";
}
