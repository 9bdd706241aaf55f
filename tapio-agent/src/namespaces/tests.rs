use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;

use super::*;

const POD: &str = "kubepods.slice/kubepods-pod0a1b2c3d_1111_2222_3333_444455556666.slice";
const OTHER: &str = "kubepods.slice/kubepods-podffffffff_1111_2222_3333_444455556666.slice";

/// A host of files.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(TempDir::new().unwrap());
        fs::create_dir_all(host.cgroups()).unwrap();
        fs::write(host.cgroups().join("cgroup.controllers"), "memory").unwrap();
        host
    }

    fn cgroups(&self) -> PathBuf {
        self.0.path().join("cgroup")
    }

    fn proc(&self) -> PathBuf {
        self.0.path().join("proc")
    }

    /// A process with a network namespace of its own, or that of another one.
    fn process(&self, pid: u32, in_namespace_of: Option<u32>) {
        let net = self.proc().join(format!("{pid}/net"));
        fs::create_dir_all(&net).unwrap();
        fs::write(net.join("netstat"), "TcpExt: ListenOverflows\nTcpExt: 3\n").unwrap();
        let stat = net.join("stat");
        match in_namespace_of {
            Some(other) => symlink(self.proc().join(format!("{other}/net/stat")), stat).unwrap(),
            None => fs::create_dir(stat).unwrap(),
        }
    }

    /// A container of a pod, with these processes.
    fn container(&self, pod: &str, id: char, processes: &str) {
        let id: String = std::iter::repeat_n(id, 64).collect();
        let path = self.cgroups().join(pod).join(format!("cri-containerd-{id}.scope"));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cgroup.procs"), processes).unwrap();
    }

    fn cgroup_id(&self, path: &str) -> u64 {
        fs::metadata(self.cgroups().join(path)).unwrap().ino()
    }

    /// The owner and a process of each namespace.
    fn found(&self) -> Vec<(u64, u32)> {
        let mut reader =
            Namespaces::open(&self.cgroups(), &self.proc(), Duration::from_secs(1), 1000).reader();
        reader.tree.update();
        let mut found: Vec<_> = reader.find().iter().map(|found| (found.cgroup_id, found.pid)).collect();
        found.sort_unstable();
        found
    }
}

#[test]
fn the_containers_of_a_pod_have_one_namespace_which_is_the_pods() {
    let host = Host::new();
    host.process(1, None);
    host.process(70, None);
    host.process(71, Some(70));
    host.container(POD, 'a', "70\n72\n");
    host.container(POD, 'b', "71\n");
    let owners: Vec<_> = host.found().iter().map(|(owner, _)| *owner).collect();
    assert_eq!(owners, [host.cgroup_id(POD), WHOLE_NODE]);
}

#[test]
fn a_pod_in_the_nodes_namespace_has_none_and_one_that_pods_share_is_nobodys() {
    let host = Host::new();
    host.process(1, None);
    host.process(70, Some(1));
    host.container(POD, 'a', "70\n");
    assert_eq!(host.found(), [(WHOLE_NODE, 1)]);

    let host = Host::new();
    host.process(1, None);
    host.process(70, None);
    host.process(71, Some(70));
    host.container(POD, 'a', "70\n");
    host.container(OTHER, 'b', "71\n");
    let owners: Vec<_> = host.found().iter().map(|(owner, _)| *owner).collect();
    assert_eq!(owners, [0, WHOLE_NODE]);
}

#[test]
fn containers_without_a_process_that_can_be_seen_are_left_out() {
    let host = Host::new();
    host.process(1, None);
    host.container(POD, 'a', "");
    host.container(POD, 'b', "0\n");
    host.container(POD, 'c', "99\n");
    assert_eq!(host.found(), [(WHOLE_NODE, 1)]);
}

#[test]
fn what_is_missing_is_said_with_its_remedy() {
    let host = Host::new();
    host.process(1, None);
    let all = parts(&host.proc(), true);
    assert!(all[0].state.is_ok());
    assert_eq!(all[1].state.as_ref().unwrap_err().lack, Lack::Inapplicable);
    let inside = parts(&host.proc(), false);
    for part in &inside {
        let absent = part.state.as_ref().unwrap_err();
        assert_eq!(absent.lack, Lack::Missing);
        assert!(absent.remedy.unwrap().contains("hostPID"));
    }
    let nothing = parts(Path::new("/nonexistent"), true);
    assert!(nothing.iter().all(|part| part.state.as_ref().is_err_and(|absent| absent.lack == Lack::Missing)));
}
