//! The life of incidents: they open, grow, merge, are resolved, and come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use tapio_occurrence::attention::{Act, Attention};

use crate::{
    attention::{Ack, Mute, Mutes},
    explain::{Explanation, Known, is_standing, opens},
    finding::{Finding, FindingId},
    incident::{Certainty, Incident, Status},
    rule::SETTLE_S,
    story,
};

/// After so long without symptoms an incident is resolved.
pub(crate) const QUIET_NS: u64 = 300_000_000_000;
/// A resolved incident that comes back within this time has regressed; later it is another one.
const COMES_BACK_NS: u64 = 24 * 3_600_000_000_000;

/// All incidents, by number.
#[derive(Debug)]
pub(crate) struct Incidents {
    all: BTreeMap<u64, Kept>,
    /// The numbers of those with a finding.
    of_finding: BTreeMap<FindingId, BTreeSet<u64>>,
    /// What explains what goes on without being an incident.
    others: Vec<Explanation>,
    next: u64,
    max: usize,
    /// Incidents that were let go since there are too many.
    pub(crate) evicted: u64,
}

/// An incident with what it is made of.
#[derive(Debug)]
struct Kept {
    /// As it was written last.
    incident: Incident,
    explanation: Explanation,
    findings: BTreeSet<FindingId>,
    basis: Basis,
    /// Whether it has to be written anew before anybody reads it.
    is_stale: bool,
    /// Whether a question noticed a change that is not a revision yet.
    is_unrevised: bool,
    /// When the last symptom was seen.
    last_ns: u64,
    /// Until when it is muted by itself.
    mute: Option<Mute>,
}

/// What an answer depends on: if it is the same, so is the answer.
#[derive(Debug, PartialEq)]
struct Basis {
    root: Option<FindingId>,
    certainty: Certainty,
    /// How likely the root is, in percent, and after how many judged answers.
    chance: Option<(u8, u64)>,
    /// Each finding with its onset, its last time, its count and its end.
    findings: Vec<(FindingId, u64, u64, u64, Option<u64>)>,
    links: Vec<(FindingId, FindingId, usize)>,
    /// Each cause that was considered, with its score in hundredths.
    considered: Vec<(FindingId, i64)>,
    left_out: usize,
}

