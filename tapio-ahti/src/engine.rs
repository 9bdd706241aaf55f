//! The engine: takes facts, keeps what they say, and explains it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tapio_occurrence::Occurrence;

use crate::{
    answer::{self, Answer, BY_NAME, State},
    coverage::{Coverage, Seen},
    explain::{Explanation, Known, components, explain, is_standing, opens},
    fact::{self, Refused, Said},
    finding::{Finding, FindingId},
    findings::Findings,
    graph::{EntityId, Graph, Name, Step},
    incident::{Incident, Line, Status},
    rule::Rules,
    story,
};

/// What an engine may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entities.
    pub entities: usize,
    /// Findings.
    pub findings: usize,
    /// Incidents, resolved ones too.
    pub incidents: usize,
}

/// What the engine has let go or refused, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// Facts that were taken.
    pub taken: u64,
    /// Facts that came again.
    pub repeated: u64,
    /// Facts that say something impossible.
    pub refused: u64,
    /// Findings that were let go since there were too many.
    pub evicted_findings: u64,
    /// Entities that were not taken since there were too many.
    pub refused_entities: u64,
    /// Connections that were not taken since there were too many.
    pub refused_connections: u64,
}

/// A symptom has to last so long, or come so late again, until it opens an incident.
const SETTLE_NS: u64 = 30_000_000_000;
/// After so long without symptoms an incident is resolved.
const QUIET_NS: u64 = 300_000_000_000;
/// Ids of facts are known for so long, against repeats.
const REPEATS_NS: u64 = 1_200_000_000_000;
/// Most ids that are known.
const MAX_IDS: usize = 200_000;
/// A fact may be so much later than all before; beyond it its clock is wrong.
const AHEAD_NS: u64 = 3_600_000_000_000;
/// Lines of an answer about an object without an incident.
const MAX_FINDINGS: usize = 20;
/// Names that an answer about an unknown object suggests.
const MAX_SIMILAR: usize = 10;
/// Old entities and findings are let go so often, in the time of facts.
const EXPIRE_NS: u64 = 60_000_000_000;
/// Everything is explained anew so often, in the time of facts, so that the same facts open the same incidents in the same
/// order whenever somebody asks.
const ASSESS_NS: u64 = 5_000_000_000;
/// A resolved incident that comes back within this time has regressed; later it is another one.
const COMES_BACK_NS: u64 = 24 * 3_600_000_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self { entities: 200_000, findings: 20_000, incidents: 1_000 }
    }
}

/// An incident that is kept, with what it was made of.
#[derive(Debug)]
struct Kept {
    incident: Incident,
    /// The findings of its last answer.
    findings: BTreeSet<FindingId>,
    number: u64,
    /// When the last symptom was seen.
    last_ns: u64,
}

/// What an assessment says about one cause.
struct Told {
    incident: Incident,
    findings: BTreeSet<FindingId>,
    /// Whether a symptom was seen in the last minutes.
    is_active: bool,
    last_ns: u64,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    graph: Graph,
    findings: Findings,
    seen: Seen,
    ids: BTreeSet<u128>,
    incidents: BTreeMap<u64, Kept>,
    next_incident: u64,
    /// The latest time of a fact.
    now_ns: u64,
    expired_ns: u64,
    assessed_ns: u64,
    /// Whether nothing came since the last assessment.
    is_assessed: bool,
    limits: Limits,
    ledger: Ledger,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(rules: Rules, limits: Limits) -> Self {
        Self {
            rules,
            graph: Graph::new(limits.entities),
            findings: Findings::new(limits.findings),
            seen: Seen::default(),
            ids: BTreeSet::new(),
            incidents: BTreeMap::new(),
            next_incident: 1,
            now_ns: 0,
            expired_ns: 0,
            assessed_ns: 0,
            is_assessed: true,
            limits,
            ledger: Ledger::default(),
        }
    }

