//! The engine: takes facts, keeps what they say, and explains it.

mod ask;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;
use tapio_occurrence::{
    Occurrence, Severity,
    kubernetes::{self, Fact as _, Synced},
};

use crate::{
    answer::{self, Answer, BY_NAME, State},
    attention::Mutes,
    correlate::{self, Correlation},
    coverage::{Coverage, Seen},
    explain::{Known, Link, Without, causes, components, explain, kin},
    fact::{self, Refused, Said},
    finding::{Finding, FindingId},
    findings::Findings,
    graph::{Entity, EntityId, Graph, Name, Step},
    incident::{Certainty, Considered, Incident, Line, Status},
    incidents::{Incidents, QUIET_NS},
    links::Links,
    rule::Rules,
    story,
    usual::{EXPLAINED, Usual},
    verdicts::Verdicts,
    visible::Named,
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
    /// Entities that were let go a day after they were gone, or after an agent had last named them.
    pub expired_entities: u64,
    /// Entities that were not taken since there were too many.
    pub refused_entities: u64,
    /// Versions of entities that were let go since the entity had too many.
    pub evicted_versions: u64,
    /// Connections that were let go a day after they were last seen.
    pub expired_connections: u64,
    /// Connections that were not taken since there were too many.
    pub refused_connections: u64,
    /// Findings that were let go a day after they were over, or with their entity.
    pub expired_findings: u64,
    /// Findings that were let go since there were too many.
    pub evicted_findings: u64,
    /// Incidents that were let go since there were too many.
    pub evicted_incidents: u64,
    /// Heartbeats that were not taken since there were too many nodes.
    pub refused_heartbeats: u64,
    /// What was not learned from since there was too much of it.
    pub refused_usual: u64,
    /// Verdicts of people that were not taken since there were too many.
    pub refused_verdicts: u64,
    /// Mutes of objects that were not taken since there are too many.
    pub refused_mutes: u64,
}

/// What an engine holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Entities.
    pub entities: usize,
    /// Versions of entities.
    pub versions: usize,
    /// Connections: a client with an address and a port.
    pub connections: usize,
    /// Findings.
    pub findings: usize,
    /// Findings that the latest explanations leave out, since more belong together than are weighed.
    pub left_out: usize,
    /// Incidents by status and certainty, those that are over included.
    pub incidents: BTreeMap<(Status, Certainty), usize>,
    /// Rules.
    pub rules: usize,
}

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
/// How many calls away somebody may fail whom an object needs.
const MAX_NEEDED: usize = 4;
/// Old entities and findings are let go so often, in the time of facts.
const EXPIRE_NS: u64 = 60_000_000_000;
/// Everything is explained anew so often, in the time of facts, so that the same facts open the same incidents in the same
/// order whenever somebody asks.
const ASSESS_NS: u64 = 5_000_000_000;

