//! The agent's configuration, layered as defaults < YAML file < environment < flags. One wrong value refuses
//! all of it.

mod environment;
mod observers;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use tapio_delivery::{otlp, polku};
use tapio_service::{
    config::{
        environment::{CONFIG, Environment},
        file,
    },
    setting::{
        AbsolutePath, Bytes, Count, Listen, MIB, MS, Name, Node, Off, Page, SEC, Time, Wrong, choices,
        settings,
    },
};

pub use observers::Observers;
pub use tapio_kube::Mode as Kubernetes;
pub use tapio_service::{
    config::{Error, Flag, environment::variable},
    log::{Format, Level, Log},
};

use crate::observer;

settings! {
    /// The configuration of Tapio's agent: every key with its default. `tapio config` prints this file,
    /// `tapio config --check FILE` says whether one is right.
    ///
    /// The environment is stronger than the file, and flags are stronger than both. The variable of a key is
    /// TAPIO_ and the keys on the way to it, in capitals and joined by _: TAPIO_FOLD_WINDOW=1m. An empty variable
    /// counts as not set.
    pub struct Config {
        /// The observers that run.
        pub observers: Observers = Observers::default(),
        /// What goes to standard output: JSON lines, or a form for people. `auto` is pretty on a terminal; elsewhere
        /// it is json, or none where another sink is given.
        pub output: Output = Output::Auto,
        /// The POLKU gateway that gets the occurrences.
        pub polku: polku::Settings = polku::Settings::default(),
        /// An OpenTelemetry Collector, or what else takes logs by OTLP, that gets them.
        pub otlp: otlp::Settings = otlp::Settings::default(),
        /// The agent's own metrics and traces, by OTLP.
        pub telemetry: otlp::Telemetry = otlp::Telemetry::default(),
        /// How many occurrences each sink may have waiting in memory. From half of it on, or after a second, they are
        /// written to the spool; only what that cannot take in time is dropped, and counted.
        pub queue: Count<1, 1_000_000> = Count::of(8_192),
        /// How repeats of one anomaly are folded into one follow-up.
        pub fold: Fold = Fold::default(),
        /// Where the agent keeps what outlives it.
        pub state_dir: AbsolutePath = AbsolutePath::known("/var/lib/tapio"),
        /// How often what was learned is written there. What comes between that and a kill is learned anew.
        pub snapshot: Time<{ SEC }, { 3_600 * SEC }> = Time::of_ns(60 * SEC),
        /// How much each sink may keep on disk, in `state_dir`, of what it cannot take in time; it is sent when the
        /// destination is back, after a restart, too. The oldest goes where it would be more. `off`: all waits in memory.
        pub spool: Off<Bytes<{ 8 * MIB }, { 64 * 1024 * MIB }>> = Off(Some(Bytes::of(64 * MIB))),
        /// How often POLKU and OTLP get a heartbeat: which node looks, with what, and what became of what it saw. `off`: a
        /// receiver cannot tell a node without anomalies from one without an agent.
        pub heartbeat: Off<Time<{ 5 * SEC }, { 3_600 * SEC }>> = Off(Some(Time::of_ns(30 * SEC))),
        /// How often POLKU and OTLP get network.edges: which workload talks to which addresses, each when it is new, and
        /// again after an hour at the earliest. Nothing is sent where nothing is new.
        pub edges: Off<Time<SEC, { 3_600 * SEC }>> = Off(Some(Time::of_ns(60 * SEC))),
        /// Where /livez, /readyz, /metrics and /status are served.
        pub listen: Off<Listen> = Off(Some(Listen(([127, 0, 0, 1], 9090).into()))),
        /// The node's name in occurrences. Empty: NODE_NAME, else the name of the host. In a pod set NODE_NAME
        /// from spec.nodeName.
        pub node_name: Name = Name::default(),
        /// The cluster's name in occurrences. Empty: they carry none.
        pub cluster: Name = Name::default(),
        /// Names of pods, services and nodes from the Kubernetes API: `auto` has them where the agent runs in a pod with
        /// a service account, or KUBECONFIG is set; with `on` it is an error where neither is so.
        pub kubernetes: Kubernetes = Kubernetes::Auto,
        /// The agent's own log, on standard error.
        pub log: Log = Log::default(),
        /// How long a stopping agent may take to deliver what it has, or to write it to the spool.
        pub drain: Time<0, { 300 * SEC }> = Time::of_ns(10 * SEC),
        /// Where the host's cgroups are mounted. In a pod: where the host's /sys/fs/cgroup is mounted.
        pub cgroup_root: AbsolutePath = AbsolutePath::known("/sys/fs/cgroup"),
        /// Where the host's processes are. In a pod without hostPID: where the host's /proc is mounted.
        pub proc_root: AbsolutePath = AbsolutePath::known("/proc"),
        /// A section for each observer.
        pub observer: observer::Settings = observer::Settings::default(),
    }
}

