//! The faults: how each is caused, and what is the right report of it.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tapio_occurrence::Occurrence;

use super::{
    Outcome,
    act::{Act, COMM},
    child::Child,
    group::Group,
    namespace::Link,
    recorder::{Recorder, Seen, sees_host_pids},
};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A connect to a closed port.
    Refused,
    /// A connect that is not answered and given up.
    GivenUp,
    /// Round trips that rise.
    SlowRoundTrips,
    /// A process that takes more memory than its group may.
    OutOfMemory,
    /// A process that aborts.
    Crash,
    /// A process that another kills.
    Kill,
}

/// What a fault is about: no other fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// A destination.
    To(SocketAddr),
    /// The death of a child with this pid, which is of this type.
    Death(u32, &'static str),
}

/// A fault that was caused.
#[derive(Debug)]
struct Caused {
    subject: Subject,
    pid: u32,
}

/// The right report of a fault.
#[derive(Debug)]
pub(super) struct Report {
    subject: Subject,
    kind: &'static str,
    message: String,
    after: Duration,
}

/// What faults are caused with.
#[derive(Debug)]
pub(super) struct Stage {
    link: Option<Link>,
    group: Option<Group>,
    cgroup_root: PathBuf,
}

/// How long a report may take; a spike waits for two seconds, to see whether it is a new level.
const PATIENCE: Duration = Duration::from_secs(5);

impl Fault {
    pub(super) const ALL: [Self; 6] =
        [Self::Refused, Self::GivenUp, Self::SlowRoundTrips, Self::OutOfMemory, Self::Crash, Self::Kill];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused connect",
            Self::GivenUp => "connect given up",
            Self::SlowRoundTrips => "round trips that rise",
            Self::OutOfMemory => "out of memory",
            Self::Crash => "crash",
            Self::Kill => "kill from outside",
        }
    }

    /// The types of which one is right.
    const fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Refused => &["network.connection_refused"],
            Self::GivenUp => &["network.connection_timeout"],
            Self::SlowRoundTrips => &["network.rtt_shift", "network.rtt_spike"],
            Self::OutOfMemory => &["container.oom_kill"],
            Self::Crash => &["container.crash"],
            Self::Kill => &["container.killed"],
        }
    }

    /// The observer that should report it.
    pub(super) const fn observer(self) -> &'static str {
        match self {
            Self::Refused | Self::GivenUp | Self::SlowRoundTrips => "network",
            Self::OutOfMemory | Self::Crash | Self::Kill => "container",
        }
    }

    /// The kernel program that should see it.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::Refused | Self::GivenUp => "inet_sock_set_state",
            Self::SlowRoundTrips => "tcp_probe",
            Self::OutOfMemory => "mark_victim",
            Self::Crash | Self::Kill => "sched_process_exit",
        }
    }
}

impl Stage {
    pub(super) fn new(cgroup_root: PathBuf) -> Self {
        Self { link: None, group: None, cgroup_root }
    }

    /// Causes a fault and waits for its report.
    pub(super) async fn test(&mut self, fault: Fault, recorder: &mut Recorder) -> Outcome {
        let caused = match self.cause(fault).await {
            Ok(caused) => caused,
            Err(outcome) => return outcome,
        };
        match recorder.wait(PATIENCE, |seen| caused.is_about(&seen.occurrence)).await {
            Some(seen) => caused.judge(fault, seen),
            None => Outcome::Missed(format!(
                "no {} {} within {PATIENCE:?}",
                fault.kinds().join(" or "),
                caused.subject
            )),
        }
    }

