//! Failed requests to the API server, with the remedy.

use std::{fmt, time::Duration};

use kube::{Error, core::Status, runtime::watcher};

/// Why a request to the API server failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One sentence, with the remedy if there is one.
    pub why: String,
    /// The HTTP status, if the server answered.
    pub code: Option<u16>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Fault {
    /// No answer came in time.
    #[must_use]
    pub fn slow(patience: Duration) -> Self {
        Self { why: format!("the API server gave no answer within {patience:?}"), code: None }
    }

    /// The request could not be made, because credentials or configuration are missing.
    #[must_use]
    pub fn of_access(error: &anyhow::Error) -> Self {
        Self { why: format!("{error:#}"), code: None }
    }

    /// Whether the server answered and refused only this one request.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self.code, Some(400 | 403 | 404))
    }

    pub(crate) fn of_status(status: &Status) -> Self {
        let message = &status.message;
        let why = match status.code {
            401 => {
                "the API server does not take the token (401): it has expired, or is another cluster's".into()
            }
            403 => format!(
                "the API server forbids it (403): bind the ClusterRole `tapio` to the agent's service account. {message}"
            ),
            429 => "the API server is busy (429)".to_owned(),
            code => format!("the API server says {code}: {message}"),
        };
        Self { why, code: Some(status.code) }
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        match error {
            Error::Api(status) => Self::of_status(status),
            other => {
                // The innermost cause says what went wrong.
                let mut last: &dyn std::error::Error = other;
                while let Some(cause) = last.source() {
                    last = cause;
                }
                Self { why: format!("the API server cannot be reached: {last}"), code: None }
            }
        }
    }
}

impl From<&watcher::Error> for Fault {
    fn from(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(e)
            | watcher::Error::WatchStartFailed(e)
            | watcher::Error::WatchFailed(e) => e.into(),
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::NoResourceVersion => Self { why: error.to_string(), code: None },
        }
    }
}
