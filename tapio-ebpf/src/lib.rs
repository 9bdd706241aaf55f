//! Shared by all of Tapio's kernel objects: the ring buffer of events, the counts, the cool-down, and typed reads of
//! kernel structs at offsets that the agent looked up in this kernel's BTF.
//!
//! Each object is one file in `src/bin`, which starts with [`object!`].
#![no_std]
#![feature(asm_experimental_arch)]

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_current_task, bpf_get_ns_current_pid_tgid,
            bpf_ktime_get_boot_ns,
        },
    },
    macros::map,
    maps::{LruHashMap, PerCpuArray, RingBuf},
};
use bytemuck::Pod;
pub use tapio_common::{ABSENT, Agent, since};
use tapio_common::{Comm, Cooldown, CooldownKey, Counts, Event};

/// Maximum number of programs in one object.
const MAX_PROGRAMS: u32 = 16;
/// Size of the ring buffer. A record is below 256 bytes, so it holds some thousands.
const RING_BYTES: u32 = 1 << 20;
/// Pairs of owner and subject that can be in cool-down at a time; the least recently used one is evicted.
const MAX_COOLDOWNS: u32 = 8192;

/// 1 if a program may interrupt itself on a CPU. Kernels that forbid this skip the inner run, and count it as missed.
#[unsafe(no_mangle)]
static NESTS: u32 = 0;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(MAX_PROGRAMS, 0);
#[map]
static COOLDOWNS: LruHashMap<CooldownKey, Cooldown> = LruHashMap::with_max_entries(MAX_COOLDOWNS, 0);

/// Declares the constants that the agent sets before it loads an object, and the items that a program without a
/// standard library must define.
#[macro_export]
macro_rules! object {
    (fields: $fields:path, settings: $settings:ty, counters: $counters:literal) => {
        $crate::object!(fields: $fields, settings: $settings);

        // What each performance counter counts; 0 if there is none.
        #[unsafe(no_mangle)]
        static COUNTERS: [u32; $counters] = [0; $counters];
    };
    (fields: $fields:path, settings: $settings:ty) => {
        // SAFETY: settings are plain old data, so all zeros are a valid value.
        #[unsafe(no_mangle)]
        static SETTINGS: $settings = unsafe { core::mem::zeroed() };
        $crate::object!(fields: $fields);
    };
    (fields: $fields:path) => {
        #[unsafe(no_mangle)]
        static OFFSETS: [u32; $fields.len()] = [$crate::ABSENT; $fields.len()];
        #[unsafe(no_mangle)]
        static AGENT: $crate::Agent =
            $crate::Agent { pid_namespace_device: 0, pid_namespace_inode: 0, pid: 0, tick_ns: 0 };

        // Some BPF helpers are restricted to GPL-compatible programs.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        /// Reads a constant of the object. The read is volatile: the agent sets the value after compilation.
        #[inline(always)]
        fn constant<T: Copy>(global: &T) -> T {
            // SAFETY: a reference is valid for reads.
            unsafe { core::ptr::read_volatile(global) }
        }

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }
    };
}

/// Reads a field of a kernel struct whose type the verifier knows, by a direct load. The kernel makes zero of a load that
/// faults, as behind a null pointer.
///
/// # Safety
/// `base` must be a typed pointer as a `tp_btf` program receives it, and `offset` that of a `T` in its struct. Where it may be
/// null, the function must not be inlined into the program: a kernel such as Debian 11's (5.10) may look up a fault of the
/// main program, if that calls functions, in a table that is not there, and panics ("bpf: ensure main program has an extable",
/// since 6.4). So programs that follow pointers are `#[inline(never)]`: the main program then calls them, and does nothing else.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const u8, offset: &u32) -> T {
    // SAFETY: guaranteed by the caller; the verifier checks the load against the struct's BTF.
    unsafe { read_volatile(base.add(read_volatile(offset) as usize).cast::<T>()) }
}

/// Reads a field of several words, like [`load`]. The verifier accepts loads of up to eight bytes.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub unsafe fn load_words<const N: usize>(base: *const u8, offset: &u32) -> [u64; N] {
    // SAFETY: guaranteed by the caller.
    core::array::from_fn(|index| unsafe { load(base.add(index * size_of::<u64>()), offset) })
}

