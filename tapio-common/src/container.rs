//! The container observer: event layout, kernel fields.

use bytemuck::{Pod, Zeroable};

use crate::{Comm, Event, Header};

crate::fields! {
    /// Thread.
    PID = "task_struct.pid";
    /// Thread group.
    TGID = "task_struct.tgid";
    /// Bits of what it is.
    FLAGS = "task_struct.flags";
    /// Command name.
    COMM = "task_struct.comm";
    /// The thread that the group is named after.
    LEADER = "task_struct.group_leader";
    /// The same of the running task, which has no type before 5.11.
    CURRENT_LEADER = "task_struct.group_leader";
    /// What the threads of a group share.
    SIGNAL = "task_struct.signal";
    /// How the thread ended: a signal in the low 7 bits, a status in the next 8.
    EXIT_CODE = "task_struct.exit_code";
    /// When it began: monotonic clock with the time asleep.
    STARTED = "task_struct.start_boottime";
    /// Who awaits its end.
    PARENT = "task_struct.real_parent";
    /// Its namespaces.
    NSPROXY = "task_struct.nsproxy";
    /// Its cgroups.
    CGROUPS = "task_struct.cgroups";
    /// Its memory.
    MM = "task_struct.mm";
    /// Threads that have not ended.
    LIVE = "signal_struct.live";
    /// What is under way with the group.
    SIGNAL_FLAGS = "signal_struct.flags";
    /// How the group ends, where it ends as one.
    GROUP_EXIT_CODE = "signal_struct.group_exit_code";
    /// It leads a session.
    SESSION_LEADER = "signal_struct.leader";
    /// How gladly it is chosen when memory is out.
    OOM_SCORE_ADJ = "signal_struct.oom_score_adj";
    /// Its limit of CPU time, seconds: the one that warns.
    CPU_WARNS = "signal_struct.rlim[0].rlim_cur";
    /// The one that kills. `RLIMIT_CPU`, include/uapi/asm-generic/resource.h.
    CPU_KILLS = "signal_struct.rlim[0].rlim_max";
    /// CPU time of threads that have ended.
    CPU_BEFORE = "signal_struct.sum_sched_runtime";
    /// CPU time of a thread.
    CPU_TIME = "task_struct.se.sum_exec_runtime";
    /// The pid namespace that children are born in: a process's own, unless it has asked for another.
    PID_NS = "nsproxy.pid_ns_for_children";
    /// The first process of a pid namespace.
    REAPER = "pid_namespace.child_reaper";
    /// How deep a pid namespace is; 0 is the host's.
    NS_LEVEL = "pid_namespace.level";
    /// The group in the hierarchy of version 2.
    CGROUP = "css_set.dfl_cgrp";
    /// The group that the memory controller has.
    MEMORY_CSS = "css_set.subsys[memory_cgrp_id]";
    /// A controller's group.
    CSS_CGROUP = "cgroup_subsys_state.cgroup";
    /// The controller's group above.
    CSS_PARENT = "cgroup_subsys_state.parent";
    /// The hierarchy of a group.
    CGROUP_ROOT = "cgroup.root";
    /// How deep a group is; 0 is the root.
    CGROUP_LEVEL = "cgroup.level";
    /// The group's node in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// The node's id: the inode number of the directory.
    KN_ID = "kernfs_node.id";
    /// Why and by whom a signal was sent.
    SI_CODE = "kernel_siginfo.si_code";
    /// The address that could not be used.
    SI_ADDR = "kernel_siginfo._sifields._sigfault._addr";
    /// Pages of files, since 6.2. `MM_FILEPAGES`, include/linux/mm_types_task.h.
    FILE_PAGES = "mm_struct.rss_stat[0].count";
    /// Anonymous pages.
    ANON_PAGES = "mm_struct.rss_stat[1].count";
    /// Pages of shared memory.
    SHMEM_PAGES = "mm_struct.rss_stat[3].count";
    /// As [`FILE_PAGES`], before 6.2.
    OLD_FILE_PAGES = "mm_struct.rss_stat.count[0]";
    /// As [`ANON_PAGES`], before 6.2.
    OLD_ANON_PAGES = "mm_struct.rss_stat.count[1]";
    /// As [`SHMEM_PAGES`], before 6.2.
    OLD_SHMEM_PAGES = "mm_struct.rss_stat.count[3]";
    /// Bytes of page tables.
    PAGE_TABLES = "mm_struct.pgtables_bytes";
    /// Pages charged to a memory cgroup. Behind no typed pointer.
    USAGE = "mem_cgroup.memory.usage";
    /// How many may be.
    LIMIT = "mem_cgroup.memory.max";
}

