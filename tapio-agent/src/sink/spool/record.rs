//! An occurrence in the spool: a protobuf message, so that another version of the agent reads what it knows of it.

mod message;

use std::{borrow::Cow, collections::HashSet, net::IpAddr, sync::Arc};

use prost::Message as _;
use ulid::Ulid;

use self::message::{
    ActorRecord, DataRecord, FieldRecord, LabelRecord, ListRecord, NormalRecord, PeerRecord, ProcessRecord,
    Record, ValueRecord, WorkloadRecord,
};
use crate::occurrence::{
    Actor, Data, Normal, Occurrence, Outcome, Peer, PeerNames, Process, SOURCE, Severity, Value, Workload,
    Written,
};

/// Why a record cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::sink) enum Malformed {
    #[error("{0}")]
    Encoding(String),
    #[error("it has no {0} that this version knows")]
    Lacks(&'static str),
    #[error("there are more than {} names", Names::MOST)]
    Names,
}

/// Names of types, keys and units are constants of the code; those that come from a spool are made so here, each once
/// and for good. There are some hundred.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<&'static str>);

impl Names {
    const MOST: usize = 4096;

    fn get(&mut self, name: &str) -> Result<&'static str, Malformed> {
        if let Some(known) = self.0.get(name) {
            return Ok(known);
        }
        if self.0.len() >= Self::MOST {
            return Err(Malformed::Names);
        }
        let known: &'static str = Box::leak(name.into());
        self.0.insert(known);
        Ok(known)
    }
}

/// As it is written.
pub(in crate::sink) fn encode(occurrence: &Occurrence) -> Vec<u8> {
    let Occurrence {
        id,
        time_unix_ns,
        source: _,
        kind,
        severity,
        outcome,
        message,
        cluster,
        node,
        workload,
        process,
        actor,
        peer,
        data,
        baseline,
        count,
    } = occurrence;
    let owned = |name: &Option<Arc<str>>| name.as_deref().map(str::to_owned);
    Record {
        id: id.to_bytes().to_vec(),
        time_unix_ns: *time_unix_ns,
        kind: (*kind).to_owned(),
        severity: severity_number(*severity),
        outcome: outcome_number(*outcome),
        message: message.clone(),
        cluster: owned(cluster),
        node: node.to_string(),
        workload: workload.as_deref().map(Into::into),
        process: process.as_ref().map(Into::into),
        actor: actor.as_ref().map(|actor| ActorRecord {
            process: Some((&actor.process).into()),
            workload: actor.workload.as_deref().map(Into::into),
        }),
        peer: peer.as_ref().map(Into::into),
        data: (!data.is_empty()).then(|| data.into()),
        baseline: baseline.map(|Normal { mean, deviation, unit, samples, ratio }| NormalRecord {
            mean,
            deviation,
            unit: unit.to_owned(),
            samples,
            ratio,
        }),
        count: *count,
    }
    .encode_to_vec()
}

/// The occurrence that was written.
pub(super) fn decode(bytes: &[u8], names: &mut Names) -> Result<Occurrence, Malformed> {
    let record = Record::decode(bytes).map_err(|error| Malformed::Encoding(error.to_string()))?;
    let id = record.id.try_into().map_err(|_| Malformed::Lacks("id"))?;
    let shared = |name: Option<String>| name.map(Arc::<str>::from);
    let actor = record.actor.map(|actor| {
        let process = actor.process.ok_or(Malformed::Lacks("actor"))?.into();
        let workload = actor.workload.map(|workload| workload.read(names)).transpose()?;
        Ok(Actor { process, workload: workload.map(Arc::new) })
    });
    let peer = record.peer.map(PeerRecord::read);
    let baseline = record.baseline.map(|normal| {
        let NormalRecord { mean, deviation, unit, samples, ratio } = normal;
        Ok(Normal { mean, deviation, unit: names.get(&unit)?, samples, ratio })
    });
    Ok(Occurrence {
        actor: actor.transpose()?,
        peer: peer.transpose()?,
        baseline: baseline.transpose()?,
        id: Ulid::from_bytes(id),
        time_unix_ns: record.time_unix_ns,
        source: SOURCE,
        kind: names.get(&record.kind)?,
        severity: SEVERITIES.nth(record.severity).ok_or(Malformed::Lacks("severity"))?,
        outcome: OUTCOMES.nth(record.outcome).ok_or(Malformed::Lacks("outcome"))?,
        message: record.message,
        cluster: shared(record.cluster),
        node: record.node.into(),
        workload: record.workload.map(|workload| workload.read(names)).transpose()?.map(Arc::new),
        process: record.process.map(Into::into),
        data: record.data.map(|data| data.read(names)).transpose()?.unwrap_or_default(),
        count: record.count,
    })
}

/// In the order of their numbers, which begin at 1: a field that is absent is none of them.
struct Numbered<T: 'static>(&'static [T]);

const SEVERITIES: Numbered<Severity> =
    Numbered(&[Severity::Debug, Severity::Info, Severity::Warning, Severity::Error, Severity::Critical]);
const OUTCOMES: Numbered<Outcome> =
    Numbered(&[Outcome::Success, Outcome::Failure, Outcome::Timeout, Outcome::Unknown]);

