//! From an explanation to an incident that people read.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    explain::{
        Certainty, Explanation, Found, Kin, Known, MAX_TOGETHER, Term, Ways, charged, kin, look, workload,
    },
    finding::{Finding, FindingId, MAX_FACTS},
    graph::{EntityId, Name, Step as Way},
    incident::{Advice, Considered, Evidence, Explained, Hidden, Incident, Line, Status, Step},
    rule::Action,
    visible::{self, Place, Places, Prose},
};

/// Lines of an answer; further findings are only counted.
const MAX_LINES: usize = 24;
/// Causes that are shown with their score.
const MAX_CONSIDERED: usize = 5;
/// Names in a list.
const MAX_NAMES: usize = 25;

/// The source of what the API server says.
pub(crate) const KUBERNETES: &str = "kubernetes";

/// A finding as a line.
pub(crate) fn line(known: Known<'_>, finding: &Finding) -> Line {
    Line {
        since_unix_ns: finding.onset_ns,
        last_unix_ns: finding.last_ns.min(known.now_ns),
        entity: name(known, finding.key.entity),
        workload: name(known, known.graph.workload(finding.key.entity, finding.onset_ns)),
        kind: finding.key.kind.to_string(),
        text: message(known, finding),
        count: finding.count,
        pods: finding.pods.len(),
        source: source(&finding.key.kind).into(),
        owner: if finding.exact { Evidence::Exact } else { Evidence::Inferred },
        facts: finding.facts.iter().map(|(_, id)| id.to_string()).collect(),
    }
}

/// Who says something of this type: types begin with the observer that reports them.
fn source(kind: &str) -> &'static str {
    match kind.split('.').next() {
        Some("kubernetes") => KUBERNETES,
        Some("scheduler") => "scheduler",
        Some("signal") => "otlp",
        _ => "kernel",
    }
}

/// Findings that are the same in several places, as one line.
fn together(known: Known<'_>, of: &Explanation, ids: &[FindingId]) -> Option<Line> {
    let mut all: Vec<&Finding> = ids.iter().filter_map(|id| known.findings.get(*id)).collect();
    all.sort_by_key(|finding| finding.onset_ns);
    let (first, others) = all.split_first()?;
    let mut line = line(known, first);
    // Of what came before its cause, the explained part counts.
    let causes = of.links.iter().filter(|link| ids.contains(&link.effect));
    let began = causes.filter_map(|link| known.findings.get(link.cause)).map(|cause| cause.onset_ns).min();
    if let Some((from_ns, _)) =
        began.filter(|began| *began > first.onset_ns).and_then(|began| first.times.from(began))
    {
        line.since_unix_ns = from_ns;
    }
    let mut pods: BTreeSet<EntityId> = first.pods.iter().copied().collect();
    for other in others {
        line.last_unix_ns = line.last_unix_ns.max(other.last_ns);
        line.count = line.count.saturating_add(other.count);
        line.facts.extend(other.facts.iter().map(|(_, id)| id.to_string()));
        pods.extend(&other.pods);
        if !other.exact {
            line.owner = Evidence::Inferred;
        }
    }
    line.facts.truncate(MAX_FACTS);
    line.pods = pods.len();
    Some(line)
}

/// An effect may be seen so long before its cause: Kubernetes gives whole seconds, and either may be seen late.
const SEEN_EARLY_NS: u64 = 5_000_000_000;

/// The lines of findings, the cause first and then in order of time, and the place of each finding among them.
fn in_order(
    known: Known<'_>,
    of: &Explanation,
    all: &[Vec<FindingId>],
) -> (BTreeMap<FindingId, usize>, Vec<Line>) {
    let mut lines: Vec<_> = all.iter().filter_map(|ids| Some((ids, together(known, of, ids)?))).collect();
    let mut since_ns: BTreeMap<FindingId, u64> =
        lines.iter().flat_map(|(ids, line)| ids.iter().map(|id| (*id, line.since_unix_ns))).collect();
    // From the cause on, so that an effect takes the time of its cause's cause, too.
    for (ids, line) in &lines {
        let causes = of.links.iter().filter(|link| ids.contains(&link.effect) && Some(link.cause) != of.root);
        let began = causes.filter_map(|link| since_ns.get(&link.cause)).max().copied().unwrap_or_default();
        if (1..=SEEN_EARLY_NS).contains(&began.saturating_sub(line.since_unix_ns)) {
            since_ns.extend(ids.iter().map(|id| (*id, began)));
        }
    }
    let is_root = |ids: &[FindingId]| of.root.is_some_and(|root| ids.contains(&root));
    lines.sort_by_key(|(ids, _)| (!is_root(ids), ids.first().and_then(|id| since_ns.get(id)).copied()));
    let place = lines.iter().enumerate().flat_map(|(at, (ids, _))| ids.iter().map(move |id| (*id, at)));
    (place.collect(), lines.into_iter().map(|(_, line)| line).collect())
}

