//! Cloud-OpsBench: the state of a namespace at one time, with its Events, of 49 kinds of fault.
//!
//! What differs from the most common form of an object over all cases is a change. Times are the ages of Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use serde_json::Value;
use tapio_occurrence::{
    Data,
    kubernetes::{
        Address, Change, Condition, Deleted, Endpoint, Object, Pair, Reference, Verb, Warning, condition,
    },
};

use crate::{
    case::Case,
    describe::{self, Spec, list, text, texts},
    facts::{Facts, SEC, pod, service},
    files, folders,
    labels::{self, Names},
};

/// All is known since this long before the snapshot.
const WATCHED_NS: u64 = 2 * 3_600 * SEC;
/// What is not dated is of this long before the snapshot: the application is deployed anew then.
const DEPLOYED_NS: u64 = 100 * SEC;
/// A check of connections fails from this long before the snapshot on, for a minute.
const CHECKED_NS: u64 = 20 * SEC;

pub(crate) fn cases(directory: &Path) -> Result<Vec<Case>, String> {
    folders(&directory.join("cases"))?.iter().map(|folder| case(directory, folder)).collect()
}

fn case(directory: &Path, folder: &Path) -> Result<Case, String> {
    let about = files::json(&folder.join("case.json"))?;
    let usual = files::json(&directory.join("usual").join(format!("{}.json", text(&about, "system"))))?;
    let alerts = folder.join("alert.json");
    let snapshot = Snapshot {
        namespace: text(&about, "namespace").to_owned(),
        at_ns: local(text(&about, "collected_at")).ok_or_else(|| format!("{}: no time", folder.display()))?,
        objects: files::json_lines(&folder.join("objects.jsonl.gz"))?,
        events: files::json_lines(&folder.join("events.jsonl.gz"))?,
        infra: files::json(&folder.join("infra.json"))?,
        // Some are empty.
        alerts: if alerts.exists() { files::json(&alerts).unwrap_or_default() } else { Value::Null },
        usual: usual_specs(&usual),
    };
    let truth = about.get("truth").cloned().unwrap_or_default();
    let names = snapshot.names();
    let apps = snapshot.of_kind("Deployment").count();
    let nodes = snapshot.of_kind("Node").count();
    Ok(Case {
        name: folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        fault: text(&truth, "root_cause").to_owned(),
        object: text(&truth, "fault_object").to_owned(),
        cause: text(&truth, "root_cause").to_owned(),
        choices: apps + nodes + 1,
        leaves_no_trace: false,
        asked: None,
        since_unix_ns: 0,
        facts: snapshot.facts(),
        say: Box::new(move |cause, facts| labels::say(cause, facts, &names)),
    })
}

fn usual_specs(usual: &Value) -> BTreeMap<String, Spec> {
    let specs = usual.as_object().into_iter().flatten();
    let fields = |spec: &Value| {
        let fields = spec.as_object().into_iter().flatten();
        fields.filter_map(|(path, value)| Some((path.clone(), value.as_str()?.to_owned()))).collect()
    };
    specs.map(|(key, spec)| (key.clone(), fields(spec))).collect()
}

/// A case, as it was collected.
struct Snapshot {
    namespace: String,
    at_ns: u64,
    objects: Vec<Value>,
    events: Vec<Value>,
    infra: Value,
    alerts: Value,
    /// The most common spec of each object, by kind and name.
    usual: BTreeMap<String, Spec>,
}

