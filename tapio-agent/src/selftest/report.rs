//! Checks that a fault was reported correctly: once, with the right type and process.

use std::{fmt, time::Duration};

use tapio_occurrence::Occurrence;

use super::{
    Outcome,
    recorder::{Seen, sees_host_pids},
};
use crate::fault::{Caused, Fault, Subject, mount_point, role::COMM};

/// The correct report of a fault.
#[derive(Debug)]
pub(super) struct Report {
    fault: &'static Fault,
    caused: Caused,
    kind: &'static str,
    message: String,
    after: Duration,
}

/// Whether an occurrence is about the fault that was caused.
pub(super) fn is_about(fault: &Fault, caused: &Caused, occurrence: &Occurrence) -> bool {
    match caused.subject {
        Subject::To(to) => {
            let peer = occurrence.peer.as_ref();
            peer.is_some_and(|peer| (peer.address, peer.port) == (to.ip(), to.port()))
        }
        Subject::Filesystem => occurrence.data.text("mount_point") == mount_point(caused.pid).to_str(),
        Subject::Listener(port) => occurrence.data.number("port") == Some(port.into()),
        // In its own pid namespace the self-test does not know its children's pids on the host.
        Subject::Process if !sees_host_pids() => fault.kinds.contains(&&*occurrence.kind),
        Subject::Process => {
            let process = occurrence.process.as_ref();
            occurrence.peer.is_none() && process.is_some_and(|process| process.pid == caused.pid)
        }
    }
}

/// Checks the type and the process of a report.
pub(super) fn judge(fault: &'static Fault, caused: &Caused, seen: &Seen) -> Outcome {
    let Seen { occurrence, after } = seen;
    let Some(kind) = fault.kinds.iter().find(|kind| **kind == occurrence.kind) else {
        let right = fault.kinds.join(" or ");
        return Outcome::Missed(format!("reported as {} instead of {right}", occurrence.kind));
    };
    let comm = COMM.to_string_lossy();
    let process = occurrence.process.as_ref();
    let is_right = |pid| !sees_host_pids() || pid == caused.pid;
    if !matches!(caused.subject, Subject::Filesystem | Subject::Listener(_))
        && !process.is_some_and(|process| process.comm == comm && is_right(process.pid))
    {
        let said = process.map_or("no process".to_owned(), |p| format!("{}[{}]", p.comm, p.pid));
        let pid = caused.pid;
        return Outcome::Missed(format!("{} names {said}, but it was {comm}[{pid}]", occurrence.kind));
    }
    let message = occurrence.message.clone();
    Outcome::Reported(Report { fault, caused: *caused, kind, message, after: *after })
}

impl Report {
    /// Returns the error if the fault was not reported exactly once.
    pub(super) fn repeats(&self, all: &[Seen]) -> Option<String> {
        let about: Vec<_> = all
            .iter()
            .map(|seen| &seen.occurrence)
            .filter(|occurrence| is_about(self.fault, &self.caused, occurrence))
            .collect();
        (about.len() != 1).then(|| {
            let kinds: Vec<_> = about.iter().map(|occurrence| &*occurrence.kind).collect();
            format!("reported {} times, not once: {}", about.len(), kinds.join(", "))
        })
    }

    #[cfg(test)]
    pub(super) fn sample() -> Self {
        let (fault, caused) = tests::sample();
        let message = "refused".to_owned();
        Self { fault, caused, kind: fault.kinds[0], message, after: Duration::ZERO }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after_ms = self.after.as_secs_f64() * 1e3;
        write!(f, "{} after {after_ms:.1} ms: {}", self.kind, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_occurrence::{Peer, Process, samples::occurrence};

    /// A refused connect.
    pub(super) fn sample() -> (&'static Fault, Caused) {
        let mut faults = crate::observer::FAULTS.iter().flat_map(|(_, faults)| *faults);
        let fault = faults.find(|fault| fault.kinds == ["network.connection_refused"]).unwrap();
        (fault, Caused { subject: Subject::To(([127, 0, 0, 1], 4).into()), pid: 42 })
    }

    fn seen(kind: &'static str, process: Option<(u32, &str)>) -> Seen {
        let peer = Peer::unresolved([127, 0, 0, 1].into(), 4);
        let process = process.map(|(pid, comm)| Process { pid, comm: comm.to_owned() });
        let occurrence = Occurrence { kind: kind.into(), process, peer: Some(peer), ..occurrence() };
        Seen { occurrence, after: Duration::from_millis(2) }
    }

    #[test]
    fn only_the_right_type_and_process_will_do() {
        const REFUSED: &str = "network.connection_refused";
        let (fault, caused) = sample();
        let judge = |seen: &Seen| judge(fault, &caused, seen);
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
