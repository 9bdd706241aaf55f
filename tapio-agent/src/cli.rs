//! The command line. A flag that sets a configuration key is validated like that key.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{ArgAction, Args, Parser, Subcommand};
use tapio_occurrence::printable::printable;

use crate::{
    config::{self, Config, Flag},
    doctor::Doctor,
    replay::ReplayArgs,
};

/// The parsed command with everything that it needs.
#[derive(Debug)]
pub enum Command {
    /// Observe until stopped.
    Run(Box<Config>),
    /// Report what this node can observe.
    Doctor(Doctor),
    /// Cause harmless faults and check that each is reported.
    Selftest(Box<Config>),
    /// Run one role of a fault, as a child of the self-test.
    Fault(Part),
    /// Judge a recorded series.
    Replay(ReplayArgs),
    /// Print this text and exit.
    Print(String),
}

/// The reason why there is no command to run. Users see its text unchanged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are invalid, or ask for help or the version.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// Exit code for invalid arguments or configuration.
const USAGE: u8 = 2;

impl Error {
    /// Prints help to standard output and errors to standard error, and returns the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Arguments(error) => {
                // A failure means that the terminal is gone: nobody could read about it.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
            }
            Self::Config(error) => {
                eprintln!("error: {}", printable(&error.to_string()));
                ExitCode::from(USAGE)
            }
        }
    }
}

/// Parses the arguments, the first of which is the program's name, and loads the configuration that they ask for.
///
/// # Errors
/// The arguments or the configuration are invalid, or the arguments ask for help or the version.
pub fn parse<A, E>(arguments: A, environment: E) -> Result<Command, Error>
where
    A: IntoIterator<Item = OsString>,
    E: IntoIterator<Item = (OsString, OsString)>,
{
    let Tapio { settings, command } = Tapio::try_parse_from(arguments)?;
    let environment: Vec<_> = environment.into_iter().collect();
    let load = |settings: &Settings| -> Result<Box<Config>, Error> {
        Ok(Box::new(Config::load(settings.config.as_deref(), environment.clone(), &settings.flags())?))
    };
    Ok(match command {
        None => Command::Run(load(&settings)?),
        Some(Verb::Doctor(DoctorArguments { settings, json })) => {
            let file = Config::file(settings.config.as_deref(), &environment);
            Command::Doctor(Doctor::new(load(&settings)?, file, json))
        }
        Some(Verb::Selftest(settings)) => Command::Selftest(load(&settings)?),
        Some(Verb::Fault(part)) => Command::Fault(part),
        Some(Verb::Replay(arguments)) => Command::Replay(arguments),
        Some(Verb::Config(ConfigArguments { check: Some(file), .. })) => {
            Config::of_file(&file)?;
            Command::Print(format!("{}: ok\n", file.display()))
        }
        Some(Verb::Config(ConfigArguments { schema: true, .. })) => {
            Command::Print(format!("{:#}\n", Config::json_schema()))
        }
        Some(Verb::Config(_)) => Command::Print(Config::default_file()),
    })
}

/// Learns in the kernel what is normal for this node's workloads, and reports what is not.
///
/// Without a command it observes until it is stopped. Each finding, an occurrence, says what happened, how far
/// from normal, to whom, and who was on the other side. Occurrences go to standard output, or to the given sinks.
#[derive(Debug, Parser)]
#[command(name = "tapio", version, args_conflicts_with_subcommands = true, after_long_help = EPILOGUE)]
struct Tapio {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Verb>,
}

const EPILOGUE: &str = "\
Examples:
  tapio                                        observe everything, readable, on this terminal
  tapio --observer=network --output=json       one JSON object per line
  tapio --polku=polku.observability.svc:50051  to a POLKU gateway
  tapio --otlp=http://collector:4318           to an OpenTelemetry Collector
  tapio doctor                                 what this node can observe, and why not the rest
  tapio config > tapio.yaml                    each setting, its default and range

Settings: default < --config file < environment < flag. The variable of a key is TAPIO_ and
the keys on the way to it (TAPIO_FOLD_WINDOW=1m). Also known: POLKU_ENDPOINT, NODE_NAME,
KUBECONFIG, TAPIO_CONFIG (the file), and OpenTelemetry's, such as OTEL_EXPORTER_OTLP_*.

Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 failed; 2 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check what this node can observe: each hook, and if it fails, the reason and what is lost
    #[command(
        after_long_help = "It attaches the programs and detaches them again, without disturbing an agent that runs \
                                 here.\n\nExit codes: 0 something can be observed; 1 nothing can; 2 wrong \
                                 arguments or configuration."
    )]
    Doctor(DoctorArguments),
    /// Judge a recorded series: one JSON line per abnormal row, a summary on standard error
    Replay(ReplayArgs),
    /// Print the default configuration with every key documented, or check a file
    #[command(
        after_long_help = "Exit codes: 0 printed, or the file is valid; 2 it is invalid: the error names the place \
                                 and a valid value."
    )]
    Config(ConfigArguments),
    /// Cause harmless real faults here and check that each is reported correctly
    #[command(
        after_long_help = "The faults: a refused connect, a connect without an answer, rising round trips, a process \
                                 that is OOM-killed, one that crashes, and one that is killed. The self-test makes \
                                 two network namespaces, a few connections and a cgroup with a memory limit, and \
                                 removes them again, also when interrupted. It judges with the default \
                                 thresholds. An agent that runs here also reports the faults, as those of the \
                                 process tapio-fault.\n\nIt needs root, iproute2's ip and tc, and /sys/fs/cgroup \
                                 writable with the memory controller; it skips faults that it cannot cause here.\n\n\
                                 Exit codes: 0 every fault that could be caused was reported, once; 1 one was not, \
                                 or none could be caused; 2 wrong arguments or configuration."
    )]
    Selftest(Settings),
    #[command(hide = true)]
    Fault(Part),
}

