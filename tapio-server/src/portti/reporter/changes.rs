//! Changes: what somebody did to what an object should be.

use std::cmp::Ordering;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use tapio_occurrence::{
    Outcome, Severity,
    kubernetes::{Aspect, Change, Verb},
};

use super::Reporter;
use crate::portti::{
    diff::Diff,
    fact::Said,
    flat::Compared,
    form::Form,
    kinds::{CONTROLLERS, Kind},
    origin::Writer,
    sentence,
};

/// Why a pod is disrupted, where somebody asked for it.
const ASKED_FOR: &str = "EvictionByEvictionAPI";
/// Two changes within a second, of which times of the API server are, are heard of within this time.
const JUST_NOW_NS: u64 = 10_000_000_000;

impl Reporter {
    /// An object is new. It is a change if somebody made it, and if it was not there before.
    pub(super) fn created(
        &mut self,
        kind: &Kind,
        form: &Form,
        managed: &[ManagedFieldsEntry],
    ) -> anyhow::Result<()> {
        if !self.is_known(kind)? || form.is_of_components || !is_by_somebody(kind, form) {
            return Ok(());
        }
        let writer = Writer::of(managed, &[]);
        let time = form.object.created_unix_ns.unwrap_or(form.written_unix_ns);
        self.change(Verb::Created, Diff::default(), form, writer, time)
    }

    /// An object has another version.
    pub(super) fn updated(
        &mut self,
        kind: &Kind,
        before: &Form,
        form: &Form,
        managed: &[ManagedFieldsEntry],
    ) -> anyhow::Result<()> {
        let mut diff = Diff::of(kind.name, &before.flat, &form.flat);
        if diff.is_empty() {
            return Ok(());
        }
        let writer = Writer::of(managed, &diff.fields);
        if writer.is_component() {
            // Of what components write only an autoscaler's decisions are no consequence of something that is said.
            diff.fields.retain(|field| field.aspect == Aspect::Replicas && !form.is_owned());
            diff.more = 0;
            if diff.is_empty() {
                return Ok(());
            }
        }
        // Who takes a field away may be noted nowhere, such as who scales to 0. What was written before the version that is known
        // is not this change, nor with it, unless that was just now.
        let is_old = |time: u64| match time.cmp(&before.written_unix_ns) {
            Ordering::Greater => false,
            Ordering::Equal => self.now_unix_ns.saturating_sub(time) > JUST_NOW_NS,
            Ordering::Less => true,
        };
        let writer = if writer.time_unix_ns.is_some_and(is_old) { Writer::default() } else { writer };
        // Who scales is noted without a time.
        let newest = Some(form.written_unix_ns).filter(|time| !is_old(*time));
        let time = writer.time_unix_ns.or(newest).unwrap_or(self.now_unix_ns);
        self.change(Verb::Updated, diff, form, writer, time)
    }

    /// The deletion of an object was asked for at this time, or it is gone. It is a change if somebody did that.
    pub(super) fn erased(&mut self, kind: &Kind, form: &Form, time_unix_ns: u64) -> anyhow::Result<()> {
        let is_eviction = form.disruption.as_deref() == Some(ASKED_FOR);
        if !is_eviction && (form.is_of_components || !is_by_somebody(kind, form)) {
            return Ok(());
        }
        self.change(Verb::Deleted, Diff::default(), form, Writer::default(), time_unix_ns)
    }

    fn change(
        &mut self,
        verb: Verb,
        diff: Diff,
        form: &Form,
        writer: Writer,
        time: u64,
    ) -> anyhow::Result<()> {
        let tool = form.tool.clone();
        // Of unknown writers only those in one namespace are taken for one.
        let namespace = form.reference().namespace.as_deref().unwrap_or_default();
        let whose = writer.manager.clone().unwrap_or_else(|| format!("unknown/{namespace}"));
        let set = self.sets.of(&whose, tool.application.as_deref(), form.reference(), time);
        let change = Change {
            object: form.reference().clone(),
            verb,
            fields: diff.fields,
            more: Some(diff.more).filter(|more| *more > 0),
            manager: writer.manager,
            tool: tool.name,
            application: tool.application,
            tool_revision: tool.revision,
            set: Some(set),
            generation: form.generation,
        };
        let (verb, version) = match verb {
            Verb::Created => ("created", form.version.as_str()),
            Verb::Updated => ("updated", form.version.as_str()),
            Verb::Deleted => ("deleted", ""),
        };
        let mut message = sentence::change(&change);
        if form.disruption.as_deref() == Some(ASKED_FOR) && verb == "deleted" {
            message.push_str(" (evicted through the API, as a drain does)");
        }
        // Where nothing says when it was, each replica has heard of it at another time.
        let is_heard = time == self.now_unix_ns || verb == "deleted" && form.deleting_unix_ns.is_none();
        let id_unix_ns = is_heard.then_some(form.written_unix_ns);
        let workload = self.workload(form, None)?;
        self.say(Said {
            fact: &change,
            time_unix_ns: time,
            id_unix_ns,
            severity: Severity::Info,
            outcome: Outcome::Success,
            message,
            about: (form.reference(), version),
            apart: &[verb],
            node: form.node(),
            workload,
            count: 1,
        })
    }
}

/// Whether such an object comes and goes by somebody's doing, and not as a consequence of something else.
fn is_by_somebody(kind: &Kind, form: &Form) -> bool {
    // Volumes come and go with their claims.
    kind.compared != Compared::Nothing
        && kind.name != "PersistentVolume"
        && !form.object.owners.iter().any(|owner| CONTROLLERS.contains(&owner.kind.as_str()))
}
