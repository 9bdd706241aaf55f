//! Health observer: what its kernel program counts, kernel fields, settings.

use bytemuck::{Pod, Zeroable};

use crate::Comm;

crate::fields! {
    /// x86: number of the system call.
    ORIG_AX = "pt_regs.orig_ax";
    /// x86: code segment, which tells a 32-bit program.
    CS = "pt_regs.cs";
    /// arm64: number of the system call.
    SYSCALLNO = "pt_regs.syscallno";
    /// arm64: state of the CPU, which tells a 32-bit program.
    PSTATE = "pt_regs.pstate";
    /// First thread of a process.
    LEADER = "task_struct.group_leader";
    /// Command name.
    COMM = "task_struct.comm";
}

/// Fields that the program reads with a helper, and can do without.
pub const BY_HELPER: &[usize] = &[LEADER, COMM];

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Results of system calls.
    pub const SYS_EXIT: u32 = 0;
}

/// Name of the map of [`Failures`].
pub const FAILURES: &str = "FAILURES";

/// The errors that may count, as the kernel numbers them (include/uapi/asm-generic/errno.h); a call that fails returns the
/// negative.
pub mod error {
    /// A process, user or cgroup has no more threads.
    pub const EAGAIN: u32 = 11;
    /// No memory, or no address space.
    pub const ENOMEM: u32 = 12;
    /// The node has no more open files.
    pub const ENFILE: u32 = 23;
    /// A process has no more open files.
    pub const EMFILE: u32 = 24;
    /// A file system is full.
    pub const ENOSPC: u32 = 28;
    /// A file system takes no writes.
    pub const EROFS: u32 = 30;
    /// A disk quota is used up.
    pub const EDQUOT: u32 = 122;
}

/// The bit of an error in [`Settings::calls`]; 0 for one that never counts.
#[inline(always)]
#[must_use]
pub const fn bit(errno: u64) -> u8 {
    // Compared one by one, since the kernel programs' target has no jump tables.
    match errno as u32 {
        error::EAGAIN => 1,
        error::ENOMEM => 2,
        error::ENFILE => 4,
        error::EMFILE => 8,
        error::ENOSPC => 16,
        error::EROFS => 32,
        error::EDQUOT => 64,
        _ => 0,
    }
}

/// System calls have lower numbers. A power of two.
pub const CALLS: usize = 512;

/// What the kernel program receives as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// By number of the system call: [`bit`]s of the errors that count.
    pub calls: [u8; CALLS],
}

/// What is counted apart.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Call {
    /// Cgroup id of the process.
    pub cgroup_id: u64,
    /// Number of the system call.
    pub number: u32,
    /// One of [`error`].
    pub errno: u32,
}

/// How often a system call has failed in a cgroup, and for whom last. All zeros is never.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Failures {
    /// How often since the program was loaded.
    pub count: u64,
    /// When last, boot clock.
    pub time_ns: u64,
    /// Process id of the last one.
    pub pid: u32,
    /// Unused.
    pub padding: u32,
    /// Command name of the last one.
    pub comm: Comm,
}
