//! The server's configuration, layered as defaults < YAML file < environment < flags. One wrong value refuses
//! all of it.

mod roles;

use std::{ffi::OsString, path::Path};

use tapio_service::{
    config::{
        environment::{Environment, Program},
        file,
    },
    setting::{AbsolutePath, Listen, Many, Name, Named, Node, Off, Page, SEC, Time, Wrong, settings},
};

pub use roles::Roles;
pub use tapio_service::{
    config::{Error, Flag},
    log::Log,
};

use crate::{
    ahti, journal, notify, polku, portti,
    route::{self, Route, Sink},
};

/// The variables of the server.
pub const PROGRAM: Program =
    Program { command: "tapio-server", prefix: "TAPIO_SERVER_", config: "TAPIO_SERVER_CONFIG" };

settings! {
    /// The configuration of Tapio's server: every key with its default. `tapio-server config` prints this file,
    /// `tapio-server config --check FILE` checks one.
    ///
    /// The environment has precedence over the file, and flags have precedence over both. The variable of a key is
    /// TAPIO_SERVER_ and the keys on the way to it, in capitals and joined by _: TAPIO_SERVER_POLKU_LISTEN=[::]:50051.
    /// An empty variable counts as not set.
    pub struct Config {
        /// The roles that this process runs. polku receives facts from agents and writes them to the journal. portti
        /// watches Kubernetes, and writes what changes there. ahti explains what is in the journal.
        pub roles: Roles = Roles::default(),
        /// The gateway that agents send to.
        pub polku: polku::Settings = polku::Settings::default(),
        /// The receiver for OpenTelemetry, of role polku.
        pub otlp: polku::otlp::Settings = polku::otlp::Settings::default(),
        /// What is watched in Kubernetes.
        pub portti: portti::Settings = portti::Settings::default(),
        /// What explains.
        pub ahti: ahti::Settings = ahti::Settings::default(),
        /// Who is notified of incidents, by names, each with `webhook.url`, `slack.token_file` and `slack.channel` (or
        /// `slack.url_file`), `pagerduty.key_file` or `alertmanager.url`, and of which: `namespace`, `certainty`. Only a file
        /// sets it.
        pub notify: Named<notify::Target> = Named::default(),
        /// Facts that are also sent elsewhere, each once to a sink, with `to` and, below `match`, `type`, `severity` and
        /// `namespace`. ahti takes all facts, whatever is here. Only a file sets it.
        pub routes: Many<Route> = Many::default(),
        /// Where `routes` lead to, by names, each with `polku.endpoint`, `otlp.endpoint` (with all keys that an agent has for
        /// them) or `stdout: true`. Only a file sets it.
        pub sinks: Named<Sink> = Named::default(),
        /// Directory for the journal.
        pub state_dir: AbsolutePath = AbsolutePath::known("/var/lib/tapio-server"),
        /// The journal of facts, in `state_dir`.
        pub journal: journal::Settings = journal::Settings::default(),
        /// Where /livez, /readyz, /metrics and /status are served.
        pub listen: Off<Listen> = Off(Some(Listen(([127, 0, 0, 1], 9091).into()))),
        /// Name of the cluster that this server runs in, for /status and for facts that the server itself observes.
        /// Agents have a setting of their own. Empty: none.
        pub cluster: Name = Name::default(),
        /// The server's own log, on standard error.
        pub log: Log = Log::default(),
        /// How long a stopping server may take to write and acknowledge the facts that it has received.
        pub drain: Time<0, { 300 * SEC }> = Time::of_ns(10 * SEC),
    }
}

impl Config {
    /// Reads the file, if one is given, and applies the environment and then the flags on top of it.
    ///
    /// # Errors
    /// Returns the first wrong value, with its place and what would be valid.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Flag],
    ) -> Result<Self, Error> {
        let mut config = Self::default();
        let environment = Environment::of(PROGRAM, environment, &config, [], &[])?;
        match (file, environment.config_file()) {
            (Some(path), _) => file::read(path, &mut config).map_err(|e| e.named_by("--config"))?,
            (None, Some(path)) => file::read(path, &mut config).map_err(|e| e.named_by(PROGRAM.config))?,
            (None, None) => {}
        }
        environment.assign(&mut config, |_| true)?;
        for flag in flags {
            flag.assign(&mut config)?;
        }
        config.check()?;
        Ok(config)
    }

    /// Reads a file without the environment and the flags.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let mut config = Self::default();
        file::read(path, &mut config).map_err(|refused| refused.named_by("--check"))?;
        config.check().map_err(|error| Error::at(path.display(), error))?;
        Ok(config)
    }

    /// The commented default configuration.
    #[must_use]
    pub fn default_file() -> String {
        let mut page = Page::default();
        Self::default().print("", Self::DOCS, &mut page);
        page.finish()
    }

    /// The JSON Schema of a configuration file.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        Self::default().schema(&[])
    }

    /// Checks what depends on several values at once.
    fn check(&self) -> Result<(), Error> {
        self.polku.check().map_err(|(key, wrong)| Error::at(format_args!("polku.{key}"), wrong))?;
        self.portti.check().map_err(|(key, wrong)| Error::at(format_args!("portti.{key}"), wrong))?;
        self.ahti.check().map_err(|(key, wrong)| Error::at(format_args!("ahti.{key}"), wrong))?;
        if !self.notify.0.is_empty() && !self.roles.names().contains(&"ahti") {
            let what = "needs the role ahti, which knows of incidents: add it to `roles`, or leave it out";
            return Err(Error::at("notify", Wrong(what.to_owned())));
        }
        notify::check(&self.notify).map_err(|(key, wrong)| Error::at(key, wrong))?;
        if !self.sinks.0.is_empty() && !self.roles.names().contains(&"polku") {
            let what = "needs the role polku, which sends facts on: add it to `roles`, or leave them out";
            return Err(Error::at("sinks", Wrong(what.to_owned())));
        }
        route::check(&self.routes, &self.sinks).map_err(|(key, wrong)| Error::at(key, wrong))
    }
}

#[cfg(test)]
mod tests;
