//! The command line. Every flag that sets a key of the configuration is checked as that key is.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{ArgAction, Args, Parser, Subcommand};
use tapio_occurrence::printable::printable;

use crate::{
    config::{self, Config, Flag},
    doctor::Doctor,
    replay::ReplayArgs,
};

/// What the user wants, and how.
#[derive(Debug)]
pub enum Command {
    /// Observe until stopped.
    Run(Box<Config>),
    /// Say what this node can observe.
    Doctor(Doctor),
    /// Cause harmless faults and say which of them were reported.
    Selftest(Box<Config>),
    /// Cause one of them, as a child of the self-test.
    Fault(Part),
    /// Judge a recorded series.
    Replay(ReplayArgs),
    /// Print this text, and be done.
    Print(String),
}

/// Why there is no command to run. Its text goes to the user as it is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are wrong, or ask for help or the version.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// Exit code where arguments or configuration are wrong.
const USAGE: u8 = 2;

impl Error {
    /// Prints it where it belongs, help to standard output, and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Arguments(error) => {
                // There is no one left to tell that the terminal is gone.
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

/// Reads the arguments, of which the first is the program's name, and with them the configuration.
///
/// # Errors
/// Where the arguments or the configuration are wrong, and where they only ask for help.
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
/// Without a command it observes until it is stopped. What it finds, an occurrence, says what happened, how far
/// from normal, to whom, and who was on the other side. It goes to standard output, or to the sinks that are given.
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
  tapio                                        observe all there is, readable, here
  tapio --observer=network --output=json       one JSON object a line
  tapio --polku=polku.observability.svc:50051  to a POLKU gateway
  tapio --otlp=http://collector:4318           to an OpenTelemetry Collector
  tapio doctor                                 what this node can observe, and why not
  tapio config > tapio.yaml                    each setting, its default and range

Settings: default < --config file < environment < flag. The variable of a key is TAPIO_ and
the keys on the way to it (TAPIO_FOLD_WINDOW=1m). Also known: POLKU_ENDPOINT, NODE_NAME,
KUBECONFIG, TAPIO_CONFIG (the file), and OpenTelemetry's, such as OTEL_EXPORTER_OTLP_*.

Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 failed; 2 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what this node can observe: each hook, ok or why not and what is lost
    #[command(
        after_long_help = "The programs are really attached, and detached again; an agent that runs here is not \
                                 disturbed.\n\nExit codes: 0 something can be observed; 1 nothing can; 2 wrong \
                                 arguments or configuration."
    )]
    Doctor(DoctorArguments),
    /// Judge a recorded series: one JSON line for each abnormal row, a summary on standard error
    Replay(ReplayArgs),
    /// Print the default configuration, every key documented; or check a file
    #[command(
        after_long_help = "Exit codes: 0 printed, or the file is right; 2 it is wrong, with the place and \
                                 what would be right."
    )]
    Config(ConfigArguments),
    /// Cause harmless real faults here and say whether each was reported rightly
    #[command(
        after_long_help = "A refused connect, a connect that is not answered, round trips that rise, a process that \
                                 runs out of memory, one that crashes, and one that is killed. What it makes for \
                                 them (two network namespaces, a few connections, a cgroup with a limit on \
                                 its memory) it takes away again, also when interrupted. It judges with the default \
                                 thresholds. An agent that runs here reports the faults, too, as those of the \
                                 process tapio-fault.\n\nIt needs root, iproute2's ip and tc, and /sys/fs/cgroup \
                                 writable with the memory controller; what it cannot cause is skipped.\n\nExit codes: \
                                 0 every fault that could be caused was reported, once; 1 one was not, or none could \
                                 be caused; 2 wrong arguments or configuration."
    )]
    Selftest(Settings),
    #[command(hide = true)]
    Fault(Part),
}

/// The part of a child of the self-test.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Part {
    /// The name of its act
    pub act: String,
    /// What the act takes
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
    /// Say whether this file is right, and if not, where and what would be
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print the JSON Schema of the file, for editors and for charts
    #[arg(long, conflicts_with = "check")]
    schema: bool,
}

/// The flags that set a key of the configuration, which documents them in full.
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
    /// auto has them in a pod with a service account, and where KUBECONFIG is set.
    #[arg(long, value_name = "MODE", help_heading = "Observing")]
    kubernetes: Option<String>,
    /// Send occurrences to this POLKU gateway, or of several, comma-separated, to the first that answers
    ///
    /// https://HOST:PORT asks for TLS; a plain HOST:PORT has it where --polku-ca or --polku-cert is given.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Sinks")]
    polku: Option<String>,
    /// Trust the authorities in this PEM file, instead of this machine's
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_ca: Option<String>,
    /// Show the gateway the certificate in this PEM file
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_cert: Option<String>,
    /// The key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", help_heading = "Sinks")]
    polku_key: Option<String>,
    /// Send occurrences by OTLP to this collector, http://HOST:4318
    ///
    /// Protocol, headers and certificates: keys `otlp.*`, or OTEL_EXPORTER_OTLP_* as OpenTelemetry has them.
    #[arg(long, value_name = "URL", help_heading = "Sinks")]
    otlp: Option<String>,
    /// On standard output: json, pretty, none or auto [default: auto]
    ///
    /// auto is pretty on a terminal; elsewhere json, or none where another sink is given.
    #[arg(long, value_name = "FORM", help_heading = "Sinks")]
    output: Option<String>,
    /// Read settings from this YAML file; `tapio config` prints one
    #[arg(long, value_name = "FILE", help_heading = "Operating")]
    config: Option<PathBuf>,
    /// Keep here what outlives the agent [default: /var/lib/tapio]
    #[arg(long, value_name = "DIR", help_heading = "Operating")]
    state_dir: Option<String>,
    /// Serve metrics and probes here, or off [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", help_heading = "Operating")]
    listen: Option<String>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Operating")]
    log_level: Option<String>,
    /// The log on standard error: json or text [default: text]
    #[arg(long, value_name = "FORM", help_heading = "Operating")]
    log_format: Option<String>,
}

impl Settings {
    /// The flags that were given, each with the key that it sets.
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