impl Incidents {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            of_finding: BTreeMap::new(),
            others: Vec::new(),
            next: 1,
            max,
            evicted: 0,
        }
    }

    /// The incidents, the oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.all.values().map(|kept| &kept.incident)
    }

    /// How many there are in each state.
    pub(crate) fn by_state(&self) -> BTreeMap<(Status, Certainty), usize> {
        let mut counts = BTreeMap::new();
        for kept in self.all.values() {
            *counts.entry((kept.incident.status, kept.explanation.certainty)).or_default() += 1;
        }
        counts
    }

    /// Those with a higher number.
    pub(crate) fn after(&self, number: u64) -> impl Iterator<Item = (u64, &Incident)> {
        let later = self.all.range((Bound::Excluded(number), Bound::Unbounded));
        later.map(|(number, kept)| (*number, &kept.incident))
    }

    /// What explains the incidents that had symptoms at a time or later.
    pub(crate) fn since(&self, since_ns: u64) -> impl Iterator<Item = &Explanation> {
        self.all.values().filter(move |kept| kept.last_ns >= since_ns).map(|kept| &kept.explanation)
    }

    /// What explains the rest of what goes on, which is no reason for an incident.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Explanation> {
        self.others.iter()
    }

    /// Takes what explains everything that is going on now.
    pub(crate) fn update(&mut self, known: Known<'_>, mut explanations: Vec<Explanation>, is_revision: bool) {
        explanations.sort_by_cached_key(|explanation| first_ns(known, explanation));
        let mut touched = BTreeSet::new();
        self.others.clear();
        for explanation in explanations {
            match self.keep(known, explanation, &touched, is_revision) {
                Ok(number) => {
                    touched.insert(number);
                }
                Err(explanation) => self.others.push(*explanation),
            }
        }
        // Those whose findings are over and gone.
        for (number, kept) in &mut self.all {
            if !touched.contains(number) && kept.incident.status != Status::Resolved {
                kept.last_ns = last_symptom_ns(known, &kept.findings).unwrap_or(kept.last_ns);
                resolve(&mut kept.incident, kept.last_ns);
            }
        }
        while self.all.len() > self.max
            && let Some(oldest) = self.all.keys().next().copied()
        {
            self.take(oldest);
            self.evicted += 1;
        }
    }

    /// Puts an explanation into the incident that it continues, or into a new one. Returns its number, or the explanation if
    /// it is no reason for one.
    fn keep(
        &mut self,
        known: Known<'_>,
        explanation: Explanation,
        taken: &BTreeSet<u64>,
        is_revision: bool,
    ) -> Result<u64, Box<Explanation>> {
        let findings: BTreeSet<FindingId> = explanation.all().collect();
        let is_active = symptoms(known, &findings).any(|finding| finding.is_active(known.now_ns, QUIET_NS));
        let last_ns = last_symptom_ns(known, &findings).unwrap_or_default();
        let fingerprint = story::fingerprint(known, &explanation);
        let since_ns = first_ns(known, &explanation);

        let comes_back = |kept: &Kept| {
            let over = kept.incident.resolved_unix_ns;
            kept.incident.fingerprint == fingerprint
                && over.is_some_and(|over| since_ns.saturating_sub(over) < COMES_BACK_NS)
        };
        let root = explanation.root.and_then(|id| known.findings.get(id));
        let is_expected = root.and_then(|root| known.rules.kind_of(root)).is_some_and(|kind| kind.expected);
        let has_settled = || !is_expected && findings.iter().any(|id| has_settled(known, *id));
        let mut sharing = self.sharing(&findings);
        sharing.retain(|number| !taken.contains(number));
        let number = match sharing.first() {
            Some(number) => *number,
            None if !is_active || !has_settled() => return Err(Box::new(explanation)),
            None => {
                let others = self.all.iter().filter(|(number, _)| !taken.contains(number));
                others.rev().find(|(_, kept)| comes_back(kept)).map_or(self.next, |(number, _)| *number)
            }
        };
        self.next = self.next.max(number + 1);

        let mut kept = match self.take(number) {
            Some(mut kept) => {
                // What is over is not explained any more; its story stays as it was.
                if !kept.is_whole(known, &findings) {
                    (kept.explanation, kept.findings) = (explanation, findings);
                }
                let basis = Basis::of(known, &kept.explanation);
                let is_changed = kept.basis != basis;
                kept.basis = basis;
                kept.is_stale |= is_changed;
                kept.is_unrevised |= is_changed;
                kept.incident.revision += u64::from(is_revision && kept.is_unrevised);
                if kept.incident.status == Status::Resolved && is_active {
                    (kept.incident.status, kept.incident.resolved_unix_ns) = (Status::Regressed, None);
                    kept.incident.seen_before += 1;
                    kept.incident.ack = None;
                }
                kept
            }
            None => {
                let same = self.all.values().filter(|kept| kept.incident.fingerprint == fingerprint);
                let seen_before = same.count() as u64;
                let incident = story::incident(known, &explanation);
                Kept {
                    incident: Incident { id: format!("TAP-{number}"), seen_before, ..incident },
                    basis: Basis::of(known, &explanation),
                    explanation,
                    findings,
                    is_stale: true,
                    is_unrevised: true,
                    last_ns,
                    mute: None,
                }
            }
        };
        kept.is_unrevised &= !is_revision;
        kept.last_ns = last_ns;
        kept.incident.fingerprint = fingerprint;
        if !is_active {
            resolve(&mut kept.incident, last_ns);
        }
        // Two that turn out to be one: the older number stays.
        for other in sharing.into_iter().filter(|other| *other > number) {
            let is_part = self.all.get(&other).is_some_and(|part| {
                part.incident.status != Status::Resolved && part.findings.is_subset(&kept.findings)
            });
            if is_part && let Some(part) = self.take(other) {
                kept.incident.ack = kept.incident.ack.or(part.incident.ack);
                kept.mute = kept.mute.or(part.mute);
            }
        }
        self.put(number, kept);
        Ok(number)
    }

    /// The incidents with one of these findings.
    fn sharing(&self, findings: &BTreeSet<FindingId>) -> BTreeSet<u64> {
        findings.iter().filter_map(|id| self.of_finding.get(id)).flatten().copied().collect()
    }

    fn put(&mut self, number: u64, kept: Kept) {
        for id in &kept.findings {
            self.of_finding.entry(*id).or_default().insert(number);
        }
        self.all.insert(number, kept);
    }

    fn take(&mut self, number: u64) -> Option<Kept> {
        let kept = self.all.remove(&number)?;
        for id in &kept.findings {
            if let Some(numbers) = self.of_finding.get_mut(id) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.of_finding.remove(id);
                }
            }
        }
        Some(kept)
    }

    /// Notes that somebody takes care of an incident, or mutes it.
    pub(crate) fn attend(&mut self, said: &Attention, at_ns: u64) {
        let is_alike = |kept: &Kept| Some(&kept.incident.fingerprint) == said.fingerprint.as_ref();
        let has_id = |kept: &Kept| Some(&kept.incident.id) == said.incident.as_ref();
        let place = |is: &dyn Fn(&Kept) -> bool| {
            self.all.iter().rev().find(|(_, kept)| is(kept)).map(|(number, _)| *number)
        };
        let began = |kept: &Kept| Some(kept.incident.since_unix_ns) == said.since_unix_ns;
        // Its number is another one where facts from before it are gone; its cause may have become another one meanwhile.
        let number = place(&|kept| has_id(kept) && is_alike(kept))
            .or_else(|| place(&is_alike))
            .or_else(|| place(&|kept| has_id(kept) && began(kept)));
        let Some(kept) = number.and_then(|number| self.all.get_mut(&number)) else { return };
        match said.act {
            Act::Ack => {
                let ack = Ack { by: said.by.clone(), at_unix_ns: at_ns, reason: said.reason.clone() };
                kept.incident.ack = Some(ack);
            }
            Act::Unack => kept.incident.ack = None,
            Act::Mute => kept.mute = Mute::of(said, at_ns),
            Act::Unmute => kept.mute = None,
        }
        kept.incident.revision += 1;
    }

    /// Writes what has changed since it was written last.
    pub(crate) fn write(&mut self, known: Known<'_>, mutes: &Mutes) {
        for kept in self.all.values_mut() {
            kept.incident.feedback = known.verdicts.latest(&kept.incident.fingerprint);
            if !std::mem::take(&mut kept.is_stale) {
                continue;
            }
            let before = &kept.incident;
            kept.incident = Incident {
                id: before.id.clone(),
                fingerprint: before.fingerprint.clone(),
                revision: before.revision,
                status: before.status,
                resolved_unix_ns: before.resolved_unix_ns,
                seen_before: before.seen_before,
                feedback: before.feedback,
                ack: before.ack.clone(),
                ..story::incident(known, &kept.explanation)
            };
        }
        for kept in self.all.values_mut() {
            let own = kept.mute.as_ref().filter(|mute| mute.is_on(known.now_ns));
            kept.incident.mute = own.or_else(|| mutes.longest(&kept.incident, known.now_ns)).cloned();
        }
    }
}

