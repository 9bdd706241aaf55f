//! `tapio selftest`: causes harmless real faults on this host, and says for each whether the observers reported
//! it, once, with the right process.
//!
//! The observers run as in the agent. Children cause the faults, since an agent never judges itself. Values own
//! everything that is made for a fault, and remove it when they are dropped, also after a signal.

mod recorder;
mod report;

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    process::ExitCode,
};

use anyhow::Context as _;
use tapio_occurrence::printable::Printable;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    recorder::{Attached, PATIENCE, Recorder},
    report::Report,
};
use crate::{
    config::Config,
    fault::{Environment, Fault, NotCaused},
    observer,
};

/// The result of a fault.
#[derive(Debug)]
enum Outcome {
    /// It was reported correctly.
    Reported(Report),
    /// It was caused, or should have been, but no correct report came.
    Missed(String),
    /// It cannot be caused on this host.
    Skipped {
        /// The reason.
        reason: String,
        /// The remedy, in one sentence.
        remedy: String,
    },
}

/// Column at which the results begin.
const COLUMN: usize = 24;

/// Runs the self-test. The exit code is a failure if a fault was not reported, or none could be caused.
///
/// # Errors
/// Nothing can be observed on this host. The error is one sentence with the remedy.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let attached = Attached::new(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("threads cannot be started")?;
    runtime.block_on(async {
        let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = signals.map(signal);
        let mut signals = [interrupt?, terminate?, hangup?];
        tokio::select! {
            all_well = faults(config, attached) => Ok(ExitCode::from(u8::from(!all_well?))),
            () = any(&mut signals) => {
                say("\ninterrupted; everything made for the faults is removed\n");
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

/// Causes the faults one after the other. Returns true if all that could be caused were reported.
async fn faults(config: &Config, attached: Attached) -> anyhow::Result<bool> {
    let mut environment = Environment::new(config.cgroup_root.as_path().to_owned());
    for stale in environment.remove_stale() {
        say(&format!("removed what an earlier run left behind: {stale}\n"));
    }
    let mut recorder = Recorder::start(config, attached)?;
    let mut outcomes = Vec::new();
    for (observer, fault) in observer::FAULTS.iter().flat_map(|(of, faults)| faults.iter().map(|f| (*of, f)))
    {
        say(&format!("{:<COLUMN$} ", fault.name));
        let outcome = match recorder.obstacle(observer, fault.part) {
            Some(skipped_or_missed) => skipped_or_missed,
            None => test(fault, &mut environment, &mut recorder).await,
        };
        say(&format!("{outcome}\n"));
        outcomes.push((fault, outcome));
    }
    // Ending the recorder reports the repeats that folding suppressed.
    drop(environment);
    let all = recorder.end().await?;
    for (fault, outcome) in &mut outcomes {
        if let Outcome::Reported(report) = outcome
            && let Some(wrong) = report.repeats(&all)
        {
            *outcome = Outcome::Missed(wrong);
            say(&format!("{:<COLUMN$} {outcome}\n", fault.name));
        }
    }
    let (text, all_well) = summary(outcomes.iter().map(|(_, outcome)| outcome));
    say(&text);
    Ok(all_well)
}

/// Causes a fault and waits for its report.
async fn test(fault: &'static Fault, environment: &mut Environment, recorder: &mut Recorder) -> Outcome {
    let caused = match (fault.cause)(environment).await {
        Ok(caused) => caused,
        Err(not_caused) => return not_caused.into(),
    };
    match recorder.wait(PATIENCE, |seen| report::is_about(fault, &caused, &seen.occurrence)).await {
        Some(seen) => report::judge(fault, &caused, seen),
        None => {
            Outcome::Missed(format!("no {} {} within {PATIENCE:?}", fault.kinds.join(" or "), caused.subject))
        }
    }
}

/// Runs the role of a child: `tapio fault ROLE ARGUMENTS`.
///
/// # Errors
/// No observer has this role, or the role failed.
pub fn run_role(role: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut roles = observer::ROLES.iter().copied().flatten();
    let role = roles.find(|known| known.name == role).with_context(|| format!("there is no role {role}"))?;
    role.start(arguments)
}

impl From<NotCaused> for Outcome {
    fn from(not_caused: NotCaused) -> Self {
        match not_caused {
            NotCaused::Failed(why) => Self::Missed(why),
            NotCaused::Impossible { reason, remedy } => Self::Skipped { reason, remedy },
        }
    }
}

/// The last line, and whether the self-test succeeded.
fn summary<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> (String, bool) {
    let (mut reported, mut caused, mut skipped) = (0, 0, 0);
    for outcome in outcomes {
        match outcome {
            Outcome::Reported(_) => (reported, caused) = (reported + 1, caused + 1),
            Outcome::Missed(_) => caused += 1,
            Outcome::Skipped { .. } => skipped += 1,
        }
    }
    let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
    (format!("{reported} of {caused} faults reported{skipped}\n"), caused > 0 && reported == caused)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(report) => write!(Printable(f), "reported  {report}"),
            Self::Missed(why) => write!(Printable(f), "MISSED    {why}"),
            Self::Skipped { reason, remedy } => {
                write!(Printable(f), "skipped   {reason}; remedy: {remedy}")
            }
        }
    }
}

async fn any(signals: &mut [Signal; 3]) {
    let [first, second, third] = signals;
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
        _ = third.recv() => {}
    }
}

/// Prints progress. It ignores a closed standard output: the exit code still has the result.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_of_its_observer_and_every_role_has_one_name() {
        for (observer, faults) in observer::FAULTS {
            for fault in *faults {
                assert!(!fault.kinds.is_empty());
                for kind in fault.kinds {
                    assert_eq!(observer::of(kind), *observer, "{}", fault.name);
                }
            }
        }
        let mut names: Vec<_> = observer::ROLES.iter().copied().flatten().map(|role| role.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(run_role("dance", &[]).unwrap_err().to_string().contains("no role dance"));
    }

    #[test]
    fn skipped_faults_fail_only_alone() {
        let skipped = || Outcome::Skipped { reason: "no tc".into(), remedy: "install iproute2".into() };
        let missed = || Outcome::Missed("nothing came".into());
        let reported = || Outcome::Reported(Report::sample());
        let of = |outcomes: &[Outcome]| summary(outcomes.iter());
        assert_eq!(
            of(&[reported(), reported(), skipped()]),
            ("2 of 2 faults reported, 1 skipped\n".into(), true)
        );
        assert_eq!(of(&[reported(), missed()]), ("1 of 2 faults reported\n".into(), false));
        assert_eq!(of(&[skipped(), skipped()]), ("0 of 0 faults reported, 2 skipped\n".into(), false));
        assert_eq!(skipped().to_string(), "skipped   no tc; remedy: install iproute2");
    }
}
