//! Makes facts of what the watches receive, by comparison with what was reported before.

mod again;
mod changes;
mod coverage;
mod events;
mod owner;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tapio_occurrence::{Occurrence, Outcome, Severity, kubernetes::Deleted};

use self::again::Again;
use super::{
    endpoints::Endpoints,
    event::Folds,
    fact::Said,
    form::{Arrived, Form},
    kinds::{Kind, Role},
    read::SECOND_NS,
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
/// The note with the facts that were made last, until they are known to have arrived.
const OUTBOX: &str = "outbox";
/// The most changes of forms that wait for a fact to be written with.
const MAX_PENDING: usize = 1_000;
/// How often it is said what is watched, even if nothing changes: who reads the facts knows that somebody looks.
const SYNCED_NS: u64 = 60 * SECOND_NS;
/// The kind of EndpointSlices, whose list has to be known before a service can be said to have no endpoints.
const SLICES: &str = "EndpointSlice";

/// What was reported, and what is about to be.
pub(super) struct Reporter {
    store: Store,
    cluster: Option<Arc<str>>,
    status: Arc<Status>,
    /// Keys that have come of each list that is under way.
    lists: BTreeMap<&'static str, BTreeSet<String>>,
    /// Kinds whose objects are all known, with their number.
    watched: BTreeMap<&'static str, u64>,
    /// Kinds that cannot be watched, and why.
    missing: BTreeMap<&'static str, String>,
    /// Kinds whose objects this run has reported.
    told_again: BTreeSet<&'static str>,
    again: Again,
    /// The key of the last object of which it was said that it exists, while that is said of all.
    all_after: Option<String>,
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
    /// When it is to be said again what is watched.
    next_synced_unix_ns: Option<u64>,
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

impl Reporter {
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
            told_again: BTreeSet::new(),
            again: Again::default(),
            all_after: None,
            endpoints: Endpoints::default(),
            folds: Folds::default(),
            signs: BTreeMap::new(),
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            sets,
            facts: Vec::new(),
            synced_unix_ns: None,
            next_synced_unix_ns: None,
            now_unix_ns: 0,
        })
    }

    /// The salt of this installation.
    pub(super) fn salt(&mut self) -> anyhow::Result<Salt> {
        self.store.salt()
    }

    /// When something has to be looked at again even if nothing arrives, 1970 UTC.
    pub(super) fn due_unix_ns(&self) -> Option<u64> {
        let at_once = self.all_after.as_ref().map(|_| 0);
        let due = self.due.first().map(|(due, _)| *due).into_iter().chain(at_once);
        due.chain(self.next_synced_unix_ns).chain(self.again.due_unix_ns()).min()
    }

    /// The facts of these items, in order.
    pub(super) fn compare(&mut self, items: Vec<Item>, now_unix_ns: u64) -> anyhow::Result<Vec<Occurrence>> {
        self.now_unix_ns = now_unix_ns;
        for item in items {
            self.take(item)?;
        }
        self.look_again()?;
        self.say_again()?;
        self.say_next()?;
        let next = self.next_synced_unix_ns.filter(|next| *next <= now_unix_ns);
        if let Some(at_unix_ns) = self.synced_unix_ns.take().or(next) {
            self.synced(at_unix_ns)?;
            self.next_synced_unix_ns = Some(at_unix_ns.max(now_unix_ns).saturating_add(SYNCED_NS));
        }
        let sets = serde_json::to_vec(&self.sets)?;
        if self.store.note(SETS)?.as_ref() != Some(&sets) {
            self.store.put_note(SETS.to_owned(), Some(sets));
        }
        let facts = std::mem::take(&mut self.facts);
        if !facts.is_empty() {
            self.store.put_note(OUTBOX.to_owned(), Some(serde_json::to_vec(&facts)?));
            self.store.commit()?;
        } else if self.store.pending() > MAX_PENDING {
            self.store.commit()?;
        }
        Ok(facts)
    }

    /// The facts that an earlier run made, and of which it did not know whether they arrived.
    pub(super) fn undelivered(&self) -> anyhow::Result<Vec<Occurrence>> {
        let note = self.store.note(OUTBOX)?;
        Ok(note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default())
    }

    /// The facts are durable where they went. That is written down with what comes next.
    pub(super) fn delivered(&mut self) {
        self.store.put_note(OUTBOX.to_owned(), None);
    }

    /// Writes down everything.
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
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

    /// Whether objects are reported though they are as they were: once in each run, with the same ids. The journal drops them,
    /// unless it has let them go, because they have not changed for so long.
    fn tells_again(&self, kind: &Kind) -> bool {
        self.lists.contains_key(kind.name) && !self.told_again.contains(kind.name)
    }

    /// Notes that an object has come with a list.
    fn listed(&mut self, kind: &Kind, key: String) {
        if let Some(list) = self.lists.get_mut(kind.name) {
            list.insert(key);
        }
    }

    /// An object as it is now.
    fn object(&mut self, kind: &'static Kind, arrived: Arrived, at_unix_ns: u64) -> anyhow::Result<()> {
        let Arrived { mut form, mut states, managed } = arrived;
        let key = form.key();
        let mut before = self.store.form(&key)?;
        if let Some(other) = before.take_if(|before| before.uid() != form.uid()) {
            self.deleted(kind, &other, at_unix_ns)?;
        }
        if before.is_none() {
            self.counted(kind, 1);
        }
        let is_same = before.as_ref().is_some_and(|before| before.version == form.version);
        if let Some(before) = before.as_ref().filter(|_| managed.is_empty()) {
            // The server notes no writers of an object that had no fields when it was made.
            form.written_unix_ns = if is_same { before.written_unix_ns } else { at_unix_ns };
        }
        let unchanged = before.as_ref().filter(|before| before.object == form.object);
        let is_said = unchanged.is_some();
        let said = unchanged.and_then(|before| before.said.clone());
        form.said = Some(said.unwrap_or_else(|| (form.written_unix_ns, form.version.clone())));
        let tells_again = self.tells_again(kind);
        if !is_said || tells_again {
            self.exists(&form)?;
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
        self.adjust(kind, &form, &mut states);
        let reported = before.as_ref().map(|before| before.states.clone()).unwrap_or_default();
        form.states = self.states(&form, &reported, states)?;
        if tells_again {
            self.lasts(&form, |state| reported.contains(state))?;
        }
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
        let key = form.key();
        let time_unix_ns = match form.deleting_unix_ns {
            Some(asked) => asked.max(form.written_unix_ns),
            None => at_unix_ns,
        };
        // Otherwise it was said when somebody asked for it.
        if form.deleting_unix_ns.is_none() {
            self.erased(kind, form, time_unix_ns)?;
        }
        let deleted = Deleted { object: form.reference().clone() };
        self.say(Said {
            fact: &deleted,
            time_unix_ns,
            id_unix_ns: Some(form.deleting_unix_ns.unwrap_or(form.written_unix_ns)),
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

    fn say<F: tapio_occurrence::kubernetes::Fact>(&mut self, said: Said<'_, F>) -> anyhow::Result<()> {
        self.facts.push(said.occurrence(self.cluster.as_ref())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
