//! The roles of the server. A role is added here: its name, and how it starts.

use std::{future::Future, pin::Pin, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use crate::{ahti, config::Config, journal::Journal, metrics::Metrics, polku, portti};

/// A role.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Its name, in the setting `roles`, in `/status` and as a metric label.
    pub name: &'static str,
    /// Starts it, within the runtime. An error here stops the server before it is ready.
    start: fn(&Context) -> anyhow::Result<Started>,
}

/// All roles.
const ROLES: &[Role] = &[
    Role { name: "polku", start: polku::start },
    Role { name: "portti", start: portti::start },
    Role { name: "ahti", start: ahti::start },
];

/// Their names.
pub const NAMES: &[&str] = &{
    let mut names = [""; ROLES.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = ROLES[at].name;
        at += 1;
    }
    names
};

/// What roles share.
#[derive(Clone, Debug)]
pub struct Context {
    /// The settings.
    pub config: Arc<Config>,
    /// The journal: facts are appended to it, and followed in it. [`Journal::of`] with the role's name has them in the role's
    /// accounts.
    pub journal: Journal,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the server is stopping: the role finishes what it has received, and ends.
    pub stopped: watch::Receiver<bool>,
}

/// A role that runs.
pub struct Started {
    /// Runs until the server stops. If it ends earlier, so does the server.
    pub run: Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>,
    /// Its state.
    pub state: Arc<dyn State>,
}

/// The state of a role.
pub trait State: Send + Sync {
    /// Whether it does its work.
    ///
    /// # Errors
    /// What is missing.
    fn ready(&self) -> Result<(), String>;

    /// Its part of `/status`.
    fn status(&self) -> Value;

    /// Copies its state into the gauges.
    fn measure(&self);
}

impl Role {
    /// The roles with these names.
    pub fn of(names: &[&str]) -> impl Iterator<Item = &'static Self> {
        ROLES.iter().filter(move |role| names.contains(&role.name))
    }

    /// Starts it.
    ///
    /// # Errors
    /// It cannot start; the text has the remedy.
    pub fn start(&self, context: &Context) -> anyhow::Result<Started> {
        (self.start)(context)
    }
}
