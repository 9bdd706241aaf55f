//! Who sent it: entities, by the attributes of a resource or the address of a call.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    sync::Arc,
};

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use tapio_occurrence::{
    kubernetes::Reference,
    signal::{APPLICATION, HOST, Member},
};

use super::IDLE_NS;

/// Most entities at once.
pub(super) const MAX_ENTITIES: usize = 8_192;
/// Longest name, as in DNS and in Kubernetes.
const MAX_NAME_BYTES: usize = 253;

/// The attributes that name a workload, the outermost owner first.
const OWNERS: &[(&str, &str)] = &[
    ("k8s.deployment.name", "Deployment"),
    ("k8s.statefulset.name", "StatefulSet"),
    ("k8s.daemonset.name", "DaemonSet"),
    ("k8s.cronjob.name", "CronJob"),
    ("k8s.job.name", "Job"),
    ("k8s.replicaset.name", "ReplicaSet"),
];

/// An entity, as an index into [`Entities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

/// A known entity.
#[derive(Debug)]
pub(super) struct Entity {
    pub(super) of: Reference,
    pub(super) service: Option<String>,
    last_ns: u64,
}

/// All entities.
#[derive(Debug, Default)]
pub(super) struct Entities {
    slots: Vec<Option<Entity>>,
    free: Vec<Id>,
    known: HashMap<Reference, Id>,
}

/// The sender of a part of a request.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) id: Id,
    pub(super) namespace: Option<String>,
    pub(super) pod: Option<Arc<Member>>,
    /// A hash of all attributes, which tells processes of an entity apart.
    pub(super) process: u64,
}

/// Why a name is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// No attribute says who it is.
    Resource,
    /// A name is too long.
    Name,
    /// There are too many entities.
    Entities,
}

impl Unfit {
    /// The reason as a metric label.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Name => "name",
            Self::Entities => "entities",
        }
    }
}

/// The text of an attribute, if it has one.
pub(super) fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|pair| pair.key == key)?;
    text_of(found)
}

/// The text of an attribute, if it is one and not empty.
pub(super) fn text_of(pair: &KeyValue) -> Option<&str> {
    match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

impl Entities {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, id: Id) -> Option<&Entity> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// The sender with these attributes.
    pub(super) fn sender(&mut self, attributes: &[KeyValue], now_ns: u64) -> Result<Sender, Unfit> {
        let get = |key| named(text(attributes, key));
        let pod = Member { pod: get("k8s.pod.name")?, pod_uid: get("k8s.pod.uid")? };
        let service = get("service.name")?;
        let namespace = match get("k8s.namespace.name")? {
            Some(namespace) => Some(namespace),
            None => get("service.namespace")?,
        };
        let mut of = None;
        for (key, kind) in OWNERS {
            if let Some(name) = get(key)? {
                of = Some(reference(kind, namespace.clone(), name));
                break;
            }
        }
        let of_pod = || {
            Some(Reference {
                uid: pod.pod_uid.clone(),
                ..reference("Pod", namespace.clone(), pod.pod.clone()?)
            })
        };
        let of_service = || Some(reference(APPLICATION, namespace.clone(), service.clone()?));
        let of = of.or_else(of_pod).or_else(of_service).ok_or(Unfit::Resource)?;
        let id = self.intern(of, service.as_deref(), now_ns)?;
        let mut hasher = DefaultHasher::new();
        for pair in attributes {
            pair.key.hash(&mut hasher);
            text_of(pair).hash(&mut hasher);
        }
        let pod = (pod != Member::default()).then(|| Arc::new(pod));
        Ok(Sender { id, namespace, pod, process: hasher.finish() })
    }

    /// Whoever is called by this name or address: `peer.service`, `server.address`.
    pub(super) fn called(
        &mut self,
        called: Called<'_>,
        namespace: Option<&str>,
        now_ns: u64,
    ) -> Result<Id, Unfit> {
        let own = || namespace.map(ToOwned::to_owned);
        let of = match called {
            Called::Service(name) => reference(APPLICATION, own(), named(Some(name))?.unwrap_or_default()),
            Called::Host(name) => host(&named(Some(name))?.unwrap_or_default(), own()),
        };
        self.intern(of, None, now_ns)
    }

    fn intern(&mut self, of: Reference, service: Option<&str>, now_ns: u64) -> Result<Id, Unfit> {
        if let Some(id) = self.known.get(&of).copied() {
            if let Some(entity) = self.slots.get_mut(id.0 as usize).and_then(Option::as_mut) {
                entity.last_ns = now_ns;
                if entity.service.is_none() {
                    entity.service = service.map(ToOwned::to_owned);
                }
            }
            return Ok(id);
        }
        if self.known.len() >= MAX_ENTITIES {
            return Err(Unfit::Entities);
        }
        let entity = Entity { of: of.clone(), service: service.map(ToOwned::to_owned), last_ns: now_ns };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.slots.push(None);
                Id(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
            }
        };
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            *slot = Some(entity);
        }
        self.known.insert(of, id);
        Ok(id)
    }

    /// Lets go of those that nothing refers to and that were not heard of for a while.
    pub(super) fn sweep(&mut self, used: &HashSet<Id>, now_ns: u64) {
        let limit_ns = now_ns.saturating_sub(IDLE_NS);
        let Self { slots, free, known } = self;
        known.retain(|_, id| {
            let Some(slot) = slots.get_mut(id.0 as usize) else { return false };
            let is_kept = used.contains(id) || slot.as_ref().is_some_and(|entity| entity.last_ns >= limit_ns);
            if !is_kept {
                *slot = None;
                free.push(*id);
            }
            is_kept
        });
    }
}