    /// Takes a fact.
    ///
    /// # Errors
    /// It says something impossible. The engine is as before.
    pub fn take(&mut self, fact: &Occurrence) -> Result<(), Refused> {
        let id = u128::from(fact.id);
        if !self.ids.insert(id) {
            self.ledger.repeated += 1;
            return Ok(());
        }
        let at = fact.time_unix_ns;
        let said = match fact::read(fact, &mut self.graph) {
            Ok(said) => said,
            Err(refused) => {
                self.ledger.refused += 1;
                return Err(refused);
            }
        };
        self.ledger.taken += 1;
        // A node whose clock is hours ahead does not make all else old.
        if self.now_ns == 0 || at <= self.now_ns.saturating_add(AHEAD_NS) {
            self.now_ns = self.now_ns.max(at);
        }
        if fact.source == tapio_occurrence::kubernetes::SOURCE {
            self.seen.kubernetes(at);
        }
        match said {
            Said::Finding(finding) => {
                self.findings.add(*finding);
            }
            Said::Ended { key, at_ns } => self.findings.end(&key, at_ns),
            Said::Heartbeat(heartbeat) => self.seen.heartbeat(heartbeat, at),
            Said::Synced(synced) => self.seen.synced(synced, at),
            Said::Graph | Said::Nothing => {}
        }
        self.is_assessed = false;
        if self.now_ns.saturating_sub(self.assessed_ns) >= ASSESS_NS {
            self.assessed_ns = self.now_ns;
            self.assess(true);
        }
        if self.now_ns.saturating_sub(self.expired_ns) > EXPIRE_NS {
            self.expire();
        }
        Ok(())
    }

    fn expire(&mut self) {
        self.expired_ns = self.now_ns;
        self.graph.expire(self.now_ns);
        self.findings.expire(self.now_ns);
        let graph = &self.graph;
        self.findings.forget(|entity| graph.get(entity).is_none());
        let oldest_ms = self.now_ns.saturating_sub(REPEATS_NS) / 1_000_000;
        // The time is in the upper 48 bits of an id.
        self.ids = self.ids.split_off(&(u128::from(oldest_ms) << 80));
        while self.ids.len() > MAX_IDS {
            self.ids.pop_first();
        }
    }

