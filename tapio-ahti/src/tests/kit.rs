//! A cluster of which the facts are made up, in the form in which agents and PORTTI send them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tapio_occurrence::{
    Actor, Data, Normal, Occurrence, Outcome, Peer, PeerNames, Process, SOURCE, Severity, Workload,
    kubernetes::{
        self, Address, Aspect, Change, Condition, Container, Deleted, Endpoint, Fact, Field, Object, Pair,
        Reference, Synced, Verb, Warning, Watched,
    },
    signal::{self, Member, Passed, Phase, Side, Signal, Trace},
};
use ulid::Ulid;

use crate::{Engine, answer::State, incident::Incident};

const START_NS: u64 = 1_795_000_000_000_000_000;
const SEC: u64 = 1_000_000_000;
/// Revisions without pods that a Deployment keeps by default.
const HISTORY: u32 = 10;

#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) facts: Vec<Occurrence>,
    pub(super) now_ns: u64,
    next: u128,
    /// Pods of each workload: name, address, template hash.
    pods: BTreeMap<String, Vec<(String, IpAddr, u32)>>,
    services: BTreeMap<String, IpAddr>,
    next_address: u32,
    revision: BTreeMap<String, u32>,
    /// Nodes without an agent.
    pub(super) dark: Vec<&'static str>,
    next_pod: u32,
    heartbeat: Data,
    /// What PORTTI says as a sign of life.
    pub(super) synced: Synced,
    /// Seconds from one heartbeat to the next.
    pub(super) beat_s: u64,
    /// PORTTI is away.
    pub(super) is_unwatched: bool,
    /// The latency that signals have; 20 ms are normal.
    pub(super) p90_us: u64,
}

pub(super) const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// The node that a pod is on.
pub(super) fn node_of(pod: &str) -> &'static str {
    let number: usize = pod.rsplit('-').next().unwrap().parse().unwrap();
    NODES[number % NODES.len()]
}

fn reference(kind: &str, name: &str) -> Reference {
    let namespace = (kind != "Node").then(|| "shop".to_owned());
    Reference {
        kind: kind.to_owned(),
        namespace,
        name: name.to_owned(),
        uid: Some(format!("uid-{kind}-{name}")),
    }
}

pub(super) fn field(path: &str, aspect: Aspect, from: &str, to: &str) -> Field {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Field { path: path.to_owned(), aspect, from: some(from), to: some(to) }
}

impl Cluster {
    /// gateway -> checkout -> payments -> db, and stock beside; all healthy for an hour.
    pub(super) fn shop() -> Self {
        let mut cluster = Self {
            facts: Vec::new(),
            now_ns: START_NS,
            next: 1,
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            next_address: 0,
            revision: BTreeMap::new(),
            dark: Vec::new(),
            next_pod: 0,
            heartbeat: Data::from([("phase", "run".into())]),
            synced: Synced {
                kinds: vec![Watched { kind: "Pod".to_owned(), objects: 15 }],
                missing: Vec::new(),
            },
            is_unwatched: false,
            beat_s: 30,
            p90_us: 500_000,
        };
        for node in NODES {
            let object = reference("Node", node);
            cluster
                .portti(&Object { object, created_unix_ns: Some(START_NS - SEC), ..Object::default() }, "");
        }
        for name in ["gateway", "checkout", "payments", "db", "stock"] {
            cluster.revision.insert(name.to_owned(), 1);
            cluster.workload(name);
            for _ in 0..3 {
                cluster.pod(name);
            }
            cluster.service(name);
        }
        cluster
            .portti(&Object { object: reference("ConfigMap", "payments-config"), ..Object::default() }, "");
        cluster.portti(&cluster.synced.clone(), "");
        for (client, server) in
            [("gateway", "checkout"), ("checkout", "payments"), ("payments", "db"), ("checkout", "stock")]
        {
            cluster.edge(client, server);
        }
        cluster.wait(3_600);
        cluster
    }

    /// Heartbeats of all agents, with this data from now on.
    pub(super) fn heartbeat(&mut self, data: Data) {
        self.heartbeat = data;
        self.wait(30);
    }

