//! How often kernel programs ran, how long that took, and which runs the kernel left out.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::PoisonError,
    time::Duration,
};

use anyhow::Context as _;
use aya::Ebpf;

use super::{HookState, Loaded};

/// What the kernel measured of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Runs.
    pub runs: u64,
    /// Time of all of them.
    pub total: Duration,
}

impl Loaded {
    /// How often each attached program ran and how long that took, in the order of its hooks. Zero unless
    /// [`measure`] or `sysctl kernel.bpf_stats_enabled=1` is on.
    #[must_use]
    pub fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(programs) = programs.as_ref() else { return Vec::new() };
        let attached = self.hooks.iter().filter(|hook| hook.state.is_ok());
        attached
            .filter_map(|HookState { hook, .. }| {
                let info = programs.program(hook.program)?.info().ok()?;
                Some((hook.program, RunTime { runs: info.run_count(), total: info.run_time() }))
            })
            .collect()
    }

    /// How often the kernel left out a run of each attached program, since one of it was under way on that CPU: what
    /// it would have read is in no count.
    #[must_use]
    pub fn missed(&self) -> Vec<(&'static str, u64)> {
        let mut known = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(programs) = self.programs.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            let attached = self.hooks.iter().filter(|hook| hook.state.is_ok());
            *known =
                attached.filter_map(|h| Some((h.hook.program, missed(programs, h.hook.program)?))).collect();
        }
        known.clone()
    }
}

/// Has the kernel measure the programs' run times until the descriptor is closed (`BPF_ENABLE_STATS`).
///
/// # Errors
/// No right: it takes CAP_SYS_ADMIN.
pub fn measure() -> anyhow::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).context("the kernel does not measure programs")
}

/// As the kernel shows it of a descriptor, from 5.12 on.
fn missed(programs: &Ebpf, name: &str) -> Option<u64> {
    let fd = programs.program(name)?.fd().ok()?.as_fd().as_raw_fd();
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    shown.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
}
