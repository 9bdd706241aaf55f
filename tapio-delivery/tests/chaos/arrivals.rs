//! Compares the occurrences that arrived at the gateway with those accepted.

use std::{collections::HashSet, path::Path};

use ulid::Ulid;

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

/// The first that arrived after a later one; duplicates do not count.
pub(crate) fn out_of_order(arrived: &[Ulid]) -> Option<(Ulid, Ulid)> {
    let mut seen = HashSet::new();
    let mut firsts = arrived.iter().filter(|id| seen.insert(**id)).peekable();
    while let Some(id) = firsts.next() {
        if let Some(next) = firsts.peek()
            && *next < id
        {
            return Some((*id, **next));
        }
    }
    None
}
