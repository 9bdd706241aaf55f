//! Tests on a hierarchy of plain directories, and on the real one.

use std::os::unix::ffi::OsStrExt;

use super::*;

mod hostile;
mod version_1;

const ID: &str = "3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f";

/// A directory that looks like the mount point of a cgroup2 hierarchy.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new(mount: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        let mount = tree.0.path().join(mount);
        fs::create_dir_all(&mount).unwrap();
        fs::write(mount.join("cgroup.controllers"), "").unwrap();
        tree
    }

    /// Creates a cgroup and returns its id.
    fn group(&self, path: &str) -> u64 {
        let path = self.0.path().join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(path).unwrap().ino()
    }

    fn cgroups(&self) -> Cgroups {
        Cgroups::new(self.0.path(), Path::new("/nowhere"))
    }
}

fn container(found: Lookup) -> Option<String> {
    match found {
        Lookup::Known(workload) => workload.container_id.clone(),
        Lookup::Unowned | Lookup::Unknown => None,
    }
}

#[test]
fn a_group_is_found_by_its_id() {
    for mount in ["", "unified"] {
        let tree = Tree::new(mount);
        let at = |path: &str| format!("{mount}/{path}").trim_start_matches('/').to_owned();
        let scope = tree.group(&at(&format!("system.slice/docker-{ID}.scope")));
        let slice = tree.group(&at("system.slice"));
        let root = tree.group(mount);
        let mut cgroups = tree.cgroups();
        assert_eq!(cgroups.mount(), Some(tree.0.path().join(mount).as_path()));
        let now = Instant::now();
        assert_eq!(container(cgroups.lookup(scope, now)).as_deref(), Some(ID), "{mount:?}");
        assert_eq!(cgroups.lookup(slice, now), Lookup::Unowned);
        assert_eq!(cgroups.lookup(root, now), Lookup::Unowned);
        assert_eq!(cgroups.lookup(0, now), Lookup::Unknown);
        assert_eq!(cgroups.lookup(u64::MAX, now), Lookup::Unknown);
    }
}

#[test]
fn one_that_comes_later_is_found_and_one_that_vanished_is_remembered_for_a_time() {
    let tree = Tree::new("");
    let mut cgroups = tree.cgroups();
    let start = Instant::now();
    assert_eq!(cgroups.lookup(u64::MAX, start), Lookup::Unknown);
    let path = format!("docker/{ID}");
    let id = tree.group(&path);
    assert_eq!(cgroups.cached(id), Lookup::Unknown);
    assert_eq!(container(cgroups.lookup(id, start)).as_deref(), Some(ID));
    fs::remove_dir(tree.0.path().join(&path)).unwrap();
    cgroups.walk(start + Duration::from_secs(10));
    assert_eq!(container(cgroups.lookup(id, start)).as_deref(), Some(ID));
    cgroups.walk(start + Duration::from_secs(10) + REMEMBER - Duration::from_secs(1));
    assert_eq!(container(cgroups.cached(id)).as_deref(), Some(ID));
    cgroups = cgroups.remembering(2 * REMEMBER);
    cgroups.walk(start + Duration::from_secs(10) + REMEMBER);
    assert_eq!(container(cgroups.cached(id)).as_deref(), Some(ID));
    cgroups.walk(start + Duration::from_secs(10) + 2 * REMEMBER);
    assert_eq!(cgroups.cached(id), Lookup::Unknown);
}

#[test]
fn a_process_of_another_pid_namespace_is_not_looked_up() {
    let host = Tree::new("unified");
    let mut cgroups = Cgroups::new(host.0.path(), Path::new("/proc"));
    assert_eq!(cgroups.proc_root.is_some(), in_host_pid_namespace());
    // The process exists, and is in a container.
    let proc_root = host.0.path().join("proc");
    fs::create_dir_all(proc_root.join("7")).unwrap();
    let stat = "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 100 20";
    fs::write(proc_root.join("7/stat"), stat).unwrap();
    fs::write(proc_root.join("7/cgroup"), format!("9:memory:/kubepods/{ID}\n")).unwrap();
    cgroups.proc_root = Some(proc_root);
    assert_eq!(container(cgroups.owner(0, 7, u64::MAX).0).as_deref(), Some(ID));
    cgroups.proc_root = None;
    assert_eq!(cgroups.owner(0, 7, u64::MAX).0, Lookup::Unknown);
}

