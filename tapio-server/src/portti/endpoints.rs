//! Services without ready endpoints: that takes all slices of a service together.

use std::collections::BTreeMap;

use tapio_occurrence::kubernetes::{Condition, Object, condition};

use super::{
    form::Form,
    states::{START_NS, State},
};

/// The slices of all services.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    /// By key of the service, then by key of the slice.
    services: BTreeMap<String, BTreeMap<String, Slice>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    ready: usize,
    members: usize,
    written_unix_ns: u64,
}

impl Endpoints {
    /// Takes a slice, and returns the key of its service if that may have another state now.
    pub(super) fn take(&mut self, form: &Form) -> Option<String> {
        let service = service(&form.object)?;
        let ready = form.object.endpoints.iter().filter(|member| member.ready == "true").count();
        let members = form.object.endpoints.len();
        let slice = Slice { ready, members, written_unix_ns: form.written_unix_ns };
        let before = self.services.entry(service.clone()).or_default().insert(form.key(), slice);
        (before != Some(slice)).then_some(service)
    }

    /// Forgets a slice, and returns the key of its service.
    pub(super) fn forget(&mut self, form: &Form) -> Option<String> {
        let service = service(&form.object)?;
        let slices = self.services.get_mut(&service)?;
        slices.remove(&form.key());
        if slices.is_empty() {
            self.services.remove(&service);
        }
        Some(service)
    }

    /// The state of a service.
    pub(super) fn state(&self, form: &Form, now_unix_ns: u64) -> Option<State> {
        let slices = self.services.get(&form.key());
        let sum =
            |of: fn(&Slice) -> usize| slices.into_iter().flat_map(BTreeMap::values).map(of).sum::<usize>();
        let (ready, members) = (sum(|slice| slice.ready), sum(|slice| slice.members));
        if ready > 0 || (form.object.selector.is_empty() && members == 0) {
            return None;
        }
        let written = slices.into_iter().flat_map(BTreeMap::values).map(|slice| slice.written_unix_ns).max();
        let created = form.object.created_unix_ns.unwrap_or_default();
        let due = created.saturating_add(START_NS);
        // Nothing says when the last slice went.
        let since = if now_unix_ns > due { now_unix_ns } else { created };
        let text = match members {
            0 => "no endpoints".to_owned(),
            1 => "the only endpoint is not ready".to_owned(),
            members => format!("none of {members} endpoints is ready"),
        };
        let condition = Condition {
            condition: condition::NO_ENDPOINTS.to_owned(),
            status: "true".to_owned(),
            text: Some(text),
            ..Condition::default()
        };
        Some(State { condition, since_unix_ns: written.unwrap_or(since).max(created), due_unix_ns: due })
    }

    /// When a service's slices were written last.
    pub(super) fn written_unix_ns(&self, service: &str) -> Option<u64> {
        self.services.get(service)?.values().map(|slice| slice.written_unix_ns).max()
    }
}

/// The key of a slice's service.
fn service(slice: &Object) -> Option<String> {
    slice.uses.first().map(super::form::key)
}

#[cfg(test)]
mod tests {
    use tapio_occurrence::kubernetes::{Endpoint, Pair, Reference};

    use super::*;

    fn reference(kind: &str, name: &str) -> Reference {
        Reference { kind: kind.into(), namespace: Some("shop".into()), name: name.into(), uid: None }
    }

    fn slice(name: &str, ready: &[bool]) -> Form {
        let member = |ready: &bool| Endpoint {
            address: [10, 0, 0, 1].into(),
            pod: None,
            pod_uid: None,
            ready: ready.to_string(),
        };
        Form {
            object: Object {
                object: reference("EndpointSlice", name),
                uses: vec![reference("Service", "pay")],
                endpoints: ready.iter().map(member).collect(),
                ..Object::default()
            },
            ..Form::default()
        }
    }

    #[test]
    fn one_ready_endpoint_of_any_slice_is_enough() {
        let mut endpoints = Endpoints::default();
        let mut service = Form::default();
        service.object.object = reference("Service", "pay");
        assert_eq!(endpoints.state(&service, 1), None, "it selects nothing");
        service.object.selector = vec![Pair { key: "app".into(), value: "pay".into() }];
        let text = |endpoints: &Endpoints| endpoints.state(&service, 1)?.condition.text;
        assert_eq!(text(&endpoints).as_deref(), Some("no endpoints"));
        assert_eq!(endpoints.take(&slice("a", &[false, false])).as_deref(), Some("Service/shop/pay"));
        assert_eq!(text(&endpoints).as_deref(), Some("none of 2 endpoints is ready"));
        endpoints.take(&slice("b", &[true]));
        assert_eq!(text(&endpoints), None);
        assert_eq!(endpoints.take(&slice("b", &[true])), None, "nothing new");
        assert!(endpoints.forget(&slice("b", &[true])).is_some());
        assert!(text(&endpoints).is_some());
        endpoints.forget(&slice("a", &[]));
        assert!(endpoints.services.is_empty());
    }
}