/// Fields that are read with a helper, which a kernel that is locked down forbids: they are absent there.
pub const BY_HELPER: &[usize] =
    &[CURRENT_LEADER, SI_CODE, SI_ADDR, OLD_FILE_PAGES, OLD_ANON_PAGES, OLD_SHMEM_PAGES, USAGE, LIMIT];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Signals that may end a process.
    pub const SIGNAL_GENERATE: u32 = 0;
    /// Victims of a lack of memory.
    pub const MARK_VICTIM: u32 = 1;
    /// Ends of processes.
    pub const SCHED_PROCESS_EXIT: u32 = 2;
}

/// What a record is about: [`ContainerEvent::kind`].
pub mod kind {
    /// The kernel OOM-killed it.
    pub const OOM_KILL: u32 = 1;
    /// A main process ended with a status.
    pub const EXIT_ERROR: u32 = 2;
    /// A signal ended it.
    pub const SIGNALLED: u32 = 3;
}

/// Where a signal came from: [`ContainerEvent::origin`].
pub mod origin {
    /// Not known: the signal is older than the agent, or was forgotten.
    pub const UNKNOWN: u32 = 0;
    /// What the process did: a fault of its own, or it sent the signal to itself.
    pub const ITSELF: u32 = 1;
    /// Another process, which is the event's actor.
    pub const PROCESS: u32 = 2;
    /// The kernel: a limit, a terminal, a parent that died.
    pub const KERNEL: u32 = 3;
}

/// Bits of [`ContainerEvent::flags`].
pub mod flag {
    /// The first process of its pid namespace, with which all others there end.
    pub const INIT: u32 = 1;
    /// It leads a session and is a child of the host's first process, as the main process of a service is.
    pub const SESSION_OF_HOST: u32 = 2;
    /// It is in a pid namespace other than the host's.
    pub const IN_NAMESPACE: u32 = 4;
    /// It has not executed a program since it was forked: it still is what forked it.
    pub const NOT_EXECUTED: u32 = 8;
    /// Its parent is outside of its pid namespace: it was run in a container from outside, beside the first process.
    pub const ENTERED: u32 = 16;
    /// Its parent sent the signal.
    pub const BY_PARENT: u32 = 32;
    /// It has a limit of CPU time (`RLIMIT_CPU`): the one that warns by SIGXCPU.
    pub const CPU_LIMITED: u32 = 64;
    /// It has used up its limit of CPU time: the one that kills.
    pub const CPU_USED_UP: u32 = 128;
}

/// Value of a number that is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// One record of the container observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ContainerEvent {
    /// When, and who died.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// The signal that ended it; 0 where none did.
    pub signal: u32,
    /// The status that it ended with.
    pub status: u32,
    /// One of [`origin`], of the signal.
    pub origin: u32,
    /// `si_code` of the signal, as the two's complement.
    pub code: u32,
    /// Of a fault: the address that could not be used. [`UNKNOWN`] where there is none.
    pub address: u64,
    /// The signal that asked it to end before; 0 where none did.
    pub asked_signal: u32,
    /// Its `oom_score_adj`, as the two's complement.
    pub score_adj: u32,
    /// When it was asked to end, boot clock.
    pub asked_ns: u64,
    /// When it last raised SIGABRT itself, boot clock; 0 where it never did.
    pub aborted_ns: u64,
    /// When it began, boot clock.
    pub started_ns: u64,
    /// Who did it: who sent the signal, or who asked for the memory that there was not.
    pub actor: Actor,
    /// OOM: what the victim held.
    pub memory: Memory,
    /// OOM: the memory cgroup that is full.
    pub full: Full,
}

/// A process that did something to another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Actor {
    /// Cgroup id, as in a [`Header`].
    pub cgroup_id: u64,
    /// Process id in the root pid namespace; 0 where there is none.
    pub pid: u32,
    /// Always 0; keeps the record free of padding.
    pub reserved: u32,
    /// Command name of the process, not of the thread; all zero where it is not known.
    pub comm: Comm,
}

/// Memory of a process, bytes; [`UNKNOWN`] where it is not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Memory {
    /// Anonymous.
    pub anon_bytes: u64,
    /// Of files.
    pub file_bytes: u64,
    /// Shared.
    pub shmem_bytes: u64,
    /// Page tables.
    pub page_tables_bytes: u64,
}

/// The fullest memory cgroup of a process and those above; all [`UNKNOWN`] where none can be read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Full {
    /// Its id, as in a [`Header`]; 0 where no group has a limit.
    pub cgroup_id: u64,
    /// What it holds.
    pub usage_bytes: u64,
    /// What it may hold.
    pub limit_bytes: u64,
    /// How many levels it is above the victim's own group.
    pub levels_up: u64,
}

impl Event for ContainerEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}
