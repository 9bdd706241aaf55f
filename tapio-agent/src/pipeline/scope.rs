//! Of whom an anomaly is told, once its owner has a name.

use crate::{
    enrich::cgroups::Lookup,
    observer::{Only, Scope},
    occurrence::Workload,
};

/// Whether it is told. An owner that is not known is not known to be out of scope.
pub(super) fn is_told(only: Only, owner: &Lookup, actor: Option<&Lookup>) -> bool {
    let in_scope = match (only.scope, owner) {
        (Scope::All, _) | (_, Lookup::Unknown) => true,
        (_, Lookup::Unowned) => false,
        (scope, Lookup::Known(workload)) => {
            is_container(workload) || (scope == Scope::Services && is_service(workload))
        }
    };
    in_scope && !(only.from_outside && actor.is_some_and(|actor| is_same(owner, actor)))
}

fn is_container(workload: &Workload) -> bool {
    workload.container_id.is_some() || workload.pod_uid.is_some()
}

/// A scope holds what a user started, and so does the service that is a user's own systemd.
fn is_service(workload: &Workload) -> bool {
    workload.unit.as_deref().is_some_and(|unit| unit.ends_with(".service") && !unit.starts_with("user@"))
}

fn is_same(one: &Lookup, other: &Lookup) -> bool {
    match (one, other) {
        (Lookup::Known(one), Lookup::Known(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn known(workload: Workload) -> Lookup {
        Lookup::Known(Arc::new(workload))
    }

    fn container(id: &str) -> Lookup {
        known(Workload { container_id: Some(id.to_owned()), ..Workload::default() })
    }

    fn unit(name: &str) -> Lookup {
        known(Workload { unit: Some(name.to_owned()), ..Workload::default() })
    }

    #[test]
    fn each_scope_takes_in_those_before_it() {
        let owners = [
            container("a"),
            unit("a.service"),
            unit("session-1.scope"),
            unit("user@1000.service"),
            Lookup::Unowned,
            Lookup::Unknown,
        ];
        for (scope, told) in [
            (Scope::Containers, [true, false, false, false, false, true]),
            (Scope::Services, [true, true, false, false, false, true]),
            (Scope::All, [true; 6]),
        ] {
            let only = Only { scope, ..Only::ALL };
            assert_eq!(owners.each_ref().map(|owner| is_told(only, owner, None)), told, "{scope}");
        }
    }

    #[test]
    fn what_a_workload_does_to_itself_is_its_own() {
        let only = Only { from_outside: true, ..Only::ALL };
        assert!(!is_told(only, &container("a"), Some(&container("a"))));
        assert!(!is_told(only, &unit("a.service"), Some(&unit("a.service"))));
        for other in [container("b"), Lookup::Unowned, Lookup::Unknown] {
            assert!(is_told(only, &container("a"), Some(&other)));
        }
        // Two processes of the host have nothing in common but the host.
        assert!(is_told(only, &Lookup::Unowned, Some(&Lookup::Unowned)));
        assert!(is_told(only, &container("a"), None));
        assert!(is_told(Only::ALL, &container("a"), Some(&container("a"))));
    }
}
