//! What every kernel object of Tapio has: the ring of events, the counts, the cool-down, and
//! typed reads of kernel structs at offsets that the agent found in this kernel's BTF.
//!
//! An object is one file in `src/bin`; it begins with [`object!`].
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
pub use tapio_common::{ABSENT, Agent};
use tapio_common::{Comm, Cooldown, CooldownKey, Counts, Event};

/// Programs that one object may hold.
const MAX_PROGRAMS: u32 = 16;
/// Events wait here for the agent: a record is below 256 bytes, so it holds some thousands.
const RING_BYTES: u32 = 1 << 20;
/// Owners and subjects in trouble at a time; the one quiet longest makes room.
const MAX_COOLDOWNS: u32 = 8192;

/// Whether a program may interrupt itself on a CPU; kernels that do not let it leave out the inner run, and count it.
#[unsafe(no_mangle)]
static NESTS: u32 = 0;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
#[map]
static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(MAX_PROGRAMS, 0);
#[map]
static COOLDOWNS: LruHashMap<CooldownKey, Cooldown> = LruHashMap::with_max_entries(MAX_COOLDOWNS, 0);

/// Declares the constants that the agent fills in before it loads an object, and what the
/// language wants of a program without a standard library.
#[macro_export]
macro_rules! object {
    (fields: $fields:path, settings: $settings:ty, counters: $counters:literal) => {
        $crate::object!(fields: $fields, settings: $settings);

        // What each performance counter counts; 0 where there is none.
        #[unsafe(no_mangle)]
        static COUNTERS: [u32; $counters] = [0; $counters];
    };
    (fields: $fields:path, settings: $settings:ty) => {
        // SAFETY: settings are plain old data, for which all zero is a value.
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

        // Some helpers are for GPL-compatible programs only.
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        /// A constant of the object. Volatile: the compiler must not use the value it sees here.
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

/// A field of a kernel struct that the verifier knows the type of: a direct load.
///
/// # Safety
/// `base` is a typed pointer as a `tp_btf` program gets it, and `offset` that of a `T` in its struct.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: *const u8, offset: &u32) -> T {
    // SAFETY: by the caller; the verifier checks the load against the struct's BTF.
    unsafe { read_volatile(base.add(read_volatile(offset) as usize).cast::<T>()) }
}

/// Whether this kernel lacks a field. The verifier knows, and does not look at the way that is not taken.
#[inline(always)]
pub fn is_absent(offset: &u32) -> bool {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(offset) == ABSENT }
}

/// Nanoseconds of the boot clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing, reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The running task. Right in task context only: a soft interrupt runs on top of any task.
pub struct Current {
    /// Cgroup id.
    pub cgroup_id: u64,
    /// Process id in the root pid namespace.
    pub pid: u32,
    /// Command name of the process, which is that of its first thread; of the running one where helpers are forbidden.
    pub comm: Comm,
    /// It is the agent.
    pub is_agent: bool,
}

impl Current {
    /// Asks the kernel. `leader` and `comm` are fields of `task_struct`, which is read with a helper.
    #[inline(always)]
    pub fn get(agent: &Agent, leader: &u32, comm: &u32) -> Self {
        let id = bpf_get_current_pid_tgid();
        let pid = (id >> 32) as u32;
        let is_leader = id as u32 == pid;
        let comm = if is_leader { None } else { name_of_leader(leader, comm) };
        Self {
            // SAFETY: takes nothing.
            cgroup_id: unsafe { bpf_get_current_cgroup_id() },
            pid,
            comm: comm.unwrap_or_else(|| bpf_get_current_comm().unwrap_or_default().into()),
            is_agent: is_agent(agent),
        }
    }
}

#[inline(always)]
fn name_of_leader(leader: &u32, comm: &u32) -> Option<Comm> {
    if is_absent(leader) || is_absent(comm) {
        return None;
    }
    // SAFETY: the helper reads safely, and what it reads is a pointer.
    let read = |base: *const u8, offset: &u32| unsafe {
        bpf_probe_read_kernel(base.add(read_volatile(offset) as usize).cast::<*const u8>())
    };
    // SAFETY: it has no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let leader = read(task, leader).ok()?;
    // SAFETY: as above, and what it reads is a name.
    unsafe { bpf_probe_read_kernel(leader.add(read_volatile(comm) as usize).cast::<Comm>()) }.ok()
}

