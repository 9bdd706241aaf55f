//! Least privilege: drops the capabilities for attaching before the agent reads any outside input.

use std::collections::HashSet;

use anyhow::Context as _;
use caps::{CapSet, Capability};

/// Capabilities that a running agent still needs: before kernel 5.19 reading a map requires CAP_BPF.
const NEEDED: [Capability; 1] = [Capability::CAP_BPF];

/// Permanently drops every capability of this thread except [`NEEDED`], and returns the remaining ones. Later threads
/// inherit the result, so call it before there are any.
///
/// # Errors
/// The kernel refuses to drop a capability, which it has no reason to do.
pub fn drop_to_needed() -> anyhow::Result<Vec<String>> {
    let permitted =
        caps::read(None, CapSet::Permitted).context("the process's capabilities cannot be read")?;
    let kept: HashSet<Capability> = NEEDED.into_iter().filter(|kept| permitted.contains(kept)).collect();
    // Ambient and inheritable first: they may not exceed the permitted set.
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).context("capabilities cannot be dropped")?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).context("capabilities cannot be dropped")?;
    }
    rustix::thread::set_no_new_privs(true).context("no_new_privs cannot be set")?;
    Ok(kept.iter().map(ToString::to_string).collect())
}