/// What the facts of a finding say.
fn message(known: Known<'_>, finding: &Finding) -> Prose {
    Prose::new(finding.message.clone(), places(known, finding))
}

/// Where a finding is, and the namespaces that its facts name.
fn places(known: Known<'_>, finding: &Finding) -> Places {
    let own = [finding.key.entity, workload(known, finding)].map(|id| name(known, id).place());
    let others = finding.peer.and_then(|peer| peer.entity).into_iter().chain(finding.actor);
    // That a pod is on a node, or talks to it, is no secret of the cluster: its own object says it.
    let others = others.map(|id| name(known, id).place()).filter(|place| *place != Place::Cluster);
    let mut places = finding.places.clone();
    visible::join(&mut places, own.into_iter().chain(others));
    places
}

fn name(known: Known<'_>, id: EntityId) -> Name {
    known.graph.get(id).map_or_else(|| Name::new("Unknown", None, "?"), |entity| Name::clone(&entity.name))
}

/// The object that a finding is about.
fn object(known: Known<'_>, finding: &Finding) -> EntityId {
    charged(known, finding).unwrap_or(finding.key.entity)
}

/// The same for incidents of the same class of cause and the same workload.
pub(crate) fn fingerprint(known: Known<'_>, of: &Explanation) -> String {
    let root = of.root.and_then(|id| known.findings.get(id));
    let class = root.and_then(|root| known.rules.kind_of(root)).map_or("unknown", |kind| &kind.names);
    let about = root.or_else(|| of.first(known).and_then(|id| known.findings.get(id)));
    let workload = about.map(|about| workload(known, about));
    let workload = workload.map(|id| name(known, id).to_string()).unwrap_or_default();
    format!("v1:{class}:{workload}")
}

/// The incident of an explanation, without number and history.
pub(crate) fn incident(known: Known<'_>, of: &Explanation) -> Incident {
    let get = |id: FindingId| known.findings.get(id);
    // The same on several pods of a workload is one line.
    let mut lines: Vec<Vec<FindingId>> =
        of.root.map(|root| [&[root], &*of.kin].concat()).into_iter().collect();
    let mut of_kin: BTreeMap<Kin, usize> = BTreeMap::new();
    for id in &of.effects {
        let place = kin(known, *id).map(|kin| *of_kin.entry(kin).or_insert(lines.len()));
        match place.and_then(|place| lines.get_mut(place)) {
            Some(line) => line.push(*id),
            None => lines.push(vec![*id]),
        }
    }
    lines.truncate(MAX_LINES);
    let (place, lines) = in_order(known, of, &lines);
    let root = of.named().and_then(get);
    let root_kind = root.and_then(|root| known.rules.kind_of(root));
    let first = of.first(known).and_then(get);
    let workload = |finding: &Finding| workload(known, finding);

    let of_root = root.map(workload);
    let hits: BTreeSet<EntityId> = of
        .all()
        .filter_map(get)
        .filter(|finding| !crate::fact::is_change(&finding.key.kind))
        .map(workload)
        .collect();
    let hits = workloads(known, hits, true);
    let at_risk = workloads(known, at_risk(known, &hits), false);
    // What people ask about: who fails last in the chain, not where it began.
    let reached = reached(of);
    let worst =
        of.effects.iter().rev().filter(|id| reached.contains(id)).filter_map(|id| get(*id)).map(workload);
    let worst = worst.filter(|id| hits.contains(id)).find(|id| Some(*id) != of_root);
    let title = title(known, worst, root, root_kind, own_effect(known, of).or(first));
    let (ruled_out, mut missing) = match first {
        Some(_) => checked(known, of),
        None => (Vec::new(), Vec::new()),
    };
    if of.left_out > 0 {
        let text = format!(
            "{} findings that matter least were left out: {MAX_TOGETHER} are weighed together",
            of.left_out
        );
        missing.push(Prose::new(text, []));
    }
    let chain = of.links.iter().filter_map(|link| {
        let (cause, effect) = (place.get(&link.cause)?, place.get(&link.effect)?);
        if cause == effect {
            return None;
        }
        let rule = known.rules.rules.get(link.rule)?;
        let lag = get(link.effect)?.onset_ns as f64 - get(link.cause)?.onset_ns as f64;
        Some(Step {
            cause: *cause,
            effect: *effect,
            rule: rule.rule.clone(),
            because: rule.because.clone(),
            lag_s: (lag / 1e8).round() / 10.0,
            certain: link.is_certain,
        })
    });
    let mut chain: Vec<Step> = chain.collect();
    chain.sort_by_key(|step| (step.cause, step.effect, !step.certain));
    chain.dedup_by_key(|step| (step.cause, step.effect));
    Incident {
        id: String::new(),
        fingerprint: fingerprint(known, of),
        revision: 1,
        status: Status::Open,
        title,
        certainty: of.certainty,
        since_unix_ns: first.map_or(known.now_ns, |first| first.onset_ns),
        resolved_unix_ns: None,
        has_cause: root.is_some(),
        root: root.map(|root| name(known, object(known, root))),
        root_kind: root_kind.map(|kind| kind.names.clone()),
        lead: of.lead,
        lines,
        chain,
        hits: names(known, &hits),
        at_risk: names(known, &at_risk),
        ruled_out,
        missing,
        advice: root
            .zip(root_kind)
            .map(|(root, kind)| advice(known, root, &kind.actions))
            .unwrap_or_default(),
        considered: considered(known, of).into_iter().take(MAX_CONSIDERED).collect(),
        seen_before: 0,
        feedback: None,
        ack: None,
        mute: None,
        hidden: Hidden::default(),
    }
}