/// Reads 32 bits of a field, zero-extended, like [`load`], but in one instruction, for programs that run so often that each
/// counts: its offset is a mark in the instruction, which the agent replaces.
///
/// # Safety
/// `base` must be a typed pointer as a `tp_btf` program receives it, and `FIELD` the index of a field of its struct.
#[inline(always)]
pub unsafe fn word<const FIELD: usize>(base: *const u8) -> u64 {
    let word: u64;
    // SAFETY: guaranteed by the caller; the verifier checks the load against the struct's BTF.
    unsafe {
        asm!(
            "{word} = *(u32 *)({base} + {mark})",
            word = lateout(reg) word,
            base = in(reg) base,
            mark = const tapio_common::FIELD + FIELD,
            options(pure, readonly, nostack),
        );
    }
    word
}

/// Id of a task's cgroup v2, by the offsets of `task_struct.cgroups`, `css_set.dfl_cgrp`, `cgroup.kn` and `kernfs_node.id`.
///
/// # Safety
/// As for [`load`], of all of them.
#[inline(always)]
pub unsafe fn cgroup_of(task: *const u8, [cgroups, cgroup, kn, id]: [&u32; 4]) -> u64 {
    // SAFETY: guaranteed by the caller. Fields behind a null pointer read as zero.
    unsafe {
        let css_set: *const u8 = load(task, cgroups);
        let cgroup: *const u8 = load(css_set, cgroup);
        let node: *const u8 = load(cgroup, kn);
        load(node, id)
    }
}

/// Returns true if this kernel lacks a field. The verifier knows the value, and skips the branch that is not taken.
#[inline(always)]
pub fn is_absent(offset: &u32) -> bool {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(offset) == ABSENT }
}

/// Returns the value, of which the verifier then knows nothing. It walks each path on its own as long as paths leave different
/// numbers behind; where they are forgotten, what follows is walked once. `unknown` is any number that the verifier does not
/// know, such as one read from the kernel.
#[inline(always)]
pub fn forget(value: u64, unknown: u64) -> u64 {
    let mut forgotten = value;
    // SAFETY: it changes a register, and changes it back.
    unsafe {
        asm!(
            "{value} ^= {unknown}",
            "{value} ^= {unknown}",
            value = inout(reg) forgotten,
            unknown = in(reg) unknown,
            options(pure, nomem, nostack),
        );
    }
    forgotten
}

/// [`forget`] for plain old data of `N` words.
#[inline(always)]
pub fn forget_all<T: Pod, const N: usize>(value: T, unknown: u64) -> T {
    bytemuck::cast(bytemuck::cast::<T, [u64; N]>(value).map(|word| forget(word, unknown)))
}

/// Current time in nanoseconds, boot clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The current task. Only meaningful in task context: a softirq runs on top of an arbitrary task.
pub struct Current {
    /// Cgroup id.
    pub cgroup_id: u64,
    /// Process id (tgid) in the root PID namespace.
    pub pid: u32,
    /// Command name of the process, which is that of its first thread. Where helpers are forbidden, that of the current
    /// thread.
    pub comm: Comm,
    /// True for the agent's own process.
    pub is_agent: bool,
}

impl Current {
    /// Reads the current task. `leader` and `comm` are offsets in `task_struct`, which a helper reads.
    #[inline(always)]
    pub fn get(agent: &Agent, leader: &u32, comm: &u32) -> Self {
        let id = bpf_get_current_pid_tgid();
        let pid = (id >> 32) as u32;
        let is_leader = id as u32 == pid;
        let comm = if is_leader { None } else { leader_comm(leader, comm) };
        // SAFETY: the helper takes no arguments.
        let cgroup_id = unsafe { bpf_get_current_cgroup_id() };
        let comm: Comm = comm.unwrap_or_else(|| bpf_get_current_comm().unwrap_or_default().into());
        Self {
            cgroup_id,
            pid,
            comm: forget_all::<_, 2>(comm, cgroup_id),
            is_agent: forget(is_agent(agent).into(), cgroup_id) != 0,
        }
    }
}

#[inline(always)]
fn leader_comm(leader: &u32, comm: &u32) -> Option<Comm> {
    if is_absent(leader) || is_absent(comm) {
        return None;
    }
    // SAFETY: the helper tolerates any address, and every bit pattern is a valid raw pointer.
    let read = |base: *const u8, offset: &u32| unsafe {
        bpf_probe_read_kernel(base.add(read_volatile(offset) as usize).cast::<*const u8>())
    };
    // SAFETY: the helper takes no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let leader = read(task, leader).ok()?;
    // SAFETY: as above, and every bit pattern is a valid name.
    unsafe { bpf_probe_read_kernel(leader.add(read_volatile(comm) as usize).cast::<Comm>()) }.ok()
}