impl Snapshot {
    fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| text(object, "kind") == kind)
    }

    fn names(&self) -> Names {
        let mut users = BTreeMap::new();
        for pod in self.of_kind("Pod") {
            let app = app_of(text(pod, "owner"));
            users.insert(format!("ServiceAccount/{}", text(pod, "sa")), app.clone());
            for claim in claims(pod) {
                users.insert(format!("PersistentVolumeClaim/{claim}"), app.clone());
            }
        }
        Names { namespace: self.namespace.clone(), users }
    }

    fn reference(&self, kind: &str, name: &str) -> Reference {
        let kind = if kind == "node" { "Node" } else { kind };
        let kind = if kind == "pod" { "Pod" } else { kind };
        let namespace = (!matches!(kind, "Node" | "PersistentVolume")).then(|| self.namespace.clone());
        Reference { kind: kind.to_owned(), namespace, name: name.to_owned(), uid: None }
    }

    fn facts(&self) -> Vec<tapio_occurrence::Occurrence> {
        let mut facts = Facts::default();
        let nodes: Vec<&str> = self.of_kind("Node").map(|node| text(node, "name")).collect();
        facts.watched(&nodes, self.at_ns - WATCHED_NS, self.at_ns + 90 * SEC);
        let mut seen = BTreeSet::new();
        for object in &self.objects {
            if !matches!(text(object, "kind"), "List" | "") {
                seen.insert(format!("{}/{}", text(object, "kind"), text(object, "name")));
                self.object(object, &mut facts);
                self.states(object, &mut facts);
            }
        }
        self.absent(&seen, &mut facts);
        self.warnings(&mut facts);
        self.connections(&mut facts);
        self.logged(&mut facts);
        self.daemons(&mut facts);
        self.alerts(&mut facts);
        facts.all
    }

    fn object(&self, of: &Value, facts: &mut Facts) {
        let (kind, name) = (text(of, "kind"), text(of, "name"));
        let created = time(text(of, "created")).or_else(|| time(text(of, "start")));
        let since = created.unwrap_or(self.at_ns - DEPLOYED_NS);
        let mut object = Object { object: self.reference(kind, name), ..Object::default() };
        object.labels = pairs(&texts(of, "labels"));
        let before = self.at_ns - WATCHED_NS;
        match kind {
            "Pod" => {
                object.created_unix_ns = Some(since);
                object.object.uid = Some(format!("uid-{name}"));
                object.node = node_of(of);
                object.addresses =
                    text(of, "ip").parse().map(|address| Address { address }).into_iter().collect();
                let owner = text(of, "owner").split_once('/');
                object.owners = owner.map(|(kind, name)| self.reference(kind, name)).into_iter().collect();
                object.uses =
                    claims(of).map(|claim| self.reference("PersistentVolumeClaim", claim)).collect();
                object.uses.push(self.reference("ServiceAccount", text(of, "sa")));
                return facts.portti(since, &object, "");
            }
            "ReplicaSet" => {
                object.labels = Vec::new();
                let owner = text(of, "owner").split_once('/');
                object.owners = owner.map(|(kind, name)| self.reference(kind, name)).into_iter().collect();
            }
            "Deployment" | "StatefulSet" => {
                let template = of.get("template").unwrap_or(&Value::Null);
                object.labels = pairs(&texts(template, "labels"));
                object.uses =
                    claims(template).map(|claim| self.reference("PersistentVolumeClaim", claim)).collect();
                let account = text(template, "sa");
                let account = if account.is_empty() { "default" } else { account };
                object.uses.push(self.reference("ServiceAccount", account));
            }
            "Service" => {
                object.addresses = vec![Address { address: self.address(name) }];
                object.selector = pairs(&texts(of, "selector"));
                self.slice(of, facts);
            }
            "PersistentVolumeClaim" if !text(of, "volume").is_empty() => {
                object.uses = vec![self.reference("PersistentVolume", text(of, "volume"))];
            }
            _ => {}
        }
        let usual = self.usual.get(&format!("{kind}/{name}"));
        let after = describe::flat(of);
        let Some(usual) = usual else {
            facts.portti(since, &object, "");
            if matches!(
                kind,
                "ResourceQuota" | "NetworkPolicy" | "Service" | "Deployment" | "PersistentVolumeClaim"
            ) {
                let change = Change { object: object.object, verb: Verb::Created, ..Change::default() };
                facts.portti(since, &change, &format!("{kind} {name} was created"));
            }
            return;
        };
        let fields = describe::differences(kind, usual, &after);
        if kind == "Service" && fields.iter().any(|field| field.path.starts_with("spec.selector")) {
            let selector = usual.get("selector").map(String::as_str).unwrap_or_default();
            let earlier =
                Object { selector: pairs(&selector.split('|').collect::<Vec<_>>()), ..object.clone() };
            facts.portti(before, &earlier, "");
            facts.portti(since, &object, "");
        } else {
            facts.portti(before, &object, "");
        }
        if !fields.is_empty() {
            let said: Vec<String> = fields
                .iter()
                .map(|field| format!("{} from {:?} to {:?}", field.path, field.from, field.to))
                .collect();
            // What is applied at once is one set.
            let set = Some(format!("kubectl@{}", since / (10 * SEC)));
            let change = Change { object: object.object, fields, set, ..Change::default() };
            facts.portti(since, &change, &format!("{kind} {name}: {}", said.join(", ")));
        }
    }

    /// An address for a service, since the set has none.
    fn address(&self, name: &str) -> IpAddr {
        let mut names: Vec<&str> = self.usual.keys().filter_map(|key| key.strip_prefix("Service/")).collect();
        names.extend(self.of_kind("Service").map(|service| text(service, "name")));
        names.sort_unstable();
        names.dedup();
        let at = names.iter().position(|known| *known == name).unwrap_or(250);
        IpAddr::V4(Ipv4Addr::new(10, 68, 0, at as u8))
    }

    fn endpoints<'a>(&self, service: &'a Value) -> Vec<&'a str> {
        let listed = texts(service, "ports").into_iter().filter_map(|port| port.strip_prefix("Endpoints="));
        listed.flat_map(|all| all.split(',')).filter(|one| one.contains(':')).collect()
    }

    fn slice(&self, of: &Value, facts: &mut Facts) {
        let name = text(of, "name");
        let pods: BTreeMap<&str, &str> =
            self.of_kind("Pod").map(|pod| (text(pod, "ip"), text(pod, "name"))).collect();
        let endpoint = |listed: &str| {
            let address = listed.rsplit_once(':')?.0;
            let pod = pods.get(address).map(|pod| (*pod).to_owned());
            Some(Endpoint { address: address.parse().ok()?, pod, pod_uid: None, ready: "true".to_owned() })
        };
        let slice = Object {
            object: self.reference("EndpointSlice", &format!("{name}-slice")),
            uses: vec![self.reference("Service", name)],
            endpoints: self.endpoints(of).into_iter().filter_map(endpoint).collect(),
            ..Object::default()
        };
        facts.portti(self.at_ns - DEPLOYED_NS, &slice, "");
    }

    /// What an object's status says.
    fn states(&self, of: &Value, facts: &mut Facts) {
        let (kind, name) = (text(of, "kind"), text(of, "name"));
        let deployed = self.at_ns - DEPLOYED_NS;
        let said = |condition: &str, reason: &str, said: &str| Condition {
            object: self.reference(kind, name),
            condition: condition.to_owned(),
            status: "true".to_owned(),
            reason: Some(reason.to_owned()),
            text: (!said.is_empty()).then(|| said.to_owned()),
            ..Condition::default()
        };
        let mut put = |at_ns: u64, condition: &Condition| {
            let what = condition.text.as_deref().or(condition.reason.as_deref()).unwrap_or_default();
            facts.portti(at_ns, condition, &format!("{kind} {name}: {}: {what}", condition.condition));
        };
        match kind {
            "Pod" => {
                for state in self.pod_states(of, said) {
                    put(state.0, &state.1);
                }
            }
            "ReplicaSet"
                if texts(of.get("conditions").unwrap_or(&Value::Null), "ReplicaFailure").first()
                    == Some(&"True") =>
            {
                let why = self.last_event("ReplicaSet", name, &["FailedCreate"]);
                put(why.0, &said(condition::REPLICA_FAILURE, "FailedCreate", &why.1));
            }
            "Service" if !list(of, "selector").is_empty() && self.endpoints(of).is_empty() => {
                put(self.began(name), &said(condition::NO_ENDPOINTS, "NoEndpoints", "no endpoints"));
            }
            "ResourceQuota" => {
                let amounts = list(of, "quota").iter().filter_map(|amount| {
                    let word = |nth: usize| amount.get(nth).and_then(Value::as_str).unwrap_or_default();
                    used_up(word(1), word(2)).then(|| format!("{}: {} of {} used", word(0), word(1), word(2)))
                });
                let text = amounts.collect::<Vec<_>>().join(", ");
                if !text.is_empty() {
                    put(deployed, &said(condition::USED_UP, "UsedUp", &text));
                }
            }
            "PersistentVolumeClaim" if matches!(text(of, "status"), "Pending" | "Lost") => {
                let why = self.last_event("PersistentVolumeClaim", name, &["ProvisioningFailed"]);
                put(deployed, &said(text(of, "status"), "", &why.1));
            }
            "Node" => {
                let conditions = of.get("conditions").and_then(Value::as_object).into_iter().flatten();
                for (name, state) in conditions {
                    let (is, named) = match name.as_str() {
                        "Ready" => (text(state, "status") != "True", condition::NODE_NOT_READY),
                        other => (text(state, "status") == "True", other),
                    };
                    if is {
                        let since = time(text(state, "since")).unwrap_or(deployed);
                        put(since, &said(named, text(state, "reason"), text(state, "message")));
                    }
                }
            }
            _ => {}
        }
    }

    /// When the first Event of an application's pods came.
    fn began(&self, app: &str) -> u64 {
        let of_app = self.events.iter().filter(|event| {
            let name = text(event, "name");
            text(event, "kind") == "Pod" && name.strip_prefix(app).is_some_and(|rest| rest.starts_with('-'))
        });
        let oldest = of_app.map(|event| self.ages(event).0).max().unwrap_or(DEPLOYED_NS);
        self.at_ns - oldest.min(DEPLOYED_NS)
    }

    fn pod_states(&self, of: &Value, said: impl Fn(&str, &str, &str) -> Condition) -> Vec<(u64, Condition)> {
        let name = text(of, "name");
        let start = time(text(of, "start")).unwrap_or(self.at_ns - DEPLOYED_NS);
        let mut states = Vec::new();
        let ready = of.get("conditions").map(|all| text(all, "Ready")).unwrap_or_default();
        if node_of(of).is_none() {
            let why = self.last_event("Pod", name, &["FailedScheduling"]);
            // Before a scheduler has looked there is no condition.
            if !why.1.is_empty() {
                states.push((why.0, said(condition::UNSCHEDULABLE, "Unschedulable", &why.1)));
            }
        } else if ready == "False" && text(of, "phase") != "Succeeded" {
            // The node's controller says so of pods on a node that is silent.
            let node_lost = self.events.iter().filter(|event| text(event, "name") == name);
            let node_lost = node_lost.filter(|event| text(event, "reason") == "NodeNotReady");
            let since = node_lost.map(|event| self.at_ns - self.ages(event).0).min();
            states.push((since.unwrap_or(start), said(condition::NOT_READY, "ContainersNotReady", "")));
        }
        for container in list(of, "containers") {
            let of_container = |mut condition: Condition, state: &Value| {
                condition.container = Some(text(container, "name").to_owned());
                condition.exit_code = text(state, "exit_code").parse().ok();
                condition.restarts = text(container, "restarts").parse().ok();
                condition
            };
            for state in ["state", "last"].iter().filter_map(|key| container.get(*key)) {
                let reason = text(state, "reason");
                match text(state, "state") {
                    "Waiting" => {
                        let why = match reason {
                            "ErrImagePull" | "ImagePullBackOff" => {
                                self.last_event("Pod", name, &["Failed to pull", "Failed"])
                            }
                            _ => {
                                let ended =
                                    container.get("last").and_then(|last| time(text(last, "finished")));
                                (ended.unwrap_or(start), String::new())
                            }
                        };
                        states.push((why.0, of_container(said(condition::WAITING, reason, &why.1), state)));
                    }
                    "Terminated" if text(state, "exit_code") != "0" => {
                        let at = time(text(state, "finished")).unwrap_or(self.at_ns);
                        let ended = of_container(said(condition::TERMINATED, reason, ""), state);
                        // Only the last end is known; those before it were spread over the time since the start.
                        let ends = ended.restarts.unwrap_or(1).max(1);
                        let step = at.saturating_sub(start) / ends;
                        states.extend((0..ends).map(|nth| (at - nth * step, ended.clone())));
                    }
                    _ => {}
                }
            }
        }
        states
    }

    /// When the first Event with one of these reasons came, and its text. The text may be meant as well.
    fn last_event(&self, kind: &str, name: &str, reasons: &[&str]) -> (u64, String) {
        let is_of =
            |event: &&Value| text(event, "kind").eq_ignore_ascii_case(kind) && text(event, "name") == name;
        for reason in reasons {
            let is =
                |event: &&Value| text(event, "reason") == *reason || text(event, "msg").starts_with(reason);
            // A service account that is created a second later is no reason.
            let latest = self.events.iter().filter(is_of).filter(is).min_by_key(|event| self.ages(event).1);
            if let Some(event) = latest {
                let first = self.events.iter().filter(is_of).filter(is).map(|event| self.ages(event).0).max();
                return (self.at_ns - first.unwrap_or_default(), text(event, "msg").to_owned());
            }
        }
        (self.at_ns - DEPLOYED_NS, String::new())
    }

    /// How long before the snapshot an Event was seen first and last.
    fn ages(&self, event: &Value) -> (u64, u64) {
        let age = |key: &str| {
            event.get(key).and_then(Value::as_u64).unwrap_or_default().saturating_mul(SEC).min(self.at_ns)
        };
        (age("first_s"), age("last_s"))
    }

    fn warnings(&self, facts: &mut Facts) {
        for event in self.events.iter().filter(|event| text(event, "type") == "Warning") {
            let (first, last) = self.ages(event);
            let (kind, name) = (text(event, "kind"), text(event, "name"));
            let warning = Warning {
                object: self.reference(kind, name),
                reason: text(event, "reason").to_owned(),
                text: text(event, "msg").to_owned(),
                reporter: Some(text(event, "src").to_owned()),
                first_unix_ns: Some(self.at_ns - first),
            };
            let message = format!("{kind} {name}: {}: {}", warning.reason, warning.text);
            facts.portti(self.at_ns - first, &warning, &message);
            if first != last {
                facts.portti(self.at_ns - last, &warning, &message);
                if let Some(fact) = facts.all.last_mut() {
                    fact.count =
                        event.get("count").and_then(Value::as_u64).unwrap_or(2).saturating_sub(1).max(1);
                }
            }
        }
    }

    /// What is not there any more.
    fn absent(&self, seen: &BTreeSet<String>, facts: &mut Facts) {
        for (key, usual) in self.usual.iter().filter(|(key, _)| !seen.contains(*key)) {
            let Some((kind, name)) = key.split_once('/') else { continue };
            if !matches!(
                kind,
                "ServiceAccount" | "Service" | "Deployment" | "ConfigMap" | "PersistentVolumeClaim"
            ) {
                continue;
            }
            let mut object = Object { object: self.reference(kind, name), ..Object::default() };
            if kind == "Service" {
                object.addresses = vec![Address { address: self.address(name) }];
                let selector = usual.get("selector").map(String::as_str).unwrap_or_default();
                object.selector = pairs(&selector.split('|').collect::<Vec<_>>());
            }
            facts.portti(self.at_ns - WATCHED_NS, &object, "");
            let change = Change { object: object.object.clone(), verb: Verb::Deleted, ..Change::default() };
            let at = self.at_ns - DEPLOYED_NS;
            facts.portti(at, &change, &format!("{kind} {name} was deleted"));
            facts.portti(at, &Deleted { object: object.object }, "");
        }
    }

    /// Who names a service's address in its environment connects to it.
    fn connections(&self, facts: &mut Facts) {
        let failing = self.infra.get("connect").and_then(Value::as_object).into_iter().flatten();
        for (name, port) in failing.filter_map(|(key, _)| key.split_once(':')) {
            if name.is_empty() {
                continue;
            }
            let address = self.address(name);
            let wanted = format!("{name}:");
            for of in self.of_kind("Pod") {
                let environment =
                    list(of, "containers").iter().filter_map(|container| container.get("env")?.as_object());
                let connects = environment
                    .flatten()
                    .any(|(_, value)| value.as_str().is_some_and(|value| value.starts_with(&wanted)));
                let (Some(node), true) = (node_of(of), connects) else { continue };
                let client = text(of, "name");
                let workload =
                    pod(&self.namespace, client, &format!("uid-{client}"), &app_of(text(of, "owner")));
                for nth in 0..12 {
                    let at = self.at_ns - CHECKED_NS + nth * 5 * SEC;
                    let message = format!("{client} -> {name}:{port}: connection refused");
                    let fact = facts.agent(at, "network.connection_refused", &node, &message);
                    fact.workload = Some(workload.clone());
                    fact.peer =
                        Some(service(&self.namespace, name, address, port.parse().unwrap_or_default()));
                    fact.data =
                        Data::from([("direction", "outbound".into()), ("error", "ECONNREFUSED".into())]);
                }
            }
        }
    }

    /// What logs say about connections and names is what the kernel sees of them.
    fn logged(&self, facts: &mut Facts) {
        let errors = self.infra.get("errors").and_then(Value::as_object).into_iter().flatten();
        for (app, summary) in errors {
            let summary = summary.as_str().unwrap_or_default();
            let Some(of) =
                self.of_kind("Pod").find(|pod| app_of(text(pod, "owner")) == *app && node_of(pod).is_some())
            else {
                continue;
            };
            let mut seen = BTreeSet::new();
            for (marker, is_name) in [("lookup ", true), ("UnableToConnect on ", false)] {
                for part in summary.split(marker).skip(1) {
                    let end = part
                        .find(|c: char| !c.is_ascii_alphanumeric() && !"-.:".contains(c))
                        .unwrap_or(part.len());
                    let (host, port) = part[..end].split_once(':').unwrap_or((&part[..end], ""));
                    let known = self.of_kind("Service").any(|service| text(service, "name") == host);
                    // A name that exists did not for a moment.
                    if host.is_empty() || is_name && known || !seen.insert(part[..end].to_owned()) {
                        continue;
                    }
                    self.fails(of, app, host, port, known, facts);
                }
            }
        }
    }

    /// A pod cannot connect to a host, or not find it, for a minute.
    fn fails(&self, of: &Value, app: &str, host: &str, port: &str, is_known: bool, facts: &mut Facts) {
        let client = text(of, "name");
        let node = node_of(of).unwrap_or_default();
        for nth in 0..12 {
            let at = self.at_ns - CHECKED_NS + nth * 5 * SEC;
            let kind = if is_known { "network.connection_refused" } else { "network.dns_nxdomain_burst" };
            let fact = facts.agent(at, kind, &node, &format!("{client} -> {host}:{port}"));
            fact.workload = Some(pod(&self.namespace, client, &format!("uid-{client}"), app));
            if is_known {
                let port = port.parse().unwrap_or_default();
                fact.peer = Some(service(&self.namespace, host, self.address(host), port));
                fact.data = Data::from([("direction", "outbound".into())]);
            } else {
                fact.data = Data::from([("question", host.to_owned().into())]);
            }
        }
    }

    /// Services of nodes that do not run.
    fn daemons(&self, facts: &mut Facts) {
        let stopped = self.infra.get("node_services").and_then(Value::as_object).into_iter().flatten();
        for (key, state) in stopped {
            let Some((node, unit)) = key.split_once('/') else { continue };
            let message = format!("{node}: {unit}: {}", state.as_str().unwrap_or_default());
            let fact = facts.agent(self.at_ns - DEPLOYED_NS, "node.service_stopped", node, &message);
            fact.data = Data::from([("unit", unit.to_owned().into())]);
        }
    }

    fn alerts(&self, facts: &mut Facts) {
        for alert in list(&self.alerts, "alerts") {
            let name = text(alert, "name");
            for evidence in texts(alert, "evidence") {
                let kind = match evidence {
                    text if text.contains("cpu_cfs") => "node.cpu_throttled",
                    text if text.contains("LATENCY") => "network.rtt_shift",
                    _ => continue,
                };
                let of_app = self.of_kind("Pod").filter(|pod| app_of(text(pod, "owner")) == name);
                for of in of_app {
                    let Some(node) = node_of(of) else { continue };
                    let pod_name = text(of, "name");
                    let workload = pod(&self.namespace, pod_name, &format!("uid-{pod_name}"), name);
                    for nth in 0..4 {
                        let at = self.at_ns - 90 * SEC + nth * 30 * SEC;
                        let fact = facts.agent(at, kind, &node, evidence);
                        fact.workload = Some(workload.clone());
                    }
                }
            }
        }
    }
}

