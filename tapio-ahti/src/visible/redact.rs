//! What is left of an answer for a caller.

use super::{Place, Prose, Sight};
use crate::{
    about::About,
    answer::{Answer, State},
    attention,
    blast::{Blast, Reach},
    changes::Changed,
    correlate::{self, Correlation},
    incident::{Ack, Considered, Coverage, Hidden, Incident, Line, Mute, Step},
    story::short,
};

/// An answer that can be cut down to what a caller may read.
pub trait Redact {
    /// Takes away what is hidden.
    fn redact(&mut self, sight: &mut Sight);
}

impl Redact for Vec<Line> {
    fn redact(&mut self, sight: &mut Sight) {
        self.retain_mut(|line| left_of_line(line, sight));
    }
}

impl Redact for Vec<Incident> {
    fn redact(&mut self, sight: &mut Sight) {
        self.retain_mut(|incident| left_of_incident(incident, sight));
    }
}

impl Redact for Vec<Changed> {
    fn redact(&mut self, sight: &mut Sight) {
        self.retain_mut(|change| {
            let is_seen = left_of_line(&mut change.line, sight);
            for text in
                [&mut change.manager, &mut change.tool, &mut change.application, &mut change.tool_revision]
            {
                *text = text.take().filter(|text| sight.shows(text));
            }
            is_seen
        });
    }
}

impl Redact for Option<About> {
    fn redact(&mut self, sight: &mut Sight) {
        let Some(about) = self.as_mut().filter(|about| sight.sees(&about.name)) else {
            *self = None;
            return;
        };
        about.pods.retain(|pod| sight.sees(&pod.name));
        for names in [&mut about.owners, &mut about.calls, &mut about.callers] {
            names.retain(|name| sight.sees(name));
        }
        about.incidents.redact(sight);
        about.changes.redact(sight);
        about.findings.redact(sight);
    }
}

impl Redact for Option<Blast> {
    fn redact(&mut self, sight: &mut Sight) {
        let Some(blast) = self else { return };
        let seen: Vec<bool> = blast.members.iter().map(|member| sight.sees(&member.name)).collect();
        let place = |at: usize| {
            let (before, rest) = seen.split_at_checked(at)?;
            rest.first().filter(|is_seen| **is_seen)?;
            Some(before.iter().filter(|is_seen| **is_seen).count())
        };
        let left = blast.reaches.iter().filter_map(|reach| {
            let because = reach.because.clone().filter(|because| sight.shows(because));
            Some(Reach { from: place(reach.from)?, to: place(reach.to)?, because, ..*reach })
        });
        blast.reaches = left.collect();
        blast.members.retain_mut(|member| {
            member.text = member.text.take().filter(|text| sight.shows_prose(text));
            sight.sees(&member.name)
        });
        if blast.members.is_empty() {
            *self = None;
        }
    }
}

impl Redact for Vec<Mute> {
    fn redact(&mut self, sight: &mut Sight) {
        self.retain_mut(|mute| {
            let is_seen = mute.of.as_ref().is_none_or(|of| sight.reads(&attention::place(of)));
            left_of_mute(mute, sight);
            is_seen
        });
    }
}

impl Redact for Coverage {
    fn redact(&mut self, sight: &mut Sight) {
        let reads_nodes = sight.reads(&Place::Cluster);
        for texts in [&mut self.silent, &mut self.degraded] {
            texts.retain(|text| reads_nodes && sight.shows(text));
        }
        self.missing_kinds.retain(|text| sight.shows(text));
    }
}

impl Redact for Correlation {
    fn redact(&mut self, sight: &mut Sight) {
        self.signals.redact(sight);
        self.incidents.redact(sight);
        self.passed.retain(|name| sight.reads(&Place::of_text(name)) && sight.shows(name));
        // As of a trace that nobody knows.
        if self.signals.is_empty() && self.incidents.is_empty() {
            self.passed.clear();
            self.nothing = Some(correlate::nothing());
        }
    }
}

impl Redact for Answer {
    fn redact(&mut self, sight: &mut Sight) {
        self.coverage.redact(sight);
        self.similar.retain(|name| sight.sees(name));
        if self.asked.as_ref().is_some_and(|asked| !sight.sees(asked)) {
            // As of an object that nobody knows.
            let Self { similar, coverage, as_of_unix_ns, .. } = std::mem::take(self);
            *self = Self { state: State::Unknown, similar, coverage, as_of_unix_ns, ..Self::default() };
            return;
        }
        self.findings.redact(sight);
        self.needs = self.needs.take().filter(|needed| sight.sees(needed));
        // Who asks for an object hears of what befalls it, though all the rest may be hidden.
        let is_asked = self.asked.is_some();
        if self.incident.as_mut().is_some_and(|incident| !left_of_incident(incident, sight) && !is_asked) {
            (self.incident, self.state) = (None, State::Unknown);
        }
    }
}

/// Whether anything is left of a line.
fn left_of_line(line: &mut Line, sight: &mut Sight) -> bool {
    let is_seen = sees_line(line, sight);
    if is_seen && !sight.shows_prose(&line.text) {
        let text = format!("{} of {}: the rest names what you may not read", line.kind, line.entity);
        line.text = Prose::new(text, []);
    }
    is_seen
}

fn sees_line(line: &Line, sight: &mut Sight) -> bool {
    let (entity, workload) = (sight.sees(&line.entity), sight.sees(&line.workload));
    entity && workload
}

