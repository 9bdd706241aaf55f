//! Messages: one sentence for people.

use std::{borrow::Cow, fmt::Write as _};

use tapio_occurrence::kubernetes::{
    Aspect, Change, Condition, Field, Object, Reference, Verb, Warning, condition,
};

use super::aspect;

/// The most fields that a sentence names.
const MAX_NAMED: usize = 2;
/// The most bytes of a value in a sentence.
const MAX_VALUE: usize = 80;
/// Beginnings of paths that say nothing to a reader.
const OBVIOUS: &[&str] =
    &["spec.jobTemplate.spec.template.spec.", "spec.template.spec.", "spec.template.", "spec."];

/// The end of the path that `kubectl rollout restart` writes.
const RESTARTED: &str = ".kubectl.kubernetes.io/restartedAt";

/// `Kind namespace/name`.
pub(super) fn name(reference: &Reference) -> String {
    match &reference.namespace {
        Some(namespace) => format!("{} {namespace}/{}", reference.kind, reference.name),
        None => format!("{} {}", reference.kind, reference.name),
    }
}

/// For `kubernetes.object`.
pub(super) fn object(object: &Object) -> String {
    format!("{} exists", name(&object.object))
}

/// For `kubernetes.change`.
pub(super) fn change(change: &Change) -> String {
    let mut text = format!("{}: ", name(&change.object));
    match change.verb {
        Verb::Created => text.push_str("created"),
        Verb::Deleted => text.push_str("deleted"),
        Verb::Updated => {
            let beyond = change.more.unwrap_or_default();
            // That there is one more takes as many words as to name it.
            let is_one_more = beyond == 0 && change.fields.len() == MAX_NAMED + 1;
            let count = MAX_NAMED + usize::from(is_one_more);
            let named: Vec<_> = change.fields.iter().take(count).map(field).collect();
            text.push_str(&named.join("; "));
            match change.fields.len().saturating_sub(count) as u64 + beyond {
                0 => {}
                1 => text.push_str("; 1 more field changed"),
                more => {
                    // Writing to a string does not fail.
                    let _ = write!(text, "; {more} more fields changed");
                }
            }
        }
    }
    if let Some(manager) = &change.manager {
        let _ = write!(text, ", by {manager}");
    }
    // The manager says that already.
    if let Some(tool) = change.tool.as_ref().filter(|tool| *tool != "kubectl") {
        let application = change.application.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let _ = write!(text, " ({tool}{application})");
    }
    text
}

/// `image of app changed from pay:1 to pay:2`.
fn field(field: &Field) -> String {
    if field.path.ends_with(RESTARTED) {
        return "restarted".to_owned();
    }
    let what = what(field);
    // A hash says nothing but that the value is another one.
    let is_hash = |value: &Option<String>| value.as_ref().is_some_and(|value| value.starts_with('#'));
    let (short_from, short_to) = (field.from.as_deref().map(short), field.to.as_deref().map(short));
    match (&field.from, &field.to) {
        (Some(_), Some(_)) if is_hash(&field.from) || is_hash(&field.to) => format!("{what} changed"),
        (Some(_), Some(_)) => format!(
            "{what} changed from {} to {}",
            short_from.unwrap_or_default(),
            short_to.unwrap_or_default()
        ),
        (None, Some(_)) if is_hash(&field.to) => format!("{what} added"),
        (None, Some(_)) => format!("{what} set to {}", short_to.unwrap_or_default()),
        (Some(_), None) if is_hash(&field.from) => format!("{what} removed"),
        (Some(_), None) => format!("{what} removed (was {})", short_from.unwrap_or_default()),
        (None, None) => format!("{what} changed"),
    }
}

/// A value as far as it fits into a sentence; the fact has more of it.
fn short(value: &str) -> Cow<'_, str> {
    if value.len() <= MAX_VALUE {
        return value.into();
    }
    format!("{}…", &value[..value.floor_char_boundary(MAX_VALUE)]).into()
}

fn what(field: &Field) -> String {
    let path = field.path.as_str();
    let (container, within) = aspect::container(path).unwrap_or(("", path));
    let last = |of: &str| of.rsplit('.').next().unwrap_or_default().to_owned();
    match field.aspect {
        Aspect::Image => format!("image of {container}"),
        Aspect::Memory | Aspect::Cpu => {
            let bound = if within.contains("limits") { "limit" } else { "request" };
            let resource = if field.aspect == Aspect::Memory { "memory" } else { "CPU" };
            format!("{resource} {bound} of {container}")
        }
        Aspect::Environment => match within.strip_prefix("env.") {
            Some(variable) => {
                let variable = variable.split('.').next().unwrap_or_default();
                format!("environment variable {variable} of {container}")
            }
            None => format!("environment of {container}"),
        },
        Aspect::Replicas => last(path),
        Aspect::Data => format!("key {}", path.split_once('.').map_or(path, |(_, key)| key)),
        _ if !container.is_empty() => format!("{within} of {container}"),
        _ => OBVIOUS.iter().find_map(|start| path.strip_prefix(start)).unwrap_or(path).to_owned(),
    }
}