/// What the kernel says that a change did to its own workload, where the first failure is one that Kubernetes says: a probe fails
/// because of it.
fn own_effect<'a>(known: Known<'a>, of: &Explanation) -> Option<&'a Finding> {
    let get = |id: FindingId| known.findings.get(id);
    let is_of_root = |finding: &&Finding| {
        of.root.and_then(get).is_some_and(|root| workload(known, root) == workload(known, finding))
    };
    let is_kubernetes = |finding: &Finding| source(&finding.key.kind) == KUBERNETES;
    of.first(known).and_then(get).filter(is_of_root).filter(|first| is_kubernetes(first))?;
    let effects =
        of.links.iter().filter(|link| Some(link.cause) == of.root).filter_map(|link| get(link.effect));
    let mut effects = effects.filter(is_of_root).filter(|finding| !is_kubernetes(finding));
    effects.find(|finding| known.rules.kind_of(finding).is_some())
}

/// Whom failures hit: workloads. A node whose kubelet finds a probe failing, or a service without endpoints, only if there
/// is nobody else.
fn workloads(known: Known<'_>, all: BTreeSet<EntityId>, or_all: bool) -> BTreeSet<EntityId> {
    let is_workload = |id: &EntityId| !known.graph.is(*id, "Node") && !known.graph.is(*id, "Service");
    let found: BTreeSet<EntityId> = all.iter().copied().filter(is_workload).collect();
    if found.is_empty() && or_all { all } else { found }
}

fn names(known: Known<'_>, ids: &BTreeSet<EntityId>) -> Vec<Name> {
    let mut names: Vec<_> = ids.iter().map(|id| name(known, *id)).collect();
    names.sort_unstable();
    names.truncate(MAX_NAMES);
    names
}

/// What the cause itself leads to, without what changes that were made with it lead to; everything, if there is no cause.
fn reached(of: &Explanation) -> BTreeSet<FindingId> {
    let Some(root) = of.root else { return of.effects.iter().copied().collect() };
    let mut found = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(cause) = open.pop() {
        let effects = of.links.iter().filter(|link| link.cause == cause).map(|link| link.effect);
        open.extend(effects.filter(|effect| found.insert(*effect)));
    }
    found
}

