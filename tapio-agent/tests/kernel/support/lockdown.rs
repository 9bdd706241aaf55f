//! Whether the kernel is locked down, as by secure boot.

use std::fs;

/// The mode that holds: `none [integrity] confidentiality`.
pub(crate) fn mode() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    modes.split(['[', ']']).nth(1).map(ToOwned::to_owned).filter(|mode| mode != "none")
}

/// Whether programs may not read what has no type.
pub(crate) fn is_confidential() -> bool {
    mode().as_deref() == Some("confidentiality")
}
