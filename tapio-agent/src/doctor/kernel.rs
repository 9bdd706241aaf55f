//! Checks the kernel: its release, its BTF, and its security settings.

use std::{fs, path::Path};

use super::report::Line;
use crate::kernel::version;

/// The oldest supported kernel. The programs use ring buffers (5.8), CAP_BPF (5.8), and BTF tracepoints, which require
/// the kernel's own BTF. Older kernels are untested.
const OLDEST: [u32; 2] = [5, 10];

pub(super) fn examine(types: &Path) -> Vec<Line> {
    let mut lines = vec![release(), btf(types)];
    lines.extend(lockdown(fs::read_to_string("/sys/kernel/security/lockdown").ok().as_deref()));
    lines.extend(unprivileged(sysctl("kernel/unprivileged_bpf_disabled").as_deref()));
    lines.extend(paranoid(sysctl("kernel/perf_event_paranoid").as_deref()));
    lines.extend(jit(sysctl("net/core/bpf_jit_enable").as_deref()));
    lines
}

fn release() -> Line {
    let uname = rustix::system::uname();
    let shown = format!("{} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    match version() {
        Some(version) if version < OLDEST => Line::failed(
            "release",
            format!("{shown}: older than {}.{}", OLDEST[0], OLDEST[1]),
            "run a newer kernel",
        ),
        _ => Line::ok("release", shown),
    }
}

/// Checks the kernel's types. The remedy is not a mount: a container's own /sys has the file if the kernel does, and if
/// not, a pod with that mount would not start.
fn btf(types: &Path) -> Line {
    match fs::metadata(types).and_then(|metadata| fs::File::open(types).map(|_| metadata)) {
        Ok(metadata) => Line::ok("types (BTF)", format!("{}, {} KiB", types.display(), metadata.len() >> 10)),
        Err(error) => Line::failed(
            "types (BTF)",
            format!("{} cannot be read ({error}): only files can be observed", types.display()),
            "run a kernel with CONFIG_DEBUG_INFO_BTF=y; the agent observes from files until then",
        ),
    }
}

/// Parses `none [integrity] confidentiality`: the mode in brackets is active. `None` if the kernel has no lockdown.
fn lockdown(file: Option<&str>) -> Option<Line> {
    let mode = file?.split(['[', ']']).nth(1)?;
    Some(match mode {
        "confidentiality" => Line::ok("lockdown", "confidentiality: no program asks for what it forbids"),
        mode => Line::ok("lockdown", mode),
    })
}

fn unprivileged(value: Option<&str>) -> Option<Line> {
    Some(match value? {
        "0" => Line::note(
            "unprivileged_bpf_disabled",
            "0: every user may load some programs; those of Tapio still require CAP_BPF",
        ),
        value => Line::ok("unprivileged_bpf_disabled", format!("{value}: BPF takes CAP_BPF")),
    })
}

fn paranoid(value: Option<&str>) -> Option<Line> {
    let value = value?;
    // Values of 3 and more are distribution patches. Older patches accept only CAP_SYS_ADMIN.
    let effect = if matches!(value.parse(), Ok(..=2)) {
        "without effect on a process with CAP_PERFMON"
    } else {
        "without effect on programs; performance counters may take CAP_SYS_ADMIN"
    };
    Some(Line::ok("perf_event_paranoid", format!("{value}: {effect}")))
}

/// Checks the JIT compiler. The setting is absent outside the initial network namespace.
fn jit(value: Option<&str>) -> Option<Line> {
    Some(match value? {
        "0" => Line::degraded(
            "bpf_jit_enable",
            "0: programs are interpreted, which makes every reading several times more expensive",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        value => Line::ok("bpf_jit_enable", value),
    })
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::report::State, *};

    #[test]
    fn security_settings_are_parsed() {
        let found = |file| lockdown(file).map(|line| (line.found, line.state));
        let locked = Some("none [integrity] confidentiality\n");
        assert_eq!(found(locked), Some(("integrity".to_owned(), State::Ok)));
        assert_eq!(found(None), None);
        assert!(matches!(jit(Some("0")).unwrap().state, State::Degraded { .. }));
        assert!(matches!(btf("/nowhere".as_ref()).state, State::Failed { .. }));
    }
}
