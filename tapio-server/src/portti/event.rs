//! Warning Events, folded by object and reason: the first is reported at once, further ones at most once a minute.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use tapio_occurrence::kubernetes::{Object, Reference, Warning};

use super::{
    form::Form,
    read::{SECOND_NS, capped, number, text, time, unix_ns},
};

/// The shortest time between two reports of a fold.
pub(super) const QUIET_NS: u64 = 60 * SECOND_NS;
/// The most folds that are remembered.
const MAX_FOLDS: usize = 4_096;
/// The most Events of a fold that are remembered until it is reported.
const MAX_WAITING: usize = 16;

/// An Event that arrived.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// The Event as an object; its generation is how often it occurred.
    pub(super) form: Form,
    /// What it says.
    pub(super) warning: Warning,
    /// When it occurred last.
    pub(super) time_unix_ns: u64,
}

impl Event {
    /// Reads an Event; `None` if it is about nothing.
    pub(super) fn read(object: &DynamicObject) -> Option<Self> {
        let (metadata, data) = (&object.metadata, &object.data);
        let created = metadata.creation_timestamp.as_ref().and_then(unix_ns);
        let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"];
        let last = times.iter().find_map(|path| time(data, path)).or(created)?;
        let of_object = |path: &str| text(data, path).map(ToOwned::to_owned);
        let warning = Warning {
            object: Reference {
                kind: of_object("/involvedObject/kind")?,
                namespace: of_object("/involvedObject/namespace"),
                name: of_object("/involvedObject/name")?,
                uid: of_object("/involvedObject/uid"),
            },
            reason: text(data, "/reason").map(capped)?,
            text: text(data, "/message").map(capped).unwrap_or_default(),
            reporter: text(data, "/reportingComponent")
                .or_else(|| text(data, "/source/component"))
                .map(capped),
            first_unix_ns: time(data, "/firstTimestamp").or_else(|| time(data, "/eventTime")).or(created),
        };
        let form = Form {
            object: Object {
                object: Reference {
                    kind: "Event".to_owned(),
                    namespace: metadata.namespace.clone(),
                    name: metadata.name.clone()?,
                    uid: Some(metadata.uid.clone()?),
                },
                ..Object::default()
            },
            version: metadata.resource_version.clone().unwrap_or_default(),
            generation: Some(number(data, "/series/count").or_else(|| number(data, "/count")).unwrap_or(1)),
            ..Form::default()
        };
        Some(Self { form, warning, time_unix_ns: last })
    }
}

/// What is to be reported of a fold.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// The last Event.
    pub(super) event: Event,
    /// How many Events it stands for.
    pub(super) count: u64,
    /// All Events that are reported with it.
    pub(super) forms: Vec<Form>,
}

/// The folds.
#[derive(Debug, Default)]
pub(super) struct Folds(BTreeMap<String, Fold>);

#[derive(Debug)]
struct Fold {
    reported_unix_ns: u64,
    waiting: Option<Report>,
}

/// What becomes of an Event.
#[derive(Debug)]
pub(super) enum Folded {
    /// It is reported now.
    Now(Box<Report>),
    /// It is reported later, with others: the time, and the fold.
    Later(u64, String),
}

impl Folds {
    /// Takes an Event that occurred `count` times more than was reported.
    pub(super) fn take(&mut self, event: Event, count: u64, now_unix_ns: u64) -> Folded {
        let about = &event.warning.object;
        let whose = about.uid.clone().unwrap_or_else(|| super::form::key(about));
        let name = format!("{whose} {}", event.warning.reason);
        if self.0.len() >= MAX_FOLDS && !self.0.contains_key(&name) {
            self.forget(now_unix_ns);
        }
        let fold = self.0.entry(name.clone()).or_insert(Fold { reported_unix_ns: 0, waiting: None });
        let due = fold.reported_unix_ns.saturating_add(QUIET_NS);
        let waiting = fold.waiting.take();
        let (before, mut forms) = waiting.map_or((0, Vec::new()), |waiting| (waiting.count, waiting.forms));
        // An Event that waits already was counted up to there.
        let is_same = |form: &Form| form.key() == event.form.key();
        let waits = forms.iter().find(|form| is_same(form)).and_then(|form| form.generation);
        let count = event.form.generation.zip(waits).map_or(count, |(now, then)| now.saturating_sub(then));
        forms.retain(|form| !is_same(form));
        if forms.len() < MAX_WAITING {
            forms.push(event.form.clone());
        }
        let report = Report { event, count: before.saturating_add(count), forms };
        if fold.reported_unix_ns == 0 || now_unix_ns >= due {
            fold.reported_unix_ns = now_unix_ns;
            Folded::Now(Box::new(report))
        } else {
            fold.waiting = Some(report);
            Folded::Later(due, name)
        }
    }

    /// What waits in a fold whose time has come.
    pub(super) fn due(&mut self, name: &str, now_unix_ns: u64) -> Option<Report> {
        let fold = self.0.get_mut(name)?;
        let report = fold.waiting.take()?;
        fold.reported_unix_ns = now_unix_ns;
        Some(report)
    }

    /// Makes room: those that are quiet for long go, and else the one that was reported first.
    fn forget(&mut self, now_unix_ns: u64) {
        let is_quiet = |fold: &Fold| {
            fold.waiting.is_none() && now_unix_ns.saturating_sub(fold.reported_unix_ns) > QUIET_NS
        };
        self.0.retain(|_, fold| !is_quiet(fold));
        if self.0.len() >= MAX_FOLDS {
            let oldest =
                self.0.iter().min_by_key(|(_, fold)| fold.reported_unix_ns).map(|(name, _)| name.clone());
            self.0.retain(|name, _| Some(name) != oldest.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(pod: &str, count: u64) -> Event {
        let object = json!({
            "metadata": { "name": format!("{pod}.1"), "namespace": "shop", "uid": format!("e-{pod}"), "resourceVersion": "7" },
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": pod, "uid": pod },
            "reason": "FailedMount", "message": "no such volume", "count": count,
            "firstTimestamp": "2026-11-20T01:46:40Z", "lastTimestamp": "2026-11-20T01:46:50Z",
            "source": { "component": "kubelet" },
        });
        Event::read(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn the_first_is_reported_at_once_and_the_others_together() {
        let mut folds = Folds::default();
        let read = event("a", 3);
        assert_eq!((read.form.generation, read.warning.reporter.as_deref()), (Some(3), Some("kubelet")));
        assert_eq!(read.time_unix_ns - read.warning.first_unix_ns.unwrap(), 10 * SECOND_NS);
        let start = 1_000 * SECOND_NS;
        assert!(matches!(folds.take(read, 3, start), Folded::Now(report) if report.count == 3));
        let Folded::Later(due, name) = folds.take(event("a", 4), 1, start + SECOND_NS) else {
            panic!("reported")
        };
        // Three more than was reported, two more than waits.
        assert!(matches!(folds.take(event("a", 6), 3, start + 2 * SECOND_NS), Folded::Later(..)));
        assert!(matches!(folds.take(event("b", 1), 1, start), Folded::Now(_)), "another pod's");
        let report = folds.due(&name, due).unwrap();
        assert_eq!((report.count, report.forms.len(), report.forms[0].generation), (3, 1, Some(6)));
        assert!(folds.due(&name, due).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut folds = Folds::default();
        for nth in 0..2 * MAX_FOLDS as u64 {
            folds.take(event(&nth.to_string(), 1), 1, 1_000 * SECOND_NS + nth);
        }
        assert!(folds.0.len() <= MAX_FOLDS);
    }
}
