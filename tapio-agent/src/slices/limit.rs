//! What is used up, where files tell: how much there is, and how much is used. Takes no capability.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use tapio_common::health::Call;

use crate::{
    enrich::cgroups::{Cgroups, has_host_pids, in_host_pid_namespace},
    observer::health::{Resource, UNKNOWN},
};

/// Where limits are read.
pub(super) struct Limits {
    cgroups: Cgroups,
    cgroup_root: PathBuf,
    proc_root: PathBuf,
    /// Whether the files of processes there are those of the host's pids.
    has_host_pids: bool,
}

/// How much is used and how much there is; each [`UNKNOWN`] if it is not known.
type Amount = (u64, u64);

impl Limits {
    pub(super) fn new(cgroup_root: &Path, proc_root: &Path) -> Self {
        Self {
            cgroups: Cgroups::new(cgroup_root, proc_root),
            cgroup_root: cgroup_root.to_owned(),
            proc_root: proc_root.to_owned(),
            has_host_pids: has_host_pids(proc_root, in_host_pid_namespace()),
        }
    }

    /// What a call of this process asked for.
    pub(super) fn of(&mut self, call: &Call, pid: u32) -> Amount {
        let process = self.proc_root.join(pid.to_string());
        let process = Some(process).filter(|_| self.has_host_pids);
        let amount = match Resource::of(call.number, call.errno) {
            Some(Resource::OpenFiles) => process.map(|process| open_files(&process)),
            Some(Resource::Memory) => process.map(|process| address_space(&process)),
            Some(Resource::OpenFilesOfNode) => open_files_of_node(&self.proc_root),
            Some(Resource::InotifyWatches) => self.setting("fs/inotify/max_user_watches"),
            Some(Resource::InotifyInstances) => self.setting("fs/inotify/max_user_instances"),
            Some(Resource::EpollWatches) => self.setting("fs/epoll/max_user_watches"),
            Some(Resource::Threads) => self.threads(call.cgroup_id),
            Some(Resource::FileSystem | Resource::DiskQuota | Resource::ReadOnly) | None => None,
        };
        amount.unwrap_or((UNKNOWN, UNKNOWN))
    }

    fn setting(&self, name: &str) -> Option<Amount> {
        Some((UNKNOWN, number(&self.proc_root.join("sys").join(name))?))
    }

    /// Of the innermost cgroup whose limit is reached. With cgroup v1, the controller has a hierarchy of its own, in which
    /// container runtimes use the same paths.
    fn threads(&mut self, cgroup_id: u64) -> Option<Amount> {
        self.cgroups.lookup(cgroup_id, Instant::now());
        let root = self.cgroups.mount()?;
        let path = self.cgroups.directory(cgroup_id)?.strip_prefix(root).ok()?.to_owned();
        let of_one = self.cgroup_root.join("pids");
        let mut all =
            [root, &of_one].into_iter().flat_map(|root| path.ancestors().map(|path| root.join(path)));
        all.find_map(|cgroup| {
            let limit = number(&cgroup.join("pids.max"))?;
            let used = number(&cgroup.join("pids.current"))?;
            // Some may have ended since.
            (used >= limit - limit / 10).then_some((used, limit))
        })
    }
}

/// The size of a process's directory of open files is their number, since kernel 6.2; before, it is 0.
fn open_files(process: &Path) -> Amount {
    let used = fs::metadata(process.join("fd")).ok().map(|files| files.len()).filter(|used| *used > 0);
    (used.unwrap_or(UNKNOWN), soft_limit(process, "Max open files").unwrap_or(UNKNOWN))
}

/// In bytes; known only if it is limited.
fn address_space(process: &Path) -> Amount {
    let Some(limit) = soft_limit(process, "Max address space") else { return (UNKNOWN, UNKNOWN) };
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.split_whitespace().next());
    let used = kib.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib.saturating_mul(1024));
    (used.unwrap_or(UNKNOWN), limit)
}

/// `used unused limit`, proc_sys_fs(5).
fn open_files_of_node(proc_root: &Path) -> Option<Amount> {
    let text = fs::read_to_string(proc_root.join("sys/fs/file-nr")).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.nth(1)?.ok()?))
}

/// `None` if it is unlimited or cannot be read.
fn soft_limit(process: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(process.join("limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use linux_raw_sys::general::{__NR_clone, __NR_inotify_add_watch, __NR_openat, __NR_write};
    use tapio_common::health::error;

    use super::*;

    #[test]
    fn limits_are_read_where_they_are_and_unknown_where_not() {
        let proc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = proc.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sys/fs/file-nr", "9248\t0\t1048576\n");
        write("sys/fs/inotify/max_user_watches", "8192\n");
        let table = "Limit                     Soft Limit           Hard Limit           Units     \n\
                     Max open files            1024                 524288               files     \n\
                     Max address space         unlimited            unlimited            bytes     \n";
        write("42/limits", table);
        let mut limits = Limits::new(proc.path(), proc.path());
        limits.has_host_pids = true;
        let mut of = |number, errno| limits.of(&Call { cgroup_id: 7, number, errno }, 42);
        assert_eq!(of(__NR_openat, error::ENFILE), (9248, 1_048_576));
        assert_eq!(of(__NR_inotify_add_watch, error::ENOSPC), (UNKNOWN, 8192));
        assert_eq!(of(__NR_openat, error::EMFILE), (UNKNOWN, 1024));
        for (number, errno) in
            [(__NR_clone, error::ENOMEM), (__NR_clone, error::EAGAIN), (__NR_write, error::ENOSPC)]
        {
            assert_eq!(of(number, errno), (UNKNOWN, UNKNOWN));
        }
        limits.has_host_pids = false;
        let call = Call { cgroup_id: 7, number: __NR_openat, errno: error::EMFILE };
        assert_eq!(limits.of(&call, 42), (UNKNOWN, UNKNOWN), "that is another process");
    }

    #[test]
    fn the_limit_of_threads_is_that_of_the_cgroup_that_has_reached_it() {
        use std::os::unix::fs::MetadataExt as _;

        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods/pod1");
        let own = pod.join("container");
        fs::create_dir_all(&own).unwrap();
        fs::write(root.path().join("cgroup.controllers"), "pids\n").unwrap();
        for (cgroup, limit, used) in [(&own, "max", "90"), (&pod, "100", "100")] {
            fs::write(cgroup.join("pids.max"), limit).unwrap();
            fs::write(cgroup.join("pids.current"), used).unwrap();
        }
        let call =
            Call { cgroup_id: fs::metadata(&own).unwrap().ino(), number: __NR_clone, errno: error::EAGAIN };
        let mut limits = Limits::new(root.path(), root.path());
        assert_eq!(limits.of(&call, 42), (100, 100));
        fs::write(pod.join("pids.current"), "20").unwrap();
        assert_eq!(limits.of(&call, 42), (UNKNOWN, UNKNOWN), "another limit was met");
    }
}