fn title(
    known: Known<'_>,
    worst: Option<EntityId>,
    root: Option<&Finding>,
    kind: Option<&crate::rule::Kind>,
    first: Option<&Finding>,
) -> Prose {
    let titled = |id: EntityId| titled(&name(known, id));
    let workload = |finding: &Finding| workload(known, finding);
    let says = |finding: &Finding| known.rules.kind_of(finding).map_or("is failing", |kind| &kind.says);
    // What became of the cause's own workload is closer to what people see than the change.
    let is_change = |root: &Finding| crate::fact::is_change(&root.key.kind);
    let own =
        first.filter(|first| root.is_some_and(|root| is_change(root) && workload(root) == workload(first)));
    let about = root.into_iter().chain(first).map(workload).chain(worst);
    let places: Places = about.map(|id| name(known, id).place()).collect();
    let text = match (root, kind, worst) {
        (Some(root), Some(kind), Some(worst)) => {
            let (worst, root_name) = (titled(worst), titled(workload(root)));
            match own {
                Some(own) => {
                    format!("{worst} is failing because {root_name} {} since it {}", says(own), kind.says)
                }
                None => format!("{worst} is failing because {root_name} {}", kind.says),
            }
        }
        (Some(root), Some(kind), None) => match own {
            Some(own) => format!("{} {} since it {}", titled(workload(root)), says(own), kind.says),
            // The same said twice explains nothing.
            None => {
                match first.filter(|first| workload(first) != workload(root) || says(first) != kind.says) {
                    Some(first) => {
                        format!(
                            "{} {} because {} {}",
                            titled(workload(first)),
                            says(first),
                            titled(workload(root)),
                            kind.says
                        )
                    }
                    None => format!("{} {}", titled(workload(root)), kind.says),
                }
            }
        },
        _ => match first {
            Some(first) => format!("{} {}; the cause is not known", titled(workload(first)), says(first)),
            None => "the cause is not known".to_owned(),
        },
    };
    Prose::new(text, places)
}

/// Kinds whose names say enough in a title. Objects of other kinds mostly have the name of a workload.
const WORKLOADS: [&str; 9] =
    ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "CronJob", "Job", "Pod", "Unit", "Application"];

/// As titles name objects.
fn titled(name: &Name) -> String {
    let short = short(name);
    if WORKLOADS.contains(&&*name.kind) { short } else { format!("{} {short}", name.kind) }
}

/// An object without its kind.
pub(crate) fn short(name: &Name) -> String {
    match &name.namespace {
        Some(namespace) => format!("{} ({namespace})", name.name),
        None => name.name.clone(),
    }
}

/// Who depends on workloads with symptoms, and has none.
fn at_risk(known: Known<'_>, hits: &BTreeSet<EntityId>) -> BTreeSet<EntityId> {
    let callers = |hit: &EntityId| known.graph.walk(&[*hit], &[Way::Callers], known.now_ns);
    let mut found: BTreeSet<EntityId> = hits.iter().flat_map(callers).collect();
    found.retain(|id| !hits.contains(id));
    found
}

/// What was looked for to explain the first failures, and was not there, or could not be seen.
fn checked(known: Known<'_>, of: &Explanation) -> (Vec<Prose>, Vec<Prose>) {
    let explained: BTreeSet<usize> = of.links.iter().map(|link| link.rule).collect();
    let (mut ruled_out, mut missing) = (BTreeMap::<String, Places>::new(), BTreeMap::<String, Places>::new());
    let mut asked = BTreeSet::new();
    for id in of.all() {
        // One of each kind says what there is to say.
        if asked.len() >= MAX_LINES || !asked.insert(kin(known, id)) {
            continue;
        }
        let is_effect = |finding: &&Finding| !crate::fact::is_change(&finding.key.kind);
        let Some(finding) = known.findings.get(id).filter(is_effect) else { continue };
        let mut ways = Ways::of(known.graph, finding);
        for (index, rule) in known.rules.with_effect(&finding.key.kind) {
            let Some(absent) = rule.absent.as_ref().filter(|_| !explained.contains(&index)) else { continue };
            let text = filled(absent, &values(known, finding));
            match look(known, index, rule, id, &mut ways) {
                Some(Found::Absent) => ruled_out.entry(text).or_default().extend(places(known, finding)),
                Some(Found::NotCovered(all)) => all
                    .into_iter()
                    .for_each(|what| missing.entry(what).or_default().extend(places(known, finding))),
                Some(Found::Present) | None => {}
            }
        }
    }
    let prose = |texts: BTreeMap<String, Places>| {
        texts.into_iter().map(|(text, places)| Prose::new(text, places)).collect()
    };
    (prose(ruled_out), prose(missing))
}

/// Whether a finding of an explanation is of an object or of its pods.
pub(crate) fn concerns(known: Known<'_>, of: &Explanation, object: &Name) -> bool {
    let findings = of.all().filter_map(|id| known.findings.get(id));
    findings.into_iter().any(|finding| name(known, workload(known, finding)) == *object)
}

