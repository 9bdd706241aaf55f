//! Container observer: event layout and kernel fields.

use bytemuck::{Pod, Zeroable};

use crate::{Comm, Event, Header};

crate::fields! {
    /// Thread id.
    PID = "task_struct.pid";
    /// Process id (thread group).
    TGID = "task_struct.tgid";
    /// `PF_*` flags.
    FLAGS = "task_struct.flags";
    /// Command name.
    COMM = "task_struct.comm";
    /// First thread of the thread group.
    LEADER = "task_struct.group_leader";
    /// The same field, read of the current task with a helper: the current task has no BTF type before 5.11.
    CURRENT_LEADER = "task_struct.group_leader";
    /// State that the threads of a group share.
    SIGNAL = "task_struct.signal";
    /// How the thread exited: a signal in the low 7 bits, a status in the next 8.
    EXIT_CODE = "task_struct.exit_code";
    /// Start time, boot clock.
    STARTED = "task_struct.start_boottime";
    /// The process that waits for its exit.
    PARENT = "task_struct.real_parent";
    /// Namespaces.
    NSPROXY = "task_struct.nsproxy";
    /// Cgroups.
    CGROUPS = "task_struct.cgroups";
    /// Memory.
    MM = "task_struct.mm";
    /// Number of threads that have not exited.
    LIVE = "signal_struct.live";
    /// State of the thread group, such as an exit in progress.
    SIGNAL_FLAGS = "signal_struct.flags";
    /// How the group exits, if it exits as one.
    GROUP_EXIT_CODE = "signal_struct.group_exit_code";
    /// Set if the process leads a session.
    SESSION_LEADER = "signal_struct.leader";
    /// Adjustment of how likely the OOM killer chooses the process.
    OOM_SCORE_ADJ = "signal_struct.oom_score_adj";
    /// Soft CPU time limit, in seconds.
    CPU_SOFT_LIMIT = "signal_struct.rlim[0].rlim_cur";
    /// Hard CPU time limit, in seconds. `RLIMIT_CPU`, include/uapi/asm-generic/resource.h.
    CPU_HARD_LIMIT = "signal_struct.rlim[0].rlim_max";
    /// CPU time of the threads that have exited.
    CPU_TIME_EXITED = "signal_struct.sum_sched_runtime";
    /// CPU time of one thread.
    CPU_TIME = "task_struct.se.sum_exec_runtime";
    /// PID namespace of the children, which is the process's own unless it asked for another one.
    PID_NS = "nsproxy.pid_ns_for_children";
    /// First process of a PID namespace.
    REAPER = "pid_namespace.child_reaper";
    /// Depth of a PID namespace; 0 is the host's.
    NS_LEVEL = "pid_namespace.level";
    /// The cgroup v2.
    CGROUP = "css_set.dfl_cgrp";
    /// Memory controller state of the cgroup.
    MEMORY_CSS = "css_set.subsys[memory_cgrp_id]";
    /// Cgroup of a controller's state.
    CSS_CGROUP = "cgroup_subsys_state.cgroup";
    /// The same controller's state one level up.
    CSS_PARENT = "cgroup_subsys_state.parent";
    /// Hierarchy of a cgroup.
    CGROUP_ROOT = "cgroup.root";
    /// Depth of a cgroup; 0 is the root.
    CGROUP_LEVEL = "cgroup.level";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node: the inode number of the directory.
    KN_ID = "kernfs_node.id";
    /// Why a signal was sent, and whether by a process or the kernel.
    SI_CODE = "kernel_siginfo.si_code";
    /// Address that caused a fault.
    SI_ADDR = "kernel_siginfo._sifields._sigfault._addr";
    /// File pages, since 6.2. `MM_FILEPAGES`, include/linux/mm_types_task.h.
    FILE_PAGES = "mm_struct.rss_stat[0].count";
    /// Anonymous pages.
    ANON_PAGES = "mm_struct.rss_stat[1].count";
    /// Shared memory pages.
    SHMEM_PAGES = "mm_struct.rss_stat[3].count";
    /// As [`FILE_PAGES`], before 6.2.
    OLD_FILE_PAGES = "mm_struct.rss_stat.count[0]";
    /// As [`ANON_PAGES`], before 6.2.
    OLD_ANON_PAGES = "mm_struct.rss_stat.count[1]";
    /// As [`SHMEM_PAGES`], before 6.2.
    OLD_SHMEM_PAGES = "mm_struct.rss_stat.count[3]";
    /// Size of the page tables, in bytes.
    PAGE_TABLES = "mm_struct.pgtables_bytes";
    /// Pages charged to a memory cgroup. No typed pointer leads to it.
    USAGE = "mem_cgroup.memory.usage";
    /// Limit of a memory cgroup, in pages. No typed pointer leads to it.
    LIMIT = "mem_cgroup.memory.max";
}

