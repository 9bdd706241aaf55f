//! What is read of a task.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use tapio_common::{
    Comm, VERSION_1,
    container::{self as fields, flag},
};
use tapio_ebpf::{is_absent, load};

use crate::{OFFSETS, memory::read};

/// `SIGNAL_GROUP_EXIT`, include/linux/sched/signal.h: all threads of the group end.
const GROUP_EXIT: u32 = 4;

/// `PF_FORKNOEXEC`, include/linux/sched.h.
const FORKED: u32 = 0x40;

/// A tenth of a second.
const TENTH_NS: u64 = 100_000_000;
/// A higher limit of CPU time does not count as one: `RLIM_INFINITY`, and what nobody lives to see.
const MAX_SECONDS: u64 = 1 << 32;

/// A task by a typed pointer, as `tp_btf` programs get it. What is behind a null pointer reads as zero.
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

    /// The thread that the group is named after.
    #[inline(always)]
    pub(crate) fn leader(self) -> Self {
        Self(self.load(fields::LEADER))
    }

    #[inline(always)]
    pub(crate) fn mm(self) -> *const u8 {
        self.load(fields::MM)
    }

    /// When it began: with the process id it tells one process from any other.
    #[inline(always)]
    pub(crate) fn started_ns(self) -> u64 {
        self.load(fields::STARTED)
    }

    #[inline(always)]
    pub(crate) fn comm(self) -> Comm {
        let words: [u64; 2] = [
            self.load(fields::COMM),
            // SAFETY: the second word of the same 16 bytes.
            unsafe { load(self.0.add(8), &OFFSETS[fields::COMM]) },
        ];
        bytemuck::cast(words)
    }

    /// A field of what the threads of the group share.
    #[inline(always)]
    pub(crate) fn shared<T: Copy>(self, field: usize) -> T {
        let signal: *const u8 = self.load(fields::SIGNAL);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(signal, &OFFSETS[field]) }
    }

    /// Whether it has not executed a program since it was forked. Of a group's first thread: others are forked by it.
    #[inline(always)]
    pub(crate) fn is_only_forked(self) -> bool {
        self.load::<u32>(fields::FLAGS) & FORKED != 0
    }

    /// Its `oom_score_adj`, as the two's complement.
    #[inline(always)]
    pub(crate) fn oom_score_adj(self) -> u32 {
        i32::from(self.shared::<i16>(fields::OOM_SCORE_ADJ)) as u32
    }

    /// Bits of [`flag`] on its limit of CPU time. Of the last thread of a group to end.
    #[inline(always)]
    pub(crate) fn cpu_limit(self) -> u32 {
        if is_absent(&OFFSETS[fields::CPU_WARNS]) || is_absent(&OFFSETS[fields::CPU_TIME]) {
            return 0;
        }
        if self.shared::<u64>(fields::CPU_WARNS) > MAX_SECONDS {
            return 0;
        }
        let seconds: u64 = self.shared(fields::CPU_KILLS);
        if seconds > MAX_SECONDS {
            return flag::CPU_LIMITED;
        }
        let used_ns = self.shared::<u64>(fields::CPU_BEFORE).wrapping_add(self.load(fields::CPU_TIME));
        // The kernel counts in ticks, and this counts nanoseconds.
        if used_ns >= seconds.wrapping_mul(TENTH_NS * 9) {
            return flag::CPU_LIMITED | flag::CPU_USED_UP;
        }
        flag::CPU_LIMITED
    }

    /// All threads of the group end, or have ended.
    #[inline(always)]
    pub(crate) fn is_ending(self) -> bool {
        self.shared::<u32>(fields::SIGNAL_FLAGS) & GROUP_EXIT != 0
    }

    /// How the group ended.
    #[inline(always)]
    pub(crate) fn group_exit_code(self) -> u32 {
        if self.is_ending() {
            return self.shared(fields::GROUP_EXIT_CODE);
        }
        self.leaders_exit_code()
    }

    /// Before 5.17 the last thread may end by itself: then the leader's code is the group's. Apart, since older
    /// verifiers cannot follow two loads of different structs that were made one.
    #[inline(never)]
    fn leaders_exit_code(self) -> u32 {
        self.leader().load(fields::EXIT_CODE)
    }

    #[inline(always)]
    fn pid_namespace(self) -> *const u8 {
        let namespaces: *const u8 = self.load(fields::NSPROXY);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(namespaces, &OFFSETS[fields::PID_NS]) }
    }

    /// How deep its pid namespace is.
    #[inline(always)]
    pub(crate) fn namespace_level(self) -> u32 {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.pid_namespace(), &OFFSETS[fields::NS_LEVEL]) }
    }

    /// The first process of its pid namespace.
    #[inline(always)]
    pub(crate) fn reaper(self) -> Self {
        // SAFETY: a typed pointer and an offset of its fields.
        Self(unsafe { load(self.pid_namespace(), &OFFSETS[fields::REAPER]) })
    }

    /// Who awaits its end.
    #[inline(always)]
    pub(crate) fn parent(self) -> Self {
        Self(self.load(fields::PARENT))
    }

    /// Bits of [`flag`].
    #[inline(always)]
    pub(crate) fn flags(self) -> u32 {
        if self.namespace_level() != 0 {
            // pid 1 in its namespace. Not by `signal->flags`, which forgets it when the process ends.
            let is_init = self.reaper().tgid() == self.tgid();
            return if is_init { flag::IN_NAMESPACE | flag::INIT } else { flag::IN_NAMESPACE };
        }
        if self.shared::<u32>(fields::SESSION_LEADER) == 0 {
            return 0;
        }
        if self.parent().tgid() == 1 { flag::SESSION_OF_HOST } else { 0 }
    }

    /// Its group in the hierarchy of version 2; in that of the memory controller, where that has its own.
    #[inline(always)]
    pub(crate) fn cgroup_id(self) -> u64 {
        let unified = self.unified();
        if let Some(memory) = self.memory_group() {
            // SAFETY: a typed pointer and an offset of its fields.
            let level: u32 = unsafe { load(memory, &OFFSETS[fields::CGROUP_LEVEL]) };
            if level != 0 && root(memory) != root(unified) {
                return id(memory) | VERSION_1;
            }
        }
        id(unified)
    }

    /// Whether the memory controller has a hierarchy of its own.
    #[inline(always)]
    pub(crate) fn is_beside_version_1(self) -> bool {
        self.memory_group().is_some_and(|memory| root(memory) != root(self.unified()))
    }

    #[inline(always)]
    fn unified(self) -> *const u8 {
        let groups: *const u8 = self.load(fields::CGROUPS);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(groups, &OFFSETS[fields::CGROUP]) }
    }

    #[inline(always)]
    fn memory_group(self) -> Option<*const u8> {
        if is_absent(&OFFSETS[fields::MEMORY_CSS]) {
            return None;
        }
        // SAFETY: a typed pointer and an offset of its fields.
        Some(unsafe { load(self.memory_css(), &OFFSETS[fields::CSS_CGROUP]) })
    }

    /// The group that the memory controller has for it.
    #[inline(always)]
    pub(crate) fn memory_css(self) -> *const u8 {
        let groups: *const u8 = self.load(fields::CGROUPS);
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(groups, &OFFSETS[fields::MEMORY_CSS]) }
    }
}