/// Whether an amount is at its limit.
fn used_up(used: &str, hard: &str) -> bool {
    let amount = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let scale = match &text[end..] {
            "m" => 1e-3,
            "Ki" => 1024.0,
            "Mi" => 1024.0 * 1024.0,
            "Gi" => 1024.0 * 1024.0 * 1024.0,
            _ => 1.0,
        };
        text[..end].parse::<f64>().ok().map(|number| number * scale)
    };
    amount(used).zip(amount(hard)).is_some_and(|(used, hard)| used >= hard)
}

/// The node of a pod: `worker-01/192.168.0.222`.
fn node_of(of: &Value) -> Option<String> {
    let node = text(of, "node").split('/').next().unwrap_or_default();
    (!node.is_empty() && node != "<none>").then(|| node.to_owned())
}

/// The claims of a pod or a template.
fn claims(of: &Value) -> impl Iterator<Item = &str> {
    let volumes = of.get("volumes").and_then(Value::as_object).into_iter().flatten();
    volumes.map(|(_, volume)| text(volume, "ClaimName")).filter(|claim| !claim.is_empty())
}

/// The application of a ReplicaSet: its name without the hash.
fn app_of(owner: &str) -> String {
    let (kind, name) = owner.split_once('/').unwrap_or_default();
    match kind {
        "ReplicaSet" => name.rsplit_once('-').map_or(name, |(app, _)| app).to_owned(),
        _ => name.to_owned(),
    }
}

fn pairs(texts: &[&str]) -> Vec<Pair> {
    let pairs = texts.iter().filter_map(|text| text.split_once('='));
    pairs.map(|(key, value)| Pair { key: key.to_owned(), value: value.to_owned() }).collect()
}

/// `Tue, 11 Nov 2025 15:58:50 +0800`
fn time(text: &str) -> Option<u64> {
    const MONTHS: &[&str] =
        &["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_whitespace().skip(1);
    let (day, month, year) = (words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    local(&format!("{year}-{month:02}-{:0>2}T{}", day, words.next()?))
}

/// A time without a zone, in that of the cluster: eight hours before UTC.
fn local(text: &str) -> Option<u64> {
    let whole = text.split('.').next()?;
    let at: jiff::Timestamp = format!("{whole}+08:00").parse().ok()?;
    u64::try_from(at.as_nanosecond()).ok()
}
