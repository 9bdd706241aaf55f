//! Which slices are measured: the counters are read at a switch only where a measured slice begins or ends.
//!
//! At few switches all are. At many, one in a power of two, by chance and not by turns: tasks that take turns would
//! have it fall on the same one always. What is measured counts for those that are not.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::map, maps::PerCpuArray};

use crate::counters::Shown;

/// How often the share is chosen anew, in ticks of the kernel: each 32 to 320 ms, by its CONFIG_HZ.
const PERIOD_TICKS: u64 = 32;
/// About how many slices are measured in a period.
const SLICES: u32 = 64;
/// Of fewer than one in so many (a power of two), nothing would be left.
const MOST_SHIFT: u32 = 10;

/// One CPU.
#[repr(C)]
pub(crate) struct Cpu {
    /// The counters when the slice under way began.
    pub(crate) start: Shown,
    /// And at this switch.
    pub(crate) now: Shown,
    /// When the period began, ticks.
    period: u64,
    /// Switches in it.
    switches: u32,
    random: u32,
    /// One in two to the power of this is measured.
    pub(crate) shift: u32,
    /// The slice under way is.
    pub(crate) is_measuring: u32,
}

#[map]
static CPUS: PerCpuArray<Cpu> = PerCpuArray::with_max_entries(1, 0);

/// `None` never happens; the verifier wants it.
#[inline(always)]
pub(crate) fn this_cpu() -> Option<&'static mut Cpu> {
    // SAFETY: a per-CPU map value; the hook runs with interrupts off, and nothing else uses the map.
    CPUS.get_ptr_mut(0).map(|cpu| unsafe { &mut *cpu })
}

impl Cpu {
    /// Whether the slice that begins is to be measured.
    #[inline(always)]
    pub(crate) fn choose(&mut self) -> bool {
        self.switches = self.switches.wrapping_add(1);
        // SAFETY: takes nothing, reads a variable.
        let tick = unsafe { bpf_jiffies64() };
        let ticks = tick.wrapping_sub(self.period);
        if ticks >= PERIOD_TICKS {
            self.adapt(ticks);
            self.period = tick;
        }
        if self.shift == 0 {
            return true;
        }
        // Knuth, MMIX' smaller sibling of Numerical Recipes: its upper bits are good enough.
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random >> (32 - (self.shift & 15)) == 0
    }

    /// The share for the period that begins, by the rate in the one that has ended.
    #[inline(always)]
    fn adapt(&mut self, ticks: u64) {
        let mut switches = self.switches;
        self.switches = 0;
        self.shift = 0;
        // It was longer: for the most part nothing ran.
        if ticks >= 4 * PERIOD_TICKS {
            return;
        }
        while switches > SLICES && self.shift < MOST_SHIFT {
            switches >>= 1;
            self.shift += 1;
        }
    }

    /// A slice begins at what the counters show now.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        self.start = self.now;
    }
}
