//! Paths from real nodes.

use proptest::prelude::*;

use super::*;

const UID: &str = "9df0e5bd-2f9a-4a8e-9c1c-5b3f7f0a1d2e";
const UID_: &str = "9df0e5bd_2f9a_4a8e_9c1c_5b3f7f0a1d2e";
const HASH: &str = "c1a0ab7f8a5b7d9fd8c1d0f9f5c7e3a1";
const ID: &str = "3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f";
const OUTER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// `{UID}` and the like stand for the constants above. The columns are path, runtime, container, pod, unit.
type Case =
    (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>, Option<&'static str>);

const CONTAINERD: Option<&str> = Some("containerd");
const CRIO: Option<&str> = Some("cri-o");
const DOCKER: Option<&str> = Some("docker");
const PODMAN: Option<&str> = Some("podman");
const C: Option<&str> = Some(ID);
const P: Option<&str> = Some(UID);
const O: Option<&str> = Some(OUTER);

const PATHS: &[Case] = &[
    // kubelet with the systemd driver
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
        CONTAINERD,
        C,
        P,
        None,
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope",
        CRIO,
        C,
        P,
        None,
    ),
    ("/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope", DOCKER, C, P, None),
    ("/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container", CRIO, C, P, None),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/cri-containerd-{ID}.scope",
        CONTAINERD,
        C,
        Some(HASH),
        None,
    ),
    // kubelet with the cgroupfs driver: the path does not show the runtime
    ("/kubepods/burstable/pod{UID}/{ID}", None, C, P, None),
    ("/kubepods/besteffort/pod{UID}/crio-{ID}", CRIO, C, P, None),
    ("/kubepods/pod{UID}/{ID}", None, C, P, None),
    ("/kubepods/burstable/pod{HASH}/{ID}", None, C, Some(HASH), None),
    // Talos, k3s without systemd, k0s
    ("/kubepods/burstable/pod{UID}/{ID}/init", None, C, P, None),
    ("/podruntime/kubelet", None, None, None, None),
    ("/k8s.io/{ID}", None, C, None, None),
    // k3s, RKE2
    ("/system.slice/k3s.service", None, None, None, Some("k3s.service")),
    (
        "/system.slice/k3s.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
        CONTAINERD,
        C,
        P,
        None,
    ),
    // systemd's names with the cgroupfs driver
    (
        "/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}",
        CONTAINERD,
        C,
        P,
        None,
    ),
    ("/kubepods-besteffort-pod{UID_}.slice:crio:{ID}", CRIO, C, P, None),
    ("/system.slice:docker:{ID}", DOCKER, C, None, None),
    // kind, minikube: the node is itself a container
    ("/docker/{OUTER}/kubelet/kubepods/burstable/pod{UID}/{ID}", DOCKER, O, None, None),
    (
        "/docker/{OUTER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
        DOCKER,
        O,
        None,
        None,
    ),
    (
        "/system.slice/docker-{OUTER}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        DOCKER,
        O,
        None,
        None,
    ),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        CONTAINERD,
        C,
        P,
        None,
    ),
    ("/docker/{ID}/system.slice/kubelet.service", DOCKER, C, None, None),
    ("/docker/{OUTER}/kubepods.slice/kubepods-pod{UID_}.slice/docker-{ID}.scope", DOCKER, O, None, None),
    ("/docker/{OUTER}/kubelet/kubepods/pod{UID}", DOCKER, O, None, None),
    // a pod, but not in one of its containers
    ("/kubepods/burstable/pod{UID}", None, None, P, None),
    ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice", None, None, P, None),
    ("/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope", None, None, P, None),
    // Docker, Podman, nerdctl, ECS
    ("/docker/{ID}", DOCKER, C, None, None),
    ("/system.slice/docker-{ID}.scope", DOCKER, C, None, None),
    ("/system.slice/nerdctl-{ID}.scope", CONTAINERD, C, None, None),
    ("/machine.slice/libpod-{ID}.scope", PODMAN, C, None, None),
    ("/machine.slice/libpod-{ID}.scope/container", PODMAN, C, None, None),
    ("/libpod_parent/libpod-{ID}", PODMAN, C, None, None),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        PODMAN,
        C,
        None,
        Some("user@1000.service"),
    ),
    ("/machine.slice/libpod-conmon-{ID}.scope", None, None, None, Some("libpod-conmon-{ID}.scope")),
    ("/ecs/4a8e9c1c5b3f7f0a1d2e9df0e5bd2f9a/{ID}", None, C, None, None),
    // containers in containers
    ("/kubepods/pod{UID}/{OUTER}/docker/{ID}", None, O, P, None),
    ("/docker/{OUTER}/docker/{ID}", DOCKER, O, None, None),
    ("/kubepods/burstable/pod{UID}/{ID}/system.slice/nginx.service", None, C, P, None),
    ("/docker/{ID}/init.scope", DOCKER, C, None, None),
    // a removed cgroup
    ("/system.slice/docker-{ID}.scope (deleted)", DOCKER, C, None, None),
    // outside containers
    ("/system.slice/nginx.service", None, None, None, Some("nginx.service")),
    ("/system.slice/system-getty.slice/getty@tty1.service", None, None, None, Some("getty@tty1.service")),
    ("/system.slice/systemd-udevd.service/udev", None, None, None, Some("systemd-udevd.service")),
    ("/system.slice/run-r0123456789abcdef.scope", None, None, None, Some("run-r0123456789abcdef.scope")),
    ("/user.slice/user-1000.slice/session-3.scope", None, None, None, Some("session-3.scope")),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
        None,
        None,
        None,
        Some("user@1000.service"),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-a\\x2db.scope",
        None,
        None,
        None,
        Some("user@1000.service"),
    ),
    // names that a user gives, or someone inside a machine
    (
        "/user.slice/user-1000.slice/user@1000.service/kubelet.service",
        None,
        None,
        None,
        Some("user@1000.service"),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}",
        None,
        None,
        None,
        Some("user@1000.service"),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        None,
        None,
        None,
        Some("user@1000.service"),
    ),
    (
        "/machine.slice/machine-web.scope/payload/system.slice/kubelet.service",
        None,
        None,
        None,
        Some("machine-web.scope"),
    ),
    (
        "/machine.slice/systemd-nspawn@web.service/docker/{ID}",
        None,
        None,
        None,
        Some("systemd-nspawn@web.service"),
    ),
    ("/system.slice/web.service/kubelet.service", None, None, None, Some("web.service")),
    ("/lxc.payload.web/system.slice/kubelet.service", None, None, None, None),
    ("/lxc.payload.web/docker/{ID}", None, None, None, None),
    ("/lxc/web/kubepods/pod{UID}/{ID}", None, None, None, None),
    ("/web/kubelet.service", None, None, None, None),
    ("/init.scope", None, None, None, Some("init.scope")),
    ("/../../system.slice/nginx.service", None, None, None, Some("nginx.service")),
    // nothing to report
    ("/", None, None, None, None),
    ("", None, None, None, None),
    ("/system.slice", None, None, None, None),
    ("/user.slice/user-1000.slice", None, None, None, None),
    ("/lxc.payload.web", None, None, None, None),
    ("/system.slice/.service", None, None, None, None),
    ("/system.slice/a\nb.service", None, None, None, None),
    ("/system.slice/\u{fffd}\u{fffd}.service", None, None, None, None),
    ("/docker/3F4E1A0B9C8D7E6F5A4B3C2D1E0F9A8B7C6D5E4F3A2B1C0D9E8F7A6B5C4D3E2F", None, None, None, None),
    ("/docker/3f4e1a0b9c8d", None, None, None, None),
    ("/docker/{ID}0", None, None, None, None),
    ("/kubepods/podnot-a-uid/x", None, None, None, None),
    ("/pod/pod-/pod{UID}x", None, None, None, None),
    ("/mypods-pod{UID_}.slice", None, None, None, None),
    ("/evil-{ID}.service.d", None, None, None, None),
    (":::/::", None, None, None, None),
];