/// How a call names the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Called<'a> {
    Service(&'a str),
    Host(&'a str),
}

fn reference(kind: &str, namespace: Option<String>, name: String) -> Reference {
    Reference { kind: kind.to_owned(), namespace, name, uid: None }
}

fn named(text: Option<&str>) -> Result<Option<String>, Unfit> {
    match text {
        Some(text) if text.len() > MAX_NAME_BYTES => Err(Unfit::Name),
        text => Ok(text.map(ToOwned::to_owned)),
    }
}

/// A name of the cluster's DNS is that of a service. A name without dots is one of the caller's namespace.
fn host(name: &str, own: Option<String>) -> Reference {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.parse::<IpAddr>().is_ok() {
        return reference(HOST, None, name);
    }
    let mut labels = name.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(service), Some(namespace), Some("svc")) => {
            reference("Service", Some(namespace.to_owned()), service.to_owned())
        }
        (_, None, _) => reference(HOST, own, name),
        _ => reference(HOST, None, name),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;

    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
        let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
        pairs
            .iter()
            .map(|(key, text)| KeyValue { key: (*key).to_owned(), value: value(text), ..KeyValue::default() })
            .collect()
    }

    #[test]
    fn the_best_name_that_there_is() {
        let mut entities = Entities::default();
        let mut of = |pairs: &[(&str, &str)]| {
            let sender = entities.sender(&attributes(pairs), 1);
            sender.map(|sender| {
                let Reference { kind, namespace, name, .. } = entities.get(sender.id).unwrap().of.clone();
                format!("{kind} {}/{name}", namespace.unwrap_or_default())
            })
        };
        let ns = ("k8s.namespace.name", "shop");
        let pod = ("k8s.pod.name", "pay-1");
        for (pairs, expected) in [
            (&[ns, pod, ("k8s.deployment.name", "pay"), ("service.name", "p")][..], "Deployment shop/pay"),
            (&[ns, ("k8s.job.name", "j"), ("k8s.cronjob.name", "c")], "CronJob shop/c"),
            (&[ns, pod, ("service.name", "p")], "Pod shop/pay-1"),
            (&[("service.name", "p"), ("service.namespace", "shop")], "Application shop/p"),
            (&[("service.name", "p")], "Application /p"),
        ] {
            assert_eq!(of(pairs).unwrap(), expected);
        }
        assert_eq!(of(&[("host.name", "x")]), Err(Unfit::Resource));
        assert_eq!(of(&[("service.name", &"x".repeat(254))]), Err(Unfit::Name));
    }

    #[test]
    fn addresses_of_calls() {
        for (name, expected) in [
            ("payments", "Host shop/payments"),
            ("Payments.shop.svc.cluster.local.", "Service shop/payments"),
            ("api.example.com", "Host /api.example.com"),
            ("10.0.0.1", "Host /10.0.0.1"),
            ("fd00::1", "Host /fd00::1"),
        ] {
            let Reference { kind, namespace, name, .. } = host(name, Some("shop".to_owned()));
            assert_eq!(format!("{kind} {}/{name}", namespace.unwrap_or_default()), expected);
        }
    }

    #[test]
    fn what_nobody_uses_makes_room() {
        let mut entities = Entities::default();
        let add = |entities: &mut Entities, name: String, now_ns| {
            entities.sender(&attributes(&[("service.name", &name)]), now_ns).map(|sender| sender.id)
        };
        let first = add(&mut entities, "0".to_owned(), 1).unwrap();
        for nth in 1..MAX_ENTITIES {
            add(&mut entities, nth.to_string(), 1).unwrap();
        }
        assert_eq!(add(&mut entities, "more".to_owned(), 1), Err(Unfit::Entities));
        entities.sweep(&HashSet::from([first]), 2 + IDLE_NS);
        assert_eq!(entities.len(), 1);
        assert!(add(&mut entities, "more".to_owned(), 3 + IDLE_NS).is_ok());
        assert_eq!(entities.get(first).unwrap().of.name, "0");
    }
}
