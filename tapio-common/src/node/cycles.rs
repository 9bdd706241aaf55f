//! What cgroups, and the node, get out of a cycle: counted at each switch of tasks, judged once a window.
//!
//! The number that is learned is cycles per instruction (CPI), in 1/1024. It is compared at comparable load only: where
//! a group has used about as much CPU time as it did, or has done about as many instructions. Work that doubles
//! moves both; a neighbour that takes the cache moves one of them.

use bytemuck::{Pod, Zeroable};

use crate::{
    Event, Header,
    baseline::{Baseline, Limits, Verdict},
};

crate::fields! {
    /// Its id: 0 is the idle task.
    PID = "task_struct.pid";
    /// A task's cgroups.
    GROUPS = "task_struct.cgroups";
    /// The one in the hierarchy of version 2.
    GROUP = "css_set.dfl_cgrp";
    /// Its node in the cgroup file system.
    GROUP_NODE = "cgroup.kn";
    /// The node's id.
    NODE_ID = "kernfs_node.id";
}

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// Counts cycles and instructions.
    pub const SCHED_SWITCH: u32 = 0;
}

/// What the third counter counts: [`CyclesEvent::extra_is`], and the third of `COUNTERS`.
pub mod extra {
    /// There is none.
    pub const NONE: u32 = 0;
    /// Cycles in which the CPU waited for memory or another unit (stalled, backend).
    pub const STALLED: u32 = 1;
    /// Misses of the last level of caches.
    pub const MISSES: u32 = 2;
}

/// The root of the hierarchy of version 2: tasks that are in no group of their own, kernel threads, and everything where
/// only version 1 is in use. It counts for the node, and is reported for nobody.
pub const ROOT: u64 = 1;

/// A window in which less of the time than this was counted, in 1/1024, says too little: another had the counters.
const LEAST_COUNTED: u64 = 256;
/// A window of fewer slices says too little.
const LEAST_SLICES: u64 = 16;
/// So many windows in a row at another load are a new one, for which all is learned anew. Fewer than make a shift of the
/// load, after which it would be compared.
const MOST_ELSEWHERE: u32 = 4;

/// One record of the ring buffer: cycles per instruction far over what they were, for several windows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CyclesEvent {
    /// When, and which group; of no process.
    pub header: Header,
    /// One of [`super::kind`].
    pub kind: u32,
    /// One of [`extra`].
    pub extra_is: u32,
    /// The window's numbers.
    pub usage: Usage,
    /// Its length.
    pub window_ns: u64,
    /// When the first window of those that were over it began, boot clock.
    pub since_ns: u64,
    /// What was normal before: cycles per 1024 instructions.
    pub cpi: Baseline,
}

impl Event for CyclesEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// What ran, summed over slices: from one switch of tasks on a CPU to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Usage {
    /// Cycles, as far as they were counted.
    pub cycles: u64,
    /// Instructions, as far as they were counted: at the same times as cycles.
    pub instructions: u64,
    /// What the third counter has; see [`extra`].
    pub extra: u64,
    /// CPU time.
    pub ns: u64,
    /// The part of it in which the counters counted; less where others use them, too.
    pub counted_ns: u64,
    /// How many slices were measured.
    pub slices: u64,
    /// Of the node: cycles of groups whose normal CPI is known.
    pub known_cycles: u64,
    /// Of the node: how many they would have been at that CPI.
    pub expected_cycles: u64,
}

/// What is known of a group, or of the node. All zeros knows nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Track {
    /// When the window under way began, boot clock; 0 before the first.
    pub began_ns: u64,
    /// What ran in it so far.
    pub usage: Usage,
    /// Cycles per 1024 instructions.
    pub cpi: Baseline,
    /// CPU time of a window, in 1/1024 of its length.
    pub time: Baseline,
    /// Instructions of a window, in 1/1024 of one a millisecond, about.
    pub work: Baseline,
    /// When the first window of those over what is normal began.
    pub since_ns: u64,
    /// How many windows in a row were.
    pub over: u32,
    /// How many windows in a row had another load.
    pub elsewhere: u32,
}

/// The thresholds that go to the kernel as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// Judges cycles per 1024 instructions.
    pub cpi: Limits,
    /// Follows CPU time and instructions of a window.
    pub load: Limits,
    /// Length of a window.
    pub window_ns: u64,
    /// Least CPU time of a window that is judged.
    pub least_ns: u64,
    /// How many windows in a row it has to last.
    pub sustain: u64,
    /// How long a key stays quiet after an event.
    pub cooldown_ns: u64,
}

/// What a closed window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It ran too little to say anything: no reading.
    Idle,
    /// It taught, or nothing can be compared to it.
    Learning,
    /// Nothing is wrong, or not yet for long enough.
    Normal,
    /// Cycles per instruction have been over what is normal for long enough.
    Over,
}

impl Usage {
    /// Adds a slice. Plain additions, as the target of kernel programs has no atomic ones: of two CPUs that add at
    /// once, one is lost now and then.
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

    /// Cycles per 1024 instructions.
    #[inline(always)]
    #[must_use]
    pub const fn cpi(&self) -> Option<u64> {
        self.cycles.wrapping_mul(1024).checked_div(self.instructions)
    }

