//! The system calls and errors that count, and what is used up when they fail so.
//!
//! An error that a program expects counts nowhere: EAGAIN of a socket is no failure. Left out is what others report: connects
//! (network), EIO (storage). `brk` fails without an error.

use linux_raw_sys::general as nr;
use serde::{Deserialize, Serialize};
use tapio_common::health::{CALLS, bit, error};

/// What is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Resource {
    /// Bytes or inodes of a file system.
    FileSystem,
    /// A disk quota.
    DiskQuota,
    /// A file system that takes no writes.
    ReadOnly,
    /// Memory or address space.
    Memory,
    /// Open files of a process.
    OpenFiles,
    /// Open files of the node.
    OpenFilesOfNode,
    /// Threads of a cgroup, a user or the node.
    Threads,
    /// What a user watches by inotify.
    InotifyWatches,
    /// Inotify instances of a user, or open files of a process.
    InotifyInstances,
    /// What a user watches by epoll.
    EpollWatches,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::FileSystem,
        Self::DiskQuota,
        Self::ReadOnly,
        Self::Memory,
        Self::OpenFiles,
        Self::OpenFilesOfNode,
        Self::Threads,
        Self::InotifyWatches,
        Self::InotifyInstances,
        Self::EpollWatches,
    ];

    /// Its name in data.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileSystem => "file_system",
            Self::DiskQuota => "disk_quota",
            Self::ReadOnly => "read_only_file_system",
            Self::Memory => "memory",
            Self::OpenFiles => "open_files",
            Self::OpenFilesOfNode => "open_files_of_node",
            Self::Threads => "threads",
            Self::InotifyWatches => "inotify_watches",
            Self::InotifyInstances => "inotify_instances",
            Self::EpollWatches => "epoll_watches",
        }
    }

    /// The keys of how much is used and how much there is, with their unit; `None` where no file tells.
    pub(super) const fn keys(self) -> [Option<&'static str>; 2] {
        match self {
            Self::FileSystem | Self::DiskQuota | Self::ReadOnly => [None, None],
            Self::Memory => [Some("used_bytes"), Some("limit_bytes")],
            Self::OpenFiles | Self::OpenFilesOfNode => [Some("used_files"), Some("limit_files")],
            Self::Threads => [Some("used_threads"), Some("limit_threads")],
            Self::InotifyWatches | Self::EpollWatches => [None, Some("limit_watches")],
            Self::InotifyInstances => [None, Some("limit_instances")],
        }
    }

    /// What a call asked for that failed with this error; `None` if it does not count.
    #[must_use]
    pub fn of(number: u32, errno: u32) -> Option<Self> {
        let call = find(number)?;
        let is_inotify = call.name.starts_with("inotify");
        call.errors.contains(&errno).then_some(match errno {
            error::EAGAIN => Self::Threads,
            error::ENOMEM => Self::Memory,
            error::ENFILE => Self::OpenFilesOfNode,
            error::EMFILE if is_inotify => Self::InotifyInstances,
            error::EMFILE => Self::OpenFiles,
            error::ENOSPC if is_inotify => Self::InotifyWatches,
            error::ENOSPC if call.name == "epoll_ctl" => Self::EpollWatches,
            error::ENOSPC => Self::FileSystem,
            error::EDQUOT => Self::DiskQuota,
            _ => Self::ReadOnly,
        })
    }
}

/// A system call.
struct Call {
    name: &'static str,
    number: u32,
    errors: &'static [u32],
}

/// Name of a system call that counts.
#[must_use]
pub(super) fn name(number: u32) -> Option<&'static str> {
    Some(find(number)?.name)
}

/// Name of an error that counts.
#[must_use]
pub(super) const fn error_name(errno: u32) -> &'static str {
    match errno {
        error::EAGAIN => "EAGAIN",
        error::ENOMEM => "ENOMEM",
        error::ENFILE => "ENFILE",
        error::EMFILE => "EMFILE",
        error::ENOSPC => "ENOSPC",
        error::EROFS => "EROFS",
        error::EDQUOT => "EDQUOT",
        _ => "unknown",
    }
}

