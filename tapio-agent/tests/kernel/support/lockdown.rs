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
