//! Cgroups of the memory controller's own hierarchy, whose ids carry a mark.

use super::*;

const OTHER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A host with the memory controller in cgroup v1, with or without cgroup2 beside it.
struct Host(tempfile::TempDir);

impl Host {
    fn new(is_hybrid: bool) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.group("memory");
        fs::write(host.0.path().join("memory/memory.limit_in_bytes"), "").unwrap();
        if is_hybrid {
            host.group("unified");
            fs::write(host.0.path().join("unified/cgroup.controllers"), "").unwrap();
        }
        host
    }

    /// Creates a cgroup and returns its inode number.
    fn group(&self, path: &str) -> u64 {
        let path = self.0.path().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(path).unwrap().ino()
    }

    /// Adds a process that started long ago, in this cgroup of the memory controller.
    fn process(&self, pid: u32, group: &str) {
        let process = self.0.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&process).unwrap();
        let stat = format!("{pid} (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 100 20");
        fs::write(process.join("stat"), stat).unwrap();
        fs::write(process.join("cgroup"), format!("9:memory:{group}\n")).unwrap();
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::new(self.0.path(), &self.0.path().join("proc"))
    }
}

#[test]
fn a_group_is_found_by_its_id_with_the_mark_and_by_that_alone() {
    for is_hybrid in [false, true] {
        let host = Host::new(is_hybrid);
        let (group, root) = (host.group(&format!("memory/docker/{ID}")), host.group("memory"));
        let unit = host.group("memory/system.slice/nginx.service");
        let mut cgroups = host.cgroups();
        let now = Instant::now();
        assert_eq!(container(cgroups.lookup(group | CGROUP_V1, now)).as_deref(), Some(ID));
        let Lookup::Known(found) = cgroups.lookup(unit | CGROUP_V1, now) else { panic!("not found") };
        assert_eq!(found.unit.as_deref(), Some("nginx.service"));
        assert_eq!(cgroups.lookup(root | CGROUP_V1, now), Lookup::Unowned);
        for other in [group, unit, root, CGROUP_V1, CGROUP_V1 | (u64::MAX >> 1)] {
            assert_eq!(cgroups.lookup(other, now), Lookup::Unknown, "{other:#x}");
        }
    }
}

#[test]
fn a_group_of_the_other_hierarchy_has_no_mark() {
    let host = Host::new(true);
    let (memory, unified) =
        (host.group(&format!("memory/docker/{ID}")), host.group(&format!("unified/docker/{OTHER}")));
    let mut cgroups = host.cgroups();
    let now = Instant::now();
    assert_eq!(container(cgroups.lookup(memory | CGROUP_V1, now)).as_deref(), Some(ID));
    assert_eq!(container(cgroups.lookup(unified, now)).as_deref(), Some(OTHER));
    assert_eq!(cgroups.lookup(unified | CGROUP_V1, now), Lookup::Unknown);
}

/// A cgroup id of the memory controller is authoritative: if that cgroup is no container, the process is in
/// none.
#[test]
fn what_the_group_says_counts_more_than_the_process() {
    let host = Host::new(true);
    let (group, slice) = (host.group(&format!("memory/docker/{ID}")), host.group("memory/system.slice"));
    host.process(7, &format!("/docker/{OTHER}"));
    let mut cgroups = host.cgroups();
    cgroups.lookup(group | CGROUP_V1, Instant::now());
    let owner = |id: u64, pid| cgroups.owner(id, pid, u64::MAX).0;
    assert_eq!(container(owner(group | CGROUP_V1, 7)).as_deref(), Some(ID));
    assert_eq!(owner(slice | CGROUP_V1, 7), Lookup::Unowned);
    // An unknown cgroup id decides nothing, so the process is looked up. If the process has ended too, the
    // owner is unknown.
    assert_eq!(container(owner(CGROUP_V1 | 1, 7)).as_deref(), Some(OTHER));
    assert_eq!(owner(CGROUP_V1 | 1, 8), Lookup::Unknown);
    assert_eq!(owner(CGROUP_V1 | 1, 0), Lookup::Unknown);
    // Not a cgroup of the memory controller but its root, without a process: in no container.
    assert_eq!(owner(0, 0), Lookup::Unowned);
}

#[test]
fn one_that_vanished_is_remembered_for_a_time() {
    let host = Host::new(false);
    let path = format!("memory/docker/{ID}");
    let id = host.group(&path) | CGROUP_V1;
    let mut cgroups = host.cgroups();
    let start = Instant::now();
    cgroups.lookup(id, start);
    fs::remove_dir(host.0.path().join(path)).unwrap();
    cgroups.walk(start);
    assert_eq!(container(cgroups.owner(id, 0, u64::MAX).0).as_deref(), Some(ID));
    cgroups.walk(start + REMEMBER);
    assert_eq!(cgroups.owner(id, 0, u64::MAX).0, Lookup::Unknown);
}