impl Default for Limits {
    fn default() -> Self {
        Self { entities: 200_000, findings: 20_000, incidents: 1_000 }
    }
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    graph: Graph,
    findings: Findings,
    seen: Seen,
    ids: BTreeSet<u128>,
    links: Links,
    usual: Usual,
    verdicts: Verdicts,
    mutes: Mutes,
    incidents: Incidents,
    without: Without,
    /// The latest time of a fact.
    now_ns: u64,
    expired_ns: u64,
    assessed_ns: u64,
    /// Whether nothing came since the last assessment.
    is_assessed: bool,
    /// As [`Stock::left_out`].
    left_out: usize,
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
            links: Links::default(),
            usual: Usual::default(),
            verdicts: Verdicts::default(),
            mutes: Mutes::default(),
            incidents: Incidents::new(limits.incidents),
            without: Without::default(),
            now_ns: 0,
            expired_ns: 0,
            assessed_ns: 0,
            is_assessed: true,
            left_out: 0,
            ledger: Ledger::default(),
        }
    }

    /// The same engine without some of its parts.
    #[must_use]
    pub fn without(mut self, parts: Without) -> Self {
        self.without = parts;
        self
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
            self.usual.heard(at);
        }
        if fact.source == kubernetes::SOURCE && fact.kind != Synced::TYPE {
            self.seen.kubernetes(self.now_ns);
        }
        let touched = match &said {
            Said::Finding(finding) => Some(finding.key.entity),
            Said::Ended { key, .. } => Some(key.entity),
            Said::Graph(entity) => *entity,
            Said::Heartbeat(_) | Said::Synced(_) | Said::Feedback(_) | Said::Attention(_) | Said::Nothing => {
                None
            }
        };
        if let Some(entity) = touched {
            self.links.touch(entity, &self.graph, at);
        }
        match said {
            Said::Finding(finding) => {
                let entity = finding.key.entity;
                let onset_ns = finding.onset_ns;
                let is_change = fact::is_change(&finding.key.kind);
                let is_failure = fact::is_failure(finding.severity);
                let (id, is_new) = self.findings.add(*finding);
                self.links.forget(id);
                if is_new && is_change {
                    let workload = self.graph.get(self.graph.workload(entity, onset_ns));
                    workload.into_iter().for_each(|workload| self.usual.changed(&workload.name, onset_ns));
                } else if is_new && is_failure {
                    self.usual.began(id, onset_ns);
                }
                self.end_with(entity);
            }
            Said::Graph(Some(entity)) => self.end_with(entity),
            Said::Ended { key, at_ns } => self.findings.end(&key, at_ns),
            Said::Feedback(feedback) => self.verdicts.take(feedback, at),
            Said::Attention(said) if said.incident.is_some() => {
                // Who said it had asked, and so seen what there is now.
                self.assess(false);
                self.incidents.attend(&said, at);
            }
            Said::Attention(said) => self.mutes.take(&said, at),
            Said::Heartbeat(heartbeat) => self.seen.heartbeat(heartbeat, at),
            Said::Synced(synced) => self.seen.synced(synced, at),
            Said::Graph(None) | Said::Nothing => {}
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

    /// The conditions of an object end with it.
    fn end_with(&mut self, entity: EntityId) {
        let Some(deleted_ns) = self.graph.get(entity).and_then(Entity::deleted_ns) else { return };
        let states = self.findings.of(entity).filter(|(_, finding)| finding.is_state());
        let keys: Vec<_> = states.map(|(_, finding)| finding.key.clone()).collect();
        keys.iter().for_each(|key| self.findings.end(key, deleted_ns));
    }

    fn expire(&mut self) {
        self.expired_ns = self.now_ns;
        let let_go = |engine: &Self| {
            let Graph { expired, connections, calls, .. } = &engine.graph;
            (*expired, connections.expired, calls.expired, engine.findings.expired)
        };
        let before = let_go(self);
        self.graph.expire(self.now_ns);
        self.findings.expire(self.now_ns);
        self.seen.expire(self.now_ns);
        let graph = &self.graph;
        self.findings.forget(|entity| graph.get(entity).is_none());
        if let_go(self) != before {
            self.links.clear();
        }
        // Of what is expected to go on, more has happened than when it was looked at.
        let going_on = self.findings.iter().filter(|(_, finding)| finding.last_ns > self.now_ns);
        going_on.for_each(|(id, _)| self.links.forget(id));
        self.learn();
        let oldest_ms = self.now_ns.saturating_sub(REPEATS_NS) / 1_000_000;
        // The time is in the upper 48 bits of an id.
        self.ids = self.ids.split_off(&(u128::from(oldest_ms) << 80));
        while self.ids.len() > MAX_IDS {
            self.ids.pop_first();
        }
    }

    /// Counts the findings that nothing explains, and after how long those came whose cause is proved.
    fn learn(&mut self) {
        let Self { graph, findings, rules, seen, links, usual, verdicts, without, now_ns, .. } = self;
        for (onset_ns, id) in usual.due(*now_ns) {
            let known =
                Known { graph, findings, rules, seen, usual, verdicts, without: *without, now_ns: *now_ns };
            let links = links.of(id, || causes(known, id));
            let explained = links.iter().any(|link| link.strength >= EXPLAINED);
            let kin = kin(known, id).filter(|_| !explained);
            let lag_s = |link: &Link| {
                let cause = findings.get(link.cause)?;
                Some((
                    rules.rules.get(link.rule)?.rule.clone(),
                    onset_ns.saturating_sub(cause.onset_ns) as f64 / 1e9,
                ))
            };
            let proved: Vec<_> = links.iter().filter(|link| link.is_certain).filter_map(lag_s).collect();
            kin.into_iter().for_each(|kin| usual.unexplained(kin, onset_ns));
            proved.into_iter().for_each(|(rule, lag_s)| usual.proved(&rule, lag_s, onset_ns));
        }
    }

    fn known(&self) -> Known<'_> {
        Known {
            graph: &self.graph,
            findings: &self.findings,
            rules: &self.rules,
            seen: &self.seen,
            usual: &self.usual,
            verdicts: &self.verdicts,
            without: self.without,
            now_ns: self.now_ns,
        }
    }

    /// What was taken, refused and let go.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger {
            expired_entities: self.graph.expired,
            refused_entities: self.graph.refused,
            evicted_versions: self.graph.evicted_versions,
            expired_connections: self.graph.connections.expired + self.graph.calls.expired,
            refused_connections: self.graph.connections.refused + self.graph.calls.refused,
            expired_findings: self.findings.expired,
            evicted_findings: self.findings.evicted,
            evicted_incidents: self.incidents.evicted,
            refused_heartbeats: self.seen.refused,
            refused_usual: self.usual.refused,
            refused_verdicts: self.verdicts.refused,
            refused_mutes: self.mutes.refused,
            ..self.ledger
        }
    }

    /// What is held now.
    #[must_use]
    pub fn stock(&self) -> Stock {
        Stock {
            entities: self.graph.len(),
            versions: self.graph.all().map(Entity::versions).sum(),
            connections: self.graph.connections.len(),
            findings: self.findings.len(),
            left_out: self.left_out,
            incidents: self.incidents.by_state(),
            rules: self.rules.len(),
        }
    }

    /// The incidents that were opened after the one with this number, 0 for all: the number of each, and when its first symptom
    /// began.
    pub fn opened_after(&self, number: u64) -> impl Iterator<Item = (u64, u64)> {
        self.incidents.after(number).map(|(number, incident)| (number, incident.since_unix_ns))
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
        let existing = nodes.filter(|node| node.is_from_api() && node.exists(self.now_ns));
        self.seen.now(existing.map(|node| node.name.name.clone()).collect(), self.now_ns)
    }

    /// What words are the names of, for [`crate::visible::Sight`].
    #[must_use]
    pub fn naming(&self, words: HashSet<String>) -> HashMap<String, Named> {
        self.graph.naming(words)
    }

    /// All incidents as of the latest fact, the newest first.
    pub fn incidents(&mut self) -> Vec<&Incident> {
        self.refresh();
        self.incidents.iter().rev().collect()
    }

    /// The causes that come into question for what went on at a time or later, the likeliest first: the cause of each
    /// incident, and of what is no reason for one if it is likely; then the others that were considered. Of an unknown cause it
    /// is where that is closest. What concerns an object that is asked about comes first.
    pub fn causes(&mut self, since_unix_ns: u64, asked: Option<&Name>) -> Vec<Considered> {
        self.refresh();
        let Self { graph, findings, rules, seen, usual, verdicts, incidents, without, now_ns, .. } = self;
        let known =
            Known { graph, findings, rules, seen, usual, verdicts, without: *without, now_ns: *now_ns };
        let mut ranked: Vec<([bool; 4], Considered)> = Vec::new();
        let of_incidents = incidents.since(since_unix_ns).map(|explanation| (true, explanation));
        let others = incidents.others().map(|explanation| (false, explanation));
        for (is_incident, explanation) in of_incidents.chain(others) {
            let is_asked = asked.is_some_and(|asked| story::concerns(known, explanation, asked));
            let is_clear = explanation.certainty >= Certainty::Likely;
            // What fails comes before what is slow.
            let is_error = explanation
                .all()
                .filter_map(|id| known.findings.get(id))
                .any(|finding| !fact::is_change(&finding.key.kind) && finding.severity >= Severity::Error);
            let root = explanation.root.and_then(|root| known.findings.get(root));
            for cause in story::considered(known, explanation) {
                let is_root = root.is_some_and(|root| {
                    root.facts.first().map(|(_, id)| id.to_string()).as_ref() == cause.facts.first()
                });
                ranked.push(([is_asked, is_root && (is_incident || is_clear), is_incident, is_error], cause));
            }
        }
        ranked.sort_by(|(a_is, a), (b_is, b)| b_is.cmp(a_is).then(b.score.total_cmp(&a.score)));
        let mut seen = BTreeSet::new();
        ranked.retain(|(_, cause)| seen.insert(cause.facts.first().cloned()));
        ranked.into_iter().map(|(_, cause)| cause).collect()
    }

    /// Brings everything that can be asked for up to date.
    fn refresh(&mut self) {
        self.assess(false);
        let Self { graph, findings, rules, seen, usual, verdicts, mutes, incidents, without, now_ns, .. } =
            self;
        let known =
            Known { graph, findings, rules, seen, usual, verdicts, without: *without, now_ns: *now_ns };
        incidents.write(known, mutes);
    }

    /// Why an object fails: the incident that it is part of, an open one before a resolved one. Without a kind, workloads and
    /// services of that name are meant.
    pub fn why(&mut self, kind: Option<&str>, namespace: Option<&str>, name: &str) -> Answer {
        self.refresh();
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
            answer.similar = found.take(MAX_SIMILAR).map(|entity| Name::clone(&entity.name)).collect();
            answer.state = if self.ledger.taken == 0 { State::Empty } else { State::Unknown };
            return answer;
        };
        let mut related = self.graph.walk(&[asked], &[Step::Owner], at);
        related.extend(self.graph.walk(&[asked], &[Step::Owned], at));
        answer.asked = self.graph.get(asked).map(|entity| Name::clone(&entity.name));
        let entities = related.iter().filter_map(|id| self.graph.get(*id));
        let names: BTreeSet<Name> = entities.map(|entity| Name::clone(&entity.name)).collect();
        let is_of = |incident: &&Incident| {
            let lines = incident.lines.iter().map(|line| &line.entity);
            lines.chain(&incident.hits).chain(&incident.root).any(|name| names.contains(name))
        };
        let newest = |is_resolved: bool| {
            let of_state = move |incident: &&Incident| (incident.status == Status::Resolved) == is_resolved;
            self.incidents.iter().rev().filter(of_state)
        };
        // That somebody whom it calls fails may be all that is wrong: a server that answers with errors shows nothing else.
        let needed = |hops: usize| {
            let there = self.graph.walk(&[asked], &vec![Step::Calls; hops], at);
            let names = there.iter().filter_map(|id| self.graph.get(*id)).map(|entity| &*entity.name);
            let names: BTreeSet<&Name> = names.collect();
            newest(false)
                .find_map(|incident| Some((incident, incident.hits.iter().find(|hit| names.contains(hit))?)))
        };
        let mut findings: Vec<_> =
            related.iter().flat_map(|id| self.findings.of(*id)).map(|(_, f)| f).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse((finding.last_ns, finding.onset_ns)));
        answer.findings =
            findings.into_iter().take(MAX_FINDINGS).map(|f| story::line(self.known(), f)).collect();
        let own = newest(false).find(is_of);
        let needed = (1..=MAX_NEEDED).filter(|_| own.is_none()).find_map(needed);
        answer.needs = needed.map(|(_, hit)| hit.clone());
        let open = own.or(needed.map(|(incident, _)| incident));
        answer.incident = open.or_else(|| newest(true).find(is_of)).cloned();
        answer.state = if answer.incident.is_some() { State::Incident } else { State::Quiet };
        answer
    }

    /// What is known of a trace.
    pub fn correlate(&mut self, trace_id: &str) -> Correlation {
        self.refresh();
        let trace_id = trace_id.to_ascii_lowercase();
        let of = |finding: &&Finding| correlate::is_of(finding, &trace_id);
        let mut findings: Vec<_> = self.findings.iter().map(|(_, finding)| finding).filter(of).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse((finding.last_ns, finding.onset_ns)));
        let is_of = |incident: &&Incident| {
            let facts = findings.iter().flat_map(|finding| &finding.facts).map(|(_, id)| id.to_string());
            let facts: BTreeSet<String> = facts.collect();
            incident.lines.iter().flat_map(|line| &line.facts).any(|id| facts.contains(id))
        };
        Correlation {
            signals: findings.iter().map(|finding| story::line(self.known(), finding)).collect(),
            incidents: self.incidents.iter().rev().filter(is_of).cloned().collect(),
            passed: correlate::passed(findings.iter().copied(), &trace_id),
            nothing: findings.is_empty().then(correlate::nothing),
            trace_id,
        }
    }

    /// Explains everything that is going on, and brings the incidents up to date. A question in between does not count as a
    /// revision of its own.
    fn assess(&mut self, is_revision: bool) {
        if std::mem::replace(&mut self.is_assessed, true) {
            return;
        }
        if self.usual.settle(self.now_ns) {
            self.links.clear();
        }
        let Self { graph, findings, rules, seen, usual, verdicts, links, incidents, without, now_ns, .. } =
            self;
        let is_failure =
            |finding: &Finding| !fact::is_change(&finding.key.kind) && fact::is_failure(finding.severity);
        let active = findings.active(*now_ns, 2 * QUIET_NS);
        let recent: Vec<_> = active.filter(|(_, finding)| is_failure(finding)).map(|(id, _)| id).collect();
        let known =
            Known { graph, findings, rules, seen, usual, verdicts, without: *without, now_ns: *now_ns };
        let components = components(known, links, recent);
        let together: BTreeSet<FindingId> =
            components.iter().flat_map(|component| &component.findings).copied().collect();
        links.retain(|id| together.contains(&id));
        self.left_out = components.iter().map(|component| component.left_out).sum();
        let explanations = components.iter().flat_map(|component| explain(known, component)).collect();
        incidents.update(known, explanations, is_revision);
    }

    /// All findings, the newest first.
    #[must_use]
    pub fn findings(&self) -> Vec<Line> {
        let mut all: Vec<_> = self.findings.iter().map(|(_, finding)| finding).collect();
        all.sort_by_key(|finding| std::cmp::Reverse(finding.last_ns));
        all.into_iter().map(|finding| story::line(self.known(), finding)).collect()
    }
}