    fn known(&self) -> Known<'_> {
        Known {
            graph: &self.graph,
            findings: &self.findings,
            rules: &self.rules,
            seen: &self.seen,
            now_ns: self.now_ns,
        }
    }

    /// What was taken, refused and let go.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger {
            evicted_findings: self.findings.evicted,
            refused_entities: self.graph.refused,
            refused_connections: self.graph.connections.refused,
            ..self.ledger
        }
    }

    /// Number of entities and of findings that are held.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.graph.len(), self.findings.len())
    }

    /// The latest time of a fact, nanoseconds since 1970 UTC.
    #[must_use]
    pub const fn now_unix_ns(&self) -> u64 {
        self.now_ns
    }

    /// What is looked at now.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let nodes = self.graph.of_kind("Node", None).filter_map(|id| self.graph.get(id));
        let existing = nodes.filter(|node| node.is_told() && node.exists(self.now_ns));
        self.seen.now(existing.map(|node| node.name.name.clone()).collect(), self.now_ns)
    }

    /// All incidents as of the latest fact, the newest first.
    pub fn incidents(&mut self) -> Vec<&Incident> {
        self.assess(false);
        self.incidents.values().rev().map(|kept| &kept.incident).collect()
    }

    /// Why an object fails: the incident that it is part of, an open one before a resolved one. Without a kind, workloads and
    /// services of that name are meant.
    pub fn why(&mut self, kind: Option<&str>, namespace: Option<&str>, name: &str) -> Answer {
        self.assess(false);
        let at = self.now_ns;
        let known = kind.and_then(answer::kind);
        let kinds = match (kind, &known) {
            (None, _) => BY_NAME,
            (Some(_), Some(kind)) => std::slice::from_ref(kind),
            // A kind of somebody's own.
            (Some(_), None) => &[],
        };
        let asked = kinds.iter().find_map(|kind| {
            // Nodes and the like are in no namespace.
            let in_namespace = fact::named(&self.graph, kind, namespace, name, at);
            in_namespace.or_else(|| fact::named(&self.graph, kind, None, name, at))
        });
        let mut answer = Answer { coverage: self.coverage(), as_of_unix_ns: at, ..Answer::default() };
        let Some(asked) = asked else {
            let found = self.graph.all().filter(|entity| {
                entity.name.name == name && kinds.contains(&&*entity.name.kind) && entity.exists(at)
            });
            answer.similar = found.take(MAX_SIMILAR).map(|entity| entity.name.clone()).collect();
            answer.state = if self.ledger.taken == 0 { State::Empty } else { State::Unknown };
            return answer;
        };
        let mut related = self.graph.walk(&[asked], &[Step::Owner], at);
        related.extend(self.graph.walk(&[asked], &[Step::Owned], at));
        let name_of = |id: &EntityId| self.graph.get(*id).map(|entity| entity.name.clone());
        answer.asked = name_of(&asked);
        let names: BTreeSet<Name> = related.iter().filter_map(name_of).collect();
        let is_of = |kept: &&Kept| {
            let incident = &kept.incident;
            let lines = incident.lines.iter().map(|line| &line.entity);
            lines.chain(&incident.hits).chain(&incident.root).any(|name| names.contains(name))
        };
        let newest = |is_resolved: bool| {
            let of_state = move |kept: &&Kept| (kept.incident.status == Status::Resolved) == is_resolved;
            self.incidents.values().rev().filter(of_state).find(is_of)
        };
        let mut findings: Vec<_> =
            related.iter().flat_map(|id| self.findings.of(*id)).map(|(_, f)| f).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse((finding.last_ns, finding.onset_ns)));
        answer.findings =
            findings.into_iter().take(MAX_FINDINGS).map(|f| story::line(self.known(), f)).collect();
        answer.incident = newest(false).or_else(|| newest(true)).map(|kept| kept.incident.clone());
        answer.state = if answer.incident.is_some() { State::Incident } else { State::Quiet };
        answer
    }

    /// Explains everything that is going on, and brings the incidents up to date. A question in between does not count as a
    /// revision of its own.
    fn assess(&mut self, is_revision: bool) {
        if std::mem::replace(&mut self.is_assessed, true) {
            return;
        }
        let known = self.known();
        let is_recent = |finding: &Finding| {
            !fact::is_change(&finding.key.kind)
                && finding.is_active(self.now_ns, 2 * QUIET_NS)
                && fact::is_failure(finding.severity)
        };
        let effects: Vec<_> =
            self.findings.iter().filter(|(_, finding)| is_recent(finding)).map(|(id, _)| id).collect();
        let mut all: Vec<Told> = Vec::new();
        for component in components(known, effects) {
            for explanation in explain(known, &component) {
                all.extend(self.told(known, &explanation));
            }
        }
        all.sort_by_key(|told| told.incident.since_unix_ns);
        let mut touched = BTreeSet::new();
        for told in all {
            touched.extend(self.keep(told, &touched, is_revision));
        }
        // Those whose findings are over and gone.
        for (number, kept) in &mut self.incidents {
            if !touched.contains(number) {
                resolve(&mut kept.incident, kept.last_ns);
            }
        }
        while self.incidents.len() > self.limits.incidents {
            self.incidents.pop_first();
        }
    }

    /// The incident of an explanation; `None` if it is no reason for one, and continues none.
    fn told(&self, known: Known<'_>, explanation: &Explanation) -> Option<Told> {
        let findings: BTreeSet<FindingId> =
            explanation.root.iter().chain(&explanation.effects).copied().collect();
        let mut open = self.incidents.values().filter(|kept| kept.incident.status != Status::Resolved);
        let is_kept = open.any(|kept| !kept.findings.is_disjoint(&findings));
        if !is_kept && !findings.iter().any(|id| has_settled(known, *id)) {
            return None;
        }
        let symptoms =
            || findings.iter().filter(|id| opens(known, **id)).filter_map(|id| known.findings.get(*id));
        let last = |finding: &Finding| match finding.ended_ns {
            None if finding.is_state() => known.now_ns,
            ended => ended.unwrap_or_default().max(finding.last_ns),
        };
        Some(Told {
            incident: story::incident(known, explanation),
            is_active: symptoms().any(|finding| finding.is_active(known.now_ns, QUIET_NS)),
            last_ns: symptoms().map(last).max().unwrap_or_default(),
            findings,
        })
    }

    /// Puts an answer into the incident that it continues, or into a new one. Returns its number.
    fn keep(&mut self, told: Told, taken: &BTreeSet<u64>, is_revision: bool) -> Option<u64> {
        let Told { mut incident, findings, is_active, last_ns } = told;
        let others = || self.incidents.values().filter(|kept| !taken.contains(&kept.number));
        let continues = |kept: &&Kept| !kept.findings.is_disjoint(&findings);
        let comes_back = |kept: &&Kept| {
            let since = incident.since_unix_ns;
            kept.incident.fingerprint == incident.fingerprint
                && kept
                    .incident
                    .resolved_unix_ns
                    .is_some_and(|over| since.saturating_sub(over) < COMES_BACK_NS)
        };
        let known =
            others().find(continues).or_else(|| others().filter(comes_back).last()).map(|kept| kept.number);
        let number = match known {
            Some(number) => number,
            None if !is_active => return None,
            None => self.next_incident,
        };
        self.next_incident = self.next_incident.max(number + 1);
        incident.id = format!("TAP-{number}");
        let same = |kept: &&Kept| kept.incident.fingerprint == incident.fingerprint && kept.number != number;
        incident.seen_before = self.incidents.values().filter(same).count() as u64;
        if let Some(before) = self.incidents.get(&number).map(|kept| &kept.incident) {
            incident.seen_before += u64::from(before.status == Status::Regressed);
            incident.status = match before.status {
                Status::Open => Status::Open,
                Status::Resolved | Status::Regressed => Status::Regressed,
            };
        }
        if !is_active {
            resolve(&mut incident, last_ns);
        }
        if let Some(before) = self.incidents.get(&number).map(|kept| &kept.incident) {
            incident.revision = before.revision;
            incident.revision += u64::from(is_revision && *before != incident);
        }
        // Two that turn out to be one: the older number stays.
        let is_part = |kept: &Kept| {
            kept.number > number
                && kept.incident.status != Status::Resolved
                && kept.findings.is_subset(&findings)
        };
        self.incidents.retain(|number, kept| taken.contains(number) || !is_part(kept));
        self.incidents.insert(number, Kept { incident, findings, number, last_ns });
        Some(number)
    }

    /// All findings, the newest first.
    #[must_use]
    pub fn findings(&self) -> Vec<Line> {
        let mut all: Vec<_> = self.findings.iter().map(|(_, finding)| finding).collect();
        all.sort_by_key(|finding| std::cmp::Reverse(finding.last_ns));
        all.into_iter().map(|finding| story::line(self.known(), finding)).collect()
    }
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
    if is_standing(known, finding) {
        return false;
    }
    let lasts_ns = match finding.is_state() {
        true => finding.ended_ns.unwrap_or(known.now_ns).saturating_sub(finding.onset_ns),
        // What has happened stays so.
        false if kind.at_least <= 1 => known.now_ns.saturating_sub(finding.onset_ns),
        false => finding.last_ns.saturating_sub(finding.onset_ns),
    };
    // What is said to take five takes five a minute.
    let is_often =
        finding.is_state() || finding.count >= kind.at_least * lasts_ns.div_ceil(60_000_000_000).max(1);
    lasts_ns >= SETTLE_NS && (kind.at_least <= 1 || is_often)
}