/// Fields that are read with a helper. Lockdown forbids that, and they are then absent.
pub const BY_HELPER: &[usize] =
    &[CURRENT_LEADER, SI_CODE, SI_ADDR, OLD_FILE_PAGES, OLD_ANON_PAGES, OLD_SHMEM_PAGES, USAGE, LIMIT];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Signals that may terminate a process.
    pub const SIGNAL_GENERATE: u32 = 0;
    /// OOM victims.
    pub const MARK_VICTIM: u32 = 1;
    /// Process exits.
    pub const SCHED_PROCESS_EXIT: u32 = 2;
}

/// Values of [`ContainerEvent::kind`].
pub mod kind {
    /// The kernel OOM-killed the process.
    pub const OOM_KILL: u32 = 1;
    /// A main process exited with a status.
    pub const EXIT_ERROR: u32 = 2;
    /// A signal terminated the process.
    pub const SIGNALLED: u32 = 3;
}

/// Values of [`ContainerEvent::origin`]: the source of a signal.
pub mod origin {
    /// Not known: the signal was sent before the agent started, or its entry was evicted.
    pub const UNKNOWN: u32 = 0;
    /// The process itself: it caused a fault, or sent the signal to itself.
    pub const ITSELF: u32 = 1;
    /// Another process, which is the event's actor.
    pub const PROCESS: u32 = 2;
    /// The kernel: a limit, a terminal, a parent that died.
    pub const KERNEL: u32 = 3;
}

/// Bits of [`ContainerEvent::flags`].
pub mod flag {
    /// First process of its PID namespace. When it exits, the kernel kills all others there.
    pub const INIT: u32 = 1;
    /// Leads a session, and is a child of the host's first process: the main process of a service.
    pub const SESSION_OF_HOST: u32 = 2;
    /// In a PID namespace other than the host's.
    pub const IN_NAMESPACE: u32 = 4;
    /// Has not called exec since it was forked: it still runs the program that forked it.
    pub const NOT_EXECUTED: u32 = 8;
    /// Its parent is outside its PID namespace: a command that was run in a container from outside, such as by an exec.
    pub const ENTERED: u32 = 16;
    /// Its parent sent the signal.
    pub const BY_PARENT: u32 = 32;
    /// Has a soft CPU time limit (`RLIMIT_CPU`), at which the kernel sends SIGXCPU.
    pub const CPU_LIMITED: u32 = 64;
    /// Has used up its hard CPU time limit, at which the kernel kills it.
    pub const CPU_USED_UP: u32 = 128;
}

/// Stands for a number that is not known.
pub const UNKNOWN: u64 = u64::MAX;

/// One record of the container observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct ContainerEvent {
    /// When the process died, and which one it was.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Signal that terminated the process; 0 if none did.
    pub signal: u32,
    /// Exit status.
    pub status: u32,
    /// One of [`origin`], of the signal.
    pub origin: u32,
    /// `si_code` of the signal, cast to unsigned.
    pub code: u32,
    /// Address that caused a fault; [`UNKNOWN`] if there is none.
    pub address: u64,
    /// Signal that asked the process to terminate before; 0 if none did.
    pub asked_signal: u32,
    /// `oom_score_adj`, cast to unsigned.
    pub oom_score_adj: u32,
    /// When the process was asked to terminate, boot clock.
    pub asked_ns: u64,
    /// When the process last raised SIGABRT itself, boot clock; 0 if it never did.
    pub aborted_ns: u64,
    /// When the process started, boot clock.
    pub started_ns: u64,
    /// The process that caused the death: it sent the signal, or for an OOM kill, requested memory.
    pub actor: Actor,
    /// OOM kill: memory that the victim held.
    pub memory: Memory,
    /// OOM kill: the cgroup whose limit was reached.
    pub oom_cgroup: OomCgroup,
}

/// A process that caused the death of another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Actor {
    /// Cgroup id, as in a [`Header`].
    pub cgroup_id: u64,
    /// Process id in the root PID namespace; 0 if there is none.
    pub pid: u32,
    /// 1 if it, or a process that it descends from, was started in its PID namespace from outside, as by an exec; only
    /// known of those that ended a process of their own cgroup.
    pub entered: u32,
    /// Command name of the process, not of the thread; all zeros if unknown.
    pub comm: Comm,
}

/// Memory of a process in bytes; [`UNKNOWN`] where it cannot be read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Memory {
    /// Anonymous memory.
    pub anon_bytes: u64,
    /// File memory.
    pub file_bytes: u64,
    /// Shared memory.
    pub shmem_bytes: u64,
    /// Page tables.
    pub page_tables_bytes: u64,
}

/// The memory cgroup with the least headroom, among the victim's own and those above it; all [`UNKNOWN`] if none can be
/// read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct OomCgroup {
    /// Cgroup id, as in a [`Header`]; 0 if none was near its limit, so that the node ran out of memory.
    pub cgroup_id: u64,
    /// Memory charged to it.
    pub usage_bytes: u64,
    /// Its memory limit.
    pub limit_bytes: u64,
    /// How many levels it is above the victim's own cgroup.
    pub levels_up: u64,
}

impl Event for ContainerEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}
