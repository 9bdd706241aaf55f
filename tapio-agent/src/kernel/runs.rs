//! How often kernel programs ran, how long that took, and which runs the kernel skipped.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::PoisonError,
};

use anyhow::Context as _;
use aya::programs::Program;

use super::Loaded;
use crate::source::RunTime;

impl Loaded {
    /// Calls `read` for each attached program, in the order of the hooks.
    pub(super) fn per_program<T>(&self, read: impl Fn(&Program) -> Option<T>) -> Vec<(&'static str, T)> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(programs) = programs.as_ref() else { return Vec::new() };
        let attached = self.hooks.iter().filter(|hook| hook.state.is_ok());
        attached
            .filter_map(|hook| Some((hook.hook.program, read(programs.program(hook.by.program)?)?)))
            .collect()
    }
}

/// Makes the kernel measure the programs' run times until the descriptor is closed (`BPF_ENABLE_STATS`).
///
/// # Errors
/// This process lacks CAP_SYS_ADMIN.
pub fn measure() -> anyhow::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).context("the kernel does not measure programs")
}

/// Run time of a program. Zero unless [`measure`] or `sysctl kernel.bpf_stats_enabled=1` is on.
pub(super) fn run_time(program: &Program) -> Option<RunTime> {
    let info = program.info().ok()?;
    Some(RunTime { runs: info.run_count(), total: info.run_time() })
}

/// How often the kernel skipped a run because the same program was already running on that CPU. No other count includes
/// these readings. Kernels before 5.12 do not expose the number.
pub(super) fn missed(program: &Program) -> Option<u64> {
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    shown.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}