    /// Time passes; agents send their heartbeats.
    pub(super) fn wait(&mut self, seconds: u64) {
        let end = self.now_ns + seconds * SEC;
        while self.now_ns + self.beat_s * SEC <= end {
            self.now_ns += self.beat_s * SEC;
            if !self.is_unwatched {
                self.portti(&self.synced.clone(), "");
            }
            for node in NODES.into_iter().filter(|node| !self.dark.contains(node)).collect::<Vec<_>>() {
                let mut beat = self.fact("tapio.heartbeat", "", Severity::Debug);
                beat.node = node.into();
                beat.data = self.heartbeat.clone();
                self.facts.push(beat);
            }
        }
        self.now_ns = end;
    }

    /// The time of day, as an answer gives it.
    pub(super) fn time_in(&self, seconds: u64) -> String {
        tapio_occurrence::timestamp(self.now_ns + seconds * SEC).to_string()[11..19].to_owned()
    }

    fn fact(&mut self, kind: &str, message: &str, severity: Severity) -> Occurrence {
        self.next += 1;
        Occurrence {
            id: Ulid::from_parts(self.now_ns / 1_000_000, self.next),
            time_unix_ns: self.now_ns,
            source: SOURCE.into(),
            kind: kind.to_owned().into(),
            severity,
            outcome: Outcome::Failure,
            message: message.to_owned(),
            cluster: None,
            node: "".into(),
            workload: None,
            process: None,
            actor: None,
            peer: None,
            data: Data::default(),
            baseline: None,
            count: 1,
        }
    }

    pub(super) fn portti<F: Fact>(&mut self, of: &F, message: &str) {
        let mut fact = self.fact(F::TYPE, message, Severity::Error);
        fact.source = kubernetes::SOURCE.into();
        fact.data = of.to_data().unwrap();
        self.facts.push(fact);
    }

    fn workload(&mut self, name: &str) {
        let object = Object {
            object: reference("Deployment", name),
            created_unix_ns: Some(START_NS),
            labels: vec![Pair { key: "app".to_owned(), value: name.to_owned() }],
            uses: vec![Reference { uid: None, ..reference("ConfigMap", &format!("{name}-config")) }],
            ..Object::default()
        };
        self.portti(&object, "");
        self.replica_set(name);
    }

    fn replica_set(&mut self, name: &str) {
        let revision = self.revision[name];
        let object = Object {
            object: reference("ReplicaSet", &format!("{name}-{revision}")),
            created_unix_ns: Some(self.now_ns),
            owners: vec![reference("Deployment", name)],
            ..Object::default()
        };
        self.portti(&object, "");
    }

    pub(super) fn pod(&mut self, name: &str) -> String {
        let revision = self.revision[name];
        self.next_pod += 1;
        self.next_address += 1;
        let pod = format!("{name}-{revision}-{}", self.next_pod);
        let [.., high, low] = self.next_address.to_be_bytes();
        let address = IpAddr::from([10, 1, high, low]);
        let node = NODES[self.next_pod as usize % NODES.len()];
        let object = Object {
            object: reference("Pod", &pod),
            created_unix_ns: Some(self.now_ns),
            owners: vec![reference("ReplicaSet", &format!("{name}-{revision}"))],
            node: Some(node.to_owned()),
            addresses: vec![Address { address }],
            labels: vec![Pair { key: "app".to_owned(), value: name.to_owned() }],
            containers: vec![Container {
                name: "app".to_owned(),
                image: "x".to_owned(),
                ..Container::default()
            }],
            ..Object::default()
        };
        self.portti(&object, "");
        self.pods.entry(name.to_owned()).or_default().push((pod.clone(), address, revision));
        pod
    }

    fn service(&mut self, name: &str) {
        self.next_address += 1;
        let address = IpAddr::from([10, 96, 0, self.next_address as u8]);
        self.services.insert(name.to_owned(), address);
        self.selector(name, name);
        self.endpoints(name, true);
    }

    fn selector(&mut self, service: &str, app: &str) {
        let object = Object {
            object: reference("Service", service),
            created_unix_ns: Some(START_NS),
            addresses: vec![Address { address: self.services[service] }],
            selector: vec![Pair { key: "app".to_owned(), value: app.to_owned() }],
            ..Object::default()
        };
        self.portti(&object, "");
    }

