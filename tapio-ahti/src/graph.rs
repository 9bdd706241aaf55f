//! The graph: what exists in a cluster and how it is related, as of any time.
//!
//! An entity keeps the versions that it had. Relations are read from the version that was valid at the time of the
//! question, so the order in which facts arrive does not matter.

mod calls;
mod connection;
mod walk;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::kubernetes::{Object, Pair, Reference};

pub(crate) use self::{calls::Calls, connection::Connections, walk::Step};
use crate::visible::{Named, Place};

/// Versions of an entity that are kept; the oldest is let go.
const MAX_VERSIONS: usize = 16;
/// How long an entity is kept after it is gone, in nanoseconds.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;

/// An entity, as an index into the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntityId(u32);

/// What people call an object: kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Name {
    /// Kind, such as `Deployment`.
    pub kind: String,
    /// Namespace; absent for what belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// A thing that facts are about.
#[derive(Clone, Debug)]
pub(crate) struct Entity {
    pub(crate) name: Arc<Name>,
    pub(crate) uid: Option<String>,
    /// The oldest first.
    versions: Vec<Version>,
    deleted_ns: Option<u64>,
    /// The last fact about it.
    last_ns: u64,
}

#[derive(Clone, Debug)]
struct Version {
    from_ns: u64,
    object: Object,
    /// Whether it is from the API server, not derived from an agent's occurrence.
    from_api: bool,
}

/// A label in a namespace.
type Label = (Option<String>, Pair);

/// Entities with their relations.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    entities: Vec<Option<Entity>>,
    free: Vec<EntityId>,
    by_uid: HashMap<String, EntityId>,
    /// Several, where an object was deleted and created again.
    by_name: HashMap<Arc<Name>, Vec<EntityId>>,
    /// Every namespace that something was in.
    namespaces: BTreeSet<String>,
    /// Entities by kind and namespace.
    by_kind: HashMap<(String, Option<String>), BTreeSet<EntityId>>,
    /// Entities with a version that refers to this name.
    referrers: HashMap<Name, BTreeSet<EntityId>>,
    /// Entities with a version that has this address.
    addresses: HashMap<IpAddr, BTreeSet<EntityId>>,
    /// Pods and workloads by a label that a version of them has.
    labelled: HashMap<Label, BTreeSet<EntityId>>,
    /// Services and NetworkPolicies by the first label that a version of them selects; `None`: all pods of the namespace.
    selectors: HashMap<Option<Label>, BTreeSet<EntityId>>,
    pub(crate) connections: Connections,
    pub(crate) calls: Calls,
    max_entities: usize,
    /// Entities that were let go as they were gone for a day.
    pub(crate) expired: u64,
    /// Entities that were not taken since there are too many.
    pub(crate) refused: u64,
    /// Versions that were let go since their entity has too many.
    pub(crate) evicted_versions: u64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl From<&Reference> for Name {
    fn from(of: &Reference) -> Self {
        Self { kind: of.kind.clone(), namespace: of.namespace.clone(), name: of.name.clone() }
    }
}

impl Name {
    /// A name.
    #[must_use]
    pub fn new(kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.map(Into::into), name: name.to_owned() }
    }
}

impl Entity {
    /// The version as of a time; of what existed before its first version, the first one.
    fn version(&self, at_ns: u64) -> Option<&Version> {
        let after = self.versions.partition_point(|version| version.from_ns <= at_ns);
        let (earlier, later) = self.versions.split_at(after);
        // The nearest one; of those from the API server if there are any.
        let nearest = |from_api: bool| {
            let fits = |version: &&Version| version.from_api || !from_api;
            earlier.iter().rev().find(fits).or_else(|| later.iter().find(fits))
        };
        nearest(true).or_else(|| nearest(false))
    }

    /// The object as of a time.
    pub(crate) fn object(&self, at_ns: u64) -> Option<&Object> {
        self.version(at_ns).map(|version| &version.object)
    }

    /// When it was created; when it was first heard of where that is not known.
    pub(crate) fn created_ns(&self) -> u64 {
        let created = self.versions.iter().find_map(|version| version.object.created_unix_ns);
        created.or_else(|| self.versions.first().map(|version| version.from_ns)).unwrap_or(self.last_ns)
    }