/// Whether anything is left of an incident.
fn left_of_incident(incident: &mut Incident, sight: &mut Sight) -> bool {
    let seen: Vec<bool> = incident.lines.iter().map(|line| sees_line(line, sight)).collect();
    let root = incident.root.as_ref().map(|root| (root.place(), sight.sees(root)));
    let is_cause_hidden = incident.has_cause
        && (root.as_ref().is_some_and(|(_, is_seen)| !is_seen) || seen.first() == Some(&false));
    let hits = incident.hits.len();
    incident.hits.retain(|name| sight.sees(name));
    incident.at_risk.retain(|name| sight.sees(name));
    incident.hidden = Hidden {
        cause: is_cause_hidden,
        steps: seen.iter().filter(|is_seen| !**is_seen).count(),
        hits: hits - incident.hits.len(),
    };
    incident.chain = left_of_chain(&incident.chain, &seen, sight);
    incident.lines.redact(sight);
    if is_cause_hidden {
        (incident.has_cause, incident.root, incident.root_kind) = (false, None, None);
        incident.advice.clear();
    }
    incident.advice.retain(|advice| {
        let texts = [Some(&advice.text), advice.command.as_ref(), advice.undo.as_ref()];
        texts.into_iter().flatten().all(|text| sight.shows_prose(text))
    });
    for texts in [&mut incident.ruled_out, &mut incident.missing] {
        texts.retain(|text| sight.shows_prose(text));
    }
    let best = incident.considered.first().map(|cause| cause.facts.clone());
    incident.considered.retain_mut(|cause| left_of_cause(cause, sight));
    // Without the best one the others would seem to be it.
    if is_cause_hidden || incident.considered.first().map(|cause| &cause.facts) != best.as_ref() {
        incident.considered.clear();
    }
    // Where a cause that is not known is closest is the first line.
    if !incident.has_cause && !is_cause_hidden && seen.first() == Some(&false) {
        incident.lead = None;
    }
    if !sight.shows_prose(&incident.title) {
        let place = root.as_ref().filter(|_| is_cause_hidden).map(|(place, _)| place);
        incident.title = Prose::new(title(incident, place), []);
    }
    incident.ack.iter_mut().for_each(|ack| left_of_ack(ack, sight));
    incident.mute.iter_mut().for_each(|mute| left_of_mute(mute, sight));
    if !(sight.reads(&incident.place()) && sight.shows(&incident.fingerprint)) {
        incident.fingerprint.clear();
    }
    !incident.lines.is_empty() || !incident.hits.is_empty() || !incident.at_risk.is_empty()
}

/// What is left of an acknowledgement.
fn left_of_ack(ack: &mut Ack, sight: &mut Sight) {
    for text in [&mut ack.by, &mut ack.reason] {
        *text = text.take().filter(|text| sight.shows(text));
    }
}

/// What is left of a mute.
fn left_of_mute(mute: &mut Mute, sight: &mut Sight) {
    mute.of = mute.of.take().filter(|of| sight.reads(&attention::place(of)));
    for text in [&mut mute.by, &mut mute.reason] {
        *text = text.take().filter(|text| sight.shows(text));
    }
}

/// The steps between lines that are seen, by their new places.
fn left_of_chain(chain: &[Step], seen: &[bool], sight: &mut Sight) -> Vec<Step> {
    let place = |line: usize| {
        let (before, rest) = seen.split_at_checked(line)?;
        rest.first().filter(|is_seen| **is_seen)?;
        Some(before.iter().filter(|is_seen| **is_seen).count())
    };
    let left = chain.iter().filter_map(|step| {
        let (cause, effect) = (place(step.cause)?, place(step.effect)?);
        // Users' own rules may say anything.
        let is_shown = sight.shows(&step.because) && sight.shows(&step.rule);
        is_shown.then(|| Step { cause, effect, ..step.clone() })
    });
    left.collect()
}

/// Whether anything is left of a cause that was considered.
fn left_of_cause(cause: &mut Considered, sight: &mut Sight) -> bool {
    let (entity, workload) = (sight.sees(&cause.entity), sight.sees(&cause.workload));
    if !(entity && workload && sight.shows_prose(&cause.text)) {
        return false;
    }
    cause.explains.retain(|explained| sight.sees(&explained.workload) && sight.shows(&explained.rule));
    cause.terms.retain(|(term, _)| sight.shows_prose(term));
    true
}

/// The title of what is left. `hidden`: where the cause is that may not be named.
fn title(incident: &Incident, hidden: Option<&Place>) -> String {
    let cause = match (hidden, &incident.root) {
        (Some(Place::Cluster), _) => {
            "the cause is a node, or else of no namespace, and you may not read that"
        }
        (Some(_), _) => "the cause lies in a namespace that you may not read",
        (None, Some(root)) => return format!("{root} is the cause of failures that you may not all read"),
        (None, None) => "the cause is not known",
    };
    let of_lines = incident.lines.iter().map(|line| &line.workload);
    match incident.hits.iter().chain(of_lines).next() {
        Some(hit) => format!("{} is affected; {cause}", short(hit)),
        None => match incident.at_risk.first() {
            Some(near) => format!("{} is at risk; {cause}", short(near)),
            None => cause.to_owned(),
        },
    }
}
