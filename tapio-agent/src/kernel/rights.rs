//! Capabilities and limits that loading programs requires on this kernel.

use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use rustix::{
    process::{Resource, Rlimit},
    thread::CapabilitySet,
};

/// Major and minor number of the running kernel.
#[must_use]
pub fn version() -> Option<[u32; 2]> {
    parse_version(&rustix::system::uname().release().to_string_lossy())
}

pub(super) fn parse_version(release: &str) -> Option<[u32; 2]> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// RLIMIT_MEMLOCK in bytes. `None` if it is unlimited, or from kernel 5.11 on, where maps and programs do not count
/// against it.
#[must_use]
pub fn memlock_limit() -> Option<u64> {
    let counts = version().is_some_and(|version| version < [5, 11]);
    counts.then(|| rustix::process::getrlimit(Resource::Memlock).current)?
}

/// Raises RLIMIT_MEMLOCK. From kernel 5.11 on a failure does not matter.
pub(super) fn raise_memlock_limit() {
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "RLIMIT_MEMLOCK stays as it is");
    }
}

/// Whether a tracepoint program may interrupt itself on a CPU. From 6.1 on the kernel skips the inner run: `active` in
/// `__bpf_trace_run`, kernel/trace/bpf_trace.c.
pub(super) fn programs_nest() -> bool {
    version().is_none_or(|version| version < [6, 1])
}

/// Whether lockdown for confidentiality forbids programs to read kernel memory through a helper.
pub(super) fn forbids_reading() -> bool {
    // A program type that may use the helper, and that loads without an attach point.
    let reads = is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_probe_read_kernel);
    matches!(reads, Ok(false))
}

/// Whether this thread has the capabilities. If so, a refusal means that the kernel does not support the operation.
pub(super) fn has_needed() -> bool {
    let both = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let has = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    has.contains(both) || has.contains(CapabilitySet::SYS_ADMIN)
}

/// The capabilities that loading requires, human-readable.
pub(super) fn needed() -> String {
    match memlock_limit() {
        Some(limit) => format!(
            "CAP_BPF, CAP_PERFMON and CAP_SYS_RESOURCE (before kernel 5.11 maps count against RLIMIT_MEMLOCK, which is \
             {} KiB here: to raise that limit will do, too)",
            limit >> 10
        ),
        None => "CAP_BPF and CAP_PERFMON".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_sorts() {
        assert_eq!(parse_version("6.18.44-fc-v595"), Some([6, 18]));
        assert_eq!(parse_version("5.10.0-28-amd64"), Some([5, 10]));
        assert_eq!(parse_version("7.2-rc1+"), Some([7, 2]));
        assert_eq!(parse_version("odd"), None);
        assert!(version().is_some());
    }
}