    async fn cause(&mut self, fault: Fault) -> Result<Caused, Outcome> {
        match fault {
            Fault::Refused => {
                let mut child = Child::start(&Act::Refused)?;
                let to = child.tells("to").await?;
                let to = to.parse().map_err(|_| format!("{to:?} is no address"))?;
                child.tells("done").await?;
                Ok(Caused { subject: Subject::To(to), pid: child.pid() })
            }
            Fault::GivenUp => {
                let link = self.link()?;
                let to = link.black_hole();
                let mut child = Child::start(&Act::GiveUp { namespace: link.asking(), to })?;
                child.tells("done").await?;
                Ok(Caused { subject: Subject::To(to), pid: child.pid() })
            }
            Fault::SlowRoundTrips => {
                let link = self.link()?;
                let to = link.service();
                let mut server = Child::start(&Act::Answer { namespace: link.answering(), at: to })?;
                server.tells("ready").await?;
                let mut child = Child::start(&Act::Ask { namespace: link.asking(), to })?;
                child.tells("calm").await?;
                link.slow_down()?;
                child.go_on().await?;
                child.tells("done").await?;
                Ok(Caused { subject: Subject::To(to), pid: child.pid() })
            }
            Fault::OutOfMemory => self.death(fault, &Act::Allocate, None).await,
            Fault::Crash => self.death(fault, &Act::Abort, None).await,
            Fault::Kill => self.death(fault, &Act::Wait, Some(Signal::KILL)).await,
        }
    }

    /// A child in a group of its own, which is not that of this process, goes on or is sent a signal, and dies.
    async fn death(&mut self, fault: Fault, act: &Act, signal: Option<Signal>) -> Result<Caused, Outcome> {
        let mut child = Child::start(act)?;
        child.tells("ready").await?;
        self.group()?.add(child.pid())?;
        match signal {
            None => child.go_on().await?,
            Some(signal) => {
                let pid =
                    i32::try_from(child.pid()).ok().and_then(Pid::from_raw).ok_or("odd pid".to_owned())?;
                kill_process(pid, signal).map_err(|error| format!("it cannot be killed: {error}"))?;
            }
        }
        child.ends().await?;
        Ok(Caused { subject: Subject::Death(child.pid(), fault.kinds()[0]), pid: child.pid() })
    }

    /// Made when it is first needed.
    fn group(&mut self) -> Result<&Group, Outcome> {
        match &mut self.group {
            Some(group) => Ok(group),
            none => Ok(none.insert(Group::new(&self.cgroup_root)?)),
        }
    }

    /// Made when it is first needed.
    fn link(&mut self) -> Result<&Link, Outcome> {
        match &mut self.link {
            Some(link) => Ok(link),
            none => Ok(none.insert(Link::new()?)),
        }
    }
}

impl Caused {
    fn is_about(&self, occurrence: &Occurrence) -> bool {
        self.subject.is_of(occurrence)
    }

    /// Whether it was the right report of the fault.
    fn judge(&self, fault: Fault, seen: &Seen) -> Outcome {
        let Seen { occurrence, after } = seen;
        let Some(kind) = fault.kinds().iter().find(|kind| **kind == occurrence.kind) else {
            return Outcome::Missed(format!(
                "reported as {} instead of {}",
                occurrence.kind,
                fault.kinds().join(" or ")
            ));
        };
        let comm = COMM.to_string_lossy();
        let right = occurrence
            .process
            .as_ref()
            .is_some_and(|process| process.comm == comm && (!sees_host_pids() || process.pid == self.pid));
        if !right {
            let said = occurrence.process.as_ref();
            let said = said.map_or("no process".to_owned(), |p| format!("{}[{}]", p.comm, p.pid));
            return Outcome::Missed(format!(
                "{} names {said}, but it was {comm}[{}]",
                occurrence.kind, self.pid
            ));
        }
        let message = occurrence.message.clone();
        Outcome::Reported(Report { subject: self.subject, kind, message, after: *after })
    }
}

