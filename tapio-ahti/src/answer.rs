//! Answers, and their text for a terminal.

use std::{collections::BTreeMap, fmt::Write as _};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::{printable::printable, timestamp};

use crate::{
    incident::{Certainty, Coverage, Evidence, Incident, Line, Mute, Name, Status},
    story,
    story::KUBERNETES,
};

/// Why an object fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// What kind of answer it is.
    pub state: State,
    /// The object; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Name>,
    /// The incident that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<Incident>,
    /// Whom it calls, directly or through others, if the incident is not its own: one of those that are hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Name>,
    /// Findings about the object and what it owns, the newest first.
    pub findings: Vec<Line>,
    /// Objects of that name elsewhere, if it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub similar: Vec<Name>,
    /// What was looked at.
    pub coverage: Coverage,
    /// The time of the latest fact, nanoseconds since 1970 UTC.
    pub as_of_unix_ns: u64,
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The object is part of an incident.
    Incident,
    /// It is known, and part of none.
    Quiet,
    /// No such object is known.
    Unknown,
    /// Nothing at all is known: no fact has arrived yet.
    #[default]
    Empty,
}

/// What a name without a kind may be of.
pub(crate) const BY_NAME: &[&str] = &[
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "CronJob",
    "Job",
    "Service",
    "Pod",
    "Node",
    "ConfigMap",
    "Unit",
    "Application",
];

/// Kinds with the short names of kubectl.
const KINDS: &[(&str, &[&str])] = &[
    ("Deployment", &["deployments", "deploy"]),
    ("StatefulSet", &["statefulsets", "sts"]),
    ("DaemonSet", &["daemonsets", "ds"]),
    ("ReplicaSet", &["replicasets", "rs"]),
    ("Job", &["jobs"]),
    ("CronJob", &["cronjobs", "cj"]),
    ("Pod", &["pods", "po"]),
    ("Service", &["services", "svc"]),
    ("ConfigMap", &["configmaps", "cm"]),
    ("Secret", &["secrets"]),
    ("Node", &["nodes", "no"]),
    ("Ingress", &["ingresses", "ing"]),
    ("NetworkPolicy", &["networkpolicies", "netpol"]),
    ("PersistentVolumeClaim", &["persistentvolumeclaims", "pvc"]),
    ("PersistentVolume", &["persistentvolumes", "pv"]),
    ("HorizontalPodAutoscaler", &["horizontalpodautoscalers", "hpa"]),
    ("ResourceQuota", &["resourcequotas", "quota"]),
    ("Unit", &["units"]),
    ("Application", &["applications", "app"]),
];

/// The kind that kubectl's word for it stands for.
#[must_use]
pub fn kind(word: &str) -> Option<&'static str> {
    let is = |(kind, words): &&(&'static str, &[&str])| {
        kind.eq_ignore_ascii_case(word) || words.iter().any(|known| known.eq_ignore_ascii_case(word))
    };
    KINDS.iter().find(is).map(|(kind, _)| *kind)
}

/// Whether objects of a kind are in no namespace.
#[must_use]
pub fn is_of_cluster(word: &str) -> bool {
    matches!(kind(word), Some("Node" | "PersistentVolume" | "Unit"))
}

impl Answer {
    /// The answer as text.
    #[must_use]
    pub fn text(&self) -> String {
        match (&self.incident, &self.asked) {
            (Some(incident), asked) => self.needed(asked.as_ref()) + &text(incident, &self.coverage),
            (None, Some(asked)) => self.quiet(asked),
            (None, None) => self.unknown(),
        }
    }

    /// Why the incident is somebody else's.
    fn needed(&self, asked: Option<&Name>) -> String {
        let text = asked.and_then(|asked| self.needed_text(asked));
        text.map(|text| printable(&text).into_owned() + "\n").unwrap_or_default()
    }

    /// Why the incident is somebody else's; `None` if it is the object's own.
    #[must_use]
    pub fn needed_text(&self, asked: &Name) -> Option<String> {
        let needed = self.needs.as_ref()?;
        Some(format!("{asked} has no incident of its own. It calls {needed}, directly or through others:"))
    }