/// The role of a child of the self-test.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Part {
    /// The name of the role
    pub role: String,
    /// The arguments of the role
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
struct DoctorArguments {
    #[command(flatten)]
    settings: Settings,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConfigArguments {
    /// Check this file; print the place of each error and a valid value
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print the JSON Schema of the file, for editors and for charts
    #[arg(long, conflicts_with = "check")]
    schema: bool,
}

/// Flags that each set a configuration key. The configuration documents the keys in full.
#[derive(Debug, Default, Args)]
struct Settings {
    /// Run only these observers, comma-separated [default: all]
    #[arg(long, value_name = "NAMES", help_heading = "Observing", action = ArgAction::Append)]
    observer: Vec<String>,
    /// Name of this node in occurrences [default: $NODE_NAME, else hostname]
    #[arg(long, value_name = "NAME", help_heading = "Observing")]
    node_name: Option<String>,
    /// Name of the cluster in occurrences
    #[arg(long, value_name = "NAME", help_heading = "Observing")]
    cluster: Option<String>,
    /// Names from the Kubernetes API: on, off or auto [default: auto]
    ///
    /// auto is on in a pod with a service account, and where KUBECONFIG is set.
    #[arg(long, value_name = "MODE", help_heading = "Observing")]
    kubernetes: Option<String>,
    /// Send occurrences to this POLKU gateway, or to the first of several, comma-separated, that answers
    ///
    /// https://HOST:PORT uses TLS; a plain HOST:PORT uses it where --polku-ca or --polku-cert is given.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Sinks")]
    polku: Option<String>,
    /// Trust the certificate authorities in this PEM file instead of this machine's
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_ca: Option<String>,
    /// Present the client certificate in this PEM file to the gateway
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_cert: Option<String>,
    /// Private key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_key: Option<String>,
    /// Send occurrences by OTLP to this collector, http://HOST:4318
    ///
    /// Protocol, headers and certificates: keys `otlp.*`, or OpenTelemetry's variables OTEL_EXPORTER_OTLP_*.
    #[arg(long, value_name = "URL", help_heading = "Sinks")]
    otlp: Option<String>,
    /// Format on standard output: json, pretty, none or auto [default: auto]
    ///
    /// auto is pretty on a terminal; elsewhere json, or none where another sink is given.
    #[arg(long, value_name = "FORM", help_heading = "Sinks")]
    output: Option<String>,
    /// Read settings from this YAML file; `tapio config` prints one
    #[arg(long, value_name = "FILE", help_heading = "Operating")]
    config: Option<PathBuf>,
    /// Directory for state snapshots and the spool [default: /var/lib/tapio]
    #[arg(long, value_name = "DIR", help_heading = "Operating")]
    state_dir: Option<String>,
    /// Serve metrics and probes on this address, or off [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", help_heading = "Operating")]
    listen: Option<String>,
    /// Log level: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Operating")]
    log_level: Option<String>,
    /// Format of the log on standard error: json or text [default: text]
    #[arg(long, value_name = "FORM", help_heading = "Operating")]
    log_format: Option<String>,
}

impl Settings {
    /// The given flags, each with the key that it sets.
    fn flags(&self) -> Vec<Flag> {
        let observers = Some(self.observer.join(",")).filter(|_| !self.observer.is_empty());
        [
            ("--observer", "observers", &observers),
            ("--node-name", "node_name", &self.node_name),
            ("--cluster", "cluster", &self.cluster),
            ("--kubernetes", "kubernetes", &self.kubernetes),
            ("--polku", "polku.endpoint", &self.polku),
            ("--polku-ca", "polku.ca", &self.polku_ca),
            ("--polku-cert", "polku.cert", &self.polku_cert),
            ("--polku-key", "polku.key", &self.polku_key),
            ("--otlp", "otlp.endpoint", &self.otlp),
            ("--output", "output", &self.output),
            ("--state-dir", "state_dir", &self.state_dir),
            ("--listen", "listen", &self.listen),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(name, path, text)| Some(Flag { name, path, text: text.clone()? }))
        .collect()
    }
}
