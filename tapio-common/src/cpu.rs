//! CPU observer: event layout, kernel fields, settings, and how the waits of a cgroup are judged, once a window.
//!
//! A wait is the time that a task was on a CPU's run queue before a slice. What is judged is the sum of the waits for
//! other cgroups, in microseconds a second: neither the cgroup's own tasks nor its CPU quota are somebody else's doing.

mod slices;

use bytemuck::{Pod, Zeroable};

pub use self::slices::Slices;

use crate::{
    Event, Header,
    baseline::{
        Baseline, Limits, TICK_SHIFT,
        apart::{LEARNING, NORMAL, SHIFT, judge},
    },
    majority::Majority,
    since,
};

crate::fields! {
    /// Thread id; 0 is the idle task.
    PID = "task_struct.pid";
    /// Sum of all waits of a task, in nanoseconds. The wait before a slice is added when the slice begins.
    RUN_DELAY = "task_struct.sched_info.run_delay";
    /// Sum of all slices of a task, in nanoseconds. That of the slice that ends is in it.
    RAN = "task_struct.se.sum_exec_runtime";
    /// 120 plus the task's nice value.
    STATIC_PRIO = "task_struct.static_prio";
    /// One of `SCHED_*`.
    POLICY = "task_struct.policy";
    /// Cgroups of a task.
    CGROUPS = "task_struct.cgroups";
    /// The cgroup v2.
    CGROUP = "css_set.dfl_cgrp";
    /// Node of a cgroup in the cgroup file system.
    CGROUP_KN = "cgroup.kn";
    /// Id of the node: the cgroup id.
    KN_ID = "kernfs_node.id";
    /// The cgroup of a task as the CPU controller has it.
    TASK_GROUP = "task_struct.sched_task_group";
    /// The one above.
    PARENT = "task_group.parent";
    /// How long its quota has throttled it, in nanoseconds, summed over CPUs.
    THROTTLED = "task_group.cfs_bandwidth.throttled_time";
}

/// The programs, as indices into `COUNTS`.
pub mod program {
    /// The waits of tasks.
    pub const SCHED_SWITCH: u32 = 0;
}

/// Values of [`CpuEvent::kind`].
pub mod kind {
    /// Tasks of a cgroup wait far longer than before.
    pub const SCHEDULING_DELAY: u32 = 1;
}

/// A wait that began so long after a throttling ended may still be due to it: the tasks that were throttled together get
/// the CPU one after the other. A period of a quota, as Kubernetes sets it.
const THROTTLING_ECHO_NS: u64 = 100_000_000;

/// One record of the CPU observer's ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuEvent {
    /// When it happened, and in which cgroup; has no process.
    pub header: Header,
    /// One of [`kind`].
    pub kind: u32,
    /// Unused.
    pub padding: u32,
    /// Waits of the last window.
    pub waits: Waits,
    /// Length of the last window.
    pub window_ns: u64,
    /// When the first of the abnormal windows began, boot clock.
    pub since_ns: u64,
    /// Baseline before the last window, in microseconds a second.
    pub baseline: Baseline,
}

impl Event for CpuEvent {
    fn header(&self) -> &Header {
        &self.header
    }
}

/// Waits of a window.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Waits {
    /// Sum of the waits for other cgroups.
    pub sum_ns: u64,
    /// The longest of them.
    pub longest_ns: u64,
    /// How many there were.
    pub count: u64,
    /// Sum of the waits for the cgroup's own quota.
    pub quota_ns: u64,
    /// Who ran instead, by the time waited; in all abnormal windows up to this one.
    pub instead: Majority,
}

impl Waits {
    /// How long tasks waited for other cgroups in a second, in microseconds.
    #[inline(always)]
    #[must_use]
    pub const fn us_per_second(&self, window_ns: u64) -> u64 {
        // More than that is 100 days; the product fits.
        let sum_ns = if self.sum_ns > 1 << 53 { 1 << 53 } else { self.sum_ns };
        match (sum_ns * 1_000).checked_div(window_ns / 1_000) {
            Some(us) => us,
            None => 0,
        }
    }
}

/// A wait that has ended, and the slice after it.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// How long it was.
    pub ns: u64,
    /// Cgroup of the task that waited.
    pub cgroup_id: u64,
    /// Cgroup that ran on this CPU meanwhile; 0 if it was idle.
    pub instead: u64,
    /// How long quotas have throttled the cgroup and those above it so far.
    pub throttled_ns: u64,
}