    /// What there is to say of an object that is part of no incident.
    #[must_use]
    pub const fn quiet_text(&self) -> &'static str {
        let covered = self.coverage.nodes > 0 && self.coverage.kubernetes_age_s.is_some();
        match (self.findings.is_empty(), covered) {
            (true, true) => "nothing is wrong: no findings in the last 24 h",
            (true, false) => {
                "no findings, but not everything is watched (below): that does not mean that nothing is wrong"
            }
            (false, _) => "no incident; findings in the last 24 h, the newest first:",
        }
    }

    fn quiet(&self, asked: &Name) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}: {}", printable(&asked.to_string()), self.quiet_text());
        for line in self.findings.iter().take(MAX_THEN) {
            row(&mut out, "", &shown(line));
        }
        row(&mut out, "COVERAGE", &covered_text(&self.coverage));
        out
    }

    fn unknown(&self) -> String {
        let mut out = String::new();
        let _ = match (self.state, self.similar.as_slice()) {
            (State::Empty, _) => writeln!(out, "{NO_FACTS}"),
            (_, []) => writeln!(out, "no such object is known"),
            (_, similar) => writeln!(out, "no such object is known; there is {}", printable(&names(similar))),
        };
        row(&mut out, "COVERAGE", &covered_text(&self.coverage));
        out
    }
}

/// Lines after the first failure that are shown.
const MAX_THEN: usize = 6;

/// What is said where nothing is known at all.
pub const NO_FACTS: &str = "no facts have arrived yet: check that the agents have `polku` set to this server, and that role portti may \
                            watch the API server (kubectl tapio doctor)";
/// An incident in the lines that tell its story.
#[derive(Clone, Debug, PartialEq)]
pub struct Story<'a> {
    /// The cause; `None` if it is not known.
    pub cause: Option<&'a Line>,
    /// The first failure, and what came then.
    pub then: Vec<&'a Line>,
    /// Further lines, which say nothing that changes the story.
    pub more: usize,
}

impl<'a> Story<'a> {
    /// The story of an incident.
    #[must_use]
    pub fn of(incident: &'a Incident) -> Self {
        let (cause, rest) = match (incident.has_cause, incident.lines.split_first()) {
            (true, Some((cause, rest))) => (Some(cause), rest),
            _ => (None, incident.lines.as_slice()),
        };
        let then = chosen(cause, rest);
        Self { cause, more: rest.len() - then.len(), then }
    }
}

/// How sure an incident's cause is, or that the incident is over.
#[must_use]
pub fn state(incident: &Incident) -> String {
    match incident.status {
        Status::Open => sure(incident),
        Status::Resolved => "RESOLVED".to_owned(),
        Status::Regressed => "REGRESSED".to_owned(),
    }
}

/// What is said where there is no cause.
#[must_use]
pub fn no_cause(incident: &Incident) -> String {
    if incident.hidden.cause {
        return "not shown: you may not read where it is".to_owned();
    }
    format!("not known{}", closest(incident))
}

/// How often the same was seen before; `None` if it was not.
#[must_use]
pub fn seen(incident: &Incident) -> Option<String> {
    match incident.seen_before {
        0 => None,
        1 => Some("once before".to_owned()),
        times => Some(format!("{times} times before")),
    }
}

/// Who takes care of it; `None` if nobody said so.
#[must_use]
pub fn acked(incident: &Incident) -> Option<String> {
    let ack = incident.ack.as_ref()?;
    Some(format!("{}{}", said(ack.by.as_deref(), ack.at_unix_ns), reason(ack.reason.as_deref())))
}

/// That somebody takes care of an open incident, or that nobody is notified of it, in a word.
#[must_use]
pub fn attention(incident: &Incident) -> Option<&'static str> {
    let is_open = incident.status != Status::Resolved;
    match (&incident.mute, &incident.ack) {
        (Some(_), _) => Some("muted"),
        (None, Some(_)) if is_open => Some("acked"),
        (None, _) => None,
    }
}