    /// Endpoints of a service: all pods of the workload, or none.
    pub(super) fn endpoints(&mut self, service: &str, ready: bool) {
        let pods = self.pods[service].clone();
        let endpoint = |(pod, address, _): (String, IpAddr, u32)| Endpoint {
            address,
            pod_uid: Some(format!("uid-Pod-{pod}")),
            pod: Some(pod),
            ready: ready.to_string(),
        };
        let object = Object {
            object: reference("EndpointSlice", &format!("{service}-slice")),
            created_unix_ns: Some(START_NS),
            uses: vec![reference("Service", service)],
            endpoints: pods.into_iter().map(endpoint).collect(),
            ..Object::default()
        };
        self.portti(&object, "");
    }

    fn edge(&mut self, client: &str, server: &str) {
        let mut fact = self.fact("network.edges", "", Severity::Debug);
        fact.workload = Some(self.of_pod(client, 0));
        fact.node = self.node_of(client, 0).into();
        let edge = Data::from([
            ("direction", "outbound".into()),
            ("address", self.services[server].into()),
            ("port", 8080u64.into()),
            ("since_ms", 0u64.into()),
            ("last_ms", 0u64.into()),
        ]);
        fact.data = Data::from([("edges", tapio_occurrence::Value::List(vec![edge]))]);
        self.facts.push(fact);
    }

    /// The workload of an agent's occurrence.
    pub(super) fn of_pod(&self, name: &str, nth: usize) -> Arc<Workload> {
        let pods = &self.pods[name];
        let (pod, ..) = &pods[pods.len() - 1 - nth];
        Arc::new(Workload {
            namespace: Some("shop".to_owned()),
            pod: Some(pod.clone()),
            pod_uid: Some(format!("uid-Pod-{pod}")),
            container: Some("app".to_owned()),
            owner_kind: Some("Deployment".to_owned()),
            owner: Some(name.to_owned()),
            ..Workload::default()
        })
    }

