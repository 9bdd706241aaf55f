//! Commands with few privileges.

use std::process::Command;

use tapio_agent::kernel::version;

/// Arguments that keep the current user.
pub(crate) const ROOT: &[&str] = &[];

/// The capabilities that `deploy/tapio.yaml` adds; before kernel 5.11 maps need one more.
pub(crate) fn shipped() -> &'static str {
    if maps_count() { ",+bpf,+perfmon,+sys_resource" } else { ",+bpf,+perfmon" }
}

/// Whether maps count against RLIMIT_MEMLOCK.
pub(crate) fn maps_count() -> bool {
    version().is_some_and(|version| version < [5, 11])
}

/// A command as that user, limited to these capabilities: `,+bpf`.
pub(crate) fn limited(user: &[&str], capabilities: &str, command: &Command) -> Command {
    let mut limited = Command::new("setpriv");
    limited.args(user);
    for set in ["bounding-set", "inh-caps", "ambient-caps"] {
        limited.arg(format!("--{set}=-all{capabilities}"));
    }
    becoming(limited, command)
}

/// A command that executes another.
pub(crate) fn becoming(mut command: Command, next: &Command) -> Command {
    command.arg(next.get_program()).args(next.get_args());
    command
}