/// For `kubernetes.condition`.
pub(super) fn state(state: &Condition) -> String {
    let mut text = name(&state.object);
    let container = state.container.as_deref().unwrap_or_default();
    if state.status == "false" {
        let _ = match container {
            "" => write!(text, ": no longer {}", state.condition),
            container => write!(text, ": {container} no longer {}", state.condition),
        };
        return text;
    }
    let reason = state.reason.as_deref();
    let _ = match state.condition.as_str() {
        condition::WAITING => {
            write!(text, ": {container} is waiting: {}", reason.unwrap_or("no reason given"))
        }
        condition::TERMINATED => {
            let signal = state.signal.map(|signal| format!(", signal {signal}")).unwrap_or_default();
            let code = state.exit_code.unwrap_or_default();
            write!(
                text,
                ": {container} ended: {}, exit status {code}{signal}",
                reason.unwrap_or("no reason given")
            )
        }
        other => match reason.filter(|reason| *reason != other) {
            Some(reason) => write!(text, ": {other}: {reason}"),
            None => write!(text, ": {other}"),
        },
    };
    if let Some(said) = state.text.as_deref() {
        let _ = write!(text, " ({said})");
    }
    text
}

/// For `kubernetes.warning`.
pub(super) fn warning(warning: &Warning) -> String {
    format!("{}: {}: {}", name(&warning.object), warning.reason, warning.text)
}

#[cfg(test)]
mod tests {
    use super::{change as sentence, *};

    fn reference(kind: &str, name: &str) -> Reference {
        Reference { kind: kind.into(), namespace: Some("shop".into()), name: name.into(), uid: None }
    }

    fn field(kind: &str, path: &str, from: Option<&str>, to: Option<&str>) -> Field {
        Field {
            path: path.into(),
            aspect: aspect::of(kind, path),
            from: from.map(Into::into),
            to: to.map(Into::into),
        }
    }

    #[test]
    fn changes_read_like_sentences() {
        let app = "spec.template.spec.containers.app";
        for (kind, path, from, to, expected) in [
            (
                "Deployment",
                format!("{app}.image"),
                Some("pay:1"),
                Some("pay:2"),
                "image of app changed from pay:1 to pay:2",
            ),
            (
                "Deployment",
                format!("{app}.resources.limits.memory"),
                Some("1Gi"),
                None,
                "memory limit of app removed (was 1Gi)",
            ),
            (
                "Deployment",
                format!("{app}.env.URL.value"),
                Some("#1"),
                Some("#2"),
                "environment variable URL of app changed",
            ),
            (
                "Deployment",
                format!("{app}.readinessProbe.httpGet.port"),
                None,
                Some("80"),
                "readinessProbe.httpGet.port of app set to 80",
            ),
            ("Deployment", "spec.replicas".into(), Some("1"), Some("3"), "replicas changed from 1 to 3"),
            ("ConfigMap", "data.app.yaml".into(), None, Some("#2"), "key app.yaml added"),
            (
                "Deployment",
                "spec.template.metadata.annotations.kubectl.kubernetes.io/restartedAt".into(),
                None,
                Some("now"),
                "restarted",
            ),
            ("Node", "spec.unschedulable".into(), None, Some("true"), "unschedulable set to true"),
        ] {
            let change = Change {
                object: reference(kind, "pay"),
                fields: vec![field(kind, &path, from, to)],
                manager: Some("kubectl-edit".into()),
                ..Change::default()
            };
            assert_eq!(sentence(&change), format!("{kind} shop/pay: {expected}, by kubectl-edit"));
        }
        let created = Change {
            object: reference("Service", "pay"),
            verb: Verb::Created,
            tool: Some("Argo CD".into()),
            application: Some("shop".into()),
            ..Change::default()
        };
        assert_eq!(sentence(&created), "Service shop/pay: created (Argo CD shop)");
    }

    #[test]
    fn three_fields_are_named_and_of_more_it_is_how_many() {
        let of = |count: usize, more| {
            let ports = (0..count).map(|port| format!("spec.ports.{port}.port"));
            let fields = ports.map(|path| field("Service", &path, None, Some("80"))).collect();
            sentence(&Change { object: reference("Service", "pay"), fields, more, ..Change::default() })
        };
        let two = "Service shop/pay: ports.0.port set to 80; ports.1.port set to 80";
        assert_eq!(of(2, None), two);
        assert_eq!(of(3, None), format!("{two}; ports.2.port set to 80"));
        assert_eq!(of(4, None), format!("{two}; 2 more fields changed"));
        assert_eq!(of(3, Some(1)), format!("{two}; 2 more fields changed"));
    }

    #[test]
    fn states_read_like_sentences() {
        let of = |condition: &str, reason: Option<&str>, container: Option<&str>, status: &str| {
            state(&Condition {
                object: reference("Pod", "pay"),
                condition: condition.into(),
                status: status.into(),
                reason: reason.map(Into::into),
                container: container.map(Into::into),
                exit_code: Some(137),
                ..Condition::default()
            })
        };
        let waiting = of("Waiting", Some("ImagePullBackOff"), Some("app"), "true");
        assert_eq!(waiting, "Pod shop/pay: app is waiting: ImagePullBackOff");
        let ended = of("Terminated", Some("OOMKilled"), Some("app"), "true");
        assert_eq!(ended, "Pod shop/pay: app ended: OOMKilled, exit status 137");
        assert_eq!(of("NotReady", None, None, "false"), "Pod shop/pay: no longer NotReady");
        assert_eq!(of("Evicted", Some("Evicted"), None, "true"), "Pod shop/pay: Evicted");
    }
}