/// Returns true if the current task belongs to the agent.
#[inline(always)]
pub fn is_agent(agent: &Agent) -> bool {
    let mut seen = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the out-pointer is a local of the given size. The helper fails in other PID namespaces.
    let same_namespace = unsafe {
        bpf_get_ns_current_pid_tgid(
            agent.pid_namespace_device,
            agent.pid_namespace_inode,
            &raw mut seen,
            size_of::<bpf_pidns_info>() as u32,
        )
    } == 0;
    same_namespace && u64::from(seen.tgid) == agent.pid
}

/// One run of a program. Counts the outcome of its reading.
pub struct Run(*mut Counts);

impl Run {
    /// Starts a run and counts a reading as seen. Never returns `None`; the verifier requires the check.
    #[inline(always)]
    pub fn begin(program: u32) -> Option<Self> {
        let run = Self(COUNTS.get_ptr_mut(program)?);
        run.add(|counts| &mut counts.seen);
        Some(run)
    }

    #[inline(always)]
    fn add(&self, which: impl FnOnce(&mut Counts) -> &mut u64) {
        // SAFETY: a per-CPU map value that only programs on this CPU change.
        let count = which(unsafe { &mut *self.0 });
        // SAFETY: a reference is valid for reads.
        if unsafe { read_volatile(&raw const NESTS) } == 0 {
            *count = count.wrapping_add(1);
        } else {
            // SAFETY: the pointer is valid as long as the map. Inline assembly, since the target has no atomic types.
            unsafe {
                asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1_u64)
            };
        }
    }

    /// Counts a key that appeared for the first time.
    #[inline(always)]
    pub fn new_key(&self) {
        self.add(|counts| &mut counts.keys);
    }

    /// Ends the run: the baseline has too few samples to judge the reading.
    #[inline(always)]
    pub fn learning(self) {
        self.add(|counts| &mut counts.learning);
    }

    /// Ends the run: the reading is normal.
    #[inline(always)]
    pub fn normal(self) {
        self.add(|counts| &mut counts.normal);
    }

    /// Ends the run: an event that was emitted a moment ago covers this reading, too.
    #[inline(always)]
    pub fn suppressed(self) {
        self.add(|counts| &mut counts.suppressed);
    }

    /// Ends the run with an event. `fill` writes it in place in the ring buffer, zeroed before. Returns false if the
    /// ring buffer is full.
    #[inline(always)]
    pub fn emit<E: Event>(self, fill: impl FnOnce(&mut E)) -> bool {
        let Some(mut entry) = EVENTS.reserve::<E>(0) else {
            self.add(|counts| &mut counts.failed);
            return false;
        };
        let event = entry.as_mut_ptr();
        // SAFETY: the reserved bytes are ours until they are submitted, and all zeros are a valid event.
        fill(unsafe {
            event.write_bytes(0, 1);
            &mut *event
        });
        entry.submit(0);
        self.add(|counts| &mut counts.emitted);
        true
    }

    /// Emits an event unless its key is in cool-down. `fill` also receives how many events were suppressed before it.
    #[inline(always)]
    pub fn emit_unless_cooling_down<E: Event>(
        self,
        key: &CooldownKey,
        cooldown_ns: u64,
        now_ns: u64,
        fill: impl FnOnce(&mut E, u32),
    ) {
        let mut suppressed = 0;
        if let Some(cooldown) = COOLDOWNS.get_ptr_mut(key) {
            // SAFETY: a map value; CPUs that race here can miscount the suppressed events by one.
            let cooldown = unsafe { &mut *cooldown };
            if since(now_ns, cooldown.emitted_ns) < cooldown_ns {
                cooldown.suppressed = cooldown.suppressed.wrapping_add(1);
                return self.suppressed();
            }
            suppressed = cooldown.suppressed;
            *cooldown = Cooldown { emitted_ns: now_ns, suppressed: 0 };
        } else {
            // If the map has no room, the next event of this key is not suppressed; no event is lost.
            let _ = COOLDOWNS.insert(key, Cooldown { emitted_ns: now_ns, suppressed: 0 }, 0);
        }
        let suppressed = forget(suppressed, now_ns);
        if !self.emit(|event| fill(event, suppressed as u32)) {
            // The event was lost: the next one of this key must not be suppressed, and must carry the suppressed count.
            let retry = Cooldown { emitted_ns: now_ns.wrapping_sub(cooldown_ns), suppressed };
            let _ = COOLDOWNS.insert(key, retry, 0);
        }
    }
}