#[test]
fn strange_trees_are_walked() {
    let tree = Tree::new("");
    let deep = tree.group(&format!("docker/{ID}{}", "/x".repeat(40)));
    tree.group(&"y/".repeat(MAX_DEPTH + 40));
    let odd = tree.0.path().join(std::ffi::OsStr::from_bytes(b"\xff\n.service"));
    fs::create_dir(&odd).unwrap();
    std::os::unix::fs::symlink("/", tree.0.path().join("loop")).unwrap();
    let mut cgroups = tree.cgroups();
    let now = Instant::now();
    assert_eq!(container(cgroups.lookup(deep, now)).as_deref(), Some(ID));
    assert_eq!(cgroups.lookup(fs::metadata(&odd).unwrap().ino(), now), Lookup::Unowned);
    assert!(cgroups.known.len() < MAX_DEPTH + 100, "a link was followed");
}

#[test]
fn without_a_hierarchy_nothing_is_known() {
    let empty = tempfile::tempdir().unwrap();
    let cgroups = Cgroups::new(empty.path(), empty.path());
    assert_eq!(cgroups.mount(), None);
    assert_eq!(cgroups.owner(1, 1, u64::MAX).0, Lookup::Unknown);
}

/// On a host with cgroup v1 hierarchies, containers have the daemon's cgroup in the cgroup2 hierarchy.
#[test]
fn beside_version_1_the_unit_of_a_daemon_is_not_taken_for_its_containers() {
    let tree = Tree::new("unified");
    let daemon = tree.group("unified/system.slice/containerd.service");
    let proc_root = tree.0.path().join("proc");
    fs::create_dir_all(proc_root.join("7")).unwrap();
    fs::write(proc_root.join("7/stat"), "7 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 100 20")
        .unwrap();
    fs::write(
        proc_root.join("7/cgroup"),
        format!("9:memory:/kubepods/{ID}\n0::/system.slice/containerd.service\n"),
    )
    .unwrap();
    let mut cgroups = Cgroups::new(tree.0.path(), &proc_root);
    cgroups.lookup(daemon, Instant::now());
    assert_eq!(container(cgroups.owner(daemon, 7, u64::MAX).0).as_deref(), Some(ID));
    assert_eq!(container(cgroups.owner(0, 7, u64::MAX).0).as_deref(), Some(ID));
    assert_eq!(cgroups.owner(daemon, 7, 0).0, Lookup::Unowned, "the process is another one");
    assert_eq!(cgroups.owner(daemon, 0, u64::MAX).0, Lookup::Unowned);
}

/// A cgroup in the real hierarchy, removed again however the test ends.
struct Real(PathBuf);

impl Drop for Real {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_real_group_is_found() {
    let mut cgroups = Cgroups::new(Path::new("/sys/fs/cgroup"), Path::new("/proc"));
    let Some(mount) = cgroups.mount().map(Path::to_owned) else {
        println!("SKIP a_real_group_is_found: no cgroup2 hierarchy under /sys/fs/cgroup");
        return;
    };
    // A unique id, so that concurrent runs do not collide.
    let id = format!("{:064x}", std::process::id());
    let group = Real(mount.join(format!("cri-containerd-{id}.scope")));
    if let Err(error) = fs::create_dir(&group.0) {
        println!("SKIP a_real_group_is_found: no group can be made, which takes root: {error}");
        return;
    }
    let inode = fs::metadata(&group.0).unwrap().ino();
    let Lookup::Known(found) = cgroups.lookup(inode, Instant::now()) else { panic!("not found") };
    assert_eq!(
        (found.container_id.as_deref(), found.runtime.as_deref()),
        (Some(id.as_str()), Some("containerd"))
    );
}