/// Until when something is muted, and who did it.
#[must_use]
pub fn muted(mute: &Mute) -> String {
    let of = mute.of.as_ref().map(|of| format!("with all of {of}, ")).unwrap_or_default();
    let until = minute(mute.until_unix_ns);
    let by = said(mute.by.as_deref(), mute.at_unix_ns);
    format!("until {until}, {of}{by}{}", reason(mute.reason.as_deref()))
}

fn said(by: Option<&str>, at_ns: u64) -> String {
    let by = by.map(|by| format!("by {by} ")).unwrap_or_default();
    format!("{by}at {}", minute(at_ns))
}

fn reason(text: Option<&str>) -> String {
    text.map(|text| format!(": {text}")).unwrap_or_default()
}

/// A time to the minute: `2026-11-12 02:07 UTC`.
fn minute(unix_ns: u64) -> String {
    let text = timestamp(unix_ns).to_string();
    let (date, time) = (text.get(..10).unwrap_or_default(), text.get(11..16).unwrap_or_default());
    format!("{date} {time} UTC")
}

/// Writes an incident, with what was looked at.
#[must_use]
pub fn text(incident: &Incident, coverage: &Coverage) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}.  {}  {}", printable(&incident.title), incident.id, state(incident));
    let story = Story::of(incident);
    match story.cause {
        Some(cause) => row(&mut out, "CAUSE", &shown(cause)),
        None => row(&mut out, "CAUSE", &no_cause(incident)),
    }
    for (nth, line) in story.then.iter().enumerate() {
        row(&mut out, if nth == 0 { "FIRST" } else { "THEN" }, &shown(line));
    }
    if story.more > 0 {
        row(&mut out, "", &format!("and {} more: -o json", story.more));
    }
    let hidden = incident.hidden;
    if hidden.steps > 0 {
        row(&mut out, "", &format!("{} where you may not read", counted(hidden.steps, "step")));
    }
    let hits = Some(names(&incident.hits)).filter(|_| !incident.hits.is_empty());
    let hidden =
        (hidden.hits > 0).then(|| format!("{} where you may not read", counted(hidden.hits, "workload")));
    if hits.is_some() || hidden.is_some() {
        let all: Vec<_> = hits.into_iter().chain(hidden).collect();
        row(&mut out, "HITS", &all.join(" + "));
    }
    if !incident.at_risk.is_empty() {
        row(&mut out, "AT RISK", &names(&incident.at_risk));
    }
    if !incident.ruled_out.is_empty() {
        row(&mut out, "RULED OUT", &incident.ruled_out.join(" · "));
    }
    if !incident.missing.is_empty() {
        row(&mut out, "MISSING", &incident.missing.join(" · "));
    }
    for (nth, advice) in incident.advice.iter().enumerate() {
        let command = advice.command.as_ref().map(|command| format!(": {command}")).unwrap_or_default();
        row(&mut out, if nth == 0 { "DO FIRST" } else { "THEN" }, &format!("{}{command}", advice.text));
    }
    if let Some(seen) = seen(incident) {
        row(&mut out, "SEEN", &seen);
    }
    if let Some(acked) = acked(incident) {
        row(&mut out, "ACKED", &acked);
    }
    if let Some(muted) = incident.mute.as_ref().map(muted) {
        row(&mut out, "MUTED", &muted);
    }
    if let Some(feedback) = incident.feedback {
        row(&mut out, "JUDGED", feedback.word());
    }
    row(&mut out, "COVERAGE", &covered_text(coverage));
    out
}

/// How sure an answer is: with a number, unless the evidence does not decide.
#[must_use]
pub fn sure(incident: &Incident) -> String {
    let word = story::shown(incident.certainty);
    match incident.lead.filter(|_| incident.certainty >= Certainty::Likely) {
        Some(lead) => format!("{word} {} %", lead.chance.percent),
        None => word.to_owned(),
    }
}

