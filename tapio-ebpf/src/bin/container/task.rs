//! Fields of a task.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use tapio_common::{
    CGROUP_V1, Comm,
    container::{self as fields, flag},
};
use tapio_ebpf::{is_absent, load, load_words};

use crate::{OFFSETS, memory::read};

/// include/linux/sched/signal.h: all threads of the thread group are exiting.
const SIGNAL_GROUP_EXIT: u32 = 4;

/// include/linux/sched.h: forked, but has not called exec.
const PF_FORKNOEXEC: u32 = 0x40;

/// 100 ms.
const TENTH_NS: u64 = 100_000_000;
/// A CPU time limit above this, in seconds, does not count as one: `RLIM_INFINITY`, or longer than any process runs.
const MAX_SECONDS: u64 = 1 << 32;

/// A typed pointer to a task, as `tp_btf` programs receive it. Fields behind a null pointer read as zero.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

impl Task {
    #[inline(always)]
    fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        self.load(fields::PID)
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.load(fields::TGID)
    }

    /// First thread of the thread group.
    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        Self(self.load(fields::LEADER))
    }

    #[inline(always)]
    pub(crate) fn mm(self) -> *const u8 {
        self.load(fields::MM)
    }

    /// Start time, boot clock. Together with the PID it identifies a process.
    #[inline(always)]
    pub(crate) fn started_ns(self) -> u64 {
        self.load(fields::STARTED)
    }

    #[inline(always)]
    pub(crate) fn comm(self) -> Comm {
        // SAFETY: a member of 16 bytes, behind a typed pointer.
        bytemuck::cast(unsafe { load_words::<2>(self.0, &OFFSETS[fields::COMM]) })
    }

    /// A field of `signal_struct`, which the threads of a group share.
    #[inline(always)]
    pub(crate) fn shared<T: Copy>(self, field: usize) -> T {
        let signal: *const u8 = self.load(fields::SIGNAL);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(signal, &OFFSETS[field]) }
    }

    /// Returns true if the task has not called exec since it was forked. Only meaningful for the first thread of a
    /// group: the others were forked by it, and keep the flag.
    #[inline(always)]
    pub(crate) fn has_not_executed(self) -> bool {
        self.load::<u32>(fields::FLAGS) & PF_FORKNOEXEC != 0
    }

    /// `oom_score_adj`, cast to unsigned.
    #[inline(always)]
    pub(crate) fn oom_score_adj(self) -> u32 {
        i32::from(self.shared::<i16>(fields::OOM_SCORE_ADJ)) as u32
    }

    /// Bits of [`flag`] about the CPU time limit. Only valid in the last thread of a group to exit.
    #[inline(always)]
    pub(crate) fn cpu_limit(self) -> u32 {
        if is_absent(&OFFSETS[fields::CPU_SOFT_LIMIT]) || is_absent(&OFFSETS[fields::CPU_TIME]) {
            return 0;
        }
        if self.shared::<u64>(fields::CPU_SOFT_LIMIT) > MAX_SECONDS {
            return 0;
        }
        let seconds: u64 = self.shared(fields::CPU_HARD_LIMIT);
        if seconds > MAX_SECONDS {
            return flag::CPU_LIMITED;
        }
        let used_ns = self.shared::<u64>(fields::CPU_TIME_EXITED).wrapping_add(self.load(fields::CPU_TIME));
        // The kernel counts in ticks and this in nanoseconds, so 90 % of the limit is enough.
        if used_ns >= seconds.wrapping_mul(TENTH_NS * 9) {
            return flag::CPU_LIMITED | flag::CPU_USED_UP;
        }
        flag::CPU_LIMITED
    }

    /// Returns true if all threads of the group are exiting, or have exited.
    #[inline(always)]
    pub(crate) fn is_ending(self) -> bool {
        self.shared::<u32>(fields::SIGNAL_FLAGS) & SIGNAL_GROUP_EXIT != 0
    }

    /// Exit code of the thread group: a signal in the low 7 bits, a status in the next 8.
    #[inline(always)]
    pub(crate) fn group_exit_code(self) -> u32 {
        if self.is_ending() {
            return self.shared(fields::GROUP_EXIT_CODE);
        }
        self.leader_exit_code()
    }

    /// Exit code of the first thread. Before 5.17 the last thread may exit by itself, and then this is the group's. In
    /// a function of its own, since older verifiers cannot follow two loads of different structs that were merged.
    #[inline(never)]
    fn leader_exit_code(self) -> u32 {
        self.leader().load(fields::EXIT_CODE)
    }

    #[inline(always)]
    fn pid_namespace(self) -> *const u8 {
        let namespaces: *const u8 = self.load(fields::NSPROXY);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(namespaces, &OFFSETS[fields::PID_NS]) }
    }

    /// Depth of the PID namespace; 0 is the host's.
    #[inline(always)]
    pub(crate) fn namespace_level(self) -> u32 {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.pid_namespace(), &OFFSETS[fields::NS_LEVEL]) }
    }

    /// First process of the PID namespace.
    #[inline(always)]
    pub(crate) fn reaper(self) -> Self {
        // SAFETY: a typed pointer and an offset of its fields.
        Self(unsafe { load(self.pid_namespace(), &OFFSETS[fields::REAPER]) })
    }

    /// The process that waits for its exit.
    #[inline(always)]
    pub(crate) fn parent(self) -> Self {
        Self(self.load(fields::PARENT))
    }

    /// Bits of [`flag`].
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        if self.namespace_level() != 0 {
            // PID 1 in its namespace. `signal->flags` cannot be used: it is overwritten when the process exits.
            let is_init = self.reaper().tgid() == self.tgid();
            return if is_init { flag::IN_NAMESPACE | flag::INIT } else { flag::IN_NAMESPACE };
        }
        if self.shared::<u32>(fields::SESSION_LEADER) == 0 {
            return 0;
        }
        if self.parent().tgid() == 1 { flag::SESSION_OF_HOST } else { 0 }
    }

    /// Id of the task's cgroup v2, or, where the memory controller is on cgroup v1, of its memory cgroup with
    /// [`CGROUP_V1`].
    #[inline(always)]
    pub(crate) fn cgroup_id(self) -> u64 {
        let unified = self.unified();
        if let Some(memory) = self.memory_cgroup() {
            // SAFETY: a typed pointer and an offset of its fields.
            let level: u32 = unsafe { load(memory, &OFFSETS[fields::CGROUP_LEVEL]) };
            if level != 0 && root(memory) != root(unified) {
                return id(memory) | CGROUP_V1;
            }
        }
        id(unified)
    }

    /// Returns true if the memory controller has a hierarchy of its own (cgroup v1).
    #[inline(always)]
    pub(crate) fn has_v1_memory_hierarchy(self) -> bool {
        self.memory_cgroup().is_some_and(|memory| root(memory) != root(self.unified()))
    }

    #[inline(always)]
    fn unified(self) -> *const u8 {
        let css_set: *const u8 = self.load(fields::CGROUPS);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(css_set, &OFFSETS[fields::CGROUP]) }
    }

    #[inline(always)]
    fn memory_cgroup(self) -> Option<*const u8> {
        if is_absent(&OFFSETS[fields::MEMORY_CSS]) {
            return None;
        }
        // SAFETY: a typed pointer and an offset of its fields.
        Some(unsafe { load(self.memory_css(), &OFFSETS[fields::CSS_CGROUP]) })
    }

    /// Memory controller state of the task's cgroup.
    #[inline(always)]
    pub(crate) fn memory_css(self) -> *const u8 {
        let css_set: *const u8 = self.load(fields::CGROUPS);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(css_set, &OFFSETS[fields::MEMORY_CSS]) }
    }
}

