//! Facts in the form in which agents and PORTTI send them.

use std::{net::IpAddr, sync::Arc};

use tapio_occurrence::{
    Data, Occurrence, Outcome, Peer, PeerNames, SOURCE, Severity, Workload,
    kubernetes::{self, Fact, Synced, Watched},
};
use ulid::Ulid;

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