/// The group of the running task in the hierarchy that the memory controller has for itself; `None` where that is its
/// root, or helpers are forbidden. By a helper, since the running task has a type from kernel 5.11 on only.
#[inline(always)]
pub(crate) fn current_memory_group() -> Option<u64> {
    if is_absent(&OFFSETS[fields::SI_CODE]) || is_absent(&OFFSETS[fields::MEMORY_CSS]) {
        return None;
    }
    // SAFETY: it has no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let groups: *const u8 = read(task, fields::CGROUPS)?;
    let css: *const u8 = read(groups, fields::MEMORY_CSS)?;
    let group: *const u8 = read(css, fields::CSS_CGROUP)?;
    if read::<u32>(group, fields::CGROUP_LEVEL)? == 0 {
        return None;
    }
    let node: *const u8 = read(group, fields::CGROUP_KN)?;
    Some(read::<u64>(node, fields::KN_ID)? | VERSION_1)
}

/// The hierarchy of a cgroup, as its address.
#[inline(always)]
pub(crate) fn root(cgroup: *const u8) -> u64 {
    // SAFETY: a typed pointer and an offset of its fields.
    unsafe { load(cgroup, &OFFSETS[fields::CGROUP_ROOT]) }
}

/// The id of a cgroup.
#[inline(always)]
pub(crate) fn id(cgroup: *const u8) -> u64 {
    // SAFETY: typed pointers and offsets of their fields.
    unsafe {
        let node: *const u8 = load(cgroup, &OFFSETS[fields::CGROUP_KN]);
        load(node, &OFFSETS[fields::KN_ID])
    }
}
