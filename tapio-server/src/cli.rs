//! The command line. A flag that sets a configuration key is validated like that key.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{ArgAction, Args, Parser, Subcommand};
use tapio_occurrence::printable::printable;

use crate::config::{self, Config, Flag};

/// The parsed command with everything that it needs.
#[derive(Debug)]
pub enum Command {
    /// Serve until stopped.
    Run(Box<Config>),
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
    let TapioServer { settings, command } = TapioServer::try_parse_from(arguments)?;
    Ok(match command {
        None => {
            Command::Run(Box::new(Config::load(settings.config.as_deref(), environment, &settings.flags())?))
        }
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

/// Receives facts from Tapio's agents and keeps them.
///
/// Agents send what is abnormal on their nodes to the gateway, POLKU. Each fact is written to the journal, a file in
/// the state directory, before it is acknowledged; agents keep what is not acknowledged.
#[derive(Debug, Parser)]
#[command(name = "tapio-server", version, args_conflicts_with_subcommands = true, after_long_help = EPILOGUE)]
struct TapioServer {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Verb>,
}

const EPILOGUE: &str = "\
Examples:
  tapio-server --state-dir=/tmp/tapio --ahti-auth=none
                                                 try it: agents send with --polku=HOST:50051
  tapio-server --polku-cert=/tls/tls.crt --polku-key=/tls/tls.key
                                                 with TLS: agents send with --polku=https://HOST:50051
  tapio-server --polku-cert=/tls/tls.crt --polku-key=/tls/tls.key --polku-client-ca=/tls/ca.crt
                                                 only for agents with a certificate (mTLS)
  curl 127.0.0.1:9091/status                     what was received, from which agents
  tapio-server config > tapio-server.yaml        each setting, its default and range

Settings: default < --config file < environment < flag. The variable of a key is TAPIO_SERVER_ and
the keys on the way to it (TAPIO_SERVER_JOURNAL_MAX_BYTES=10GiB); TAPIO_SERVER_CONFIG is the file.

Exit codes: 0 stopped by SIGTERM or SIGINT; 1 failed; 2 wrong arguments or configuration.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the default configuration with every key documented, or check a file
    #[command(
        after_long_help = "Exit codes: 0 printed, or the file is valid; 2 it is invalid: the error names the place \
                                 and a valid value."
    )]
    Config(ConfigArguments),
}

#[derive(Debug, Args)]
struct ConfigArguments {
    /// Check this file; print the place of an error and a valid value
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Print the JSON Schema of the file, for editors and for charts
    #[arg(long, conflicts_with = "check")]
    schema: bool,
}

/// Flags that each set a configuration key. The configuration documents the keys in full.
#[derive(Debug, Default, Args)]
struct Settings {
    /// Run only these roles, comma-separated: polku [default: all]
    #[arg(long, value_name = "NAMES", help_heading = "Server", action = ArgAction::Append)]
    roles: Vec<String>,
    /// Directory for the journal [default: /var/lib/tapio-server]
    #[arg(long, value_name = "DIR", help_heading = "Server")]
    state_dir: Option<String>,
    /// Name of the cluster that this server runs in
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    cluster: Option<String>,
    /// Maximum size of the journal on disk; the oldest facts are removed beyond it [default: 4GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Server")]
    journal_max_bytes: Option<String>,
    /// How long facts are retained [default: 336h]
    #[arg(long, value_name = "TIME", help_heading = "Server")]
    journal_max_age: Option<String>,
    /// Address of the gateway that agents send to [default: 0.0.0.0:50051]
    #[arg(long, value_name = "ADDR", help_heading = "POLKU")]
    polku_listen: Option<String>,
    /// The server's certificate and its chain, a PEM file; with it the gateway uses TLS
    #[arg(long, value_name = "FILE", help_heading = "POLKU")]
    polku_cert: Option<String>,
    /// Private key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", help_heading = "POLKU")]
    polku_key: Option<String>,
    /// Admit only clients with a certificate of an authority in this PEM file (mTLS)
    #[arg(long, value_name = "FILE", help_heading = "POLKU")]
    polku_client_ca: Option<String>,
    /// Admit only clients with a bearer token of this file, one a line
    #[arg(long, value_name = "FILE", help_heading = "POLKU")]
    polku_token_file: Option<String>,
    /// Address for OTLP/gRPC: traces, metrics and logs of applications; 0.0.0.0:4317 is usual [default: off]
    #[arg(long, value_name = "ADDR", help_heading = "POLKU")]
    otlp_listen_grpc: Option<String>,
    /// Address for OTLP/HTTP; 0.0.0.0:4318 is usual [default: off]
    #[arg(long, value_name = "ADDR", help_heading = "POLKU")]
    otlp_listen_http: Option<String>,
    /// Who may ask why something failed: kubernetes (users of the cluster, by their tokens) or none (everybody on this
    /// host) [default: kubernetes]
    #[arg(long, value_name = "WHO", help_heading = "AHTI")]
    ahti_auth: Option<String>,
    /// Certificate of the API and its chain, a PEM file; with it the API uses TLS
    #[arg(long, value_name = "FILE", help_heading = "AHTI")]
    ahti_cert: Option<String>,
    /// Private key of that certificate, a PEM file
    #[arg(long, value_name = "FILE", help_heading = "AHTI")]
    ahti_key: Option<String>,
    /// Read settings from this YAML file; `tapio-server config` prints one
    #[arg(long, value_name = "FILE", help_heading = "Operating")]
    config: Option<PathBuf>,
    /// Serve metrics and probes on this address, or off [default: 127.0.0.1:9091]
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
        let roles = Some(self.roles.join(",")).filter(|_| !self.roles.is_empty());
        [
            ("--roles", "roles", &roles),
            ("--state-dir", "state_dir", &self.state_dir),
            ("--cluster", "cluster", &self.cluster),
            ("--journal-max-bytes", "journal.max_bytes", &self.journal_max_bytes),
            ("--journal-max-age", "journal.max_age", &self.journal_max_age),
            ("--polku-listen", "polku.listen", &self.polku_listen),
            ("--polku-cert", "polku.cert", &self.polku_cert),
            ("--polku-key", "polku.key", &self.polku_key),
            ("--polku-client-ca", "polku.client_ca", &self.polku_client_ca),
            ("--polku-token-file", "polku.token_file", &self.polku_token_file),
            ("--otlp-listen-grpc", "otlp.listen_grpc", &self.otlp_listen_grpc),
            ("--otlp-listen-http", "otlp.listen_http", &self.otlp_listen_http),
            ("--ahti-auth", "ahti.auth", &self.ahti_auth),
            ("--ahti-cert", "ahti.cert", &self.ahti_cert),
            ("--ahti-key", "ahti.key", &self.ahti_key),
            ("--listen", "listen", &self.listen),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(name, path, text)| Some(Flag { name, path, text: text.clone()? }))
        .collect()
    }
}