    /// How many versions are kept.
    pub(crate) const fn versions(&self) -> usize {
        self.versions.len()
    }

    pub(crate) const fn deleted_ns(&self) -> Option<u64> {
        self.deleted_ns
    }

    /// Whether it existed at a time. The creation of what an agent names is not known.
    pub(crate) fn exists(&self, at_ns: u64) -> bool {
        let created = self.versions.iter().find_map(|version| version.object.created_unix_ns);
        created.is_none_or(|created| created <= at_ns)
            && self.deleted_ns.is_none_or(|deleted| at_ns < deleted)
    }

    /// Whether the API server's view of it is known.
    pub(crate) fn is_from_api(&self) -> bool {
        self.versions.iter().any(|version| version.from_api)
    }
}

impl Graph {
    pub(crate) fn new(max_entities: usize) -> Self {
        Self { max_entities, ..Self::default() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Entity> {
        self.entities.iter().flatten()
    }

    pub(crate) fn len(&self) -> usize {
        self.entities.len() - self.free.len()
    }

    pub(crate) fn get(&self, id: EntityId) -> Option<&Entity> {
        self.entities.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: EntityId) -> Option<&mut Entity> {
        self.entities.get_mut(id.0 as usize)?.as_mut()
    }

    /// The entity of a reference, which is added if it is new; `None` if there are too many.
    pub(crate) fn intern(&mut self, of: &Reference, at_ns: u64) -> Option<EntityId> {
        let known = of.uid.as_ref().and_then(|uid| self.by_uid.get(uid).copied());
        if let Some(id) = known.or_else(|| self.adoptable(of)).or_else(|| self.nameless(of, at_ns)) {
            if let (Some(uid), Some(entity)) = (&of.uid, self.get_mut(id))
                && entity.uid.is_none()
            {
                entity.uid = Some(uid.clone());
                self.by_uid.insert(uid.clone(), id);
            }
            if let Some(entity) = self.get_mut(id) {
                entity.last_ns = entity.last_ns.max(at_ns);
            }
            return Some(id);
        }
        let name = Arc::new(Name::from(of));
        let entity = Entity {
            name: Arc::clone(&name),
            uid: of.uid.clone(),
            versions: Vec::new(),
            deleted_ns: None,
            last_ns: at_ns,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.entities.len() >= self.max_entities => {
                self.refused += 1;
                return None;
            }
            None => {
                self.entities.push(None);
                EntityId(u32::try_from(self.entities.len() - 1).ok()?)
            }
        };
        *self.entities.get_mut(id.0 as usize)? = Some(entity);
        if let Some(uid) = &of.uid {
            self.by_uid.insert(uid.clone(), id);
        }
        if let Place::Namespace(namespace) = name.place()
            && self.namespaces.len() < self.max_entities
        {
            self.namespaces.insert(namespace);
        }
        self.by_kind.entry((name.kind.clone(), name.namespace.clone())).or_default().insert(id);
        self.by_name.entry(name).or_default().push(id);
        Some(id)
    }

    /// An entity with the name whose UID is not known yet, for a reference with a UID.
    fn adoptable(&self, of: &Reference) -> Option<EntityId> {
        of.uid.as_ref()?;
        let ids = self.by_name.get(&Name::from(of))?;
        ids.iter().copied().find(|id| self.get(*id).is_some_and(|entity| entity.uid.is_none()))
    }

    /// The entity with the name as of a time, for a reference without UID.
    fn nameless(&self, of: &Reference, at_ns: u64) -> Option<EntityId> {
        if of.uid.is_some() {
            return None;
        }
        self.named(&Name::from(of), at_ns)
    }

    /// The entity with a name as of a time: the one that existed then, else the one that was created last before, else
    /// the first.
    pub(crate) fn named(&self, name: &Name, at_ns: u64) -> Option<EntityId> {
        let ids = self.by_name.get(name)?;
        let existing = |id: &&EntityId| self.get(**id).is_some_and(|entity| entity.exists(at_ns));
        let created = |id: &&EntityId| self.get(**id).map_or(0, Entity::created_ns);
        let before = |id: &&EntityId| created(id) <= at_ns;
        ids.iter()
            .filter(existing)
            .max_by_key(created)
            .or_else(|| ids.iter().filter(before).max_by_key(created))
            .or_else(|| ids.iter().min_by_key(created))
            .copied()
    }

    /// Everything that has or had a name.
    pub(crate) fn all_named(&self, name: &Name) -> &[EntityId] {
        self.by_name.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Resolves a reference as of a time.
    pub(crate) fn find(&self, of: &Reference, at_ns: u64) -> Option<EntityId> {
        let by_uid = of.uid.as_ref().and_then(|uid| self.by_uid.get(uid).copied());
        by_uid.or_else(|| self.named(&Name::from(of), at_ns))
    }

    /// Adds a version of an object. `from_api`: the API server's view, not an agent's. Returns whether it differs from the one before.
    pub(crate) fn add(&mut self, object: Object, from_ns: u64, from_api: bool) -> Option<(EntityId, bool)> {
        let id = self.intern(&object.object, from_ns)?;
        let entity = self.get_mut(id)?;
        let at = entity.versions.partition_point(|version| version.from_ns <= from_ns);
        let is_repeated = |version: &Version| version.from_api == from_api && version.object == object;
        if at.checked_sub(1).and_then(|before| entity.versions.get(before)).is_some_and(is_repeated) {
            return Some((id, false));
        }
        self.index(id, &object);
        let entity = self.get_mut(id)?;
        entity.versions.insert(at, Version { from_ns, object, from_api });
        if entity.versions.len() > MAX_VERSIONS {
            let oldest = entity.versions.remove(0);
            let left: Vec<Object> = entity.versions.iter().map(|version| version.object.clone()).collect();
            self.evicted_versions += 1;
            self.unindex(id, &oldest.object);
            // Most of what it referred to, later versions do, too.
            left.iter().for_each(|object| self.index(id, object));
        }
        Some((id, true))
    }

    fn index(&mut self, id: EntityId, object: &Object) {
        for name in referred(object) {
            self.referrers.entry(name).or_default().insert(id);
        }
        if object.host_network.is_none() {
            for address in &object.addresses {
                self.addresses.entry(address.address.to_canonical()).or_default().insert(id);
            }
        }
        let namespace = &object.object.namespace;
        for pair in &object.labels {
            self.labelled.entry((namespace.clone(), pair.clone())).or_default().insert(id);
        }
        if is_selecting(&object.object.kind) {
            self.selectors.entry(selected(object)).or_default().insert(id);
        }
    }

    fn unindex(&mut self, id: EntityId, object: &Object) {
        referred(object).for_each(|name| take_out(&mut self.referrers, &name, id));
        for address in &object.addresses {
            take_out(&mut self.addresses, &address.address.to_canonical(), id);
        }
        for pair in &object.labels {
            take_out(&mut self.labelled, &(object.object.namespace.clone(), pair.clone()), id);
        }
        take_out(&mut self.selectors, &selected(object), id);
    }

    /// Records that an object is gone since a time.
    pub(crate) fn delete(&mut self, of: &Reference, at_ns: u64) -> Option<EntityId> {
        let id = self.intern(of, at_ns)?;
        let entity = self.get_mut(id)?;
        entity.deleted_ns = Some(at_ns);
        Some(id)
    }

    /// The entities that had an address at a time: pods and services before nodes.
    pub(crate) fn at_address(&self, address: IpAddr, at_ns: u64) -> Option<EntityId> {
        let ids = self.addresses.get(&address.to_canonical())?;
        let has = |id: &&EntityId| {
            let Some(entity) = self.get(**id) else { return false };
            let object = entity.object(at_ns);
            let has = object.is_some_and(|object| {
                object.addresses.iter().any(|one| one.address.to_canonical() == address.to_canonical())
            });
            has && entity.exists(at_ns)
        };
        // Of a pod that has just ended, peers still report.
        let was = |id: &&EntityId| {
            self.get(**id).and_then(|entity| entity.deleted_ns).is_some_and(|deleted| deleted <= at_ns)
        };
        let created = |id: &&EntityId| self.get(**id).map_or(0, Entity::created_ns);
        ids.iter()
            .filter(has)
            .max_by_key(created)
            .or_else(|| ids.iter().filter(was).max_by_key(created))
            .copied()
    }

    /// The addresses that an entity had at a time.
    pub(crate) fn addresses_of(&self, id: EntityId, at_ns: u64) -> Vec<IpAddr> {
        let object = self.get(id).and_then(|entity| entity.object(at_ns));
        object.map(|object| object.addresses.iter().map(|one| one.address).collect()).unwrap_or_default()
    }

    /// Entities of a kind in a namespace.
    pub(crate) fn of_kind(&self, kind: &str, namespace: Option<&str>) -> impl Iterator<Item = EntityId> {
        let key = (kind.to_owned(), namespace.map(ToOwned::to_owned));
        self.by_kind.get(&key).into_iter().flatten().copied()
    }

    /// What words are the names of.
    pub(crate) fn naming(&self, words: HashSet<String>) -> HashMap<String, Named> {
        let mut found: HashMap<String, Named> = words
            .into_iter()
            .map(|word| {
                let is_namespace = self.namespaces.contains(&word);
                (word, Named { is_namespace, ..Named::default() })
            })
            .collect();
        for entity in self.all() {
            // Few names have capitals, and few are asked for.
            let mut word = Cow::Borrowed(entity.name.name.as_str());
            if word.bytes().any(|byte| byte.is_ascii_uppercase()) {
                word.to_mut().make_ascii_lowercase();
            }
            let Some(named) = found.get_mut(&*word) else { continue };
            let place = entity.name.place();
            if place != Place::Cluster {
                named.places.insert(place);
            }
        }
        found
    }

    /// Entities with a version that refers to this one by name.
    pub(crate) fn referring(&self, id: EntityId) -> impl Iterator<Item = EntityId> {
        let name = self.get(id).map(|entity| &entity.name);
        name.and_then(|name| self.referrers.get(&**name)).into_iter().flatten().copied()
    }

    /// Lets go of entities that are gone for a day, and of those that only agents named and no longer do.
    pub(crate) fn expire(&mut self, now_ns: u64) {
        let limit = now_ns.saturating_sub(KEPT_NS);
        let old = |entity: &Entity| match entity.deleted_ns {
            Some(deleted) => deleted < limit,
            None => !entity.is_from_api() && entity.last_ns < limit,
        };
        for index in 0..self.entities.len() {
            let Some(entity) = self.entities[index].take_if(|entity| old(entity)) else { continue };
            let Ok(index) = u32::try_from(index) else { continue };
            self.forget(EntityId(index), &entity);
        }
        self.connections.expire(limit);
        let Self { entities, calls, .. } = self;
        calls.expire(limit, |id| entities.get(id.0 as usize).is_none_or(Option::is_none));
    }

    fn forget(&mut self, id: EntityId, entity: &Entity) {
        self.expired += 1;
        if let Some(uid) = &entity.uid {
            self.by_uid.remove(uid);
        }
        if let Some(ids) = self.by_name.get_mut(&entity.name) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_name.remove(&entity.name);
            }
        }
        if let Some(ids) = self.by_kind.get_mut(&(entity.name.kind.clone(), entity.name.namespace.clone())) {
            ids.remove(&id);
        }
        entity.versions.iter().for_each(|version| self.unindex(id, &version.object));
        self.free.push(id);
    }
}

/// Removes an entity from an index.
fn take_out<K: Eq + Hash>(index: &mut HashMap<K, BTreeSet<EntityId>>, key: &K, id: EntityId) {
    if let Some(ids) = index.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            index.remove(key);
        }
    }
}

/// Whether pods are looked up by the selector of this kind.
fn is_selecting(kind: &str) -> bool {
    matches!(kind, "Service" | "NetworkPolicy")
}

/// The label by which an object is found that selects pods.
fn selected(object: &Object) -> Option<Label> {
    object.selector.iter().min().map(|pair| (object.object.namespace.clone(), pair.clone()))
}

/// The names that an object refers to.
fn referred(object: &Object) -> impl Iterator<Item = Name> {
    let namespace = object.object.namespace.as_deref();
    let node = object.node.iter().map(|node| Name::new("Node", None, node));
    let pods = object.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_deref());
    let pods = pods.map(move |pod| Name::new("Pod", namespace, pod));
    object.owners.iter().chain(&object.uses).map(Name::from).chain(node).chain(pods)
}
