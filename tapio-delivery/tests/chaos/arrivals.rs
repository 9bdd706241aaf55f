//! Compares the occurrences that arrived at the gateway with those accepted.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use ulid::Ulid;

use crate::agent::run_of;

/// Everything that arrived, in order, including duplicates.
pub(crate) fn arrivals(directory: &Path) -> Vec<Ulid> {
    let text = std::fs::read_to_string(directory.join("arrivals")).unwrap_or_default();
    // A killed gateway may have written half a line.
    text.split_whitespace().filter_map(|id| Ulid::from_string(id).ok()).collect()
}

/// How many of these have not arrived.
pub(crate) fn missing(accepted: &[Ulid], arrived: &[Ulid]) -> usize {
    let arrived: HashSet<_> = arrived.iter().collect();
    accepted.iter().filter(|id| !arrived.contains(id)).count()
}

/// How many arrived more than once.
pub(crate) fn repeats(arrived: &[Ulid]) -> usize {
    arrived.len() - arrived.iter().collect::<HashSet<_>>().len()
}

/// The first of an agent's run that arrived after a later one of it; duplicates do not count. Runs have no order: what an
/// agent that was killed has sent may be read after what its successor sends, because connections have none.
pub(crate) fn out_of_order(arrived: &[Ulid]) -> Option<(Ulid, Ulid)> {
    let mut seen = HashSet::new();
    let mut latest: HashMap<u64, Ulid> = HashMap::new();
    arrived.iter().filter(|id| seen.insert(**id)).find_map(|id| {
        let before = latest.insert(run_of(*id), *id)?;
        (before > *id).then_some((before, *id))
    })
}
