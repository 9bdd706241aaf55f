//! What a fact says: about the graph, about coverage, and as a finding.

mod signal;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use tapio_occurrence::{
    Name as Text, Occurrence, Peer, SOURCE, Severity, Value, Workload,
    attention::Attention,
    feedback::Feedback,
    kubernetes::{Aspect, Change, Condition, Deleted, Fact as _, Field, Object, Reference, Synced, Warning},
    signal::{Calls, Signal},
};

use crate::{
    finding::{Expected, Fields, Finding, Key, MAX_VALUES, Other, Times},
    graph::{EntityId, Graph, Name},
    visible::namespaces,
};

/// Maximum length of a text that is taken from a fact, in bytes.
const MAX_TEXT: usize = 512;
/// Most entries of a list of an object: more than PORTTI sends.
const MAX_ENTRIES: usize = 2_048;

/// What the engine makes of a fact.
#[derive(Debug)]
pub(crate) enum Said {
    /// Only the graph changed: an entity that is different now.
    Graph(Option<EntityId>),
    /// A claim.
    Finding(Box<Finding>),
    /// A condition has ended.
    Ended { key: Key, at_ns: u64 },
    /// Somebody judged an answer.
    Feedback(Feedback),
    /// Somebody acknowledged or muted something.
    Attention(Attention),
    /// An agent looks.
    Heartbeat(Heartbeat),
    /// The view of Kubernetes is complete.
    Synced(Synced),
    /// Nothing that the engine knows.
    Nothing,
}

/// A node's agent, at one time.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) node: String,
    pub(crate) stops: bool,
    /// Observers that are not running, with the reason.
    pub(crate) missing: BTreeMap<String, String>,
    pub(crate) dropped: u64,
}

/// A fact that says something impossible.
#[derive(Debug, thiserror::Error)]
#[error("{id} ({kind}): {what}")]
pub struct Refused {
    id: String,
    kind: String,
    what: String,
}

/// Reads a fact into the graph.
pub(crate) fn read(fact: &Occurrence, graph: &mut Graph) -> Result<Said, Refused> {
    let wrong = |what: String| Refused { id: fact.id.to_string(), kind: cut(&fact.kind), what };
    let refused = |error: serde_json::Error| wrong(error.to_string());
    let at = fact.time_unix_ns;
    if fact.kind.len() > MAX_TEXT {
        return Err(wrong(format!("type: longer than {MAX_TEXT} bytes")));
    }
    if let Some(object) = Object::of(fact) {
        let object = placed(object.map_err(refused)?);
        let lists = [object.owners.len(), object.uses.len(), object.addresses.len(), object.endpoints.len()];
        if lists.into_iter().chain([object.labels.len(), object.selector.len()]).any(|len| len > MAX_ENTRIES)
        {
            return Err(wrong(format!("a list of more than {MAX_ENTRIES} entries")));
        }
        let all = object.owners.iter().chain(&object.uses).chain([&object.object]);
        all.into_iter().try_for_each(named_well).map_err(wrong)?;
        let added = graph.add(object, at, true);
        return Ok(Said::Graph(added.filter(|(_, differs)| *differs).map(|(id, _)| id)));
    }
    if let Some(deleted) = Deleted::of(fact) {
        let object = deleted.map_err(refused)?.object;
        named_well(&object).map_err(wrong)?;
        return Ok(Said::Graph(graph.delete(&object, at)));
    }
    if let Some(synced) = Synced::of(fact) {
        return synced.map(Said::Synced).map_err(refused);
    }
    if let Some(change) = Change::of(fact) {
        let change = change.map_err(refused)?;
        named_well(&change.object).map_err(wrong)?;
        let Some(entity) = graph.intern(&change.object, at) else { return Ok(Said::Nothing) };
        return Ok(Said::Finding(Box::new(of_change(fact, change, entity))));
    }
    if let Some(condition) = Condition::of(fact) {
        let condition = condition.map_err(refused)?;
        named_well(&condition.object).map_err(wrong)?;
        let Some(entity) = graph.intern(&condition.object, at) else { return Ok(Said::Nothing) };
        return Ok(of_condition(fact, &condition, entity));
    }
    if let Some(warning) = Warning::of(fact) {
        let warning = warning.map_err(refused)?;
        named_well(&warning.object).map_err(wrong)?;
        let Some(entity) = graph.intern(&warning.object, at) else { return Ok(Said::Nothing) };
        return Ok(Said::Finding(Box::new(of_warning(fact, &warning, entity))));
    }
    if let Some(signal) = Signal::of(fact) {
        return signal::of_signal(fact, &signal.map_err(refused)?, graph).map_err(wrong);
    }
    if let Some(feedback) = Feedback::of(fact) {
        let feedback = feedback.map_err(refused)?;
        let texts = [Some(&feedback.fingerprint), feedback.cause.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > 2 * MAX_TEXT) {
            return Err(wrong(format!("a text of more than {} bytes", 2 * MAX_TEXT)));
        }
        return Ok(Said::Feedback(feedback));
    }
    if let Some(attention) = Attention::of(fact) {
        let attention = attention.map_err(refused)?;
        let Attention { by, incident, fingerprint, kind, namespace, name, reason, .. } = &attention;
        let texts = [by, incident, fingerprint, kind, namespace, name, reason];
        if texts.into_iter().flatten().any(|text| text.len() > 4 * MAX_TEXT) {
            return Err(wrong(format!("a text of more than {} bytes", 4 * MAX_TEXT)));
        }
        return Ok(Said::Attention(attention));
    }
    if let Some(calls) = Calls::of(fact) {
        return signal::of_calls(fact, &calls.map_err(refused)?, graph).map_err(wrong);
    }
    Ok(match &*fact.kind {
        "tapio.heartbeat" => Said::Heartbeat(of_heartbeat(fact)),
        "network.edges" => of_edges(fact, graph),
        _ if fact.source == SOURCE => of_occurrence(fact, graph),
        _ => Said::Nothing,
    })
}

