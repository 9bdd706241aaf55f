//! Parses the workload from the path of a cgroup.
//!
//! Runtimes name the directory of a container after its id, in one of these forms:
//!
//! | by | directory |
//! |---|---|
//! | systemd driver | `cri-containerd-ID.scope`, `crio-ID.scope`, `docker-ID.scope`, `libpod-ID.scope` |
//! | cgroupfs driver | `ID`, `crio-ID`, `libpod-ID` |
//! | systemd's names with the cgroupfs driver | `kubepods-podUID.slice:cri-containerd:ID` |
//!
//! The kubelet names that of a pod `podUID`, or `kubepods-burstable-podUID.slice` with `_` for `-`.
//!
//! Only the outermost names come from the host. Processes in a container or a virtual machine, and each user
//! with a systemd of their own, create cgroups below and name them as they like: another pod's UID, or
//! `kubelet.service`. A name from inside is therefore a claim, which [`super::Cgroups`] and the pods of this
//! node have to confirm.

use tapio_occurrence::Workload;

/// The most claims kept of one path. A kind node has one, and no legitimate path has more than two.
const MAX_CLAIMS: usize = 4;

/// The workloads that a path names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Container, runtime and pod by the host's own names, or outside containers the systemd unit. A
    /// container that a user runs has both, because the user chose its name.
    pub outermost: Option<Workload>,
    /// Containers and pods inside that one, from the outside in.
    pub claims: Vec<Workload>,
}

/// Who gives the names below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The host.
    Host,
    /// A user with a systemd of their own: the next container belongs to that user.
    User,
    /// Someone inside a container or machine.
    Inside,
}

impl Named {
    /// The innermost workload, whether or not it is to be believed.
    #[must_use]
    pub fn innermost(mut self) -> Option<Workload> {
        self.claims.pop().or(self.outermost)
    }
}

/// Parses the path of a cgroup.
#[must_use]
pub fn parse_path(path: &str) -> Named {
    let mut outermost = Workload::default();
    let mut claims: Vec<Workload> = Vec::new();
    let mut by = By::Host;
    let mut below_slices_only = true;
    let mut parent = "";
    // /proc appends this for a cgroup that was removed while a process was in it.
    for name in path.strip_suffix(" (deleted)").unwrap_or(path).split('/') {
        if let Some(uid) = pod_uid(name) {
            let pod = Workload { pod_uid: Some(uid), ..Workload::default() };
            if by == By::Host && outermost.pod_uid.is_none() {
                outermost = pod;
            } else {
                claims.push(pod);
            }
        }
        if let Some((runtime, id)) = container(name, parent) {
            let (id, runtime) = (Some(id.to_owned()), runtime.map(Into::into));
            match claims.last_mut() {
                Some(pod) if pod.container_id.is_none() => (pod.container_id, pod.runtime) = (id, runtime),
                // A user's container counts only if the directory name shows a runtime.
                None if by == By::Host || (by == By::User && runtime.is_some()) => {
                    let unit = outermost.unit.take().filter(|_| by == By::User);
                    outermost = Workload { container_id: id, runtime, unit, ..outermost };
                    by = By::Inside;
                }
                _ => claims.push(Workload { container_id: id, runtime, ..Workload::default() }),
            }
        } else if by == By::Host && below_slices_only && outermost == Workload::default() && is_unit(name) {
            outermost.unit = Some(name.to_owned());
            by = within_unit(name);
        } else if by == By::Host && is_lxc(name, parent) {
            by = By::Inside;
        }
        below_slices_only &= matches!(name, "" | "..") || name.ends_with(".slice");
        parent = name;
    }
    claims.truncate(MAX_CLAIMS);
    Named { outermost: Some(outermost).filter(|found| *found != Workload::default()), claims }
}

/// Who names the cgroups below the unit of this name: a user's systemd (user@.service(5)), or a virtual
/// machine or container that is registered with systemd-machined(8).
fn within_unit(name: &str) -> By {
    let is_machine = |name: &str| {
        (name.starts_with("machine-") && name.ends_with(".scope")) || name.starts_with("systemd-nspawn@")
    };
    match name {
        name if name.starts_with("user@") => By::User,
        name if is_machine(name) => By::Inside,
        _ => By::Host,
    }
}

/// Whether it is the directory of an LXC container, whose name is not an id.
fn is_lxc(name: &str, parent: &str) -> bool {
    name.starts_with("lxc.payload") || (parent == "lxc" && !name.is_empty())
}

/// The id of the container that a directory is named after, and the runtime if the name shows it.
fn container<'a>(name: &'a str, parent: &str) -> Option<(Option<&'static str>, &'a str)> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    // systemd's `SLICE:PREFIX:ID`, used as a directory name.
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
        // Monitors (crio-conmon, libpod-conmon) are not in the container, and other prefixes are not known.
        _ => return None,
    };
    Some((runtime, id))
}

/// The UID of the pod that a directory is named after, as Kubernetes writes it; for a static pod, the hash
/// used instead.
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

/// Whether it can be the name of a systemd service or scope (see systemd.unit(5)).
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