impl Report {
    /// What is wrong where there is more than the one, now that all are there.
    pub(super) fn repeats(&self, all: &[Seen]) -> Option<String> {
        let about: Vec<_> = all
            .iter()
            .map(|seen| &seen.occurrence)
            .filter(|occurrence| self.subject.is_of(occurrence))
            .collect();
        (about.len() != 1).then(|| {
            let kinds: Vec<_> = about.iter().map(|occurrence| &*occurrence.kind).collect();
            format!("reported {} times, not once: {}", about.len(), kinds.join(", "))
        })
    }

    #[cfg(test)]
    pub(super) fn sample() -> Self {
        let to = ([127, 0, 0, 1], 4).into();
        Self {
            subject: Subject::To(to),
            kind: "network.connection_refused",
            message: "refused".into(),
            after: Duration::ZERO,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after_ms = self.after.as_secs_f64() * 1e3;
        write!(f, "{} after {after_ms:.1} ms: {}", self.kind, self.message)
    }
}

/// What goes wrong with a child is a fault that was not caused, though it should have been.
impl From<String> for Outcome {
    fn from(why: String) -> Self {
        Self::Missed(format!("it could not be caused: {why}"))
    }
}

impl Subject {
    fn is_of(self, occurrence: &Occurrence) -> bool {
        match self {
            Self::To(to) => {
                let peer = occurrence.peer.as_ref();
                peer.is_some_and(|peer| (peer.address, peer.port) == (to.ip(), to.port()))
            }
            // In a pid namespace of its own it does not know what the kernel calls its children.
            Self::Death(_, kind) if !sees_host_pids() => occurrence.kind == kind,
            Self::Death(pid, _) => {
                let process = occurrence.process.as_ref();
                occurrence.peer.is_none() && process.is_some_and(|process| process.pid == pid)
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(to) => write!(f, "to {to}"),
            Self::Death(pid, _) => write!(f, "of process {pid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_occurrence::{Peer, Process, samples::occurrence as sample};

    fn caused() -> Caused {
        Caused { subject: Subject::To(([127, 0, 0, 1], 4).into()), pid: 42 }
    }

    fn seen(kind: &'static str, process: Option<(u32, &str)>) -> Seen {
        let peer = Peer::unresolved([127, 0, 0, 1].into(), 4);
        let process = process.map(|(pid, comm)| Process { pid, comm: comm.to_owned() });
        let occurrence = Occurrence { kind: kind.into(), process, peer: Some(peer), ..sample() };
        Seen { occurrence, after: Duration::from_millis(2) }
    }

    #[test]
    fn only_the_right_type_and_process_will_do() {
        const REFUSED: &str = "network.connection_refused";
        let judge = |seen: &Seen| caused().judge(Fault::Refused, seen);
        assert!(matches!(judge(&seen(REFUSED, Some((42, "tapio-fault")))), Outcome::Reported(_)));
        for (wrong, why) in [
            (
                seen("network.connection_reset", Some((42, "tapio-fault"))),
                "reported as network.connection_reset instead of network.connection_refused",
            ),
            (
                seen(REFUSED, Some((42, "tapio"))),
                "network.connection_refused names tapio[42], but it was tapio-fault[42]",
            ),
            (seen(REFUSED, None), "network.connection_refused names no process, but it was tapio-fault[42]"),
        ] {
            assert!(matches!(judge(&wrong), Outcome::Missed(text) if text == why), "{why}");
        }
        let other = judge(&seen(REFUSED, Some((43, "tapio-fault"))));
        assert_eq!(matches!(other, Outcome::Missed(_)), sees_host_pids());
    }

    #[test]
    fn a_second_report_is_one_too_many() {
        let report = Report::sample();
        let one = || seen("network.connection_refused", None);
        let elsewhere = || {
            let mut seen = one();
            seen.occurrence.peer = None;
            seen
        };
        assert_eq!(report.repeats(&[elsewhere(), one()]), None);
        let wrong = report.repeats(&[one(), elsewhere(), one()]).unwrap();
        assert!(wrong.starts_with("reported 2 times, not once"), "{wrong}");
    }
}