/// Where a cause that is not known is closest.
fn closest(incident: &Incident) -> String {
    let unlikely = incident.lead.and(incident.lines.first()).map(|line| &line.text);
    match unlikely.or_else(|| incident.considered.first().map(|considered| &considered.text)) {
        Some(text) => format!("; closest: {text}"),
        None => String::new(),
    }
}

/// How much a line adds to a story.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Adds {
    /// It is the first of a workload.
    Workload,
    /// It is the first of a type, of a workload that is there.
    NewType,
    /// It is the first of a workload, but the third of a type.
    RepeatedType,
}

/// The lines that tell the story: the first of each workload, and of the first one two. From the third of a type on, lines of other
/// types go before. What the kernel says is closer to what happened than what the API server says a moment later.
fn chosen<'a>(cause: Option<&Line>, lines: &'a [Line]) -> Vec<&'a Line> {
    let is_kubernetes = |line: &Line| line.source == KUBERNETES;
    let has_closer = |line: &Line| {
        let mut others = cause.into_iter().chain(lines);
        others.any(|other| other.workload == line.workload && !is_kubernetes(other))
    };
    let first = lines.first().map(|line| &line.workload);
    let (mut of_workload, mut of_type) = (BTreeMap::<&Name, usize>::new(), BTreeMap::<&str, usize>::new());
    let mut chosen = Vec::new();
    for (nth, line) in lines.iter().enumerate().filter(|(_, line)| !is_kubernetes(line) || !has_closer(line))
    {
        let own = of_workload.entry(&line.workload).or_default();
        let same = of_type.entry(&line.kind).or_default();
        let most = if Some(&line.workload) == first { 2 } else { 1 };
        let adds = match (*own < most, *same) {
            (true, 0 | 1) => Adds::Workload,
            (true, _) => Adds::RepeatedType,
            (false, 0) => Adds::NewType,
            (false, _) => continue,
        };
        // What came first is never left out.
        chosen.push((!chosen.is_empty(), adds, is_kubernetes(line), nth));
        *own += 1;
        *same += 1;
    }
    if chosen.iter().all(|(_, adds, ..)| *adds != Adds::RepeatedType) {
        chosen.retain(|(_, adds, ..)| *adds == Adds::Workload);
    }
    chosen.sort_unstable();
    chosen.truncate(MAX_THEN);
    chosen.sort_unstable_by_key(|(.., nth)| *nth);
    chosen.into_iter().filter_map(|(.., nth)| lines.get(nth)).collect()
}

/// What is looked at, in one line.
#[must_use]
pub fn covered_text(coverage: &Coverage) -> String {
    let kubernetes = match coverage.kubernetes_age_s {
        Some(age) => format!("Kubernetes {age} s old"),
        None => "Kubernetes is not watched".to_owned(),
    };
    let mut all = vec![format!("{} of {} nodes", coverage.nodes, coverage.of_nodes), kubernetes];
    all.extend(coverage.silent.iter().take(3).cloned());
    if coverage.dropped > 0 {
        all.push(format!("{} anomalies dropped by agents", coverage.dropped));
    }
    all.join(" · ")
}

fn row(out: &mut String, head: &str, text: &str) {
    let _ = writeln!(out, "{head:<9} {}", printable(text));
}

pub(crate) fn shown(line: &Line) -> String {
    let time = timestamp(line.since_unix_ns).to_string();
    let time = time.get(11..19).unwrap_or_default().to_owned();
    format!("{time} {}{} [{}, {}]", line.text, times(line), line.source, owner(line))
}

/// How often something happened, to be put behind its text; empty if once.
#[must_use]
pub fn times(line: &Line) -> String {
    match (line.count, line.pods) {
        (0 | 1, _) => String::new(),
        (count, 0 | 1) => format!(", {count} times"),
        (count, pods) => format!(", {count} times in {pods} pods"),
    }
}

/// Whether the owner of a line is known, in a word.
#[must_use]
pub const fn owner(line: &Line) -> &'static str {
    match line.owner {
        Evidence::Exact => "exact",
        Evidence::Inferred => "inferred",
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn names(names: &[Name]) -> String {
    let shown: Vec<_> = names.iter().take(5).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" + {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
