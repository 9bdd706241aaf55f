//! An occurrence in the spool: its JSON, of which another version of the agent can read the parts it knows,
//! and the labels, which the JSON does not contain.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tapio_occurrence::Occurrence;

/// Why a record cannot be read.
pub(crate) type Malformed = serde_json::Error;

#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    labels: &'a [(String, String)],
    occurrence: &'a Occurrence,
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    labels: Vec<(String, String)>,
    occurrence: Occurrence,
}

/// Serializes an occurrence.
pub(crate) fn encode(occurrence: &Occurrence) -> Vec<u8> {
    let labels = occurrence.workload.as_ref().map_or(&[][..], |workload| &workload.labels);
    // Serializing texts and numbers to memory does not fail.
    serde_json::to_vec(&Written { labels, occurrence }).unwrap_or_default()
}

/// Deserializes an occurrence.
pub(super) fn decode(bytes: &[u8]) -> Result<Occurrence, Malformed> {
    let Read { labels, mut occurrence } = serde_json::from_slice(bytes)?;
    if let Some(workload) = &mut occurrence.workload {
        Arc::make_mut(workload).labels = labels;
    }
    Ok(occurrence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tapio_occurrence::samples;

    #[test]
    fn what_is_read_is_what_was_written() {
        let bare = Occurrence { workload: None, ..samples::occurrence() };
        for written in [samples::occurrence(), bare] {
            assert_eq!(decode(&encode(&written)).unwrap(), written);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(at in 0_usize..2000, byte: u8, bytes: Vec<u8>) {
            prop_assert!(decode(&bytes).is_err());
            let mut damaged = encode(&samples::occurrence());
            if let Some(there) = damaged.get_mut(at) {
                *there = byte;
            }
            let _ = decode(&damaged);
            damaged.truncate(at);
            let _ = decode(&damaged);
        }
    }
}
