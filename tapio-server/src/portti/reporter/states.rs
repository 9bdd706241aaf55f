//! States that begin and end.

use tapio_occurrence::{
    Outcome, Severity,
    kubernetes::{Condition, condition},
};

use super::{Due, Reporter, SLICES};
use crate::portti::{
    fact::{Said, severity},
    form::Form,
    kinds::Kind,
    sentence,
    states::{State, States},
};

/// The longest time by which a node's last sign of life may be earlier than its condition.
const SILENCE_NS: u64 = 600 * 1_000_000_000;

impl Reporter {
    /// Adds what other objects say about this one.
    pub(super) fn adjust(&self, kind: &Kind, form: &Form, states: &mut States) {
        if kind.name == "Service" {
            self.add_endpoints(form, states);
        }
        if kind.name == "Node"
            && let Some(sign) = self.signs.get(&form.reference().name)
        {
            let silent = states.now.iter_mut().filter(|state| {
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
        let mut states = States::default();
        self.add_endpoints(&form, &mut states);
        let reported = std::mem::take(&mut form.states);
        form.states = self.states(&form, &reported, states)?;
        if form.states != reported {
            self.store.put(key.to_owned(), Some(&form))?;
        }
        Ok(())
    }

    fn add_endpoints(&self, form: &Form, states: &mut States) {
        if self.watched.contains_key(SLICES) {
            states.now.extend(self.endpoints.state(form, self.now_unix_ns));
            if let Some(written) = self.endpoints.written_unix_ns(&form.key()) {
                states.over.push((condition::NO_ENDPOINTS, None, written));
            }
        } else {
            // Nothing is known of them now.
            states.remains = true;
        }
    }

    /// Says which states of an object begin and which end. Returns those that have begun and not ended.
    pub(super) fn states(
        &mut self,
        form: &Form,
        reported: &[State],
        states: States,
    ) -> anyhow::Result<Vec<State>> {
        let key = form.key();
        let States { now, over, remains } = states;
        let (mut begun, mut pending) = (Vec::new(), Vec::new());
        for before in reported {
            let said = over
                .iter()
                .find(|(condition, container, _)| before.key() == (*condition, container.as_deref()));
            if now.iter().any(|state| state.key() == before.key()) {
                continue;
            }
            match said {
                _ if before.is_final() => {}
                None if remains => begun.push(before.clone()),
                said => self.end(form, before, said.map_or(form.written_unix_ns, |(.., since)| *since))?,
            }
        }
        for state in now {
            if let Some(before) = reported.iter().find(|before| state.is(before)) {
                begun.push(before.clone());
            } else if state.due_unix_ns > self.now_unix_ns {
                pending.push(state);
            } else {
                self.begin(form, &state)?;
                begun.push(state);
            }
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
        self.say_state(form, state.condition.clone(), state.since_unix_ns, None)
    }

    fn end(&mut self, form: &Form, before: &State, since_unix_ns: u64) -> anyhow::Result<()> {
        let since = since_unix_ns.max(before.since_unix_ns);
        let condition =
            Condition { status: "false".to_owned(), text: None, exit_code: None, ..before.condition.clone() };
        self.say_state(form, condition, since, None)
    }

    /// Says that a state begins or ends. `again` tells it apart from the first time that it was said.
    pub(super) fn say_state(
        &mut self,
        form: &Form,
        mut condition: Condition,
        time_unix_ns: u64,
        again: Option<&str>,
    ) -> anyhow::Result<()> {
        condition.object = form.reference().clone();
        let severity = severity(&condition);
        let container = condition.container.as_deref();
        let mut apart = vec![
            condition.condition.as_str(),
            condition.status.as_str(),
            container.unwrap_or_default(),
            condition.reason.as_deref().unwrap_or_default(),
        ];
        apart.extend(again);
        let has_failed = condition.status == "true" && severity > Severity::Info;
        let workload = self.workload(form, container)?;
        self.say(Said {
            fact: &condition,
            time_unix_ns,
            id_unix_ns: None,
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