settings! {
    /// How repeats are folded.
    pub struct Fold {
        /// The first anomaly of a kind goes out at once; those that follow within this, as one with their number.
        pub window: Time<{ 100 * MS }, { 3_600 * SEC }> = Time::of_ns(30 * SEC),
        /// The window doubles up to this while it lasts.
        pub max_window: Time<{ 100 * MS }, { 86_400 * SEC }> = Time::of_ns(600 * SEC),
    }
}

choices! {
    /// What goes to standard output.
    pub enum Output {
        /// What suits: see the default configuration.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Pretty = "pretty",
        /// Nothing.
        None = "none",
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
        let environment = Environment::read(environment, &config, environment::others(), &[otlp::PREFIX])?;
        match (file, environment.config_file()) {
            (Some(path), _) => file::read(path, &mut config).map_err(|e| e.named_by("--config"))?,
            (None, Some(path)) => file::read(path, &mut config).map_err(|e| e.named_by(CONFIG))?,
            (None, None) => {}
        }
        // Variables that concern logs only (such as a credential) must not apply to metrics and traces.
        let mut of_all_signals = config.clone();
        environment.assign(&mut config, |_| true)?;
        environment.assign(&mut of_all_signals, |variable| !variable.starts_with(otlp::PREFIX))?;
        for flag in flags {
            flag.assign(&mut config)?;
            flag.assign(&mut of_all_signals)?;
        }
        let differs = of_all_signals.otlp != config.otlp;
        config.telemetry.otlp = differs.then_some(of_all_signals.otlp);
        config.check()?;
        Ok(config)
    }

    /// The path of the file that [`Self::load`] reads, given the same arguments.
    #[must_use]
    pub fn file(file: Option<&Path>, environment: &[(OsString, OsString)]) -> Option<PathBuf> {
        let named = || environment.iter().rfind(|(name, value)| name == CONFIG && !value.is_empty());
        file.map(Path::to_owned).or_else(|| named().map(|(_, value)| value.into()))
    }

    /// Reads a file without the environment and the flags.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let mut config = Self::default();
        file::read(path, &mut config).map_err(|refused| refused.error)?;
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

    /// Resolves [`Output::Auto`], depending on whether standard output is a terminal.
    #[must_use]
    pub fn output(&self, terminal: bool) -> Output {
        match self.output {
            Output::Auto if terminal => Output::Pretty,
            Output::Auto if !self.polku.endpoint.all().is_empty() || self.otlp.endpoint.0.is_some() => {
                Output::None
            }
            Output::Auto => Output::Json,
            given => given,
        }
    }

    /// The configured node name, or else the host's name.
    #[must_use]
    pub fn node(&self) -> Arc<str> {
        match self.node_name.get() {
            Some(name) => name.into(),
            None => rustix::system::uname().nodename().to_string_lossy().into(),
        }
    }

    /// Checks what depends on several values at once.
    fn check(&self) -> Result<(), Error> {
        let Fold { window, max_window } = self.fold;
        if max_window.as_ns() < window.as_ns() {
            let what = Wrong(format!(
                "{max_window} is shorter than fold.window, which is {window}: it must be as long"
            ));
            return Err(Error::at("fold.max_window", what));
        }
        self.polku.check("polku").map_err(|(key, wrong)| Error::at(format_args!("polku.{key}"), wrong))?;
        self.otlp.check().map_err(|(key, wrong)| Error::at(format_args!("otlp.{key}"), wrong))?;
        self.observer.check().map_err(|(key, wrong)| Error::at(format_args!("observer.{key}"), wrong))?;
        let telemetry = self.telemetry.enabled(&self.otlp);
        telemetry.map(drop).map_err(|(key, wrong)| Error::at(format_args!("telemetry.{key}"), wrong))
    }
}

#[cfg(test)]
mod tests;
