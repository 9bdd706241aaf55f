//! Registers of a task in a system call.

use tapio_common::health;
use tapio_ebpf::{is_absent, load};

use crate::OFFSETS;

/// `__USER32_CS`, arch/x86/include/asm/segment.h, and its lower half under Xen.
const USER32_CS: u8 = 0x23;
/// `PSR_MODE32_BIT`, arch/arm64/include/uapi/asm/ptrace.h.
const MODE32: u64 = 0x10;
/// The number of no system call.
const NONE: u64 = u64::MAX;

/// A typed pointer to them, as `tp_btf` programs receive it.
#[derive(Clone, Copy)]
pub(crate) struct Registers(pub(crate) *const u8);

impl Registers {
    #[inline(always)]
    fn load<T: Copy>(self, field: usize) -> T {
        // SAFETY: a typed pointer and an offset of its fields.
        unsafe { load(self.0, &OFFSETS[field]) }
    }

    /// Number of the system call. Those of 32-bit programs are others: they have none here.
    #[inline(always)]
    pub(crate) fn call(self) -> u64 {
        if is_absent(&OFFSETS[health::ORIG_AX]) { self.arm64() } else { self.x86() }
    }

    #[inline(never)]
    fn x86(self) -> u64 {
        if self.load::<u8>(health::CS) == USER32_CS {
            return NONE;
        }
        self.load(health::ORIG_AX)
    }

    #[inline(never)]
    fn arm64(self) -> u64 {
        if is_absent(&OFFSETS[health::SYSCALLNO]) || self.load::<u64>(health::PSTATE) & MODE32 != 0 {
            return NONE;
        }
        // Negative outside a system call.
        self.load::<u32>(health::SYSCALLNO).into()
    }
}
