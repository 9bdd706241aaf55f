//! The report policy: whose anomalies are reported, once their owners are known.

use tapio_occurrence::{Workload, is_kubelet};

use crate::{
    enrich::cgroups::Lookup,
    observer::{Anomaly, Only, Sandbox, Scope},
};

/// Whether the anomaly is reported. An unknown owner does not put it out of scope. `is_over` says whether
/// Kubernetes reports that everything in a workload's pod has ended.
pub(super) fn is_reported(
    only: Only,
    owner: &Lookup,
    actor: Option<&Lookup>,
    is_over: impl FnOnce(&Workload) -> bool,
) -> bool {
    let in_scope = match (only.scope, owner) {
        (Scope::All, _) | (_, Lookup::Unknown) => true,
        (_, Lookup::Unowned) => false,
        (scope, Lookup::Known(workload)) => {
            is_container(workload) || (scope == Scope::Services && is_service(workload))
        }
    };
    if only.by_other_end {
        return false;
    }
    in_scope
        && !(only.from_outside && actor.is_some_and(|actor| is_same(owner, actor)))
        && !is_sandbox(only.sandbox, owner, is_over)
}

/// Whether it looks like a failed probe: a connection by the kubelet, which runs in no pod.
pub(super) fn is_probe(anomaly: &Anomaly, owner: &Lookup) -> bool {
    let is_in_pod = matches!(owner, Lookup::Known(workload) if workload.pod_uid.is_some());
    anomaly.kind.of_health_checks && !is_in_pod && is_kubelet(&super::comm(&anomaly.comm))
}

fn is_sandbox(sandbox: Sandbox, owner: &Lookup, is_over: impl FnOnce(&Workload) -> bool) -> bool {
    let is_unlisted = |workload: &Workload| workload.pod_uid.is_some() && workload.container.is_none();
    match (sandbox, owner) {
        (Sandbox::No, _) | (_, Lookup::Unowned) => false,
        // The runtime removes the cgroup right after the kill.
        (Sandbox::Likely { is_first }, Lookup::Unknown) => is_first,
        (Sandbox::Unlisted, Lookup::Unknown) => false,
        (Sandbox::Likely { .. }, Lookup::Known(workload)) => is_unlisted(workload),
        (Sandbox::Unlisted, Lookup::Known(workload)) => is_unlisted(workload) && is_over(workload),
    }
}

fn is_container(workload: &Workload) -> bool {
    workload.container_id.is_some() || workload.pod_uid.is_some()
}

/// A `.scope` unit contains programs that a user started; so does the service of a user's own systemd.
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

    fn reported_for(only: Only, owner: &Lookup, actor: Option<&Lookup>) -> bool {
        is_reported(only, owner, actor, |_| false)
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
        for (scope, reported) in [
            (Scope::Containers, [true, false, false, false, false, true]),
            (Scope::Services, [true, true, false, false, false, true]),
            (Scope::All, [true; 6]),
        ] {
            let only = Only { scope, ..Only::ALL };
            assert_eq!(owners.each_ref().map(|owner| reported_for(only, owner, None)), reported, "{scope}");
        }
    }

    #[test]
    fn a_probe_is_a_connection_of_the_kubelet_which_is_in_no_pod() {
        let refused = crate::pipeline::fold::tests::refused(80, 1);
        let by = |comm: [u8; 16]| Anomaly { comm, ..refused.clone() };
        let by_kubelet = by(*b"kubelet\0\0\0\0\0\0\0\0\0");
        assert!(
            is_probe(&by(*b"k3s-agent\0\0\0\0\0\0\0"), &unit("k3s-agent.service")),
            "it is its kubelet, too"
        );
        let in_pod = known(Workload { pod_uid: Some("a".to_owned()), ..Workload::default() });
        // The kubelet itself runs in a container if the node is one.
        for owner in [unit("kubelet.service"), container("node"), Lookup::Unowned, Lookup::Unknown] {
            assert!(is_probe(&by_kubelet, &owner) && !is_probe(&refused, &owner));
        }
        assert!(!is_probe(&by_kubelet, &in_pod));
        assert!(!is_probe(
            &Anomaly { kind: crate::observer::kind("network.rtt_spike").unwrap().1, ..by_kubelet },
            &Lookup::Unowned
        ));
    }

    #[test]
    fn what_a_workload_does_to_itself_is_its_own() {
        let only = Only { from_outside: true, ..Only::ALL };
        assert!(!reported_for(only, &container("a"), Some(&container("a"))));
        assert!(!reported_for(only, &unit("a.service"), Some(&unit("a.service"))));
        for other in [container("b"), Lookup::Unowned, Lookup::Unknown] {
            assert!(reported_for(only, &container("a"), Some(&other)));
        }
        // Two processes outside containers and units share nothing but the host.
        assert!(reported_for(only, &Lookup::Unowned, Some(&Lookup::Unowned)));
        assert!(reported_for(only, &container("a"), None));
        assert!(reported_for(Only::ALL, &container("a"), Some(&container("a"))));
    }

    #[test]
    fn a_sandbox_is_no_ones() {
        let of = |container: Option<&str>, pod_uid: Option<&str>| {
            known(Workload {
                container: container.map(str::to_owned),
                container_id: Some("a".to_owned()),
                pod_uid: pod_uid.map(str::to_owned),
                ..Workload::default()
            })
        };
        let owners = [
            of(None, Some("u")),
            of(Some("pause"), Some("u")),
            of(None, None),
            unit("a.service"),
            Lookup::Unowned,
            Lookup::Unknown,
        ];
        let (likely, child) = (Sandbox::Likely { is_first: true }, Sandbox::Likely { is_first: false });
        for (sandbox, is_over, reported) in [
            (Sandbox::No, true, [true; 6]),
            (likely, false, [false, true, true, true, true, false]),
            (child, false, [false, true, true, true, true, true]),
            (Sandbox::Unlisted, true, [false, true, true, true, true, true]),
            (Sandbox::Unlisted, false, [true; 6]),
        ] {
            let only = Only { sandbox, ..Only::ALL };
            let found = owners.each_ref().map(|owner| is_reported(only, owner, None, |_| is_over));
            assert_eq!(found, reported, "{sandbox:?} {is_over}");
        }
    }
}
