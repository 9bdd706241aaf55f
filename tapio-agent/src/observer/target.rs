//! A service whose metrics are scraped for an observer.

use std::{fmt, path::PathBuf, time::Duration};

use http::Uri;

/// A service that serves its metrics in the text format of Prometheus, over https.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is, human-readable: `scheduler`.
    pub what: &'static str,
    /// The URL, and whether it was given. If not, it is where the service would be if it ran on this host, and its
    /// absence is not an error.
    pub url: Uri,
    /// See [`Self::url`].
    pub is_given: bool,
    /// File with the bearer token; `None`: that of the pod's service account.
    pub token: Option<PathBuf>,
    /// PEM file with the certificates of trusted authorities; `None`: those of this machine.
    pub ca: Option<PathBuf>,
    /// PEM files with the agent's own certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
    /// Accept any certificate.
    pub insecure: bool,
    /// Time from one scrape to the next.
    pub interval: Duration,
    /// Maximum time of a scrape.
    pub timeout: Duration,
    /// Maximum size of an answer.
    pub max_bytes: u64,
    /// Maximum number of series in an answer.
    pub max_series: u32,
    /// The occurrences that are lost without it, human-readable.
    pub gives: &'static str,
    /// Creates a reader for one answer.
    pub reader: fn() -> Box<dyn Read>,
}

/// Turns the lines of one answer into a record.
pub trait Read: Send + fmt::Debug {
    /// Takes one line, which is neither empty nor a comment. Those that the observer does not need are ignored.
    ///
    /// # Errors
    /// It is not a sample. The reason, for people.
    fn line(&mut self, line: &str) -> Result<(), String>;

    /// Returns the record of all lines, scraped at this time.
    ///
    /// # Errors
    /// They are not those of this service. The reason, for people.
    fn record(&mut self, now_ns: u64) -> Result<Vec<u8>, String>;
}
