//! Makes facts of what the watches receive, by comparison with what was reported before.

mod changes;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tapio_occurrence::{
    Occurrence, Outcome, Severity, Workload,
    kubernetes::{Deleted, Missing, Reference, Synced, Watched},
};

use super::{
    endpoints::Endpoints,
    event::{Event, Folded, Folds, Report},
    fact::Said,
    form::{Arrived, Form, key},
    kinds::{Kind, Role},
    salt::Salt,
    sentence,
    sets::Sets,
    states::State,
    status::Status,
    store::Store,
    watch::{Item, What},
};

/// The note with the change-sets that may still grow.
const SETS: &str = "sets";
/// The kind of EndpointSlices, whose list has to be known before a service can be said to have no endpoints.
const SLICES: &str = "EndpointSlice";

/// What was reported, and what is about to be.
pub(super) struct Teller {
    store: Store,
    cluster: Option<Arc<str>>,
    status: Arc<Status>,
    /// Keys that have come of each list that is under way.
    lists: BTreeMap<&'static str, BTreeSet<String>>,
    /// Kinds whose objects are all known, with their number.
    watched: BTreeMap<&'static str, u64>,
    /// Kinds that cannot be watched, and why.
    missing: BTreeMap<&'static str, String>,
    endpoints: Endpoints,
    folds: Folds,
    /// When nodes gave their last sign of life.
    signs: BTreeMap<String, u64>,
    /// States that begin to matter later, by key of the object.
    pending: BTreeMap<String, Vec<State>>,
    /// When something has to be looked at again.
    due: BTreeSet<(u64, Due)>,
    sets: Sets,
    facts: Vec<Occurrence>,
    /// When the last list became complete, or a kind missing, of which nothing is said yet.
    synced_unix_ns: Option<u64>,
    now_unix_ns: u64,
}

/// What has to be looked at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// An object with pending states.
    Object(String),
    /// A fold of Events.
    Fold(String),
}

impl Teller {
    /// Goes on from what is in the store.
    pub(super) fn new(store: Store, cluster: Option<Arc<str>>, status: Arc<Status>) -> anyhow::Result<Self> {
        let sets = store.note(SETS)?.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default();
        Ok(Self {
            store,
            cluster,
            status,
            lists: BTreeMap::new(),
            watched: BTreeMap::new(),
            missing: BTreeMap::new(),
            endpoints: Endpoints::default(),
            folds: Folds::default(),
            signs: BTreeMap::new(),
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            sets,
            facts: Vec::new(),
            synced_unix_ns: None,
            now_unix_ns: 0,
        })
    }

    /// A kind that is not watched, because nobody asked for it.
    pub(super) fn leave_out(&mut self, kind: &'static Kind, reason: &str) {
        self.missing.insert(kind.name, reason.to_owned());
        self.status.lost(kind.name, reason.to_owned());
    }

    /// The salt of this installation.
    pub(super) fn salt(&mut self) -> anyhow::Result<Salt> {
        self.store.salt()
    }