/// State of a cgroup. All zeros is one without samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Track {
    /// When the current window began, boot clock; 0 before the first.
    pub began_ns: u64,
    /// Waits of the current window so far.
    pub waits: Waits,
    /// Waits for other cgroups, in microseconds a second.
    pub baseline: Baseline,
    /// When the first of the abnormal windows began, boot clock.
    pub since_ns: u64,
    /// [`Wait::throttled_ns`], as last seen.
    pub throttled_ns: u64,
    /// When that was last seen to have grown, boot clock; 0 for never.
    pub throttled_at_ns: u64,
    /// Number of abnormal windows in a row.
    pub outlier_windows: u64,
}

/// Thresholds that the kernel program receives as constants.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Settings {
    /// For waits, in microseconds a second.
    pub delay: Limits,
    /// A shorter wait is not counted.
    pub min_wait_ns: u64,
    /// Length of a window.
    pub window_ns: u64,
    /// Number of abnormal windows in a row before one is reported.
    pub sustain: u64,
    /// Cool-down: how long further events of a cgroup are suppressed.
    pub cooldown_ns: u64,
}

/// Result of judging a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowVerdict {
    /// The window trained the baseline.
    Learning,
    /// Normal, not abnormal for long enough, or reported before.
    Normal,
    /// Waits have been abnormal for long enough. Once, however long it lasts.
    Outlier,
}

impl Track {
    /// Counts a wait. Plain additions, since the kernel programs' target has no atomic ones: if two CPUs add at the same
    /// time, one of the waits may be lost.
    #[inline(always)]
    pub fn add(&mut self, wait: &Wait, now_ns: u64) {
        if wait.throttled_ns != self.throttled_ns {
            self.throttled_ns = wait.throttled_ns;
            self.throttled_at_ns = now_ns;
        }
        let began_ns = now_ns.wrapping_sub(wait.ns);
        if self.throttled_at_ns != 0 && began_ns < self.throttled_at_ns.wrapping_add(THROTTLING_ECHO_NS) {
            self.waits.quota_ns = self.waits.quota_ns.wrapping_add(wait.ns);
            return;
        }
        // While a CPU idles nobody has to wait for it, but for a moment.
        if wait.instead == 0 || wait.instead == wait.cgroup_id {
            return;
        }
        let waits = &mut self.waits;
        waits.sum_ns = waits.sum_ns.wrapping_add(wait.ns);
        waits.count = waits.count.wrapping_add(1);
        if wait.ns > waits.longest_ns {
            waits.longest_ns = wait.ns;
        }
        waits.instead.count(wait.instead, wait.ns);
    }

    /// Returns true if the window has ended. One is as long as the cgroup hardly runs: had a task had to wait, it would have
    /// been counted.
    #[inline(always)]
    pub fn window_ended(&mut self, now_ns: u64, window_ns: u64) -> bool {
        if self.began_ns == 0 {
            self.began_ns = now_ns;
            self.waits = Waits::default();
            return false;
        }
        since(now_ns, self.began_ns) >= window_ns
    }

    /// Forgets the waits of the window that has ended; but who runs instead, not while they are abnormal.
    #[inline(always)]
    pub fn begin(&mut self) {
        let instead = if self.outlier_windows == 0 { Majority::default() } else { self.waits.instead };
        self.waits = Waits { instead, ..Waits::default() };
    }

    /// Judges the window that ends. `before` receives the baseline as it was until then.
    #[inline(always)]
    pub fn close(
        &mut self,
        window_ns: u64,
        now_ns: u64,
        settings: &Settings,
        before: &mut Baseline,
    ) -> WindowVerdict {
        let value = self.waits.us_per_second(window_ns);
        *before = self.baseline;
        let verdict = judge(&mut self.baseline, value, now_ns >> TICK_SHIFT, &settings.delay);
        if verdict == LEARNING {
            return WindowVerdict::Learning;
        }
        if verdict == NORMAL || value <= before.mean() {
            self.outlier_windows = 0;
            return WindowVerdict::Normal;
        }
        if self.outlier_windows == 0 {
            // Of a longer window, most may have been before that.
            let most_ns = settings.window_ns.wrapping_mul(2);
            self.since_ns = now_ns.wrapping_sub(if window_ns < most_ns { window_ns } else { most_ns });
        }
        self.outlier_windows += 1;
        let is_due = self.outlier_windows == settings.sustain;
        if verdict == SHIFT {
            // The new level is normal from here on.
            self.outlier_windows = 0;
        }
        if is_due { WindowVerdict::Outlier } else { WindowVerdict::Normal }
    }
}

#[cfg(test)]
mod tests;
