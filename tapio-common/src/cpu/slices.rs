//! Who ran on a CPU while a task waited for it.

use bytemuck::{Pod, Zeroable};

/// The slices of a CPU. All zeros is one of which nothing is known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Slices {
    /// Thread whose slice runs; 0 for the idle task.
    pub pid: u32,
    /// Slices since one was last accounted that had not to wait.
    pub since_accounted: u32,
    /// How long the task had waited before this slice, the wait right before it not included.
    pub run_delay_ns: u64,
    /// How long it had run before this slice.
    pub ran_ns: u64,
    /// Cgroup that ran right before; 0 if the CPU was idle.
    pub before: u64,
    /// Sum of the slices before this one: a clock that stands still while the CPU is idle.
    busy_ns: u64,
    /// Cgroup of the longest slice of late; 0 for none.
    longest: u64,
    /// Its length, less an eighth for each slice since.
    longest_ns: u64,
    /// When it ended, by `busy_ns`.
    longest_end_ns: u64,
}

impl Slices {
    /// Cgroup that ran while the task waited for so long whose slice runs; 0 if the CPU was idle.
    ///
    /// Where many wait, they run one after the other for a moment each, and who ran right before is one of them. It is the owner
    /// of the longest slice that ended meanwhile, which they all waited for.
    #[inline(always)]
    #[must_use]
    pub const fn instead(&self, waited_ns: u64) -> u64 {
        let is_of_the_wait = self.busy_ns.wrapping_sub(self.longest_end_ns) < waited_ns;
        if self.longest != 0 && is_of_the_wait { self.longest } else { self.before }
    }

    /// The slice of a cgroup has ended, after so long.
    #[inline(always)]
    pub const fn end(&mut self, cgroup_id: u64, ns: u64) {
        self.busy_ns = self.busy_ns.wrapping_add(ns);
        if ns >= self.longest_ns {
            self.longest = cgroup_id;
            self.longest_ns = ns;
            self.longest_end_ns = self.busy_ns;
        } else {
            self.longest_ns -= self.longest_ns >> 3;
        }
        self.before = cgroup_id;
    }

    /// The CPU was idle: whoever ran before that, nobody waited for it.
    #[inline(always)]
    pub const fn idle(&mut self) {
        self.before = 0;
        self.longest = 0;
        self.longest_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOG: u64 = 1;
    const OTHER: u64 = 2;
    const US: u64 = 1_000;

    #[test]
    fn those_that_waited_together_waited_for_the_longest_slice() {
        let mut slices = Slices::default();
        slices.end(HOG, 3_000 * US);
        for waiting in 3..9 {
            assert_eq!(slices.instead(2_000 * US), HOG);
            slices.end(waiting, 50 * US);
        }
        // Who came later waited for the last of them.
        assert_eq!(slices.instead(200 * US), 8);
    }

    #[test]
    fn who_was_long_once_is_forgotten() {
        let mut slices = Slices::default();
        slices.end(OTHER, 5_000 * US);
        for _ in 0..20 {
            slices.end(HOG, 500 * US);
        }
        assert_eq!(slices.instead(100_000 * US), HOG);
    }

    #[test]
    fn nobody_waits_for_an_idle_cpu() {
        let mut slices = Slices::default();
        slices.end(HOG, 3_000 * US);
        slices.idle();
        assert_eq!(slices.instead(10_000 * US), 0);
        slices.end(OTHER, 10 * US);
        assert_eq!(slices.instead(10_000 * US), OTHER);
    }
}
