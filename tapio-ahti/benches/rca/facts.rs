//! Facts in the form in which agents and PORTTI send them.

use std::{net::IpAddr, sync::Arc};

use tapio_occurrence::{
    Data, Normal, Occurrence, Outcome, Peer, PeerNames, SOURCE, Severity, Workload,
    kubernetes::{self, Fact, Reference, Synced, Watched},
    signal::{self, Member, Side, Signal},
};
use ulid::Ulid;

use crate::case::NAMESPACE;

pub(crate) const SEC: u64 = 1_000_000_000;

/// Facts of a case.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) all: Vec<Occurrence>,
}

/// Kinds that PORTTI watches.
const KINDS: &[&str] = &[
    "ConfigMap",
    "DaemonSet",
    "Deployment",
    "EndpointSlice",
    "NetworkPolicy",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "ReplicaSet",
    "ResourceQuota",
    "Service",
    "ServiceAccount",
    "StatefulSet",
];

impl Facts {
    fn fact(&mut self, at_ns: u64, kind: &str, severity: Severity, message: &str) -> Occurrence {
        Occurrence {
            id: Ulid::from_parts(at_ns / 1_000_000, self.all.len() as u128),
            time_unix_ns: at_ns,
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

    /// What PORTTI says.
    pub(crate) fn portti<F: Fact>(&mut self, at_ns: u64, of: &F, message: &str) {
        let is_trouble = [kubernetes::Condition::TYPE, kubernetes::Warning::TYPE].contains(&F::TYPE);
        let severity = if is_trouble { Severity::Error } else { Severity::Info };
        let mut fact = self.fact(at_ns, F::TYPE, severity, message);
        fact.source = kubernetes::SOURCE.into();
        match of.to_data() {
            Ok(data) => fact.data = data,
            Err(error) => panic!("{}: {error}", F::TYPE),
        }
        self.all.push(fact);
    }

    /// What an agent says; returns it for what is special to it.
    pub(crate) fn agent(&mut self, at_ns: u64, kind: &str, node: &str, message: &str) -> &mut Occurrence {
        let mut fact = self.fact(at_ns, kind, Severity::Error, message);
        fact.node = node.into();
        self.all.push(fact);
        let last = self.all.len() - 1;
        &mut self.all[last]
    }

    /// What POLKU concludes from spans about a workload's calls.
    pub(crate) fn signal(&mut self, at_ns: u64, kind: &str, of: &Calls<'_>, judged: Judged, message: &str) {
        let Judged { value, normal } = judged;
        let member = |pod: &String| Member { pod: Some(pod.clone()), pod_uid: Some(format!("Pod-{pod}")) };
        let is_share = kind == signal::ERRORS;
        let signal = Signal {
            object: deployment(of.of),
            side: Some(if of.to.is_some() { Side::Client } else { Side::Server }),
            peer: of.to.map_or_else(signal::Peer::default, |to| signal::Peer {
                kind: Some("Service".to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                name: Some(to.to_owned()),
            }),
            from: "spans".to_owned(),
            calls: CALLS,
            errors: if is_share { (value * CALLS).div_ceil(10_000) } else { 0 },
            p90_us: (kind == signal::LATENCY).then_some(value),
            pods: of.pods.iter().map(member).collect(),
            ..Signal::default()
        };
        let severity = if is_share { Severity::Error } else { Severity::Warning };
        let mut fact = self.fact(at_ns, kind, severity, message);
        fact.source = signal::SOURCE.into();
        fact.count = if is_share { signal.errors.max(1) } else { CALLS };
        fact.baseline = Some(Normal { mean: normal, deviation: 0, unit: "".into(), samples: 0, ratio: None });
        match signal.to_data() {
            Ok(data) => fact.data = data,
            Err(error) => panic!("{kind}: {error}"),
        }
        self.all.push(fact);
    }

    /// PORTTI and the agents of these nodes look, from one time to another.
    pub(crate) fn watched(&mut self, nodes: &[&str], from_ns: u64, to_ns: u64) {
        let kinds = KINDS.iter().map(|kind| Watched { kind: (*kind).to_owned(), objects: 1 });
        let synced = Synced { kinds: kinds.collect(), missing: Vec::new() };
        let mut at_ns = from_ns;
        while at_ns <= to_ns {
            self.portti(at_ns, &synced, "");
            for node in nodes {
                let beat = self.agent(at_ns, "tapio.heartbeat", node, "");
                beat.severity = Severity::Debug;
                beat.data = Data::from([("phase", "run".into())]);
            }
            at_ns += 60 * SEC;
        }
    }
}

/// Sets have shares of calls, not their number.
const CALLS: u64 = 100;

/// Calls to a workload, or its calls to a service, with the pods that have trouble.
pub(crate) struct Calls<'a> {
    pub(crate) of: &'a str,
    pub(crate) pods: &'a [String],
    pub(crate) to: Option<&'a str>,
}

/// A value and what is normal: of errors in 1/10,000 of the calls, of latency in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Judged {
    pub(crate) value: u64,
    pub(crate) normal: u64,
}

fn deployment(name: &str) -> Reference {
    Reference {
        kind: "Deployment".to_owned(),
        namespace: Some(NAMESPACE.to_owned()),
        name: name.to_owned(),
        uid: None,
    }
}

/// A pod as agents name it.
pub(crate) fn pod(namespace: &str, name: &str, uid: &str, owner: &str) -> Arc<Workload> {
    Arc::new(Workload {
        namespace: Some(namespace.to_owned()),
        pod: Some(name.to_owned()),
        pod_uid: Some(uid.to_owned()),
        owner_kind: Some("Deployment".to_owned()),
        owner: Some(owner.to_owned()),
        ..Workload::default()
    })
}

/// A service as the other end of a connection.
pub(crate) fn service(namespace: &str, name: &str, address: IpAddr, port: u16) -> Peer {
    let names = PeerNames {
        namespace: Some(namespace.to_owned()),
        service: Some(name.to_owned()),
        ..PeerNames::default()
    };
    Peer { address, port, names: Some(Arc::new(names)) }
}