    fn node_of(&self, name: &str, nth: usize) -> &'static str {
        let pods = &self.pods[name];
        let (pod, ..) = &pods[pods.len() - 1 - nth];
        node_of(pod)
    }

    /// What an agent says about a pod: the newest of the workload, or an older one.
    pub(super) fn agent(&mut self, kind: &str, name: &str, nth: usize, message: &str, data: Data) {
        let mut fact = self.fact(kind, message, Severity::Error);
        fact.workload = Some(self.of_pod(name, nth));
        fact.node = self.node_of(name, nth).into();
        fact.process = Some(Process { pid: 318, comm: "worker".to_owned() });
        fact.data = data;
        if !self.dark.contains(&&*fact.node) {
            self.facts.push(fact);
        }
    }

    /// A signal about calls to a workload, or with a peer about its calls to that one, in an episode that began at a time. All
    /// pods take part.
    pub(super) fn signal(&mut self, kind: &str, name: &str, peer: Option<&str>, since_ns: u64) {
        self.signal_of(kind, name, peer, since_ns, usize::MAX);
    }

    /// A signal of the newest pods.
    pub(super) fn signal_of(
        &mut self,
        kind: &str,
        name: &str,
        peer: Option<&str>,
        since_ns: u64,
        newest: usize,
    ) {
        let pods = self.pods[name]
            .iter()
            .rev()
            .take(newest)
            .map(|(pod, ..)| Member { pod: Some(pod.clone()), pod_uid: Some(format!("uid-Pod-{pod}")) });
        let workload = |name: &str| Reference { uid: None, ..reference("Deployment", name) };
        let trace_id = format!("{:032x}", u128::from(self.now_ns));
        let signal = Signal {
            object: workload(name),
            side: Some(if peer.is_some() { Side::Client } else { Side::Server }),
            peer: peer.map_or_else(signal::Peer::default, |peer| signal::Peer {
                kind: Some(signal::HOST.to_owned()),
                namespace: Some("shop".to_owned()),
                name: Some(peer.to_owned()),
            }),
            operation: Some("http".to_owned()),
            from: "spans".to_owned(),
            phase: if since_ns + 60 * SEC > self.now_ns { Phase::Began } else { Phase::Continues },
            since_ms: (self.now_ns - since_ns) / 1_000_000,
            window_ms: 60_000,
            calls: 1_000,
            errors: if kind == signal::ERRORS { 400 } else { 0 },
            p90_us: Some(self.p90_us),
            pods: pods.collect(),
            passed: vec![Passed { trace_id: trace_id.clone(), object: workload(name) }],
            traces: vec![Trace { trace_id, span_id: None }],
            ..Signal::default()
        };
        let severity = if kind == signal::ERRORS { Severity::Error } else { Severity::Warning };
        let mut fact = self.fact(kind, &format!("{name}: {kind}"), severity);
        fact.source = signal::SOURCE.into();
        fact.count = 400;
        fact.data = signal.to_data().unwrap();
        fact.baseline =
            Some(Normal { mean: 20_000, deviation: 1_000, unit: "us".into(), samples: 500, ratio: None });
        self.facts.push(fact);
    }

    pub(super) fn signal_ended(&mut self, kind: &str, name: &str, since_ns: u64) {
        self.signal(kind, name, None, since_ns);
        let fact = self.facts.last_mut().unwrap();
        let ended = Signal { phase: Phase::Ended, ..Signal::of(fact).unwrap().unwrap() };
        (fact.data, fact.severity) = (ended.to_data().unwrap(), Severity::Info);
    }

    /// A workload calls others.
    pub(super) fn calls(&mut self, caller: &str, called: &[&str]) {
        let workload = |name: &str| Reference { uid: None, ..reference("Deployment", name) };
        let call = |name: &&str| signal::Call { object: workload(name), count: 1, ..signal::Call::default() };
        let calls = signal::Calls {
            object: workload(caller),
            service: None,
            calls: called.iter().map(call).collect(),
        };
        let mut fact = self.fact(signal::Calls::TYPE, "", Severity::Debug);
        fact.source = signal::SOURCE.into();
        fact.data = calls.to_data().unwrap();
        self.facts.push(fact);
    }

    /// Signals of several at once, for some minutes: type, workload, and whom it calls.
    pub(super) fn signals(&mut self, all: &[(&str, &str, Option<&str>)], minutes: u64) {
        let since_ns = self.now_ns;
        self.wait(30);
        for _ in 0..minutes {
            for (nth, (kind, name, peer)) in all.iter().enumerate() {
                // A call ends after the one that it waits for.
                self.signal(kind, name, *peer, since_ns + nth as u64 * 5_000_000);
            }
            self.wait(60);
        }
    }

    pub(super) fn killed(&mut self, name: &str, by: &str) {
        let mut fact = self.fact("container.killed", &format!("{name} was killed by {by}"), Severity::Error);
        fact.workload = Some(self.of_pod(name, 0));
        fact.node = self.node_of(name, 0).into();
        fact.actor = Some(Actor { process: Process { pid: 9, comm: by.to_owned() }, workload: None });
        fact.data = Data::from([("signal", "SIGKILL".into())]);
        self.facts.push(fact);
    }

    /// The newest pod's worker is OOM-killed at a limit of 512 MiB.
    pub(super) fn oom(&mut self, name: &str) {
        self.oom_of(name, 0, 512 << 20);
    }

    pub(super) fn oom_of(&mut self, name: &str, nth: usize, limit: u64) {
        let data = Data::from([
            ("constraint", "cgroup".into()),
            ("usage_bytes", limit.into()),
            ("limit_bytes", limit.into()),
        ]);
        let message = format!("{name}: worker[318] was OOM-killed");
        self.agent("container.oom_kill", name, nth, &message, data);
    }

    /// Connections of a client to a service are refused, again and again for 40 seconds.
    pub(super) fn refused(&mut self, client: &str, server: &str, times: u64) {
        self.connects("network.connection_refused", client, server, times);
    }

    pub(super) fn refused_once(&mut self, client: &str, server: &str) {
        self.connect("network.connection_refused", client, server, 1, &[(0, 0)]);
    }

    pub(super) fn connects(&mut self, kind: &str, client: &str, server: &str, times: u64) {
        self.connect(kind, client, server, times / 4, &[(0, 0), (1, 40), (0, 0), (1, 0)]);
    }

    /// `parts`: which pod of the client, and how long until the next part.
    fn connect(&mut self, kind: &str, client: &str, server: &str, count: u64, parts: &[(usize, u64)]) {
        for (nth, wait) in parts.iter().copied() {
            let mut fact = self.fact(kind, &format!("{client} -> {server}:8080 refused"), Severity::Error);
            fact.workload = Some(self.of_pod(client, nth));
            fact.node = self.node_of(client, nth).into();
            let names = PeerNames {
                namespace: Some("shop".to_owned()),
                service: Some(server.to_owned()),
                ..PeerNames::default()
            };
            fact.peer =
                Some(Peer { address: self.services[server], port: 8080, names: Some(Arc::new(names)) });
            fact.data = Data::from([("error", "ECONNREFUSED".into()), ("direction", "outbound".into())]);
            fact.count = count;
            if !self.dark.contains(&&*fact.node) {
                self.facts.push(fact);
            }
            self.wait(wait);
        }
    }

    /// The kubelet's probes of a workload's newest pod fail, with the kubelet in a unit of its own.
    pub(super) fn probed(&mut self, kind: &str, name: &str, times: u64) {
        for _ in 0..times {
            let workload = self.of_pod(name, 0);
            let (_, address, _) = self.pods[name].last().unwrap();
            let names = PeerNames {
                namespace: workload.namespace.clone(),
                pod: workload.pod.clone(),
                ..PeerNames::default()
            };
            let peer = Peer { address: *address, port: 8080, names: Some(Arc::new(names)) };
            let mut fact = self.fact(kind, &format!("kubelet.service (kubelet): {kind}"), Severity::Error);
            fact.node = self.node_of(name, 0).into();
            fact.workload =
                Some(Arc::new(Workload { unit: Some("kubelet.service".to_owned()), ..Workload::default() }));
            fact.process = Some(Process { pid: 900, comm: "kubelet".to_owned() });
            fact.peer = Some(peer);
            fact.data = Data::from([("direction", "outbound".into())]);
            self.facts.push(fact);
            self.wait(5);
        }
    }

    pub(super) fn changed(&mut self, kind: &str, name: &str, verb: Verb, fields: Vec<Field>) {
        if verb == Verb::Created {
            self.portti(&Object { object: reference(kind, name), ..Object::default() }, "");
        }
        let change = Change {
            object: reference(kind, name),
            verb,
            fields,
            manager: Some("kubectl".to_owned()),
            ..Change::default()
        };
        self.portti(&change, &format!("{kind} shop/{name} was changed"));
        if verb == Verb::Deleted {
            self.portti(&Deleted { object: reference(kind, name) }, "");
        }
    }

    pub(super) fn delete(&mut self, kind: &str, name: &str) {
        self.portti(&Deleted { object: reference(kind, name) }, "");
    }

    /// A new image: new pods beside the old ones, which go.
    pub(super) fn roll_out(&mut self, name: &str, image: &str) {
        let path = "spec.template.spec.containers.app.image";
        self.roll_out_with(name, vec![field(path, Aspect::Image, "before", image)]);
    }

    pub(super) fn roll_out_with(&mut self, name: &str, fields: Vec<Field>) {
        self.changed("Deployment", name, Verb::Updated, fields);
        *self.revision.get_mut(name).unwrap() += 1;
        self.replica_set(name);
        self.wait(2);
        for _ in 0..3 {
            self.pod(name);
        }
        self.wait(5);
        let old: Vec<_> = self.pods.get_mut(name).unwrap().drain(..3).collect();
        for (pod, ..) in old {
            self.delete("Pod", &pod);
        }
        let oldest = self.revision[name].saturating_sub(HISTORY + 1);
        if oldest > 0 {
            self.delete("ReplicaSet", &format!("{name}-{oldest}"));
        }
        self.endpoints(name, true);
    }

    /// Has two pods of a workload on a node, and no others.
    pub(super) fn move_to(&mut self, name: &str, node: &str) {
        for _ in 0..2 * NODES.len() {
            self.pod(name);
        }
        let is_there = |(pod, ..): &(String, IpAddr, u32)| node_of(pod) == node;
        let (there, elsewhere): (Vec<_>, Vec<_>) =
            self.pods.remove(name).unwrap().into_iter().partition(is_there);
        self.pods.insert(name.to_owned(), there.into_iter().rev().take(2).collect());
        for (pod, ..) in elsewhere {
            self.delete("Pod", &pod);
        }
        self.endpoints(name, true);
    }

    pub(super) fn limit(&mut self, name: &str, from: &str, to: &str) {
        let path = "spec.template.spec.containers.app.resources.limits.memory";
        self.roll_out_with(name, vec![field(path, Aspect::Memory, from, to)]);
    }

    pub(super) fn edit(&mut self, kind: &str, name: &str, aspect: Aspect, from: &str, to: &str) {
        self.changed(kind, name, Verb::Updated, vec![field("spec", aspect, from, to)]);
    }

    pub(super) fn scale_to_zero(&mut self, name: &str) {
        let fields = vec![field("spec.replicas", Aspect::Replicas, "3", "0")];
        self.changed("Deployment", name, Verb::Updated, fields);
        self.wait(3);
        let old = self.pods.get_mut(name).unwrap().clone();
        for (pod, ..) in &old {
            self.portti(&Deleted { object: reference("Pod", pod) }, "");
        }
        let kept = self.pods.insert(name.to_owned(), Vec::new()).unwrap();
        self.endpoints(name, true);
        self.pods.insert(name.to_owned(), kept);
    }

    pub(super) fn reselect(&mut self, service: &str, app: &str) {
        self.edit_selector(service, service, app);
        self.selector(service, app);
        let kept = self.pods.insert(service.to_owned(), Vec::new()).unwrap();
        self.endpoints(service, true);
        self.pods.insert(service.to_owned(), kept);
    }

    pub(super) fn edit_selector(&mut self, service: &str, from: &str, to: &str) {
        let fields = vec![field("spec.selector.app", Aspect::Selector, from, to)];
        self.changed("Service", service, Verb::Updated, fields);
    }

    pub(super) fn condition(&mut self, kind: &str, name: &str, condition: &str, reason: &str, text: &str) {
        let condition = Condition {
            object: reference(kind, name),
            condition: condition.to_owned(),
            status: "true".to_owned(),
            reason: Some(reason.to_owned()),
            text: Some(text.to_owned()),
            container: (kind == "Pod" && reason.ends_with("Off")).then(|| "app".to_owned()),
            ..Condition::default()
        };
        self.portti(&condition, &format!("{kind} shop/{name}: {reason}"));
    }

    pub(super) fn newest(&self, name: &str) -> String {
        self.pods[name].last().unwrap().0.clone()
    }

    pub(super) fn warning(&mut self, kind: &str, name: &str, reason: &str) {
        self.warning_of(kind, name, reason, reason);
    }

    pub(super) fn warning_of(&mut self, kind: &str, name: &str, reason: &str, text: &str) {
        let warning = Warning {
            object: reference(kind, name),
            reason: reason.to_owned(),
            text: text.to_owned(),
            ..Warning::default()
        };
        self.portti(&warning, &format!("{kind} shop/{name}: {reason}: {text}"));
    }

    /// A node as it is with a label.
    pub(super) fn labelled_node(&mut self, name: &str, label: Pair) {
        let object = Object {
            object: reference("Node", name),
            created_unix_ns: Some(START_NS - SEC),
            labels: vec![label],
            ..Object::default()
        };
        self.portti(&object, "");
    }

    /// A change that was made with others.
    pub(super) fn changed_in(&mut self, set: &str, kind: &str, name: &str, fields: Vec<Field>) {
        let change =
            Change { object: reference(kind, name), fields, set: Some(set.to_owned()), ..Change::default() };
        self.portti(&change, &format!("{kind} shop/{name} was changed"));
    }

    /// A rollout of which only the first pod is there.
    pub(super) fn canary(&mut self, name: &str, fields: Vec<Field>) {
        self.changed("Deployment", name, Verb::Updated, fields);
        *self.revision.get_mut(name).unwrap() += 1;
        self.replica_set(name);
        self.wait(2);
        self.pod(name);
        self.endpoints(name, true);
    }

    /// What an agent says of its node.
    pub(super) fn of_node(&mut self, kind: &str, node: &str, data: Data) {
        let mut fact = self.fact(kind, &format!("{node}: {kind}"), Severity::Error);
        fact.node = node.into();
        fact.data = data;
        self.facts.push(fact);
    }

    /// All incidents of the facts so far.
    pub(super) fn incidents(&self) -> Vec<Incident> {
        self.run().incidents().into_iter().cloned().collect()
    }

    pub(super) fn run(&self) -> Engine {
        let mut engine = super::engine();
        for fact in &self.facts {
            engine.take(fact).unwrap();
        }
        engine
    }

    /// The one incident that there is.
    #[track_caller]
    pub(super) fn incident(&self) -> Incident {
        let mut incidents = self.incidents();
        assert_eq!(incidents.len(), 1, "{incidents:#?}");
        incidents.remove(0)
    }

    #[track_caller]
    pub(super) fn why(&self, name: &str) -> Incident {
        let answer = self.run().why(Some("deploy"), Some("shop"), name);
        assert_eq!(answer.state, State::Incident, "{answer:#?}");
        answer.incident.unwrap()
    }
}
