//! Warning Events, and what is due.

use tapio_occurrence::{Outcome, Severity};

use super::{Due, Reporter};
use crate::portti::{
    event::{Event, Folded, Report},
    fact::Said,
    form::{Form, key},
    sentence,
};

impl Reporter {
    /// A Warning Event.
    pub(super) fn event(&mut self, event: Event) -> anyhow::Result<()> {
        let key = event.form.key();
        let before = self.store.form(&key)?.filter(|before| before.uid() == event.form.uid());
        if before.as_ref().is_some_and(|before| before.version == event.form.version) {
            return Ok(());
        }
        let reported = before.and_then(|before| before.generation).unwrap_or_default();
        let count = event.form.generation.unwrap_or(1).saturating_sub(reported).max(1);
        match self.folds.take(event, count, self.now_unix_ns) {
            Folded::Now(report) => self.report(&report),
            Folded::Later(due, fold) => {
                self.due.insert((due, Due::Fold(fold)));
                Ok(())
            }
        }
    }

    pub(super) fn report(&mut self, report: &Report) -> anyhow::Result<()> {
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
            id_unix_ns: None,
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
}
