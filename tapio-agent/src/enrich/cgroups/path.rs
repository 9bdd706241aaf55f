//! What the path of a control group says about who is in it.
//!
//! Runtimes name the directory of a container after its id, in one of these ways:
//!
//! | by | directory |
//! |---|---|
//! | systemd driver | `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope`, `libpod-ID.scope` |
//! | cgroupfs driver | `ID`, `crio-ID`, `libpod-ID` |
//! | systemd's names with the cgroupfs driver | `kubepods-podUID.slice:cri-containerd:ID` |
//!
//! and kubelet that of a pod `podUID`, or `kubepods-burstable-podUID.slice` with `_` for `-`. The innermost
//! container counts: in a node of kind that is the pod's, not the node's.

use crate::occurrence::Workload;

/// The workload that a path names: container, runtime and pod, or outside of containers the systemd unit.
/// `None` where it names none of them.
#[must_use]
pub fn parse_path(path: &str) -> Option<Workload> {
    let mut found = Workload::default();
    let mut parent = "";
    // /proc says so of a group that was removed while a process is in it.
    for name in path.strip_suffix(" (deleted)").unwrap_or(path).split('/') {
        if let Some(uid) = pod_uid(name) {
            // A pod inside a container is not that container's.
            found = Workload { pod_uid: Some(uid), ..Workload::default() };
        }
        if let Some((runtime, id)) = container(name, parent) {
            found = Workload { container_id: Some(id.to_owned()), runtime, pod_uid: found.pod_uid, ..found };
            found.unit = None;
        } else if found.container_id.is_none() && found.pod_uid.is_none() && is_unit(name) {
            found.unit = Some(name.to_owned());
        }
        parent = name;
    }
    (found != Workload::default()).then_some(found)
}

/// Runtime, where the name tells, and id of the container that a directory is named after.
fn container<'a>(name: &'a str, parent: &str) -> Option<(Option<&'static str>, &'a str)> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    // systemd's `SLICE:PREFIX:ID`, taken for a directory's name.
    let (prefix, id) = match stem.rsplit_once([':', '-']) {
        Some((before, id)) => (before.rsplit_once(':').map_or(before, |(_, prefix)| prefix), id),
        None => ("", stem),
    };
    if id.len() != 64 || !is_hex(id) {
        return None;
    }
    let runtime = match prefix {
        "" => match parent {
            "docker" => Some("docker"),
            _ => None,
        },
        "cri-containerd" | "nerdctl" => Some("containerd"),
        "crio" => Some("cri-o"),
        "docker" => Some("docker"),
        "libpod" | "libpod-payload" => Some("podman"),
        // Monitors (crio-conmon, libpod-conmon) are not in the container, and others are not known.
        _ => return None,
    };
    Some((runtime, id))
}

/// The UID of the pod that a directory is named after, in the form that Kubernetes shows; of a static pod, the
/// hash that stands for it.
fn pod_uid(name: &str) -> Option<String> {
    let name = name.split_once(':').map_or(name, |(slice, _)| slice);
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").filter(|(before, _)| before.contains("kubepods"))?.1,
        None => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let is_uuid = || {
        let lengths = uid.split('-').map(|part| if is_hex(part) { part.len() } else { 0 });
        lengths.eq([8, 4, 4, 4, 12])
    };
    ((uid.len() == 32 && is_hex(&uid)) || is_uuid()).then_some(uid)
}

/// Whether it can be the name of a service or scope of systemd (see systemd.unit(5)).
fn is_unit(name: &str) -> bool {
    let stem = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope"));
    name.len() < 256
        && stem.is_some_and(|stem| {
            !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b))
        })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
