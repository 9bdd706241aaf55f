//! Whether the kernel is in lockdown, as with secure boot.

use std::fs;

/// The active mode, the one in brackets: `none [integrity] confidentiality`.
pub(crate) fn mode() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    modes.split(['[', ']']).nth(1).map(ToOwned::to_owned).filter(|mode| mode != "none")
}

/// Whether lockdown forbids programs to read untyped memory.
pub(crate) fn is_confidential() -> bool {
    mode().as_deref() == Some("confidentiality")
}

/// Whether kernel programs can read all of a packet; before 6.11 only what is not in fragments.
pub(crate) fn reads_all_of_a_packet() -> bool {
    tapio_agent::kernel::version().is_some_and(|version| version >= [6, 11])
}
