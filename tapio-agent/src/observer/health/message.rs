//! The message of each anomaly: one sentence for people.

use tapio_occurrence::Occurrence;

use super::Resource;
use crate::observer::duration::Micros;

pub(super) fn exhausted(o: &Occurrence) -> String {
    let number = |key: &str| o.data.number(key).unwrap_or_default();
    let text = |key: &str| o.data.text(key).unwrap_or_default();
    let resource = Resource::ALL.iter().find(|known| known.name() == text("resource"));
    let keys = resource.map_or([None, None], |resource| resource.keys());
    let used = match keys.map(|key| o.data.number(key?)) {
        [Some(used), Some(limit)] => format!(" ({used} of {limit} used)"),
        [None, Some(limit)] => format!(" (limit {limit})"),
        _ => String::new(),
    };
    format!(
        "{}: {} fails with {}, {} times seen in {}: {}{used}",
        o.subject(),
        text("system_call"),
        text("error"),
        number("failures"),
        Micros(number("since_ms").saturating_mul(1_000)),
        resource.map_or("", |resource| why(*resource)),
    )
}

/// What is used up, and where to look.
const fn why(resource: Resource) -> &'static str {
    match resource {
        Resource::FileSystem => {
            "a file system or volume that it writes to has no bytes or inodes left (df, df -i)"
        }
        Resource::DiskQuota => "its disk quota is used up (quota, repquota)",
        Resource::ReadOnly => "it writes to a file system that is mounted read-only, or has become so",
        Resource::Memory => {
            "no memory or address space is left for it (ulimit -v, vm.max_map_count, vm.overcommit_memory)"
        }
        Resource::OpenFiles => "it has as many files open as it may: a leak, or a limit too low (ulimit -n)",
        Resource::OpenFilesOfNode => "the node has as many files open as it may (fs.file-max)",
        Resource::Threads => {
            "no more threads or processes may be started (pids.max of its cgroup, ulimit -u, kernel.pid_max)"
        }
        Resource::InotifyWatches => "its user has no inotify watches left (fs.inotify.max_user_watches)",
        Resource::InotifyInstances => {
            "its user has no inotify instances left (fs.inotify.max_user_instances), or it has too many files open (ulimit -n)"
        }
        Resource::EpollWatches => "its user has no epoll watches left (fs.epoll.max_user_watches)",
    }
}
