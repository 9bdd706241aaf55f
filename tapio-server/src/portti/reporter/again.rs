//! What exists and what lasts is said again, once an interval, so that a receiver that lets go of old facts never forgets it.
//!
//! An interval has slots, and an object's key says in which of them it is said again: what there is goes out evenly, and
//! without anything to remember. An id depends on the fact and on the interval, so that it is the same whoever says it.

use tapio_occurrence::{Outcome, Severity};

use super::{Reporter, sentence};
use crate::portti::{
    fact::Said,
    form::Form,
    kinds::{KINDS, Role},
    salt::fingerprint,
    states::State,
};

/// Objects of a part, where everything is said again.
const PART: usize = 256;
/// Slots of an interval.
const SLOTS: u64 = 256;

/// When what is said again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Again {
    /// The length of a slot; 0 if nothing is said again.
    slot_ns: u64,
    /// The last slot whose objects were said, counted from 1970 UTC; 0 before the first one.
    done: u64,
}

impl Again {
    /// Each object once in this time.
    pub(super) fn every(interval_ns: u64) -> Self {
        Self { slot_ns: interval_ns / SLOTS, done: 0 }
    }

    /// When the next slot begins, 1970 UTC.
    pub(super) fn due_unix_ns(&self) -> Option<u64> {
        (self.slot_ns > 0 && self.done > 0).then(|| (self.done + 1).saturating_mul(self.slot_ns))
    }

    /// The slots that have begun since the last call, each at most once.
    fn begun(&mut self, now_unix_ns: u64) -> std::ops::Range<u64> {
        let Some(now) = now_unix_ns.checked_div(self.slot_ns) else { return 0..0 };
        // Each list says all of its objects anyway: there is nothing to catch up with at the start.
        let done = if self.done == 0 { now } else { self.done.max(now.saturating_sub(SLOTS)) };
        // Should the clock be set back, what was said is not said again.
        self.done = done.max(now);
        done + 1..now + 1
    }

    /// How often the slot of a key has come until a time: what is said again has another id each time.
    fn times(&self, key: &str, now_unix_ns: u64) -> u64 {
        let slots = now_unix_ns.checked_div(self.slot_ns).unwrap_or_default();
        slots.saturating_sub(slot_of(key)) / SLOTS
    }
}

/// The slot of a key within an interval.
fn slot_of(key: &str) -> u64 {
    u64::try_from(fingerprint(&[key]) % u128::from(SLOTS)).unwrap_or_default()
}

impl Reporter {
    /// From now on objects and what lasts are said again, each once in this time.
    #[must_use]
    pub(in crate::portti) fn telling_again(mut self, interval_ns: u64) -> Self {
        self.again = Again::every(interval_ns);
        self
    }

    /// Says again what is due, of the kinds that are watched: of others nobody knows whether it still exists.
    pub(super) fn say_again(&mut self) -> anyhow::Result<()> {
        let begun = self.again.begun(self.now_unix_ns);
        if begun.is_empty() {
            return Ok(());
        }
        let is_due = |key: &str| {
            let slot = slot_of(key);
            begun.clone().any(|begun| begun % SLOTS == slot)
        };
        for kind in KINDS.iter().filter(|kind| kind.role == Role::Object) {
            if !self.watched.contains_key(kind.name) {
                continue;
            }
            for key in self.store.keys(&format!("{}/", kind.name))? {
                if is_due(&key) {
                    self.say_of(&key)?;
                }
            }
        }
        Ok(())
    }

    /// From now on it is said again of everything that it exists, a part each time that something is compared.
    pub(in crate::portti) fn tell_all(&mut self) {
        self.all_after = Some(String::new());
    }

    /// Says the next part of everything.
    pub(super) fn say_next(&mut self) -> anyhow::Result<()> {
        let Some(after) = self.all_after.take() else { return Ok(()) };
        let keys = self.store.keys_after(&after, PART)?;
        for key in &keys {
            let kind = key.split('/').next().unwrap_or_default();
            if self.watched.contains_key(kind) {
                self.say_of(key)?;
            }
        }
        self.all_after = keys.last().filter(|_| keys.len() == PART).cloned();
        Ok(())
    }

    /// Says that an object exists, and what lasts.
    fn say_of(&mut self, key: &str) -> anyhow::Result<()> {
        let Some(form) = self.store.form(key)? else { return Ok(()) };
        // Events are in the store, too, so that they are not said twice.
        if !KINDS.iter().any(|kind| kind.role == Role::Object && kind.name == form.reference().kind) {
            return Ok(());
        }
        self.exists(&form)?;
        self.lasts(&form, |_| true)
    }

    /// Says that an object exists.
    pub(super) fn exists(&mut self, form: &Form) -> anyhow::Result<()> {
        let (time_unix_ns, version) =
            form.said.clone().unwrap_or_else(|| (form.written_unix_ns, form.version.clone()));
        let times = self.times(form).to_string();
        self.say(Said {
            fact: &form.object,
            time_unix_ns,
            id_unix_ns: None,
            severity: Severity::Debug,
            outcome: Outcome::Success,
            message: sentence::object(&form.object),
            about: (form.reference(), &version),
            apart: &[&times],
            node: form.node(),
            workload: self.workload(form, None)?,
            count: 1,
        })
    }

    /// Says which states of an object last, of those that are wanted.
    pub(super) fn lasts(&mut self, form: &Form, is_wanted: impl Fn(&State) -> bool) -> anyhow::Result<()> {
        let times = self.times(form).to_string();
        for state in form.states.iter().filter(|state| !state.is_final() && is_wanted(state)) {
            self.say_state(form, state.condition.clone(), state.since_unix_ns, Some(&times))?;
        }
        Ok(())
    }

    fn times(&self, form: &Form) -> u64 {
        self.again.times(&form.key(), self.now_unix_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_begins_once_an_interval() {
        let mut again = Again::every(256 * 10);
        assert_eq!((again.due_unix_ns(), again.begun(1_000_005)), (None, 100_001..100_001));
        assert_eq!(again.due_unix_ns(), Some(1_000_010));
        assert_eq!(again.begun(1_000_009), 100_001..100_001);
        assert_eq!(again.begun(1_000_035), 100_001..100_004);
        // The clock is set back, and goes on.
        assert!(again.begun(999_000).is_empty());
        assert_eq!(again.begun(1_000_042), 100_004..100_005);
        // After a long sleep each once.
        assert_eq!(again.begun(2_000_000).count() as u64, SLOTS);
        assert!(Again::default().begun(7).is_empty());
    }

    #[test]
    fn the_number_of_an_object_changes_in_its_slot() {
        let again = Again::every(SLOTS);
        for key in ["Pod/a/1", "Pod/a/2", "Node//n"] {
            let slot = slot_of(key);
            let all: Vec<u64> = (SLOTS..3 * SLOTS).map(|now| again.times(key, now)).collect();
            let changes = all.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
            let changes: Vec<u64> = changes.map(|(at, _)| (at as u64 + 1) % SLOTS).collect();
            assert!(changes.iter().all(|change| *change == slot), "{key}: {slot} {changes:?}");
            assert!(!changes.is_empty() && changes.len() <= 2, "{key}: {slot} {changes:?}");
        }
    }
}