    /// When something has to be looked at again even if nothing arrives, 1970 UTC.
    pub(super) fn due_unix_ns(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The facts of these items, in order.
    pub(super) fn tell(&mut self, items: Vec<Item>, now_unix_ns: u64) -> anyhow::Result<Vec<Occurrence>> {
        self.now_unix_ns = now_unix_ns;
        for item in items {
            self.take(item)?;
        }
        self.look_again()?;
        if let Some(at_unix_ns) = self.synced_unix_ns.take() {
            self.synced(at_unix_ns)?;
        }
        let sets = serde_json::to_vec(&self.sets)?;
        if self.store.note(SETS)?.as_ref() != Some(&sets) {
            self.store.put_note(SETS.to_owned(), Some(sets));
        }
        self.store.commit_intents()?;
        Ok(std::mem::take(&mut self.facts))
    }

    /// Remembers that the facts are durable.
    pub(super) fn told(&mut self) -> anyhow::Result<()> {
        self.store.commit()
    }

    fn take(&mut self, item: Item) -> anyhow::Result<()> {
        let Item { kind, at_unix_ns, what } = item;
        if !matches!(what, What::Lost(_)) {
            self.status.heard(kind.name, at_unix_ns);
        }
        match what {
            What::Listing => {
                self.watched.remove(kind.name);
                self.lists.insert(kind.name, BTreeSet::new());
            }
            What::Object(arrived) => {
                self.listed(kind, arrived.form.key());
                self.object(kind, *arrived, at_unix_ns)?;
            }
            What::Event(event) => {
                self.listed(kind, event.form.key());
                self.event(*event)?;
            }
            What::Sign(node, unix_ns) => {
                self.listed(kind, node.clone());
                self.signs.insert(node, unix_ns);
            }
            What::Gone(key) => self.gone(kind, &key, at_unix_ns)?,
            What::Listed => self.all_listed(kind, at_unix_ns)?,
            What::Lost(fault) => self.lost(kind, &fault, at_unix_ns),
        }
        Ok(())
    }

    /// Notes that an object has come with a list.
    fn listed(&mut self, kind: &Kind, key: String) {
        if let Some(list) = self.lists.get_mut(kind.name) {
            list.insert(key);
        }
    }

    /// An object as it is now.
    fn object(&mut self, kind: &'static Kind, arrived: Arrived, at_unix_ns: u64) -> anyhow::Result<()> {
        let Arrived { mut form, mut over, managed } = arrived;
        let key = form.key();
        let mut before = self.store.form(&key)?;
        if let Some(other) = before.take_if(|before| before.uid() != form.uid()) {
            self.deleted(kind, &other, at_unix_ns)?;
        }
        if before.is_none() {
            self.counted(kind, 1);
        }
        if managed.is_empty() && before.as_ref().is_some_and(|before| before.version != form.version) {
            // The server notes no writers of an object that had no fields when it was made.
            let written = format!("written/{}/{}", form.uid(), form.version);
            form.written_unix_ns = self.store.intend(&written, at_unix_ns)?;
        }
        let is_same = before.as_ref().is_some_and(|before| before.version == form.version);
        if before.as_ref().is_none_or(|before| before.object != form.object) {
            self.say(Said {
                fact: &form.object,
                time_unix_ns: form.written_unix_ns,
                severity: Severity::Debug,
                outcome: Outcome::Success,
                message: sentence::object(&form.object, before.is_none()),
                about: (form.reference(), &form.version),
                apart: &[],
                node: form.node(),
                workload: self.workload(&form, None)?,
                count: 1,
            })?;
        }
        match &before {
            None => self.created(kind, &form, &managed)?,
            Some(before) if !is_same => self.updated(kind, before, &form, &managed)?,
            Some(_) => {}
        }
        let was_there = before.is_some() || self.is_known(kind)?;
        let was_asked = before.as_ref().is_some_and(|before| before.deleting_unix_ns.is_some());
        if let Some(asked) = form.deleting_unix_ns.filter(|_| was_there && !was_asked) {
            self.erased(kind, &form, asked)?;
        }
        self.adjust(kind, &mut form, &mut over);
        let states = std::mem::take(&mut form.states);
        let told = before.as_ref().map(|before| before.states.clone()).unwrap_or_default();
        form.states = self.states(&form, &told, states, &over)?;
        if before.as_ref() != Some(&form) {
            self.store.put(key, Some(&form))?;
        }
        if kind.name == SLICES
            && let Some(service) = self.endpoints.take(&form)
        {
            self.service(&service)?;
        }
        Ok(())
    }

    /// An object is gone.
    fn gone(&mut self, kind: &'static Kind, key: &str, at_unix_ns: u64) -> anyhow::Result<()> {
        if let Some(list) = self.lists.get_mut(kind.name) {
            list.remove(key);
        }
        match kind.role {
            Role::Sign => drop(key.rsplit('/').next().map(|node| self.signs.remove(node))),
            Role::Event => self.store.put(key.to_owned(), None)?,
            Role::Object => {
                if let Some(form) = self.store.form(key)? {
                    self.deleted(kind, &form, at_unix_ns)?;
                    self.store.put(key.to_owned(), None)?;
                }
            }
        }
        Ok(())
    }

    fn deleted(&mut self, kind: &'static Kind, form: &Form, at_unix_ns: u64) -> anyhow::Result<()> {
        let (key, uid) = (form.key(), form.uid());
        let time_unix_ns = match form.deleting_unix_ns {
            Some(asked) => asked.max(form.written_unix_ns),
            // Nothing says when, so the time is written down before it is said: a repeat has the same.
            None => self.store.intend(&format!("gone/{uid}"), at_unix_ns)?,
        };
        // Otherwise it was said when somebody asked for it.
        if form.deleting_unix_ns.is_none() {
            self.erased(kind, form, time_unix_ns)?;
        }
        let deleted = Deleted { object: form.reference().clone() };
        self.say(Said {
            fact: &deleted,
            time_unix_ns,
            severity: Severity::Debug,
            outcome: Outcome::Success,
            message: format!("{} is gone", sentence::name(form.reference())),
            about: (form.reference(), ""),
            apart: &[],
            node: form.node(),
            workload: self.workload(form, None)?,
            count: 1,
        })?;
        self.counted(kind, -1);
        self.pending.remove(&key);
        if kind.name == SLICES
            && let Some(service) = self.endpoints.forget(form)
        {
            self.service(&service)?;
        }
        Ok(())
    }

    /// All objects of a kind have come: others that were reported are gone.
    fn all_listed(&mut self, kind: &'static Kind, at_unix_ns: u64) -> anyhow::Result<()> {
        let Some(list) = self.lists.remove(kind.name) else { return Ok(()) };
        let number = list.len() as u64;
        if kind.role == Role::Sign {
            self.signs.retain(|node, _| list.contains(node));
        } else {
            for key in self.store.keys(&format!("{}/", kind.name))? {
                if !list.contains(&key) {
                    self.gone(kind, &key, at_unix_ns)?;
                }
            }
        }
        self.watched.insert(kind.name, number);
        self.missing.remove(kind.name);
        self.status.watched(kind.name);
        self.status.count(kind.name, number);
        if !self.is_known(kind)? {
            self.store.put_note(known(kind), Some(Vec::new()));
        }
        if kind.name == SLICES {
            self.store.keys("Service/")?.iter().try_for_each(|service| self.service(service))?;
        }
        self.synced_unix_ns = Some(at_unix_ns);
        Ok(())
    }

    /// A watch has failed. What it watched goes on being known, and is compared when it is listed again.
    fn lost(&mut self, kind: &'static Kind, fault: &tapio_kube::Fault, at_unix_ns: u64) {
        let resource = kind.resource();
        let reason = match fault.code {
            Some(403) => format!(
                "the API server forbids it (403): grant list and watch on {resource} to the service account \
                 (ClusterRole tapio-portti)"
            ),
            Some(404) => format!("the API server does not serve {resource} in {} (404)", kind.version),
            _ => fault.why.clone(),
        };
        self.lists.remove(kind.name);
        self.watched.remove(kind.name);
        self.status.lost(kind.name, reason.clone());
        if self.missing.insert(kind.name, reason.clone()).is_none() {
            tracing::warn!(kind = kind.name, lost = kind.lost, "portti: {reason}");
            self.synced_unix_ns = Some(at_unix_ns);
        }
    }

    /// Says what is known to be complete.
    fn synced(&mut self, at_unix_ns: u64) -> anyhow::Result<()> {
        let watched =
            self.watched.iter().map(|(kind, objects)| Watched { kind: (*kind).into(), objects: *objects });
        let missing = self
            .missing
            .iter()
            .map(|(kind, reason)| Missing { kind: (*kind).into(), reason: reason.clone() });
        let synced = Synced { kinds: watched.collect(), missing: missing.collect() };
        let message = match synced.missing.as_slice() {
            [] => format!("{} kinds are watched", synced.kinds.len()),
            missing => {
                let names: Vec<_> = missing.iter().map(|missing| missing.kind.as_str()).collect();
                format!("{} kinds are watched; not {}", synced.kinds.len(), names.join(", "))
            }
        };
        let content = serde_json::to_string(&synced)?;
        self.say(Said {
            fact: &synced,
            time_unix_ns: at_unix_ns,
            severity: Severity::Debug,
            outcome: Outcome::Success,
            message,
            about: (&Reference::default(), ""),
            apart: &[&content],
            node: None,
            workload: None,
            count: 1,
        })
    }

    /// A Warning Event.
    fn event(&mut self, event: Event) -> anyhow::Result<()> {
        let key = event.form.key();
        let before = self.store.form(&key)?.filter(|before| before.uid() == event.form.uid());
        if before.as_ref().is_some_and(|before| before.version == event.form.version) {
            return Ok(());
        }
        let told = before.and_then(|before| before.generation).unwrap_or_default();
        let count = event.form.generation.unwrap_or(1).saturating_sub(told).max(1);
        match self.folds.take(event, count, self.now_unix_ns) {
            Folded::Now(report) => self.report(&report),
            Folded::Later(due, fold) => {
                self.due.insert((due, Due::Fold(fold)));
                Ok(())
            }
        }
    }

    fn report(&mut self, report: &Report) -> anyhow::Result<()> {
        let Report { event, count, forms } = report;
        let object = &event.warning.object;
        let about = if object.kind == "Pod" { self.store.form(&key(object))? } else { None };
        let workload = match &about {
            Some(form) => self.workload(form, None)?,
            None => None,
        };
        let node =
            about.as_ref().and_then(Form::node).or((object.kind == "Node").then_some(object.name.as_str()));
        self.say(Said {
            fact: &event.warning,
            time_unix_ns: event.time_unix_ns,
            severity: Severity::Warning,
            outcome: Outcome::Failure,
            message: sentence::warning(&event.warning),
            about: (event.form.reference(), &event.form.version),
            apart: &[],
            node,
            workload,
            count: *count,
        })?;
        forms.iter().try_for_each(|form| self.store.put(form.key(), Some(form)))
    }

    /// Looks at what is due.
    fn look_again(&mut self) -> anyhow::Result<()> {
        while let Some((due, what)) = self.due.first().cloned()
            && due <= self.now_unix_ns
        {
            self.due.pop_first();
            match what {
                Due::Object(key) => self.begin_pending(&key)?,
                Due::Fold(fold) => {
                    if let Some(report) = self.folds.due(&fold, self.now_unix_ns) {
                        self.report(&report)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a kind was listed once, so that what is new was not there before.
    fn is_known(&self, kind: &Kind) -> anyhow::Result<bool> {
        Ok(self.store.note(&known(kind))?.is_some())
    }

    fn counted(&mut self, kind: &'static Kind, change: i64) {
        if let Some(objects) = self.watched.get_mut(kind.name) {
            *objects = objects.saturating_add_signed(change);
            self.status.count(kind.name, *objects);
        }
    }

    /// The workload of a pod.
    fn workload(&self, form: &Form, container: Option<&str>) -> anyhow::Result<Option<Workload>> {
        if form.reference().kind != "Pod" {
            return Ok(None);
        }
        let (owner_kind, owner) = self.owner(form)?.unzip();
        let of = container.and_then(|name| form.object.containers.iter().find(|c| c.name == name));
        Ok(Some(Workload {
            namespace: form.reference().namespace.clone(),
            pod: Some(form.reference().name.clone()),
            pod_uid: form.reference().uid.clone(),
            container: container.map(ToOwned::to_owned),
            image: of.map(|container| container.image.clone()),
            owner_kind,
            owner,
            ..Workload::default()
        }))
    }

    /// The workload that an operator knows: the Deployment of a ReplicaSet, the CronJob of a Job.
    fn owner(&self, form: &Form) -> anyhow::Result<Option<(String, String)>> {
        let Some(owner) = form.object.owners.first().filter(|owner| owner.kind != "Node") else {
            return Ok(None);
        };
        if owner.kind == "ReplicaSet" || owner.kind == "Job" {
            let above = self
                .store
                .form(&key(owner))?
                .filter(|above| above.uid() == owner.uid.as_deref().unwrap_or_default());
            match above {
                Some(above) => {
                    if let Some(owner) = above.object.owners.first() {
                        return Ok(Some((owner.kind.clone(), owner.name.clone())));
                    }
                }
                // A Deployment names its ReplicaSets after itself and the hash of the template.
                None => {
                    let hash = form.object.revision.as_deref().filter(|_| owner.kind == "ReplicaSet");
                    let name = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
                    if let Some(name) = name {
                        return Ok(Some(("Deployment".to_owned(), name.to_owned())));
                    }
                }
            }
        }
        Ok(Some((owner.kind.clone(), owner.name.clone())))
    }

    fn say<F: tapio_occurrence::kubernetes::Fact>(&mut self, said: Said<'_, F>) -> anyhow::Result<()> {
        self.facts.push(said.occurrence(self.cluster.as_ref())?);
        Ok(())
    }
}

/// The note that a kind was listed once.
fn known(kind: &Kind) -> String {
    format!("listed/{}", kind.name)
}