/// The errors that count, by number of the system call.
pub(super) fn bits() -> [u8; CALLS] {
    let mut bits = [0; CALLS];
    for call in ALL {
        if let Some(of) = bits.get_mut(call.number as usize) {
            *of = call.errors.iter().fold(0, |all, errno| all | bit(u64::from(*errno)));
        }
    }
    bits
}

fn find(number: u32) -> Option<&'static Call> {
    ALL.iter().find(|call| call.number == number)
}

macro_rules! call {
    ($name:ident, $number:ident, $errors:ident) => {
        Call { name: stringify!($name), number: nr::$number, errors: $errors }
    };
}

/// Makes an entry of a directory, with a file that is then open or without.
const CREATES: &[u32] = &[error::ENOSPC, error::EDQUOT, error::EROFS];
const OPENS: &[u32] = &[error::EMFILE, error::ENFILE, error::ENOSPC, error::EDQUOT, error::EROFS];
/// Of an open file: whether its file system takes writes is known since it was opened.
const WRITES: &[u32] = &[error::ENOSPC, error::EDQUOT];
const REMOVES: &[u32] = &[error::EROFS];
/// Takes the number of an open file.
const TAKES: &[u32] = &[error::EMFILE, error::ENFILE];
const MAPS: &[u32] = &[error::ENOMEM];
const FORKS: &[u32] = &[error::EAGAIN, error::ENOMEM];
const WATCHES: &[u32] = &[error::ENOSPC];

