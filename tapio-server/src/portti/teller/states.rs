//! States that begin and end.

use tapio_occurrence::{
    Outcome, Severity,
    kubernetes::{Condition, condition},
};

use super::{Due, SLICES, Teller};
use crate::portti::{
    fact::{Said, severity},
    form::Form,
    kinds::Kind,
    sentence,
    states::State,
};

/// The longest time by which a node's last sign of life may be earlier than its condition.
const SILENCE_NS: u64 = 600 * 1_000_000_000;

/// Conditions (and containers) that are over, and since when.
type Over = Vec<(&'static str, Option<String>, u64)>;

impl Teller {
    /// Adds what other objects say about this one.
    pub(super) fn adjust(&self, kind: &Kind, form: &mut Form, over: &mut Over) {
        if kind.name == "Service" {
            self.add_endpoints(form, over);
        }
        if kind.name == "Node"
            && let Some(sign) = self.signs.get(&form.reference().name)
        {
            let silent = form.states.iter_mut().filter(|state| {
                state.condition.condition == condition::NODE_NOT_READY
                    && state.condition.reason.as_deref() == Some("NodeStatusUnknown")
                    && *sign < state.since_unix_ns
                    && state.since_unix_ns - sign < SILENCE_NS
            });
            silent.for_each(|state| state.since_unix_ns = *sign);
        }
    }

    /// A service's endpoints are others now.
    pub(super) fn service(&mut self, key: &str) -> anyhow::Result<()> {
        if !self.watched.contains_key(SLICES) {
            return Ok(());
        }
        let Some(mut form) = self.store.form(key)? else { return Ok(()) };
        let told = std::mem::take(&mut form.states);
        let mut over = Over::new();
        self.add_endpoints(&mut form, &mut over);
        let now = std::mem::take(&mut form.states);
        form.states = self.states(&form, &told, now, &over)?;
        if form.states != told {
            self.store.put(key.to_owned(), Some(&form))?;
        }
        Ok(())
    }

    fn add_endpoints(&self, form: &mut Form, over: &mut Over) {
        if self.watched.contains_key(SLICES) {
            form.states.extend(self.endpoints.state(form));
            if let Some(written) = self.endpoints.written_unix_ns(&form.key()) {
                over.push((condition::NO_ENDPOINTS, None, written));
            }
        }
    }

    /// Says which states of an object begin and which end. Returns those that have begun.
    pub(super) fn states(
        &mut self,
        form: &Form,
        told: &[State],
        now: Vec<State>,
        over: &Over,
    ) -> anyhow::Result<Vec<State>> {
        let key = form.key();
        for before in told {
            let goes_on = before.is_final() || now.iter().any(|state| state.key() == before.key());
            // Endpoints are not known before all slices are.
            let is_unknown =
                before.condition.condition == condition::NO_ENDPOINTS && !self.watched.contains_key(SLICES);
            if !goes_on && !is_unknown {
                self.end(form, before, over)?;
            }
        }
        let (mut begun, mut pending) = (Vec::new(), Vec::new());
        for state in now {
            if let Some(before) = told.iter().find(|before| state.is(before)) {
                begun.push(before.clone());
            } else if state.due_unix_ns > self.now_unix_ns {
                pending.push(state);
            } else {
                self.begin(form, &state)?;
                begun.push(state);
            }
        }
        if !self.watched.contains_key(SLICES) {
            begun.extend(
                told.iter().filter(|before| before.condition.condition == condition::NO_ENDPOINTS).cloned(),
            );
        }
        for state in &pending {
            self.due.insert((state.due_unix_ns, Due::Object(key.clone())));
        }
        if pending.is_empty() {
            self.pending.remove(&key);
        } else {
            self.pending.insert(key, pending);
        }
        Ok(begun)
    }

    /// Begins those pending states of an object whose time has come.
    pub(super) fn begin_pending(&mut self, key: &str) -> anyhow::Result<()> {
        let Some(pending) = self.pending.remove(key) else { return Ok(()) };
        let Some(mut form) = self.store.form(key)? else { return Ok(()) };
        let (due, later): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|state| state.due_unix_ns <= self.now_unix_ns);
        if !later.is_empty() {
            self.pending.insert(key.to_owned(), later);
        }
        for state in due {
            self.begin(&form, &state)?;
            form.states.push(state);
        }
        self.store.put(key.to_owned(), Some(&form))
    }

    fn begin(&mut self, form: &Form, state: &State) -> anyhow::Result<()> {
        self.say_state(form, state.condition.clone(), state.since_unix_ns)
    }

    fn end(&mut self, form: &Form, before: &State, over: &Over) -> anyhow::Result<()> {
        let said =
            over.iter().find(|(condition, container, _)| before.key() == (*condition, container.as_deref()));
        let since = said.map_or(form.written_unix_ns, |(.., since)| *since).max(before.since_unix_ns);
        let condition =
            Condition { status: "false".to_owned(), text: None, exit_code: None, ..before.condition.clone() };
        self.say_state(form, condition, since)
    }

    fn say_state(&mut self, form: &Form, mut condition: Condition, time_unix_ns: u64) -> anyhow::Result<()> {
        condition.object = form.reference().clone();
        let severity = severity(&condition);
        let container = condition.container.as_deref();
        let apart = [
            condition.condition.as_str(),
            condition.status.as_str(),
            container.unwrap_or_default(),
            condition.reason.as_deref().unwrap_or_default(),
        ];
        let has_failed = condition.status == "true" && severity > Severity::Info;
        let workload = self.workload(form, container)?;
        self.say(Said {
            fact: &condition,
            time_unix_ns,
            severity,
            outcome: if has_failed { Outcome::Failure } else { Outcome::Success },
            message: sentence::state(&condition),
            // Not the version: the same state may be said of a later one.
            about: (form.reference(), ""),
            apart: &apart,
            node: form.node(),
            workload,
            count: 1,
        })
    }
}
