//! Least privilege: what attaching took is given back before anything from outside is read.

use std::collections::HashSet;

use anyhow::Context as _;
use caps::{CapSet, Capability};

/// What a running agent still needs: before kernel 5.19 reading a map takes CAP_BPF.
const KEPT: [Capability; 1] = [Capability::CAP_BPF];

/// Drops every capability of this thread but [`KEPT`], for good. Threads made later inherit that, so it is
/// called before there are any. Returns what is left.
///
/// # Errors
/// The kernel refuses to give up a right, which it has no reason to.
pub fn drop_to_needed() -> anyhow::Result<Vec<String>> {
    let permitted =
        caps::read(None, CapSet::Permitted).context("the process's capabilities cannot be read")?;
    let kept: HashSet<Capability> = KEPT.into_iter().filter(|kept| permitted.contains(kept)).collect();
    // Ambient and inheritable first: they may not exceed what is permitted.
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).context("capabilities cannot be dropped")?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).context("capabilities cannot be dropped")?;
    }
    rustix::thread::set_no_new_privs(true).context("no_new_privs cannot be set")?;
    Ok(kept.iter().map(ToString::to_string).collect())
}