/// Names in Kubernetes have at most 253 bytes.
fn named_well(of: &Reference) -> Result<(), String> {
    let texts = [Some(&of.kind), of.namespace.as_ref(), Some(&of.name), of.uid.as_ref()];
    match texts.into_iter().flatten().find(|text| text.len() > MAX_TEXT) {
        Some(text) => Err(format!("a name of {} bytes, which is more than {MAX_TEXT}", text.len())),
        None => Ok(()),
    }
}

/// References of a namespaced object without a namespace are to objects of its namespace, unless these have none.
fn placed(mut object: Object) -> Object {
    const OF_THE_CLUSTER: &[&str] =
        &["Node", "PersistentVolume", "Namespace", "StorageClass", "ClusterRole", "PriorityClass"];
    for reference in object.owners.iter_mut().chain(&mut object.uses) {
        if reference.namespace.is_none() && !OF_THE_CLUSTER.contains(&&*reference.kind) {
            reference.namespace.clone_from(&object.object.namespace);
        }
    }
    object
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT)])
}

fn finding(fact: &Occurrence, kind: Text, entity: EntityId, detail: String) -> Finding {
    Finding {
        key: Key { kind, entity, detail },
        pods: Vec::new(),
        of_pods: BTreeMap::new(),
        peer: None,
        actor: None,
        node: cut(&fact.node),
        onset_ns: since(fact),
        seen_ns: until(fact),
        last_ns: until(fact),
        expected: BTreeMap::new(),
        ended_ns: None,
        count: fact.count.max(1),
        times: Times::at(fact.time_unix_ns, fact.count.max(1)),
        severity: fact.severity,
        message: cut(&fact.message),
        places: namespaces(fact),
        fields: fields(fact),
        facts: vec![(fact.time_unix_ns, fact.id)],
        exact: true,
        set: None,
    }
}

/// When it began: before the fact, where that says for how long.
fn since(fact: &Occurrence) -> u64 {
    let ago = ["since_ms", "lasted_ms"].iter().find_map(|key| fact.data.number(key));
    // The first of several losses.
    let ago = ago.or_else(|| fact.data.number("window_ms").filter(|_| fact.kind == "link.flapping"));
    fact.time_unix_ns.saturating_sub(ago.unwrap_or_default().saturating_mul(1_000_000))
}

