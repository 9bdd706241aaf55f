//! Checks the host's cgroups, processes and listening ports, from which workloads get their names.

use std::{fs, path::Path};

use super::{pod::Pod, report::Line};

use crate::{
    config::Config,
    enrich::cgroups::{Cgroups, in_host_pid_namespace},
    kernel,
};

pub(super) fn examine(config: &Config, pod: Pod) -> Vec<Line> {
    let root = config.cgroup_root.as_path();
    let proc_root = config.proc_root.as_path();
    let cgroups = Cgroups::new(root, proc_root);
    let processes = processes(proc_root, in_host_pid_namespace(), pod);
    vec![hierarchy(root, cgroups.mount(), pod), processes, ports(proc_root, pod)]
}

/// Checks the cgroup hierarchy. `mount` is the version 2 hierarchy, if there is one at or under `root`.
fn hierarchy(root: &Path, mount: Option<&Path>, pod: Pod) -> Line {
    const NAME: &str = "cgroups";
    const HOST: &str = "/sys/fs/cgroup";
    let other = "mount the host's /sys/fs/cgroup read-only, and give its place as `cgroup_root`";
    let remedy = pod.or_mount(other, HOST, root);
    match mount {
        // Every cgroup except the root of the hierarchy has this file.
        Some(mount) if mount.join("cgroup.events").exists() => Line::degraded(
            NAME,
            format!("{} is a part of the hierarchy: containers outside it are not named", mount.display()),
            remedy,
        ),
        Some(mount) if mount == root => {
            Line::ok(NAME, format!("version 2 at {}: containers, pods and units are named", mount.display()))
        }
        Some(mount) => Line::ok(
            NAME,
            format!(
                "hybrid, version 2 at {}: containers are named by it or by their version 1 groups, as long as \
                 the process lives",
                mount.display()
            ),
        ),
        None if has_groups(root) => Line::degraded(
            NAME,
            format!(
                "version 1 alone at {}: containers and units are named as long as the process lives",
                root.display()
            ),
            "mount a cgroup2 hierarchy, as systemd.unified_cgroup_hierarchy=1 on the kernel command line does",
        ),
        None => Line::degraded(NAME, format!("none at {}: only processes are named", root.display()), remedy),
    }
}

/// Whether there is a hierarchy of version 1: each is a directory here.
fn has_groups(root: &Path) -> bool {
    let Ok(entries) = fs::read_dir(root) else { return false };
    entries.flatten().any(|entry| entry.path().join("cgroup.procs").exists())
}

fn processes(root: &Path, is_in_host_namespace: bool, pod: Pod) -> Line {
    const NAME: &str = "processes";
    let seen = fs::read_dir(root).map(|entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count()
    });
    match seen {
        Ok(0) | Err(_) => Line::degraded(
            NAME,
            format!("none at {}: units and version 1 containers are not named", root.display()),
            of_host(pod),
        ),
        Ok(seen) if root == Path::new("/proc") && !is_in_host_namespace => Line::degraded(
            NAME,
            format!("{seen}, those of this pid namespace only: those of the host are not looked up"),
            of_host(pod),
        ),
        Ok(seen) => Line::ok(NAME, format!("{seen} at {}", root.display())),
    }
}

/// The remedy if the host's processes are not visible: docs/decisions/0011-in-a-pod.md.
fn of_host(pod: Pod) -> &'static str {
    if pod.is() {
        "set hostPID: true in the pod's spec, and leave `proc_root` at /proc"
    } else {
        "leave `proc_root` at /proc, and start a container with --pid=host"
    }
}

/// Checks the listening ports, which the agent reads when it starts.
fn ports(root: &Path, pod: Pod) -> Line {
    const NAME: &str = "listening ports";
    match kernel::listening(root) {
        Err(why) => Line::degraded(
            NAME,
            format!(
                "{why}: connections older than the agent have no direction until their server accepts another one"
            ),
            of_host(pod),
        ),
        Ok(found) => {
            let known = format!("{} in {} network namespaces", found.ports.len(), found.namespaces.len());
            match found.unknown() {
                Some(unknown) => Line::note(NAME, format!("{known}; {unknown}")),
                None => Line::ok(NAME, known),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::State, *};

    #[test]
    fn hierarchies_of_all_sorts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let examine = || {
            let cgroups = Cgroups::new(root, Path::new("/proc"));
            hierarchy(root, cgroups.mount(), Pod(false))
        };
        let line = examine();
        assert!(line.found.starts_with("none at") && line.state != State::Ok, "{line:?}");
        fs::create_dir(root.join("memory")).unwrap();
        fs::write(root.join("memory/cgroup.procs"), "").unwrap();
        assert!(examine().found.starts_with("version 1 alone"));
        fs::create_dir(root.join("unified")).unwrap();
        fs::write(root.join("unified/cgroup.controllers"), "").unwrap();
        let line = examine();
        assert!(line.found.starts_with("hybrid") && line.state == State::Ok, "{line:?}");
        fs::write(root.join("cgroup.controllers"), "").unwrap();
        assert!(examine().found.starts_with("version 2"));
        fs::write(root.join("cgroup.events"), "").unwrap();
        assert!(examine().found.contains("a part of the hierarchy"));
    }

    #[test]
    fn a_wrong_proc_root_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        for line in [
            processes(dir.path(), true, Pod(false)),
            ports(dir.path(), Pod(false)),
            processes(Path::new("/nowhere"), true, Pod(false)),
            ports(Path::new("/nowhere"), Pod(false)),
        ] {
            assert!(matches!(line.state, State::Degraded { .. }), "{line:?}");
        }
    }

    #[test]
    fn in_a_pod_the_manifest_is_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let remedy = |line: Line| match line.state {
            State::Degraded { remedy } => remedy,
            other => panic!("{other:?}"),
        };
        let groups = remedy(hierarchy(dir.path(), None, Pod(true)));
        assert!(groups.contains("hostPath: {path: /sys/fs/cgroup}"), "{groups}");
        let proc = Path::new("/proc");
        for (is_pod, expected, other) in [(true, "hostPID: true", "--pid"), (false, "--pid=host", "hostPID")]
        {
            let pod = Pod(is_pod);
            for line in
                [processes(dir.path(), true, pod), processes(proc, false, pod), ports(dir.path(), pod)]
            {
                let remedy = remedy(line);
                assert!(remedy.contains(expected) && !remedy.contains(other), "{remedy}");
                assert!(!remedy.contains("hostPath"), "{remedy}");
            }
        }
        assert_eq!(processes(proc, true, Pod(true)).state, State::Ok);
    }
}
