//! Attaches the program of a hook, or the first fallback that this kernel supports.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    iter::once,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, FEntry, FExit, Iter, PerfEvent,
        ProgramError, TracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
        trace_point::TracePointError,
    },
    util::online_cpus,
};

use super::{
    HookError, HookState,
    rights::{has_needed, needed},
};
use crate::observer::{Attach, Direction, Fallback, Hook};

/// Inode of the root of a cgroup2 hierarchy: KERNFS root, fs/kernfs/dir.c.
const ROOT_INODE: u64 = 1;
/// `EPERM`, include/uapi/asm-generic/errno-base.h.
pub(super) const EPERM: i32 = 1;
/// arm64 kernels before 6.4 refuse fentry with it, include/linux/errno.h.
const ENOTSUPP: i32 = 524;

const NO_FENTRY: &str = "this kernel attaches no program to functions (fentry)";

/// Tries the hook's program and its fallbacks in order, until one is supported. `obstacle` returns the reason why a
/// program cannot work on this kernel.
pub(super) fn hook(
    hook: &'static Hook,
    programs: &mut Ebpf,
    btf: &Btf,
    cgroup_root: &Path,
    obstacle: impl Fn(&Fallback) -> Option<HookError>,
) -> HookState {
    let first = Fallback { program: hook.program, attach: hook.attach, needs: hook.needs };
    let mut reasons = Vec::new();
    for by in once(first).chain(hook.or.iter().copied()) {
        let state = obstacle(&by).map_or_else(|| attach(programs, &by, btf, cgroup_root), Err);
        match state {
            Err(HookError::Unsupported(reason)) => reasons.push(reason),
            state => return HookState { hook, by, state },
        }
    }
    HookState { hook, by: first, state: Err(HookError::Unsupported(reasons.join("; "))) }
}

fn attach(programs: &mut Ebpf, by: &Fallback, btf: &Btf, cgroup_root: &Path) -> Result<(), HookError> {
    let program = programs
        .program_mut(by.program)
        .ok_or_else(|| HookError::Failed(format!("the object has no program {}", by.program)))?;
    match by.attach {
        Attach::BtfTracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(explain)?;
            program.load(tracepoint, btf).map_err(explain)?;
            program.attach().map_err(explain)?;
        }
        Attach::Slices(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(explain)?;
            program.load(tracepoint, btf).map_err(explain)?;
            // For a moment, to see that it can be.
            program.attach().and_then(|link| program.detach(link)).map_err(explain)?;
        }
        Attach::Tracepoint(category, name) => {
            let program: &mut TracePoint = program.try_into().map_err(explain)?;
            program.load().map_err(explain)?;
            program.attach(category, name).map_err(|error| explain_tracepoint(category, name, error))?;
        }
        Attach::FunctionEntry(function) => {
            let program: &mut FEntry = program.try_into().map_err(explain)?;
            let attached = program.load(function, btf).and_then(|()| program.attach().map(drop));
            attached.map_err(|error| explain_function(function, error))?;
        }
        Attach::FunctionExit(function) => {
            let program: &mut FExit = program.try_into().map_err(explain)?;
            let attached = program.load(function, btf).and_then(|()| program.attach().map(drop));
            attached.map_err(|error| explain_function(function, error))?;
        }
        Attach::CgroupSkb(direction) => {
            let group = cgroup2(cgroup_root)?;
            let program: &mut CgroupSkb = program.try_into().map_err(explain)?;
            program.load().map_err(explain)?;
            let direction = match direction {
                Direction::Ingress => CgroupSkbAttachType::Ingress,
                Direction::Egress => CgroupSkbAttachType::Egress,
            };
            // A link accepts no flags, and always leaves the programs of others attached: cgroup_bpf_link_attach,
            // kernel/bpf/cgroup.c.
            program.attach(group, direction, CgroupAttachMode::Single).map_err(explain_cgroup)?;
        }
        Attach::CpuClock(hertz) => {
            let program: &mut PerfEvent = program.try_into().map_err(explain)?;
            program.load().map_err(explain)?;
            let cpus =
                online_cpus().map_err(|(file, error)| HookError::Failed(format!("{file}: {error}")))?;
            for cpu in cpus {
                let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
                let scope = PerfEventScope::AllProcessesOneCpu { cpu };
                program.attach(clock, scope, SamplePolicy::Frequency(hertz), false).map_err(explain)?;
            }
        }
        Attach::Iterator(name) => {
            let program: &mut Iter = program.try_into().map_err(explain)?;
            program.load(name, btf).map_err(|error| explain_iterator(name, error))?;
            let link = program.attach().and_then(|link| program.take_link(link)).map_err(explain)?;
            let file = link.into_file().map_err(|error| HookError::Failed(error.to_string()));
            run(file?).map_err(|error| HookError::Failed(format!("the iterator {name} stopped: {error}")))?;
        }
    }
    Ok(())
}