/// Id of the current task's cgroup v1 in the memory controller's own hierarchy; `None` for its root, or where helpers
/// are forbidden. Read with a helper, since the current task has a BTF type only from kernel 5.11 on.
#[inline(always)]
pub(crate) fn current_memory_cgroup() -> Option<u64> {
    if is_absent(&OFFSETS[fields::SI_CODE]) || is_absent(&OFFSETS[fields::MEMORY_CSS]) {
        return None;
    }
    // SAFETY: the helper takes no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let css_set: *const u8 = read(task, fields::CGROUPS)?;
    let css: *const u8 = read(css_set, fields::MEMORY_CSS)?;
    let cgroup: *const u8 = read(css, fields::CSS_CGROUP)?;
    if read::<u32>(cgroup, fields::CGROUP_LEVEL)? == 0 {
        return None;
    }
    let node: *const u8 = read(cgroup, fields::CGROUP_KN)?;
    Some(read::<u64>(node, fields::KN_ID)? | CGROUP_V1)
}

/// Maximum number of processes from one that was started in a container down to the sender of a signal.
const MAX_DESCENT: u32 = 8;

/// Returns 1 if the current process, or one that it descends from, was started in its PID namespace from outside, and 0
/// if it descends from the first process there, has too many ancestors, or where helpers are forbidden.
#[inline(never)]
pub(crate) fn current_has_entered() -> u32 {
    if is_absent(&OFFSETS[fields::SI_CODE]) {
        return 0;
    }
    // SAFETY: the helper takes no arguments.
    let mut task = unsafe { bpf_get_current_task() } as *const u8;
    for _ in 0..MAX_DESCENT {
        let Some(own) = pid_namespace_of(task) else { return 0 };
        let first: Option<*const u8> = read(own, fields::REAPER);
        let Some(first) = first.and_then(|first| read::<u32>(first, fields::TGID)) else { return 0 };
        // That of its children, which may be another one for who made the namespace: it is the first process's parent.
        if read(task, fields::TGID) == Some(first) {
            return 0;
        }
        let Some(parent) = read::<*const u8>(task, fields::PARENT) else { return 0 };
        if pid_namespace_of(parent) != Some(own) {
            return 1;
        }
        task = parent;
    }
    0
}

/// Like [`Task::pid_namespace`], with a helper.
#[inline(always)]
fn pid_namespace_of(task: *const u8) -> Option<*const u8> {
    let namespaces: *const u8 = read(task, fields::NSPROXY)?;
    read(namespaces, fields::PID_NS)
}

/// Address of the hierarchy that a cgroup belongs to.
#[inline(always)]
pub(crate) fn root(cgroup: *const u8) -> u64 {
    // SAFETY: a typed pointer and an offset of its fields.
    unsafe { load(cgroup, &OFFSETS[fields::CGROUP_ROOT]) }
}

/// Id of a cgroup: the inode number of its directory.
#[inline(always)]
pub(crate) fn id(cgroup: *const u8) -> u64 {
    // SAFETY: typed pointers and offsets of their fields.
    unsafe {
        let node: *const u8 = load(cgroup, &OFFSETS[fields::CGROUP_KN]);
        load(node, &OFFSETS[fields::KN_ID])
    }
}