/// When the latest of those came that it counts.
fn until(fact: &Occurrence) -> u64 {
    const LONGEST_MS: u64 = 3_600_000;
    let ms = fact.data.number("until_ms").unwrap_or_default().min(LONGEST_MS);
    fact.time_unix_ns.saturating_add(ms.saturating_mul(1_000_000))
}

/// The texts and numbers of `data`, as rules compare them.
fn fields(fact: &Occurrence) -> Fields {
    let mut fields = Fields::new();
    for (key, value) in &fact.data.0 {
        let text = match value {
            Value::Number(number) => number.to_string(),
            Value::Signed(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => cut(text),
            Value::List(_) | Value::Workload(_) => continue,
        };
        fields.insert(key.clone(), vec![text]);
    }
    if let Some(process) = &fact.process {
        fields.insert("process".into(), vec![cut(&process.comm)]);
    }
    if let Some(actor) = &fact.actor {
        fields.insert("actor".into(), vec![cut(&actor.process.comm)]);
    }
    fields
}

/// Fields of a finding: what was edited, and what would take that back.
pub(crate) const EDIT: &str = "edit";
pub(crate) const REVERT: &str = "revert";

fn of_change(fact: &Occurrence, change: Change, entity: EntityId) -> Finding {
    // The fields of an object that was created or deleted do not differ from anything.
    let detail = change.set.clone().unwrap_or_else(|| fact.id.to_string());
    let mut finding = finding(fact, Change::TYPE.into(), entity, detail);
    finding.set.clone_from(&change.set);
    let mut aspects: Vec<String> = change.fields.iter().map(|field| name_of(field.aspect)).collect();
    aspects.sort_unstable();
    aspects.dedup();
    finding.fields.insert("aspect".into(), aspects);
    let mut values = |key: &'static str, value: fn(&Field) -> Option<String>| {
        let values = change.fields.iter().filter_map(value).take(MAX_VALUES).collect();
        finding.fields.insert(key.into(), values);
    };
    values("path", |field| Some(cut(&field.path)));
    values("image", |field| field.to.clone().filter(|_| field.aspect == Aspect::Image).map(|to| cut(&to)));
    values("lowered", |field| lowered(field).then(|| cut(&field.path)));
    values("raised", |field| raised(field).then(|| cut(&field.path)));
    values("memory_limit_bytes", |field| {
        let is_limit = field.aspect == Aspect::Memory && field.path.contains("limits");
        field.to.as_deref().filter(|_| is_limit).and_then(quantity).map(|bytes| format!("{bytes:.0}"))
    });
    values("node_label", |field| {
        let (_, key) = field.path.split_once(".nodeSelector.")?;
        Some(cut(&format!("{key}={}", field.to.as_ref()?)))
    });
    values("replicas", |field| field.to.clone().filter(|_| field.path == "spec.replicas"));
    finding.fields.insert(EDIT.into(), edits(&change, |field| [&field.from, &field.to]));
    finding.fields.insert(REVERT.into(), edits(&change, |field| [&field.to, &field.from]));
    finding
}