impl<T: Copy> Numbered<T> {
    fn nth(&self, number: u32) -> Option<T> {
        self.0.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
    }
}

const fn severity_number(severity: Severity) -> u32 {
    match severity {
        Severity::Debug => 1,
        Severity::Info => 2,
        Severity::Warning => 3,
        Severity::Error => 4,
        Severity::Critical => 5,
    }
}

const fn outcome_number(outcome: Outcome) -> u32 {
    match outcome {
        Outcome::Success => 1,
        Outcome::Failure => 2,
        Outcome::Timeout => 3,
        Outcome::Unknown => 4,
    }
}

fn address(text: &str) -> Result<IpAddr, Malformed> {
    text.parse().map_err(|_| Malformed::Lacks("address"))
}

impl From<&Workload> for WorkloadRecord {
    fn from(workload: &Workload) -> Self {
        let Workload {
            namespace,
            pod,
            pod_uid,
            container,
            container_id,
            runtime,
            image,
            owner_kind,
            owner,
            unit,
            labels,
            written: _,
        } = workload.clone();
        let labels = labels.into_iter().map(|(key, value)| LabelRecord { key, value }).collect();
        let runtime = runtime.map(str::to_owned);
        Self {
            namespace,
            pod,
            pod_uid,
            container,
            container_id,
            runtime,
            image,
            owner_kind,
            owner,
            unit,
            labels,
        }
    }
}

impl WorkloadRecord {
    fn read(self, names: &mut Names) -> Result<Workload, Malformed> {
        Ok(Workload {
            namespace: self.namespace,
            pod: self.pod,
            pod_uid: self.pod_uid,
            container: self.container,
            container_id: self.container_id,
            runtime: self.runtime.map(|runtime| names.get(&runtime)).transpose()?,
            image: self.image,
            owner_kind: self.owner_kind,
            owner: self.owner,
            unit: self.unit,
            labels: self.labels.into_iter().map(|LabelRecord { key, value }| (key, value)).collect(),
            written: Written::new(),
        })
    }
}

impl From<&Peer> for PeerRecord {
    fn from(Peer { address, port, names }: &Peer) -> Self {
        let names = names.as_deref().cloned().unwrap_or_default();
        let PeerNames { namespace, service, pod, node, owner_kind, owner, written: _ } = names;
        let (address, port) = (address.to_string(), u32::from(*port));
        Self { address, port, namespace, service, pod, node, owner_kind, owner }
    }
}

impl PeerRecord {
    fn read(self) -> Result<Peer, Malformed> {
        let Self { address, port, namespace, service, pod, node, owner_kind, owner } = self;
        let names = PeerNames { namespace, service, pod, node, owner_kind, owner, written: Written::new() };
        Ok(Peer {
            address: self::address(&address)?,
            port: u16::try_from(port).map_err(|_| Malformed::Lacks("port"))?,
            names: (names != PeerNames::default()).then(|| Arc::new(names)),
        })
    }
}

impl From<&Process> for ProcessRecord {
    fn from(process: &Process) -> Self {
        Self { pid: process.pid, comm: process.comm.clone() }
    }
}

impl From<ProcessRecord> for Process {
    fn from(ProcessRecord { pid, comm }: ProcessRecord) -> Self {
        Self { pid, comm }
    }
}

impl From<&Data> for DataRecord {
    fn from(data: &Data) -> Self {
        let value = |value: &Value| match value {
            Value::Number(number) => ValueRecord::Number(*number),
            Value::Signed(number) => ValueRecord::Signed(*number),
            Value::Real(number) => ValueRecord::Real(*number),
            Value::Text(text) => ValueRecord::Text(text.to_string()),
            Value::Address(address) => ValueRecord::Address(address.to_string()),
            Value::List(several) => {
                ValueRecord::List(ListRecord { items: several.iter().map(Into::into).collect() })
            }
            Value::Workload(workload) => ValueRecord::Workload(Box::new((&**workload).into())),
        };
        let fields = data.0.iter();
        let fields = fields.map(|(key, of)| FieldRecord { key: (*key).to_owned(), value: Some(value(of)) });
        Self { fields: fields.collect() }
    }
}

impl DataRecord {
    fn read(self, names: &mut Names) -> Result<Data, Malformed> {
        let fields = self.fields.into_iter().map(|FieldRecord { key, value }| {
            let value = match value.ok_or(Malformed::Lacks("value"))? {
                ValueRecord::Number(number) => Value::Number(number),
                ValueRecord::Signed(number) => Value::Signed(number),
                ValueRecord::Real(number) => Value::Real(number),
                ValueRecord::Text(text) => Value::Text(Cow::Owned(text)),
                ValueRecord::Address(text) => Value::Address(address(&text)?),
                ValueRecord::List(ListRecord { items }) => {
                    Value::List(items.into_iter().map(|data| data.read(names)).collect::<Result<_, _>>()?)
                }
                ValueRecord::Workload(workload) => Value::Workload(Arc::new(workload.read(names)?)),
            };
            Ok((names.get(&key)?, value))
        });
        Ok(Data(fields.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests;