const ALL: &[Call] = &[
    call!(openat, __NR_openat, OPENS),
    call!(openat2, __NR_openat2, OPENS),
    call!(mkdirat, __NR_mkdirat, CREATES),
    call!(mknodat, __NR_mknodat, CREATES),
    call!(linkat, __NR_linkat, CREATES),
    call!(symlinkat, __NR_symlinkat, CREATES),
    call!(renameat, __NR_renameat, CREATES),
    call!(renameat2, __NR_renameat2, CREATES),
    call!(unlinkat, __NR_unlinkat, REMOVES),
    call!(write, __NR_write, WRITES),
    call!(pwrite64, __NR_pwrite64, WRITES),
    call!(writev, __NR_writev, WRITES),
    call!(pwritev, __NR_pwritev, WRITES),
    call!(pwritev2, __NR_pwritev2, WRITES),
    call!(fallocate, __NR_fallocate, WRITES),
    call!(ftruncate, __NR_ftruncate, WRITES),
    call!(copy_file_range, __NR_copy_file_range, WRITES),
    call!(sendfile, __NR_sendfile, WRITES),
    call!(splice, __NR_splice, WRITES),
    call!(fsync, __NR_fsync, WRITES),
    call!(fdatasync, __NR_fdatasync, WRITES),
    call!(msync, __NR_msync, WRITES),
    call!(socket, __NR_socket, TAKES),
    call!(socketpair, __NR_socketpair, TAKES),
    call!(accept, __NR_accept, TAKES),
    call!(accept4, __NR_accept4, TAKES),
    call!(pipe2, __NR_pipe2, TAKES),
    call!(dup, __NR_dup, TAKES),
    call!(fcntl, __NR_fcntl, TAKES),
    call!(epoll_create1, __NR_epoll_create1, TAKES),
    call!(eventfd2, __NR_eventfd2, TAKES),
    call!(timerfd_create, __NR_timerfd_create, TAKES),
    call!(signalfd4, __NR_signalfd4, TAKES),
    call!(memfd_create, __NR_memfd_create, TAKES),
    call!(inotify_init1, __NR_inotify_init1, TAKES),
    call!(inotify_add_watch, __NR_inotify_add_watch, WATCHES),
    call!(epoll_ctl, __NR_epoll_ctl, WATCHES),
    call!(mmap, __NR_mmap, MAPS),
    call!(mremap, __NR_mremap, MAPS),
    call!(mprotect, __NR_mprotect, MAPS),
    call!(clone, __NR_clone, FORKS),
    call!(clone3, __NR_clone3, FORKS),
    // Those that newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    call!(open, __NR_open, OPENS),
    #[cfg(target_arch = "x86_64")]
    call!(creat, __NR_creat, OPENS),
    #[cfg(target_arch = "x86_64")]
    call!(mkdir, __NR_mkdir, CREATES),
    #[cfg(target_arch = "x86_64")]
    call!(mknod, __NR_mknod, CREATES),
    #[cfg(target_arch = "x86_64")]
    call!(link, __NR_link, CREATES),
    #[cfg(target_arch = "x86_64")]
    call!(symlink, __NR_symlink, CREATES),
    #[cfg(target_arch = "x86_64")]
    call!(rename, __NR_rename, CREATES),
    #[cfg(target_arch = "x86_64")]
    call!(unlink, __NR_unlink, REMOVES),
    #[cfg(target_arch = "x86_64")]
    call!(rmdir, __NR_rmdir, REMOVES),
    #[cfg(target_arch = "x86_64")]
    call!(pipe, __NR_pipe, TAKES),
    #[cfg(target_arch = "x86_64")]
    call!(epoll_create, __NR_epoll_create, TAKES),
    #[cfg(target_arch = "x86_64")]
    call!(eventfd, __NR_eventfd, TAKES),
    #[cfg(target_arch = "x86_64")]
    call!(signalfd, __NR_signalfd, TAKES),
    #[cfg(target_arch = "x86_64")]
    call!(inotify_init, __NR_inotify_init, TAKES),
    #[cfg(target_arch = "x86_64")]
    call!(fork, __NR_fork, FORKS),
    #[cfg(target_arch = "x86_64")]
    call!(vfork, __NR_vfork, FORKS),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_listed_once_and_fits() {
        for (at, call) in ALL.iter().enumerate() {
            assert!((call.number as usize) < CALLS, "{}", call.name);
            assert!(ALL[..at].iter().all(|other| other.number != call.number), "{}", call.name);
            for errno in call.errors {
                assert!(bit(u64::from(*errno)) != 0, "{}", error_name(*errno));
                assert!(Resource::of(call.number, *errno).is_some(), "{}", call.name);
            }
        }
    }

    #[test]
    fn an_error_means_what_the_call_asked_for() {
        for (number, errno, resource) in [
            (nr::__NR_write, error::ENOSPC, Some(Resource::FileSystem)),
            (nr::__NR_inotify_add_watch, error::ENOSPC, Some(Resource::InotifyWatches)),
            (nr::__NR_inotify_init1, error::EMFILE, Some(Resource::InotifyInstances)),
            (nr::__NR_epoll_ctl, error::ENOSPC, Some(Resource::EpollWatches)),
            (nr::__NR_accept4, error::EMFILE, Some(Resource::OpenFiles)),
            (nr::__NR_clone3, error::EAGAIN, Some(Resource::Threads)),
            (nr::__NR_clone3, error::ENOMEM, Some(Resource::Memory)),
            (nr::__NR_read, error::EAGAIN, None),
            (nr::__NR_madvise, error::ENOMEM, None),
            (nr::__NR_write, error::EAGAIN, None),
        ] {
            assert_eq!(Resource::of(number, errno), resource, "{number} {errno}");
            let counts = bits()[number as usize] & bit(errno.into()) != 0;
            assert_eq!(counts, resource.is_some());
        }
    }

    #[test]
    fn errors_have_the_kernels_numbers() {
        use linux_raw_sys::errno;
        for (ours, kernels) in [
            (error::EAGAIN, errno::EAGAIN),
            (error::ENOMEM, errno::ENOMEM),
            (error::ENFILE, errno::ENFILE),
            (error::EMFILE, errno::EMFILE),
            (error::ENOSPC, errno::ENOSPC),
            (error::EROFS, errno::EROFS),
            (error::EDQUOT, errno::EDQUOT),
        ] {
            assert_eq!(ours, kernels);
        }
    }
}
