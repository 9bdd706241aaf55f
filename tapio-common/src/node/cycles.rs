//! Cycles per instruction (CPI) of each cgroup and of the node: counted at each context switch, judged once a window.
//!
//! The baseline is kept in cycles per 1024 instructions. Windows are compared only at comparable load: the cgroup used
//! about as much CPU time as normal, or executed about as many instructions. Twice the work doubles both; a noisy
//! neighbour that takes the cache changes only one of them.

use bytemuck::{Pod, Zeroable};

use crate::{
    Event, Header,
    baseline::{
        Baseline, Limits,
        apart::{LEARNING, NORMAL, SHIFT, judge},
    },
    since,
};

crate::fields! {
    /// Thread id; 0 is the idle task.
    PID = "task_struct.pid";
    /// Cgroups of a task.
    CGROUPS = "task_struct.cgroups";
    /// The cgroup v2.
    CGROUP = "css_set.dfl_cgrp";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node: the cgroup id.
    KN_ID = "kernfs_node.id";
}

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Cycles and instructions.
    pub const SCHED_SWITCH: u32 = 0;
}

/// What the third counter counts: values of [`CyclesEvent::extra_kind`], and of the third of `COUNTERS`.
pub mod extra {
    /// There is no third counter.
    pub const NONE: u32 = 0;
    /// Cycles in which the CPU waited for memory or another unit (stalled cycles, backend).
    pub const STALLED: u32 = 1;
    /// Last-level cache misses.
    pub const MISSES: u32 = 2;
}

/// A window is not judged if less of its CPU time than this was counted, in 1/1024: others used the counters.
const MIN_COUNTED_SHARE: u64 = 256;
/// A window with fewer slices than this is not judged.
const MIN_SLICES: u64 = 16;
/// After this many windows in a row at another load, or once one of them is a new level of the load, all baselines are
/// learned anew.
const MAX_OTHER_LOAD: u32 = 4;

/// One record of the ring buffer: cycles per instruction have been far above normal for several windows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CyclesEvent {
    /// When it happened, and in which cgroup; has no process.
    pub header: Header,
    /// One of [`super::kind`].
    pub kind: u32,
    /// One of [`extra`].
    pub extra_kind: u32,
    /// Counts of the last window.
    pub usage: Usage,
    /// Length of the last window.
    pub window_ns: u64,
    /// When the first of the abnormal windows began, boot clock.
    pub since_ns: u64,
    /// Baseline before the last window, in cycles per 1024 instructions.
    pub cpi: Baseline,
}

impl Event for CyclesEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Counts of what ran, summed over slices. A slice lasts from one context switch on a CPU to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Usage {
    /// Cycles, for as long as they were counted.
    pub cycles: u64,
    /// Instructions, for as long as they were counted, which is the same time as for cycles.
    pub instructions: u64,
    /// Value of the third counter; see [`extra`].
    pub extra: u64,
    /// CPU time.
    pub ns: u64,
    /// CPU time for which the counters counted; less than `ns` if others use them, too.
    pub counted_ns: u64,
    /// Number of measured slices.
    pub slices: u64,
    /// Node only: cycles of cgroups whose normal CPI is known.
    pub known_cycles: u64,
    /// Node only: cycles that these cgroups would have taken at their normal CPI.
    pub expected_cycles: u64,
}

/// State of a cgroup, or of the node. All zeros is one without samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Track {
    /// When the current window began, boot clock; 0 before the first.
    pub began_ns: u64,
    /// Counts of the current window so far.
    pub usage: Usage,
    /// Cycles per 1024 instructions.
    pub cpi: Baseline,
    /// CPU time of a window, in 1/1024 of its length.
    pub time: Baseline,
    /// Instructions of a window, in about 1/1024 of an instruction per millisecond.
    pub work: Baseline,
    /// When the first of the abnormal windows began, boot clock.
    pub since_ns: u64,
    /// Number of abnormal windows in a row.
    pub outlier_windows: u32,
    /// Number of windows in a row at another load.
    pub other_load_windows: u32,
}

/// Thresholds that the kernel program receives as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// For cycles per 1024 instructions.
    pub cpi: Limits,
    /// For CPU time and instructions of a window.
    pub load: Limits,
    /// Length of a window.
    pub window_ns: u64,
    /// Minimum CPU time of a window that is judged.
    pub min_cpu_ns: u64,
    /// Number of abnormal windows in a row before one is reported.
    pub sustain: u64,
    /// Cool-down: how long further events of a key are suppressed.
    pub cooldown_ns: u64,
}

/// Result of judging a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowVerdict {
    /// Too little ran to judge: not a reading.
    Idle,
    /// The window trained the baselines, or there is nothing to compare it with.
    Learning,
    /// Normal, or not abnormal for long enough.
    Normal,
    /// Cycles per instruction have been abnormal for long enough.
    Outlier,
}

impl Usage {
    /// Adds a slice. Plain additions, since the kernel programs' target has no atomic ones: if two CPUs add at the same
    /// time, one of the slices may be lost.
    #[inline(always)]
    pub fn add(&mut self, slice: &Self) {
        self.cycles = self.cycles.wrapping_add(slice.cycles);
        self.instructions = self.instructions.wrapping_add(slice.instructions);
        self.extra = self.extra.wrapping_add(slice.extra);
        self.ns = self.ns.wrapping_add(slice.ns);
        self.counted_ns = self.counted_ns.wrapping_add(slice.counted_ns);
        self.slices = self.slices.wrapping_add(slice.slices);
        self.known_cycles = self.known_cycles.wrapping_add(slice.known_cycles);
        self.expected_cycles = self.expected_cycles.wrapping_add(slice.expected_cycles);
    }