impl Kept {
    /// Whether these are its findings without some that are over for so long that nobody asks about them any more.
    fn is_whole(&self, known: Known<'_>, findings: &BTreeSet<FindingId>) -> bool {
        let is_over = |id: &FindingId| {
            known.findings.get(*id).is_some_and(|finding| {
                crate::fact::is_change(&finding.key.kind) || !finding.is_active(known.now_ns, 2 * QUIET_NS)
            })
        };
        findings.len() < self.findings.len()
            && findings.is_subset(&self.findings)
            && self.findings.difference(findings).all(is_over)
    }
}

impl Basis {
    fn of(known: Known<'_>, explanation: &Explanation) -> Self {
        let findings = explanation.all().filter_map(|id| {
            let finding = known.findings.get(id)?;
            Some((id, finding.onset_ns, finding.last_ns, finding.count, finding.ended_ns))
        });
        let links = explanation.links.iter().map(|link| (link.cause, link.effect, link.rule));
        let considered = explanation.candidates.iter();
        let considered = considered.map(|cause| (cause.finding, (cause.score * 100.0).round() as i64));
        Self {
            root: explanation.root,
            certainty: explanation.certainty,
            chance: explanation.lead.map(|lead| (lead.chance.percent, lead.chance.judged)),
            findings: findings.collect(),
            links: links.collect(),
            considered: considered.collect(),
            left_out: explanation.left_out,
        }
    }
}

/// When the first symptom began.
fn first_ns(known: Known<'_>, explanation: &Explanation) -> u64 {
    let first = explanation.first(known).and_then(|id| known.findings.get(id));
    first.map_or(known.now_ns, |finding| finding.onset_ns)
}

/// Those of the findings that open incidents.
fn symptoms<'a>(known: Known<'a>, of: &BTreeSet<FindingId>) -> impl Iterator<Item = &'a Finding> {
    of.iter().filter(move |id| opens(known, **id)).filter_map(move |id| known.findings.get(*id))
}

/// Until when there were symptoms.
fn last_symptom_ns(known: Known<'_>, of: &BTreeSet<FindingId>) -> Option<u64> {
    let last_ns = |finding: &Finding| match finding.ended_ns {
        None if finding.is_state() => known.now_ns,
        ended => ended.unwrap_or_default().max(finding.last_ns),
    };
    symptoms(known, of).map(last_ns).max()
}

/// An incident is over some minutes after its last symptom.
fn resolve(incident: &mut Incident, last_ns: u64) {
    if incident.status != Status::Resolved {
        incident.status = Status::Resolved;
        incident.resolved_unix_ns = Some(last_ns.saturating_add(QUIET_NS));
    }
}

/// Whether a finding is reason enough for an incident.
fn has_settled(known: Known<'_>, id: FindingId) -> bool {
    let Some(finding) = known.findings.get(id) else { return false };
    let Some(kind) = known.rules.kind_of(finding).filter(|kind| kind.opens) else { return false };
    // Processes of a node that are in no pod and no unit, and a kubelet that probes, are nobody's failure.
    let is_of_node =
        known.graph.is(finding.key.entity, "Node") && !finding.key.kind.starts_with("kubernetes.");
    if is_of_node || is_standing(known, finding) {
        return false;
    }
    let lasts_ns = match finding.is_state() {
        true => finding.ended_ns.unwrap_or(known.now_ns).saturating_sub(finding.onset_ns),
        // What has happened stays so.
        false if kind.at_least <= 1 && kind.lasts_s <= SETTLE_S => {
            known.now_ns.saturating_sub(finding.onset_ns)
        }
        false => finding.last_ns.saturating_sub(finding.onset_ns),
    };
    // What is said to take five takes five a minute.
    let is_often =
        finding.is_state() || finding.count >= kind.at_least * lasts_ns.div_ceil(60_000_000_000).max(1);
    lasts_ns >= kind.lasts_s.saturating_mul(1_000_000_000) && (kind.at_least <= 1 || is_often)
}
