//! `tapio selftest`: causes harmless real faults on this host, and says for each whether the observers reported
//! it, once, with the right process.
//!
//! The observers run here as in the agent; the faults come from children, since an agent never judges itself.
//! What is made for them is held by values that take it away when they are dropped, as they are when a signal
//! comes.

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
    fault::{Fault, NotCaused, Stage},
    observer,
};

/// What became of a fault.
#[derive(Debug)]
enum Outcome {
    /// Reported: how.
    Reported(Report),
    /// It was caused, or should have been, and no right report came.
    Missed(String),
    /// It cannot be caused here.
    Skipped {
        /// Why.
        reason: String,
        /// What would help, in one sentence.
        remedy: String,
    },
}

/// Where what became of a fault is shown.
const COLUMN: usize = 24;

/// Runs the self-test. Fails, as an exit code, where a fault was not reported, or none could be caused.
///
/// # Errors
/// Nothing can be observed here: one sentence with the remedy.
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
                say("\ninterrupted; what was made is taken away again\n");
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

/// Causes one after the other; true where all is well.
async fn faults(config: &Config, attached: Attached) -> anyhow::Result<bool> {
    let mut stage = Stage::new(config.cgroup_root.as_path().to_owned());
    for stale in stage.remove_stale() {
        say(&format!("removed what an earlier run left behind: {stale}\n"));
    }
    let mut recorder = Recorder::start(config, attached)?;
    let mut outcomes = Vec::new();
    for (observer, fault) in observer::FAULTS.iter().flat_map(|(of, faults)| faults.iter().map(|f| (*of, f)))
    {
        say(&format!("{:<COLUMN$} ", fault.name));
        let outcome = match recorder.hindrance(observer, fault.part) {
            Some(hindrance) => hindrance,
            None => test(fault, &mut stage, &mut recorder).await,
        };
        say(&format!("{outcome}\n"));
        outcomes.push((fault, outcome));
    }
    // The repeats, which folding suppressed, come out now.
    drop(stage);
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
async fn test(fault: &'static Fault, stage: &mut Stage, recorder: &mut Recorder) -> Outcome {
    let caused = match (fault.cause)(stage).await {
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

/// Plays the part of a child: `tapio fault ACT ARGUMENTS`.
///
/// # Errors
/// There is no such part, or it cannot be played here.
pub fn play(act: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut acts = observer::ACTS.iter().copied().flatten();
    let act = acts.find(|known| known.name == act).with_context(|| format!("there is no act {act}"))?;
    act.play(arguments)
}

impl From<NotCaused> for Outcome {
    fn from(not_caused: NotCaused) -> Self {
        match not_caused {
            NotCaused::Failed(why) => Self::Missed(why),
            NotCaused::Impossible { reason, remedy } => Self::Skipped { reason, remedy },
        }
    }
}

/// The last line, and whether all is well.
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

/// Shows progress. A reader that has gone is no reason to stop: the exit code says how it went.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_of_its_observer_and_every_act_has_one_name() {
        for (observer, faults) in observer::FAULTS {
            for fault in *faults {
                assert!(!fault.kinds.is_empty());
                for kind in fault.kinds {
                    assert_eq!(observer::of(kind), *observer, "{}", fault.name);
                }
            }
        }
        let mut names: Vec<_> = observer::ACTS.iter().copied().flatten().map(|act| act.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(play("dance", &[]).unwrap_err().to_string().contains("no act dance"));
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