    /// Cycles per 1024 instructions; `None` without instructions.
    #[inline(always)]
    #[must_use]
    pub const fn cpi(&self) -> Option<u64> {
        self.cycles.wrapping_mul(1024).checked_div(self.instructions)
    }

    /// Share of the CPU time that was counted, in 1/1024.
    #[inline(always)]
    #[must_use]
    pub const fn counted_share(&self) -> u64 {
        match self.counted_ns.wrapping_mul(1024).checked_div(self.ns) {
            Some(share) if share < 1024 => share,
            Some(_) => 1024,
            None => 0,
        }
    }

    /// Returns true if the same mix of cgroups would normally have taken fewer cycles, by half of the margin that makes
    /// an anomaly: the node as a whole has become slower, rather than running other work.
    #[inline(always)]
    #[must_use]
    pub const fn is_slower_than_its_mix(&self, ratio_percent: u16) -> bool {
        self.known_cycles > self.cycles / 2
            && self.known_cycles.wrapping_mul(200)
                > self.expected_cycles.wrapping_mul(100 + ratio_percent as u64)
    }
}

impl Track {
    /// Returns true if a slice that ended at `now_ns` ends the window. A window that should have ended long before is
    /// discarded: nothing ran in between, so its load cannot be compared.
    #[inline(always)]
    pub fn window_ended(&mut self, now_ns: u64, window_ns: u64) -> bool {
        let length_ns = since(now_ns, self.began_ns);
        if length_ns < window_ns {
            return false;
        }
        if length_ns < window_ns.wrapping_mul(2) {
            return true;
        }
        self.usage = Usage::default();
        self.began_ns = now_ns;
        self.outlier_windows = 0;
        false
    }

    /// Cycles that `instructions` take at the normal CPI; `None` if that is not known.
    #[inline(always)]
    pub fn expect(&self, instructions: u64, settings: &Settings) -> Option<u64> {
        let mean = self.cpi.mean();
        let is_known = self.cpi.samples() >= settings.cpi.min_samples && mean < 1 << 20;
        if is_known { Some((instructions * mean) >> 10) } else { None }
    }

    /// Ends a window and judges it. `before` receives the CPI baseline as it was until then.
    #[inline(always)]
    pub fn close(
        &mut self,
        usage: &Usage,
        window_ns: u64,
        now_ns: u64,
        settings: &Settings,
        before: &mut Baseline,
    ) -> WindowVerdict {
        let began_ns = now_ns.wrapping_sub(window_ns);
        if usage.ns < settings.min_cpu_ns || usage.slices < MIN_SLICES {
            self.outlier_windows = 0;
            return WindowVerdict::Idle;
        }
        let counted = usage.counted_share();
        let Some(cpi) = usage.cpi() else {
            self.outlier_windows = 0;
            return WindowVerdict::Learning;
        };
        if counted < MIN_COUNTED_SHARE {
            self.outlier_windows = 0;
            return WindowVerdict::Learning;
        }
        let time = usage.ns.wrapping_mul(1024).checked_div(window_ns).unwrap_or(0);
        // Scaled by 1024 to keep fractions, since the numbers may be small.
        let whole = usage.instructions.wrapping_mul(1024).checked_div(counted).unwrap_or(0);
        let work = whole.wrapping_mul(1024).checked_div(window_ns >> 20).unwrap_or(0);
        let is_learning = self.time.samples() < settings.load.min_samples;
        let is_comparable = is_near(time, self.time.mean()) || is_near(work, self.work.mean());
        judge(&mut self.time, time, now_ns, &settings.load);
        judge(&mut self.work, work, now_ns, &settings.load);
        if !is_learning && !is_comparable {
            self.outlier_windows = 0;
            self.other_load_windows += 1;
            // The next window would be compared with what was normal at the load before.
            let is_normal_now = is_near(time, self.time.mean()) || is_near(work, self.work.mean());
            if is_normal_now || self.other_load_windows >= MAX_OTHER_LOAD {
                self.other_load_windows = 0;
                (self.cpi, self.time, self.work) = Default::default();
            }
            return WindowVerdict::Learning;
        }
        self.other_load_windows = 0;
        *before = self.cpi;
        let verdict = judge(&mut self.cpi, cpi, now_ns, &settings.cpi);
        if verdict == LEARNING {
            return WindowVerdict::Learning;
        }
        if verdict == NORMAL || cpi <= before.mean() {
            self.outlier_windows = 0;
            return WindowVerdict::Normal;
        }
        if self.outlier_windows == 0 {
            self.since_ns = began_ns;
        }
        self.outlier_windows += 1;
        let has_lasted = u64::from(self.outlier_windows) >= settings.sustain;
        if verdict == SHIFT {
            // The new level is normal from here on.
            self.outlier_windows = 0;
        }
        if has_lasted { WindowVerdict::Outlier } else { WindowVerdict::Normal }
    }
}

/// Returns true if `value` is between half and twice `mean`.
#[inline(always)]
const fn is_near(value: u64, mean: u64) -> bool {
    value.wrapping_mul(2) >= mean && value <= mean.wrapping_mul(2)
}

#[cfg(test)]
mod tests;