    /// What part of its CPU time was counted, in 1/1024.
    #[inline(always)]
    #[must_use]
    pub const fn counted_share(&self) -> u64 {
        match self.counted_ns.wrapping_mul(1024).checked_div(self.ns) {
            Some(share) if share < 1024 => share,
            Some(_) => 1024,
            None => 0,
        }
    }

    /// The same mix of groups would have taken fewer cycles, by half of what makes an anomaly: the node as a whole has
    /// become slower, not busy with other things.
    #[inline(always)]
    #[must_use]
    pub const fn is_beyond_its_mix(&self, ratio_percent: u16) -> bool {
        self.known_cycles > self.cycles / 2
            && self.known_cycles.wrapping_mul(200)
                > self.expected_cycles.wrapping_mul(100 + ratio_percent as u64)
    }
}

impl Track {
    /// Whether a slice that ended at `now_ns` ends the window. One that is long over is given up: between then and now
    /// nothing ran, which is no load to compare with.
    #[inline(always)]
    pub fn is_over(&mut self, now_ns: u64, window_ns: u64) -> bool {
        let length_ns = now_ns.wrapping_sub(self.began_ns);
        if length_ns < window_ns {
            return false;
        }
        if length_ns < window_ns.wrapping_mul(2) {
            return true;
        }
        self.usage = Usage::default();
        self.began_ns = now_ns;
        self.over = 0;
        false
    }

    /// Cycles that so many instructions take as a rule, where that is known.
    #[inline(always)]
    pub fn expect(&self, instructions: u64, settings: &Settings) -> Option<u64> {
        let mean = self.cpi.mean();
        let is_known = self.cpi.samples() >= settings.cpi.min_samples as u32 && mean < 1 << 20;
        if is_known { Some((instructions * mean) >> 10) } else { None }
    }

    /// Ends a window and judges what ran in it. `before` receives what was normal until then.
    #[inline(always)]
    pub fn close(
        &mut self,
        usage: &Usage,
        window_ns: u64,
        now_ns: u64,
        settings: &Settings,
        before: &mut Baseline,
    ) -> Closed {
        let began_ns = now_ns.wrapping_sub(window_ns);
        if usage.ns < settings.least_ns || usage.slices < LEAST_SLICES {
            self.over = 0;
            return Closed::Idle;
        }
        let counted = usage.counted_share();
        let Some(cpi) = usage.cpi() else {
            self.over = 0;
            return Closed::Learning;
        };
        if counted < LEAST_COUNTED {
            self.over = 0;
            return Closed::Learning;
        }
        let time = usage.ns.wrapping_mul(1024).checked_div(window_ns).unwrap_or(0);
        // Fractions are kept: numbers may be small.
        let whole = usage.instructions.wrapping_mul(1024).checked_div(counted).unwrap_or(0);
        let work = whole.wrapping_mul(1024).checked_div(window_ns >> 20).unwrap_or(0);
        let is_learning = self.time.samples() < u32::from(settings.load.min_samples);
        let is_comparable = is_near(time, self.time.mean()) || is_near(work, self.work.mean());
        judge(&mut self.time, time, now_ns, &settings.load);
        judge(&mut self.work, work, now_ns, &settings.load);
        if !is_learning && !is_comparable {
            self.over = 0;
            self.elsewhere += 1;
            if self.elsewhere >= MOST_ELSEWHERE {
                self.elsewhere = 0;
                (self.cpi, self.time, self.work) = Default::default();
            }
            return Closed::Learning;
        }
        self.elsewhere = 0;
        *before = self.cpi;
        let verdict = judge(&mut self.cpi, cpi, now_ns, &settings.cpi);
        if verdict == LEARNING {
            return Closed::Learning;
        }
        if verdict == NORMAL || cpi <= before.mean() {
            self.over = 0;
            return Closed::Normal;
        }
        if self.over == 0 {
            self.since_ns = began_ns;
        }
        self.over += 1;
        let has_lasted = u64::from(self.over) >= settings.sustain;
        if verdict == SHIFT {
            // From here on it is normal.
            self.over = 0;
        }
        if has_lasted { Closed::Over } else { Closed::Normal }
    }
}

/// Half of it to twice of it.
#[inline(always)]
const fn is_near(value: u64, mean: u64) -> bool {
    value.wrapping_mul(2) >= mean && value <= mean.wrapping_mul(2)
}

const LEARNING: u32 = 0;
const NORMAL: u32 = 1;
const SPIKE: u32 = 2;
const SHIFT: u32 = 3;

/// A verdict as a number. A function of its own, since the verifier walks each way through it with each way that
/// follows.
#[inline(never)]
fn judge(baseline: &mut Baseline, value: u64, now_ns: u64, limits: &Limits) -> u32 {
    match baseline.judge(value, now_ns, limits) {
        Verdict::Learning => LEARNING,
        Verdict::Normal => NORMAL,
        Verdict::Spike => SPIKE,
        Verdict::Shift => SHIFT,
    }
}

#[cfg(test)]
mod tests;