/// The causes that were considered, the best first, each once.
pub(crate) fn considered(known: Known<'_>, of: &Explanation) -> Vec<Considered> {
    let mut shown = BTreeSet::new();
    let round = |value: f64| (value * 100.0).round() / 100.0;
    let ids = |finding: &Finding| finding.facts.iter().map(|(_, id)| id.to_string()).collect();
    let workload = |finding: &Finding| name(known, workload(known, finding));
    let explained = |(id, rule): &(FindingId, usize)| {
        let finding = known.findings.get(*id)?;
        Some(Explained {
            kind: finding.key.kind.to_string(),
            workload: workload(finding),
            rule: known.rules.rules.get(*rule)?.rule.clone(),
            facts: ids(finding),
        })
    };
    let of = of.candidates.iter().filter_map(|candidate| {
        let finding = known.findings.get(candidate.finding)?;
        // The same on another pod is the same cause.
        if kin(known, candidate.finding).is_some_and(|kin| !shown.insert(kin)) {
            return None;
        }
        let kind = known.rules.kind_of(finding).map_or("", |kind| &kind.names);
        let term = |term: &Term| match term {
            Term::Prior => Prose::new(format!("prior of {kind}"), []),
            Term::Standing => Prose::new("has been there all the time", []),
            Term::Explains((kind, of), usual) => {
                let place = of.as_ref().map(|workload| workload.place());
                let of = of.as_ref().map(|workload| format!(" of {workload}")).unwrap_or_default();
                let usual =
                    usual.map(|times| format!(", which came {times} times in a fortnight for no reason"));
                Prose::new(format!("explains {kind}{of}{}", usual.unwrap_or_default()), place)
            }
        };
        Some(Considered {
            entity: name(known, object(known, finding)),
            workload: workload(finding),
            kind: kind.to_owned(),
            facts: ids(finding),
            explains: candidate.explains.iter().filter_map(explained).collect(),
            text: message(known, finding),
            score: round(candidate.score),
            terms: candidate.terms.iter().map(|(of, value)| (term(of), round(*value))).collect(),
        })
    });
    of.collect()
}

/// What a text may name, of a finding.
fn values(known: Known<'_>, finding: &Finding) -> BTreeMap<&'static str, String> {
    let entity = name(known, finding.key.entity);
    let workload = name(known, known.graph.workload(finding.key.entity, finding.onset_ns));
    let peer = finding.peer.map(|peer| match peer.entity {
        Some(id) => name(known, id).name,
        None => peer.address.map_or_else(|| "?".to_owned(), |address| address.to_string()),
    });
    let field = |key| finding.field(key).unwrap_or("?").to_owned();
    BTreeMap::from([
        ("kind", entity.kind.to_lowercase()),
        ("name", entity.name),
        ("namespace", entity.namespace.unwrap_or_default()),
        ("workload", format!("{}/{}", workload.kind.to_lowercase(), workload.name)),
        ("workload_name", workload.name),
        ("peer", peer.unwrap_or_else(|| "?".to_owned())),
        ("node", finding.node.clone()),
        ("actor", field("actor")),
        ("manager", field("manager")),
        ("tool", field("tool")),
        ("application", field("application")),
        ("unit", field("unit")),
        ("tool_revision", field("tool_revision")),
        (
            "limit",
            finding
                .number("limit_bytes")
                .map_or_else(|| "?".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
        ),
    ])
}

/// The names that texts of rules may have in braces.
pub(crate) const NAMES: &[&str] = &[
    "kind",
    "name",
    "namespace",
    "workload",
    "workload_name",
    "peer",
    "node",
    "actor",
    "manager",
    "tool",
    "application",
    "unit",
    "tool_revision",
    "limit",
];

fn filled(text: &str, values: &BTreeMap<&'static str, String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        match after.split_once('}').and_then(|(key, after)| Some((values.get(key)?, after))) {
            Some((value, after)) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn advice(known: Known<'_>, root: &Finding, actions: &[Action]) -> Vec<Advice> {
    let values = values(known, root);
    let tool = root.field("tool");
    let fits = |action: &&Action| match action.tool.as_deref() {
        None => true,
        Some("none") => tool.is_none_or(|tool| tool == "kubectl"),
        Some(wanted) => tool == Some(wanted),
    };
    let places = places(known, root);
    let prose = |text: &String| Prose::new(filled(text, &values), places.clone());
    let advice = actions.iter().filter(fits).map(|action| Advice {
        text: prose(&action.text),
        command: action.command.as_ref().map(prose),
        undo: action.undo.as_ref().map(prose),
    });
    advice.collect()
}

/// How sure an answer is, in capitals.
pub(crate) const fn shown(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Confirmed => "CONFIRMED",
        Certainty::Likely => "LIKELY",
        Certainty::Inconclusive => "INCONCLUSIVE",
    }
}
