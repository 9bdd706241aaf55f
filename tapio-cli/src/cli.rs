//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tapio_occurrence::feedback::Verdict;

/// Why did this fail? Asks Tapio's server, which it reaches by a port-forward of its own, so that nothing has to be
/// exposed.
///
/// Exit status: 0 answered, 1 with --exit-code where there is an incident (else: failed), 2 wrong arguments, 3 no data,
/// 4 forbidden.
#[derive(Debug, Parser)]
#[command(name = "kubectl tapio", version, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the server is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Reach {
    /// The server's API, instead of a port-forward: https://HOST or http://HOST:PORT. Only the token of --token-file is sent, and by
    /// http to this host only
    #[arg(long, global = true, env = "TAPIO_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// PEM file with the authorities that are trusted for https, instead of those of this machine
    #[arg(long, global = true, env = "TAPIO_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The kubeconfig, instead of that of KUBECONFIG or ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, instead of the current one
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(crate) context: Option<String>,
    /// The namespace that the server runs in
    #[arg(long, global = true, default_value = "tapio", value_name = "NAMESPACE")]
    pub(crate) server_namespace: String,
    /// The port of its API
    #[arg(long, global = true, default_value_t = 8080, value_name = "PORT")]
    pub(crate) server_port: u16,
    /// Ask with the token in this file, instead of that of the kubeconfig's user
    #[arg(long, global = true, env = "TAPIO_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Why an object fails: deploy/checkout, pod/checkout-7d9f, node/worker-2, or an incident: TAP-142
    Why(Asked),
    /// Opens the pages in a browser, with your rights, until it is interrupted
    Open(Open),
    /// Of which signals and incidents a trace is an exemplar, and which entities it passed through
    Correlate(Correlate),
    /// Lists incidents, changes, findings, what is covered, or what is muted
    Get(Get),
    /// Tells whether the answer for an incident was right; it counts in further answers
    Feedback(Judgement),
    /// Tells that you take care of an incident: nobody is notified of its changes any more, only of its end
    Ack(Acknowledgement),
    /// Until a time nobody is notified of an incident, or of all incidents of an object or a namespace
    Mute(Muting),
    /// Writes the facts of an incident, one JSON object a line, for `replay`
    Export(Export),
    /// Explains recorded facts, without a server: prints incidents as JSON
    Replay(Replay),
    /// Checks that the server can be reached and that facts arrive
    Doctor,
    /// Prints a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// KIND/NAME, NAME, or TAP-n
    #[arg(value_name = "OBJECT")]
    pub(crate) object: String,
    /// Namespace; without it the one of the current context
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// As of this time, such as 2026-11-29T02:10:00Z, instead of now
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Exit with 1 if there is an open incident
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    /// KIND/NAME, or TAP-n; without it what is open now
    #[arg(value_name = "OBJECT")]
    pub(crate) object: Option<String>,
    /// Namespace; without it the one of the current context
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// The port on this host; 0 is any
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// Only print the address
    #[arg(long)]
    pub(crate) no_browser: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Correlate {
    /// The trace: 32 hexadecimal digits
    #[arg(long, value_name = "ID")]
    pub(crate) trace_id: String,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Judgement {
    /// The incident: TAP-n
    #[arg(value_name = "TAP-n")]
    pub(crate) incident: String,
    /// Whether it named the cause
    #[arg(value_enum)]
    pub(crate) verdict: Word,
    /// In your own words, for those who look at it later
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Word {
    /// It was the cause
    Right,
    /// It has to do with it, but is not the cause
    NotQuite,
    /// It was something else
    Wrong,
}

impl Word {
    pub(crate) const fn verdict(self) -> Verdict {
        match self {
            Self::Right => Verdict::Right,
            Self::NotQuite => Verdict::NotQuite,
            Self::Wrong => Verdict::Wrong,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Acknowledgement {
    /// The incident: TAP-n
    #[arg(value_name = "TAP-n")]
    pub(crate) incident: String,
    /// Why, for those who look at it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Take it back
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Muting {
    /// An incident, TAP-n, or KIND/NAME; without it everything in --namespace
    #[arg(value_name = "TAP-n|KIND/NAME", required_unless_present = "namespace")]
    pub(crate) object: Option<String>,
    /// Namespace of the object; without it the one of the current context
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Until when: 2026-11-30T06:00:00Z, or 06:00, the next one in UTC
    #[arg(long, value_name = "TIME", group = "end", required_unless_present_any = ["for", "undo"])]
    pub(crate) until: Option<String>,
    /// For how long from now: 90m, 2h
    #[arg(long, value_name = "DURATION", group = "end")]
    pub(crate) r#for: Option<String>,
    /// Why, for those who look at it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// End the mute now
    #[arg(long, group = "end")]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to list
    #[arg(value_enum)]
    pub(crate) what: What,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum What {
    /// Incidents, the newest first
    Incidents,
    /// What somebody changed
    Changes,
    /// What agents and Kubernetes report
    Findings,
    /// Which nodes report, and how old the view of Kubernetes is
    Coverage,
    /// Objects and namespaces that are muted
    Mutes,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The incident: TAP-n; without it all facts that the server keeps
    #[arg(value_name = "TAP-n")]
    pub(crate) incident: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Facts, one JSON object a line; `-` for standard input
    #[arg(value_name = "FACTS.jsonl")]
    pub(crate) facts: PathBuf,
    /// Own rule files beside those that come with Tapio: a file or a directory
    #[arg(long, value_name = "PATH")]
    pub(crate) rules: Option<PathBuf>,
    /// Answers for one object, as `why` does: KIND/NAME
    #[arg(long, value_name = "OBJECT")]
    pub(crate) why: Option<String>,
    /// Its namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t = Format::Json)]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// Text with every cause that was considered
    Wide,
    /// JSON
    Json,
}

/// An incident as it is written: TAP-142.
pub(crate) fn incident(text: &str) -> Result<String, String> {
    let incident = text.to_ascii_uppercase();
    match incident.strip_prefix("TAP-").and_then(|number| number.parse::<u64>().ok()) {
        Some(_) => Ok(incident),
        None => Err(format!("{text}: give an incident, such as TAP-142")),
    }
}

/// Splits KIND/NAME.
pub(crate) fn object(text: &str) -> Result<(Option<&'static str>, &str), String> {
    match text.split_once('/') {
        None => Ok((None, text)),
        Some((kind, name)) => match tapio_ahti::answer::kind(kind) {
            Some(kind) => Ok((Some(kind), name)),
            None => Err(format!(
                "{text}: there is no kind {kind}: give one such as deploy, sts, ds, job, pod, svc, cm, node, or only the name"
            )),
        },
    }
}