/// Runs an iterator to its end and discards its output.
fn run(mut iterator: File) -> io::Result<()> {
    let mut printed = [0; 4096];
    while iterator.read(&mut printed)? > 0 {}
    Ok(())
}

/// Opens the root of the cgroup2 hierarchy.
fn cgroup2(root: &Path) -> Result<File, HookError> {
    let places = [root.to_owned(), root.join("unified")];
    let is_one = |place: &&PathBuf| place.join("cgroup.controllers").is_file();
    let place = places.iter().find(is_one).ok_or_else(|| {
        HookError::Unsupported(format!("there is no cgroup2 hierarchy at {}", root.display()))
    })?;
    // In a cgroup namespace the mount shows the container's own cgroup as its root: programs there see only one container.
    if fs::metadata(place).is_ok_and(|root| root.ino() != ROOT_INODE) {
        return Err(HookError::Unsupported(format!(
            "{} is not the root of the hierarchy: mount the host's, and give its place as `cgroup_root`",
            place.display()
        )));
    }
    File::open(place)
        .map_err(|error| HookError::Failed(format!("{} cannot be opened: {error}", place.display())))
}

/// Explains an error. A feature that the kernel lacks is unsupported, not failed.
fn explain(error: ProgramError) -> HookError {
    match error {
        ProgramError::Btf(_) => HookError::Unsupported("this kernel does not have the tracepoint".to_owned()),
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            log.lines().for_each(|line| tracing::debug!("{line}"));
            HookError::Failed(match io_error.raw_os_error() {
                Some(EPERM) => format!("no right to load it ({io_error}): it takes {}", needed()),
                _ => format!("refused by the verifier ({io_error}): {}", reason(&log)),
            })
        }
        ProgramError::SyscallError(call) => HookError::Failed(format!("{call}: {}", call.io_error)),
        error => HookError::Failed(error.to_string()),
    }
}

fn explain_tracepoint(category: &str, name: &str, error: ProgramError) -> HookError {
    match error {
        ProgramError::TracePointError(TracePointError::FileError { filename, io_error }) => {
            let (file, shown) = (filename.display(), format!("{category}/{name}"));
            match io_error.kind() {
                io::ErrorKind::NotFound => HookError::Unsupported(format!(
                    "this kernel does not have the tracepoint {shown}, or shows no tracefs (no {file})"
                )),
                _ => HookError::Failed(format!("{file} cannot be read: {io_error}")),
            }
        }
        // The loader found no tracefs at that path.
        ProgramError::IOError(_) => {
            HookError::Unsupported("no tracefs can be read at /sys/kernel/tracing".to_owned())
        }
        error => explain(error),
    }
}

/// Explains an error of fentry or fexit. Kernels without them refuse either the load or the attach.
fn explain_function(function: &str, error: ProgramError) -> HookError {
    let is_refused = |error: &io::Error| match error.raw_os_error() {
        Some(EPERM) => has_needed(),
        errno => errno == Some(ENOTSUPP),
    };
    match &error {
        ProgramError::Btf(_) => {
            HookError::Unsupported(format!("this kernel does not have the function {function}"))
        }
        ProgramError::LoadError { io_error, .. } if is_refused(io_error) => {
            HookError::Unsupported(NO_FENTRY.to_owned())
        }
        ProgramError::SyscallError(call) if is_refused(&call.io_error) => {
            HookError::Unsupported(NO_FENTRY.to_owned())
        }
        _ => explain(error),
    }
}

/// Explains an error of cgroup programs. An agent without CAP_NET_ADMIN loses only this hook, so it is unsupported.
fn explain_cgroup(error: ProgramError) -> HookError {
    match &error {
        ProgramError::SyscallError(call) if call.io_error.raw_os_error() == Some(EPERM) => {
            HookError::Unsupported("no right to attach it to cgroups: it takes CAP_NET_ADMIN".to_owned())
        }
        _ => explain(error),
    }
}

fn explain_iterator(name: &str, error: ProgramError) -> HookError {
    match error {
        ProgramError::Btf(_) => {
            HookError::Unsupported(format!("this kernel does not have the iterator {name}"))
        }
        error => explain(error),
    }
}

/// Returns the last line of the verifier log before the statistics. Newer kernels print more of those.
fn reason(log: &str) -> &str {
    const STATISTICS: [&str; 4] = ["processed ", "insns processed ", "stack depth ", "verification time "];
    let is_reason = |line: &&str| !line.is_empty() && !STATISTICS.iter().any(|word| line.starts_with(word));
    log.lines().rev().find(is_reason).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_words() {
        let log = "0: (79) r1 = *(u64 *)(r1 +0)\nunknown func bpf_probe_read#4\nverification time 9 usec\n\
                   stack depth 152+0 max 0\ninsns processed 992\nprocessed 992 insns (limit 1000000)\n\n";
        assert_eq!(reason(log), "unknown func bpf_probe_read#4");
        assert_eq!(reason(""), "no reason given");
    }
}