/// A hash of each field's path and values; none if any of them is not known, so that it is the same as nothing else.
fn edits(change: &Change, values: fn(&Field) -> [&Option<String>; 2]) -> Vec<String> {
    // PORTTI cuts long values: `... (400 bytes)`, with an ellipsis.
    let is_cut = |value: &String| value.ends_with(" bytes)") && value.contains("… (");
    let is_known = |field: &Field| {
        let mut values = field.from.iter().chain(&field.to).peekable();
        values.peek().is_some() && !values.any(is_cut)
    };
    if change.more.is_some() || change.fields.len() > MAX_VALUES || !change.fields.iter().all(is_known) {
        return Vec::new();
    }
    let hash = |field: &Field| {
        let mut hasher = DefaultHasher::new();
        (&field.path, values(field)).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let mut edits: Vec<String> = change.fields.iter().map(hash).collect();
    edits.sort_unstable();
    edits
}

fn name_of(aspect: Aspect) -> String {
    // Written as serde does.
    serde_json::to_value(aspect)
        .ok()
        .and_then(|value| value.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

/// Whether a field has less than before: a smaller amount, or one where there was no limit.
fn lowered(field: &Field) -> bool {
    let is_limit = field.path.contains("limits");
    match (&field.from, &field.to) {
        (Some(from), Some(to)) => quantity(from).zip(quantity(to)).is_some_and(|(from, to)| to < from),
        (None, Some(to)) => is_limit && quantity(to).is_some(),
        _ => false,
    }
}

fn raised(field: &Field) -> bool {
    field
        .from
        .as_deref()
        .and_then(quantity)
        .zip(field.to.as_deref().and_then(quantity))
        .is_some_and(|(from, to)| to > from)
}

/// A quantity of Kubernetes (`512Mi`, `250m`, `1e3`), in its base unit.
pub(crate) fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: &[(&str, f64)] = &[
        ("Ki", 1024.0),
        ("Mi", 1024.0 * 1024.0),
        ("Gi", 1024.0 * 1024.0 * 1024.0),
        ("Ti", 1024.0 * 1024.0 * 1024.0 * 1024.0),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
    ];
    let (number, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    number.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * unit)
}

fn of_condition(fact: &Occurrence, condition: &Condition, entity: EntityId) -> Said {
    let kind = Text::from(format!("{}/{}", Condition::TYPE, cut(&condition.condition)));
    let detail = condition.container.as_deref().map(cut).unwrap_or_default();
    if condition.status != "true" {
        return Said::Ended { key: Key { kind, entity, detail }, at_ns: fact.time_unix_ns };
    }
    let mut finding = finding(fact, kind, entity, detail);
    if condition.object.kind == "Pod" {
        finding.pods.push(entity);
    }
    Said::Finding(Box::new(finding))
}

fn of_warning(fact: &Occurrence, warning: &Warning, entity: EntityId) -> Finding {
    let kind = Text::from(format!("{}/{}", Warning::TYPE, cut(&warning.reason)));
    let mut finding = finding(fact, kind, entity, String::new());
    if let Some(first) = warning.first_unix_ns {
        finding.onset_ns = finding.onset_ns.min(first);
    }
    if warning.object.kind == "Pod" {
        finding.pods.push(entity);
    }
    finding
}

fn of_heartbeat(fact: &Occurrence) -> Heartbeat {
    let list = |key: &str| match fact.data.get(key) {
        Some(Value::List(entries)) => entries.as_slice(),
        _ => &[],
    };
    let missing = list("observers").iter().filter_map(|observer| {
        let name = observer.text("observer")?;
        let state = observer.text("state").filter(|state| *state != "running")?;
        let why = observer.text("missing").unwrap_or(state);
        Some((cut(name), cut(why)))
    });
    Heartbeat {
        node: cut(&fact.node),
        stops: fact.data.text("phase") == Some("stop"),
        missing: missing.collect(),
        dropped: list("dropped").iter().filter_map(|entry| entry.number("count")).sum(),
    }
}

/// The workload of an agent's fact: the pod with its owner and its node, else the unit, else the node.
fn affected(fact: &Occurrence, workload: Option<&Workload>, graph: &mut Graph) -> Option<EntityId> {
    let at = fact.time_unix_ns;
    let node = (!fact.node.is_empty()).then(|| fact.node.to_string());
    let Some(workload) = workload else {
        // A volume that several pods share is not their node's.
        if let Some(volume) = fact.data.text("volume") {
            return claim(volume, at, graph);
        }
        let reference = Reference { kind: "Node".to_owned(), namespace: None, name: node?, uid: None };
        return graph.intern(&reference, at);
    };
    if let Some(pod) = &workload.pod {
        let object = Reference {
            kind: "Pod".to_owned(),
            namespace: workload.namespace.clone(),
            name: cut(pod),
            uid: workload.pod_uid.clone(),
        };
        let owner = owner(workload);
        if let Some(owner) = &owner {
            graph.intern(owner, at);
        }
        let object = Object { object, owners: owner.into_iter().collect(), node, ..Object::default() };
        return graph.add(object, at, false).map(|(id, _)| id);
    }
    let (kind, name) = match (&workload.unit, &workload.container_id) {
        (Some(unit), _) => ("Unit", unit),
        (None, Some(id)) => ("Container", id),
        (None, None) => return None,
    };
    // Units are of a node, as objects are of a namespace.
    let object = Reference { kind: kind.to_owned(), namespace: node.clone(), name: cut(name), uid: None };
    graph.add(Object { object, node, ..Object::default() }, at, false).map(|(id, _)| id)
}

/// The claim that a volume belongs to, or the volume itself.
fn claim(volume: &str, at: u64, graph: &mut Graph) -> Option<EntityId> {
    let (kind, name) = ("PersistentVolume".to_owned(), cut(volume));
    let volume = graph.intern(&Reference { kind, namespace: None, name, uid: None }, at)?;
    let claim = graph.referring(volume).find(|id| graph.is(*id, "PersistentVolumeClaim"));
    Some(claim.unwrap_or(volume))
}

/// The owner of a pod, as its agent names it.
fn owner(workload: &Workload) -> Option<Reference> {
    let (kind, name) = workload.owner_kind.as_ref().zip(workload.owner.as_ref())?;
    let namespace = workload.namespace.clone().filter(|_| kind != "Node");
    Some(Reference { kind: kind.clone(), namespace, name: cut(name), uid: None })
}

/// Whose connections they are: the pod's owner as its agent names it, so that it does not matter when the API server's view
/// comes.
fn client(fact: &Occurrence, entity: EntityId, graph: &mut Graph) -> EntityId {
    let owner = fact.workload.as_deref().and_then(owner).filter(|owner| owner.kind != "Node");
    let named = owner.and_then(|owner| graph.intern(&owner, fact.time_unix_ns));
    named.unwrap_or_else(|| graph.workload(entity, fact.time_unix_ns))
}

/// Whether it is a connection of the kubelet to a pod: mostly a probe, whose failure is that of the pod. It counts as the node's, not
/// as one of the unit in which the kubelet runs.
fn is_probe(fact: &Occurrence, graph: &Graph) -> bool {
    let is_in_pod = fact.workload.as_ref().is_some_and(|workload| workload.pod_uid.is_some());
    let is_kubelet = fact.process.as_ref().is_some_and(|process| tapio_occurrence::is_kubelet(&process.comm));
    let to_pod = |peer: &Peer| {
        let known = || graph.at_address(peer.address, fact.time_unix_ns);
        peer.names().pod.is_some() || known().is_some_and(|peer| graph.is(peer, "Pod"))
    };
    let is_inbound = fact.data.text("direction") == Some("inbound");
    fact.kind.starts_with("network.")
        && is_kubelet
        && !is_in_pod
        && !is_inbound
        && fact.peer.as_ref().is_some_and(to_pod)
}

fn of_occurrence(fact: &Occurrence, graph: &mut Graph) -> Said {
    let workload = fact.workload.as_deref().filter(|_| !is_probe(fact, graph));
    let Some(entity) = affected(fact, workload, graph) else { return Said::Nothing };
    let is_exact =
        fact.workload.as_ref().is_none_or(|workload| workload.pod.is_none() || workload.pod_uid.is_some());
    let at = fact.time_unix_ns;
    let mut of_peer = None;
    if let Some(peer) = &fact.peer {
        let names = peer.names();
        let namespace = names.namespace.as_deref();
        let named =
            [("Service", &names.service), ("Pod", &names.pod)].into_iter().find_map(|(kind, name)| {
                let reference = Reference {
                    kind: kind.to_owned(),
                    namespace: namespace.map(Into::into),
                    name: cut(name.as_deref()?),
                    uid: None,
                };
                graph.intern(&reference, at)
            });
        let known = named.or_else(|| graph.at_address(peer.address, at));
        of_peer = Some(Other { entity: known, address: Some(peer.address), port: peer.port });
    }
    // Connections are a matter of a whole workload; what happens in a container is the pod's.
    let is_network = fact.kind.starts_with("network.");
    let about = if is_network { client(fact, entity, graph) } else { entity };
    let question = fact.data.text("question").unwrap_or_default();
    let detail = match &of_peer {
        Some(Other { entity: Some(id), port, .. }) => {
            let name = graph.get(*id).map(|entity| entity.name.to_string()).unwrap_or_default();
            format!("{name}:{port} {question}")
        }
        Some(Other { address: Some(address), port, .. }) => format!("{address}:{port} {question}"),
        Some(Other { address: None, port, .. }) => format!(":{port} {question}"),
        None => {
            let container = fact.workload.as_ref().and_then(|workload| workload.container.clone());
            // A node has several file systems and services.
            let place =
                || ["mount_point", "unit"].iter().find_map(|key| fact.data.text(key)).map(ToOwned::to_owned);
            container.or_else(place).unwrap_or_default()
        }
    };
    let mut finding = finding(fact, fact.kind.clone(), about, cut(&detail));
    finding.exact = is_exact;
    let who = || {
        let comm = fact.process.as_ref().map(|process| &*process.comm).unwrap_or_default();
        cut(&format!("{} {comm}", fact.node))
    };
    if fact.data.number("expected_per_minute").is_some() {
        finding.expect(who(), Expected { since_ns: at, stopped_ns: 0 });
    }
    if fact.data.number("stopped_ms").is_some() {
        finding.expect(who(), Expected { since_ns: 0, stopped_ns: at });
        // It was counted where it was reported.
        (finding.count, finding.times) = (0, Times::at(at, 0));
    }
    if graph.is(entity, "Pod") {
        finding.pods.push(entity);
    }
    if let Some(peer) = of_peer {
        if let Some(address) = peer.address
            && fact.data.text("direction") != Some("inbound")
        {
            graph.connections.add(about, (address, peer.port), finding.onset_ns, finding.last_ns);
        }
        finding.peer = Some(peer);
    }
    // Who killed it, or took what it needs.
    let of_actor = fact.actor.as_ref().and_then(|actor| actor.workload.as_deref());
    let of_actor = of_actor.or_else(|| fact.data.workload("noisy_neighbour"));
    finding.actor = of_actor.and_then(|workload| affected(fact, Some(workload), graph));
    Said::Finding(Box::new(finding))
}

fn of_edges(fact: &Occurrence, graph: &mut Graph) -> Said {
    let Some(entity) = affected(fact, fact.workload.as_deref(), graph) else { return Said::Nothing };
    let client = client(fact, entity, graph);
    let Some(Value::List(edges)) = fact.data.get("edges") else { return Said::Nothing };
    for edge in edges {
        let Some(address) = edge.address("address") else { continue };
        let port = edge.number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or_default();
        let ago = |key| {
            let ms = edge.number(key).unwrap_or_default();
            fact.time_unix_ns.saturating_sub(ms.saturating_mul(1_000_000))
        };
        if edge.text("direction") == Some("inbound") {
            // The client's own agent reports it too, if there is one.
            if let Some(peer) = graph.at_address(address, fact.time_unix_ns) {
                let peer = graph.workload(peer, fact.time_unix_ns);
                for own in graph.addresses_of(entity, fact.time_unix_ns) {
                    graph.connections.add(peer, (own, port), ago("since_ms"), ago("last_ms"));
                }
            }
            continue;
        }
        graph.connections.add(client, (address, port), ago("since_ms"), ago("last_ms"));
    }
    Said::Graph(None)
}

/// The entity that a name stands for, for questions.
pub(crate) fn named(
    graph: &Graph,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    at_ns: u64,
) -> Option<EntityId> {
    graph.named(&Name::new(kind, namespace, name), at_ns)
}

/// Whether a fact is a change of something that should be.
pub(crate) fn is_change(kind: &str) -> bool {
    kind == Change::TYPE
}

/// Severities that a failure has.
pub(crate) const fn is_failure(severity: Severity) -> bool {
    matches!(severity, Severity::Warning | Severity::Error | Severity::Critical)
}
