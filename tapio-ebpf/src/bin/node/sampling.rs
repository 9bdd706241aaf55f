//! Chooses which slices are measured. The counters are read at a context switch only if a measured slice begins or
//! ends.
//!
//! While a CPU switches rarely, all slices are measured; else one in a power of two. The choice is random: if it went
//! by turns, tasks that alternate would always have the same one measured. Each measured slice also counts for those
//! that are not.

use aya_ebpf::{helpers::generated::bpf_jiffies64, macros::map, maps::PerCpuArray};

use crate::counters::CounterValues;

/// How often the measured share is adapted, in kernel ticks: every 32 to 320 ms, depending on CONFIG_HZ.
const PERIOD_TICKS: u64 = 32;
/// Approximate number of slices that are measured in a period.
const TARGET_SLICES: u32 = 64;
/// The smallest share is one in two to the power of this; with less, too few slices would be measured.
const MAX_SHIFT: u32 = 10;

/// State of one CPU.
#[repr(C)]
pub(crate) struct Cpu {
    /// Counters when the current slice began.
    pub(crate) start: CounterValues,
    /// Counters at this context switch.
    pub(crate) now: CounterValues,
    /// When the current period began, in ticks.
    period: u64,
    /// Context switches in the current period.
    switches: u32,
    random: u32,
    /// One slice in two to the power of this is measured.
    pub(crate) shift: u32,
    /// 1 if the current slice is measured.
    pub(crate) is_measuring: u32,
}

#[map]
static CPUS: PerCpuArray<Cpu> = PerCpuArray::with_max_entries(1, 0);

/// State of the current CPU. Never `None`; the verifier requires the check.
#[inline(always)]
pub(crate) fn this_cpu() -> Option<&'static mut Cpu> {
    // SAFETY: a per-CPU map value; the hook runs with interrupts off, and nothing else uses the map.
    CPUS.get_ptr_mut(0).map(|cpu| unsafe { &mut *cpu })
}

impl Cpu {
    /// Decides whether the slice that begins is measured.
    #[inline(always)]
    pub(crate) fn should_measure(&mut self) -> bool {
        self.switches = self.switches.wrapping_add(1);
        // SAFETY: the helper takes no arguments and reads a variable.
        let tick = unsafe { bpf_jiffies64() };
        let ticks = tick.wrapping_sub(self.period);
        if ticks >= PERIOD_TICKS {
            self.adapt(ticks);
            self.period = tick;
        }
        if self.shift == 0 {
            return true;
        }
        // Linear congruential generator with the constants of Numerical Recipes (Knuth and Lewis); its upper bits are
        // random enough.
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random >> (32 - (self.shift & 15)) == 0
    }

    /// Sets the share for the period that begins, by the rate of switches in the one that ended.
    #[inline(always)]
    fn adapt(&mut self, ticks: u64) {
        let mut switches = self.switches;
        self.switches = 0;
        self.shift = 0;
        // The period was much longer than planned: the CPU was mostly idle.
        if ticks >= 4 * PERIOD_TICKS {
            return;
        }
        while switches > TARGET_SLICES && self.shift < MAX_SHIFT {
            switches >>= 1;
            self.shift += 1;
        }
    }

    /// Starts a slice at the current counter values.
    #[inline(always)]
    pub(crate) fn begin(&mut self) {
        self.start = self.now;
    }
}