/// Whether the running task is the agent's.
#[inline(always)]
pub fn is_agent(agent: &Agent) -> bool {
    let mut seen = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the out-pointer is a local of the size that is given. Fails in other pid namespaces.
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

/// One run of a program: counts what becomes of its reading.
pub struct Run(*mut Counts);

impl Run {
    /// Begins with a reading seen. `None` never happens; the verifier wants it.
    #[inline(always)]
    pub fn begin(program: u32) -> Option<Self> {
        let run = Self(COUNTS.get_ptr_mut(program)?);
        run.add(|counts| &mut counts.seen);
        Some(run)
    }

    #[inline(always)]
    fn add(&self, which: impl FnOnce(&mut Counts) -> &mut u64) {
        // SAFETY: a per-CPU map value, which only programs on this CPU change.
        let count = which(unsafe { &mut *self.0 });
        // SAFETY: a reference is valid for reads.
        if unsafe { read_volatile(&raw const NESTS) } == 0 {
            *count = count.wrapping_add(1);
        } else {
            // SAFETY: valid as long as the map is. The target has no atomic types.
            unsafe {
                asm!("lock *(u64 *)({count} + 0) += {one}", count = in(reg) count, one = in(reg) 1_u64)
            };
        }
    }

    /// A key was met for the first time.
    #[inline(always)]
    pub fn new_key(&self) {
        self.add(|counts| &mut counts.keys);
    }

    /// Too little is known to judge it.
    #[inline(always)]
    pub fn learning(self) {
        self.add(|counts| &mut counts.learning);
    }

    /// Nothing is wrong.
    #[inline(always)]
    pub fn normal(self) {
        self.add(|counts| &mut counts.normal);
    }

    /// The event of a moment ago stands for this one too.
    #[inline(always)]
    pub fn suppressed(self) {
        self.add(|counts| &mut counts.suppressed);
    }

    /// Puts an event into the ring: `fill` writes it in its place there, which is all zero before.
    #[inline(always)]
    pub fn emit<E: Event>(self, fill: impl FnOnce(&mut E)) -> bool {
        let Some(mut entry) = EVENTS.reserve::<E>(0) else {
            self.add(|counts| &mut counts.failed);
            return false;
        };
        let event = entry.as_mut_ptr();
        // SAFETY: the reserved bytes are ours until they are submitted, and all zero is an event.
        fill(unsafe {
            event.write_bytes(0, 1);
            &mut *event
        });
        entry.submit(0);
        self.add(|counts| &mut counts.emitted);
        true
    }

    /// Emits an event, unless its key is quiet. `fill` also gets how many were suppressed.
    #[inline(always)]
    pub fn emit_unless_quiet<E: Event>(
        self,
        key: &CooldownKey,
        cooldown_ns: u64,
        now_ns: u64,
        fill: impl FnOnce(&mut E, u32),
    ) {
        let mut suppressed = 0;
        if let Some(cooldown) = COOLDOWNS.get_ptr_mut(key) {
            // SAFETY: a map value; two CPUs that race here can miscount the suppressed by one.
            let cooldown = unsafe { &mut *cooldown };
            if now_ns.wrapping_sub(cooldown.emitted_ns) < cooldown_ns {
                cooldown.suppressed = cooldown.suppressed.wrapping_add(1);
                return self.suppressed();
            }
            suppressed = cooldown.suppressed;
            *cooldown = Cooldown { emitted_ns: now_ns, suppressed: 0 };
        } else {
            // A map without room for it costs a repeat, no event.
            let _ = COOLDOWNS.insert(key, Cooldown { emitted_ns: now_ns, suppressed: 0 }, 0);
        }
        if !self.emit(|event| fill(event, suppressed as u32)) {
            // Nothing was said: the next of this key must not be suppressed, and has to say how many were.
            let said = Cooldown { emitted_ns: now_ns.wrapping_sub(cooldown_ns), suppressed };
            let _ = COOLDOWNS.insert(key, said, 0);
        }
    }
}
