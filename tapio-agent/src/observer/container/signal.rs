//! Names of signals and exit statuses. Numbers as on x86 and arm64,
//! include/uapi/asm-generic/{signal,siginfo}.h.

use std::borrow::Cow;

pub(super) const SIGILL: u32 = 4;
pub(super) const SIGTRAP: u32 = 5;
pub(super) const SIGABRT: u32 = 6;
pub(super) const SIGKILL: u32 = 9;
pub(super) const SIGSEGV: u32 = 11;
pub(super) const SIGTERM: u32 = 15;
pub(super) const SIGXCPU: u32 = 24;
pub(super) const SIGXFSZ: u32 = 25;

/// The status of a shell that does not find a command, and of `abort` if nothing else ended the process.
pub(super) const NOT_FOUND: u32 = 127;
/// The status that stands for SIGABRT.
pub(super) const ABORTED: u32 = 128 + SIGABRT;

const NAMES: [&str; 32] = [
    "",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The name of a signal, or its number if it has none.
pub(super) fn name(signal: u32) -> Cow<'static, str> {
    match NAMES.get(signal as usize) {
        Some(name) if !name.is_empty() => Cow::Borrowed(name),
        _ => Cow::Owned(format!("signal {signal}")),
    }
}

/// Whether a process's own fault raises this signal.
pub(super) fn is_fault(signal: u32) -> bool {
    matches!(
        name(signal).as_ref(),
        "SIGILL" | "SIGTRAP" | "SIGABRT" | "SIGBUS" | "SIGFPE" | "SIGSEGV" | "SIGSYS"
    )
}

/// The kind of fault.
pub(super) fn code(signal: u32, code: i32) -> Option<&'static str> {
    Some(match (name(signal).as_ref(), code) {
        ("SIGSEGV", 1) => "SEGV_MAPERR",
        ("SIGSEGV", 2) => "SEGV_ACCERR",
        ("SIGBUS", 1) => "BUS_ADRALN",
        ("SIGBUS", 2) => "BUS_ADRERR",
        ("SIGBUS", 3) => "BUS_OBJERR",
        ("SIGBUS", 4) => "BUS_MCEERR_AR",
        ("SIGFPE", 1) => "FPE_INTDIV",
        ("SIGFPE", 2) => "FPE_INTOVF",
        ("SIGILL", 1) => "ILL_ILLOPC",
        ("SIGILL", 2) => "ILL_ILLOPN",
        ("SIGSYS", 1) => "SYS_SECCOMP",
        _ => return None,
    })
}

/// Whether the signal's address is that of the fault: with `SI_KERNEL` (0x80) there is none.
pub(super) fn has_address(signal: u32, code: i32) -> bool {
    matches!(name(signal).as_ref(), "SIGILL" | "SIGBUS" | "SIGFPE" | "SIGSEGV") && (1..0x80).contains(&code)
}

/// The meaning of a status by the convention of shells and runtimes.
pub(super) fn meaning(status: u32) -> Option<Cow<'static, str>> {
    Some(match status {
        126 => "the command cannot be run".into(),
        NOT_FOUND => "the command was not found".into(),
        129..=159 => format!("128 + {}", name(status - 128)).into(),
        _ => return None,
    })
}

/// What systemd failed to do, by the status of the process that it forked for a command: systemd.exec(5).
pub(super) fn systemd(status: u32) -> Option<&'static str> {
    Some(match status {
        200 => "systemd: CHDIR, the working directory cannot be used",
        203 => "systemd: EXEC, the command cannot be executed",
        208 => "systemd: STDIN, the standard input cannot be set up",
        209 => "systemd: STDOUT, the standard output cannot be set up",
        214 => "systemd: SETSCHEDULER, the scheduling cannot be set up",
        216 => "systemd: GROUP, the group cannot be used",
        217 => "systemd: USER, the user cannot be used",
        218 => "systemd: CAPABILITIES, the capabilities cannot be set",
        219 => "systemd: CGROUP, the cgroup cannot be set up",
        226 => "systemd: NAMESPACE, the mount or other namespaces cannot be set up",
        228 => "systemd: SECCOMP, the filter of system calls cannot be set",
        233 => "systemd: RUNTIME_DIRECTORY, it cannot be set up",
        238 => "systemd: STATE_DIRECTORY, it cannot be set up",
        239 => "systemd: CACHE_DIRECTORY, it cannot be set up",
        240 => "systemd: LOGS_DIRECTORY, it cannot be set up",
        243 => "systemd: CREDENTIALS, they cannot be set up",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_shells_and_runtimes() {
        let of = |status| meaning(status).unwrap_or_default().into_owned();
        assert_eq!(of(127), "the command was not found");
        assert_eq!(of(137), "128 + SIGKILL");
        assert_eq!(of(139), "128 + SIGSEGV");
        assert_eq!(of(143), "128 + SIGTERM");
        for plain in [0, 1, 2, 125, 128, 160, 255] {
            assert_eq!(of(plain), "", "{plain}");
        }
    }

    #[test]
    fn any_number_has_a_name() {
        assert_eq!(
            (name(11), name(31), name(0), name(64)),
            ("SIGSEGV".into(), "SIGSYS".into(), "signal 0".into(), "signal 64".into())
        );
        assert!(is_fault(6) && !is_fault(9) && !is_fault(999));
    }
}