fn fill(text: &str) -> String {
    text.replace("{UID}", UID)
        .replace("{UID_}", UID_)
        .replace("{HASH}", HASH)
        .replace("{ID}", ID)
        .replace("{OUTER}", OUTER)
}

#[test]
fn real_paths() {
    for (path, runtime, container, pod, unit) in PATHS {
        let path = fill(path);
        let expected = Workload {
            runtime: runtime.map(Into::into),
            container_id: container.map(str::to_owned),
            pod_uid: pod.map(str::to_owned),
            unit: unit.map(fill),
            ..Workload::default()
        };
        let expected = Some(expected).filter(|expected| *expected != Workload::default());
        assert_eq!(parse_path(&path).outermost, expected, "{path:?}");
    }
}

#[test]
fn names_from_inside_are_claims() {
    let pod = (CONTAINERD, C, P);
    let nameless = (None, C, P);
    let kind =
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope";
    for (path, expected) in [
        (format!("/docker/{{OUTER}}/{kind}"), &[pod][..]),
        (format!("/lxc.payload.node/{kind}"), &[pod]),
        (
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{{OUTER}}.scope/{kind}"),
            &[pod],
        ),
        ("/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}".to_owned(), &[nameless]),
        ("/user.slice/user-1000.slice/user@1000.service/docker/x/{ID}".to_owned(), &[(None, C, None)]),
        ("/docker/{OUTER}/kubelet/kubepods/pod{UID}".to_owned(), &[(None, None, P)]),
        ("/kubepods/pod{HASH}/{OUTER}/kubepods/pod{UID}/{ID}".to_owned(), &[nameless]),
        ("/kubepods/pod{HASH}/pod{UID}/{ID}".to_owned(), &[nameless]),
        ("/docker/{OUTER}/docker/{ID}/pod{UID}".to_owned(), &[(DOCKER, C, None), (None, None, P)]),
        ("/docker/{ID}".to_owned(), &[]),
        ("/kubepods/pod{UID}/{ID}/system.slice/kubelet.service".to_owned(), &[]),
    ] {
        let claims = parse_path(&fill(&path)).claims;
        let found: Vec<_> = claims
            .iter()
            .map(|w| (w.runtime.as_deref(), w.container_id.as_deref(), w.pod_uid.as_deref()))
            .collect();
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(parse_path(&fill("/docker/{OUTER}").repeat(50)).claims.len(), MAX_CLAIMS);
}

#[test]
fn a_hundred_levels() {
    let path = format!("{}/docker/{ID}{}", "/a".repeat(50), "/b.service".repeat(50));
    assert_eq!(parse_path(&path).outermost.and_then(|w| w.container_id).as_deref(), Some(ID));
}

proptest! {
    #[test]
    fn any_path_is_read(path in "(/(kubepods|docker|pod|[-:._a-f0-9]{0,70}|\\PC{0,9}|.{0,9})(\\.slice|\\.scope|\\.service)?){0,9}") {
        let Named { outermost, claims } = parse_path(&path);
        for found in outermost.iter().chain(&claims) {
            prop_assert!(found.container_id.as_ref().is_none_or(|id| id.len() == 64 && path.contains(id)));
            prop_assert!(found.unit.as_ref().is_none_or(|unit| path.contains(unit)));
        }
    }
}
