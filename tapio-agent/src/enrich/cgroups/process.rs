//! The cgroups of a process. Needed on hosts where containers are in the cgroup v1 hierarchies, so that the
//! cgroup2 cgroup, which kernel programs see, says nothing about them.

use std::{fs::File, io::Read, path::Path};

use super::{Named, parse_path};

/// Hierarchies in which runtimes place containers, the most reliable first. The last one is cgroup2.
const CONTROLLERS: &[&str] = &["memory", "pids", "name=systemd", ""];

/// Far more than these files have; procfs generates them on read and reports no size.
const MAX_BYTES: u64 = 64 << 10;

/// `PROC_PID_INIT_INO`, include/linux/proc_ns.h: the inode of the host's own pid namespace, the same on every
/// kernel.
const HOST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process is in the host's own pid namespace, whose pids the kernel programs report. False in a
/// pod without `hostPID`, and also with it if the node is itself a container, as with kind.
#[must_use]
pub fn in_host_pid_namespace() -> bool {
    rustix::fs::stat("/proc/self/ns/pid").is_ok_and(|namespace| namespace.st_ino == HOST_PID_NAMESPACE)
}

/// Whether the directories at `proc_root` are named by the pids that the kernel programs report. `/proc` has
/// the pids of the agent's own namespace; any other path is a mount of the host's.
pub(crate) fn has_host_pids(proc_root: &Path, is_in_host_namespace: bool) -> bool {
    is_in_host_namespace || proc_root != Path::new("/proc")
}

/// The workload named by the cgroups of a process that ran at `at_ns` (boot clock). It is certain that this
/// pid is still the same process: it started before, and existed before and after its cgroups were read.
#[must_use]
pub(super) fn named(proc_root: &Path, pid: u32, at_ns: u64) -> Option<Named> {
    let process = proc_root.join(pid.to_string());
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let began = start_ticks(&read(&process.join("stat"))?)?;
    // The start time is rounded down to a tick, so a process that started in the tick of the event may have
    // come after it.
    if ticks_to_ns(began.checked_add(1)?, ticks_per_second)? > at_ns {
        return None;
    }
    let groups = read(&process.join("cgroup"))?;
    (start_ticks(&read(&process.join("stat"))?)? == began).then(|| parse(&groups))?
}

/// The workload that `/proc/PID/cgroup` names: a container if any hierarchy names one, else a unit. Beside
/// cgroup v1 hierarchies, cgroup2 is believed for containers only, because its unit may be that of the daemon
/// that started one.
fn parse(groups: &str) -> Option<Named> {
    let alone = groups.lines().count() == 1;
    let has_container = |named: &Named| {
        !named.claims.is_empty() || named.outermost.as_ref().is_some_and(|found| found.container_id.is_some())
    };
    let of = |controller: &&str| {
        let path = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            controllers.split(',').any(|name| name == *controller).then(|| fields.next())?
        });
        let named = parse_path(path?);
        let is_anyone =
            has_container(&named) || named.outermost.is_some() && (alone || !controller.is_empty());
        is_anyone.then_some(named)
    };
    let mut found = CONTROLLERS.iter().filter_map(of);
    let first = found.next()?;
    if has_container(&first) {
        return Some(first);
    }
    Some(found.find(has_container).unwrap_or(first))
}

/// Field 22 of `/proc/PID/stat`, in clock ticks since boot. The command name before it may contain anything,
/// even brackets.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn ticks_to_ns(ticks: u64, per_second: u64) -> Option<u64> {
    u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(per_second.max(1))).ok()
}

fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use tapio_occurrence::Workload;

    const ID: &str = "3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f";

    fn outermost(groups: &str) -> Workload {
        parse(groups).and_then(|named| named.outermost).unwrap()
    }

    #[test]
    fn version_1_and_hybrid() {
        let lines = format!(
            "12:pids:/docker/{ID}\n11:cpu,cpuacct:/x\n9:memory:/docker/{ID}\n1:name=systemd:/system.slice/docker.service\n\
             0::/system.slice/containerd.service\n"
        );
        assert_eq!(outermost(&lines).container_id.as_deref(), Some(ID));
        let only_systemd =
            format!("9:memory:/system.slice/x.service\n1:name=systemd:/system.slice/docker-{ID}.scope\n");
        assert_eq!(outermost(&only_systemd).runtime.as_deref(), Some("docker"));
        let colons =
            format!("4:memory:/system.slice/containerd.service/kubepods-podx.slice:cri-containerd:{ID}\n");
        assert_eq!(outermost(&colons).runtime.as_deref(), Some("containerd"));
        assert_eq!(outermost("0::/system.slice/nginx.service\n").unit.as_deref(), Some("nginx.service"));
        assert_eq!(parse("9:memory:/\n0::/system.slice/containerd.service\n"), None);
        for nothing in ["", "\n", "0::/\n", "x", "a:b", "9:memory:/\n0::/\n", ":::::\n"] {
            assert_eq!(parse(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn the_name_of_a_process_may_hold_anything() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["curl", "a b", ") S 1", "((", ":)\n1 2"] {
            assert_eq!(start_ticks(&format!("7 ({name}) {tail}")), Some(4242), "{name}");
        }
        assert_eq!(start_ticks("7 (curl) S 1"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn an_id_used_again_is_not_mistaken() {
        let dir = tempfile::tempdir().unwrap();
        let process = dir.path().join("7");
        fs::create_dir(&process).unwrap();
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18";
        let hz = rustix::param::clock_ticks_per_second();
        fs::write(process.join("stat"), format!("7 (x) {tail} {} 20", 10 * hz)).unwrap();
        fs::write(process.join("cgroup"), format!("1:memory:/docker/{ID}\n")).unwrap();
        let at = |ns| named(dir.path(), 7, ns).and_then(|named| named.outermost?.container_id);
        assert_eq!(at(9_000_000_000), None, "it began after the event");
        assert_eq!(at(10_000_000_000), None, "it may have begun after the event");
        assert_eq!(at(10_000_000_000 + 1_000_000_000 / hz).as_deref(), Some(ID));
        assert_eq!(named(dir.path(), 8, u64::MAX), None, "it is gone");
    }

    #[test]
    fn pids_of_another_namespace_are_no_ones() {
        for (proc_root, is_in_host_namespace, expected) in [
            ("/proc", true, true),
            ("/proc", false, false),
            ("/proc/", false, false),
            ("/host/proc", false, true),
        ] {
            assert_eq!(has_host_pids(Path::new(proc_root), is_in_host_namespace), expected, "{proc_root}");
        }
    }

    #[test]
    fn this_process_can_be_read() {
        let stat = read(Path::new("/proc/self/stat")).unwrap();
        assert!(start_ticks(&stat).unwrap() > 0);
    }
}
