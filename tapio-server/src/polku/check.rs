//! What the gateway checks of each event, and its words for those that it refuses.

use tapio_delivery::polku::proto::v1::AckError;
use tapio_occurrence::event::v1::Event;
use tapio_service::setting::shown;

use crate::journal::{MAX_FACT_BYTES, is_ulid};

/// Limits of an event, in bytes.
const TYPE_BYTES: usize = 256;
const SOURCE_BYTES: usize = 256;
/// Keys and values of the metadata together, and their number.
const METADATA_BYTES: usize = 16 << 10;
const METADATA_KEYS: usize = 64;
/// Bytes of an id that are sent back to whoever sent a longer one.
const SHOWN_ID_BYTES: usize = 64;

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason as a metric label.
    pub(super) reason: &'static str,
    code: &'static str,
    what: String,
}

/// Checks an event.
pub(super) fn check(event: &Event) -> Result<(), Refusal> {
    let refuse = |reason, code, what| Err(Refusal { reason, code, what });
    if !is_ulid(&event.id) {
        let what =
            "its id is not a ULID: give each event one of its own, 26 characters of Crockford's base 32"
                .to_owned();
        return refuse("id", "invalid_id", what);
    }
    if event.timestamp_unix_ns < 0 {
        let what = format!(
            "its timestamp_unix_ns is {}: it has to be nanoseconds since 1970 UTC",
            event.timestamp_unix_ns
        );
        return refuse("time", "invalid_time", what);
    }
    if event.event_type.is_empty() {
        return refuse("type", "invalid_type", "it has no event_type: give it a dotted name".to_owned());
    }
    let at_most = |what: &str, bytes: usize, most: usize| {
        format!("its {what} has {bytes} bytes, and at most {most} are accepted: shorten it")
    };
    if event.event_type.len() > TYPE_BYTES {
        return refuse("type", "too_large", at_most("event_type", event.event_type.len(), TYPE_BYTES));
    }
    if event.source.len() > SOURCE_BYTES {
        return refuse("source", "too_large", at_most("source", event.source.len(), SOURCE_BYTES));
    }
    let metadata = event.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if metadata > METADATA_BYTES {
        return refuse("metadata", "too_large", at_most("metadata", metadata, METADATA_BYTES));
    }
    if event.metadata.len() > METADATA_KEYS {
        let count = event.metadata.len();
        let what = format!(
            "its metadata has {count} keys, and at most {METADATA_KEYS} are accepted: leave some out"
        );
        return refuse("metadata", "too_large", what);
    }
    Ok(())
}

/// The words for an event that the journal cannot take, though the checks above let it pass.
pub(super) fn unfit(event_id: &str, why: crate::journal::Unfit) -> AckError {
    let what = format!("{why}: at most {MAX_FACT_BYTES} bytes and a ULID are accepted");
    Refusal { reason: why.reason(), code: "unfit", what }.of(event_id)
}

impl Refusal {
    /// The answer to whoever sent the event.
    pub(super) fn of(self, event_id: &str) -> AckError {
        let message = format!("event `{}`: {}", shown(event_id), self.what);
        AckError { event_id: shortened(event_id).to_owned(), code: self.code.to_owned(), message }
    }
}

/// The beginning of an id, whole if it has no more than [`SHOWN_ID_BYTES`].
fn shortened(id: &str) -> &str {
    let end = (0..=id.len().min(SHOWN_ID_BYTES)).rev().find(|at| id.is_char_boundary(*at));
    end.and_then(|end| id.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tapio_occurrence::{event::event, samples};

    use super::*;

    fn valid() -> Event {
        event(&samples::occurrence())
    }

    fn refused(change: impl FnOnce(&mut Event)) -> AckError {
        let mut event = valid();
        change(&mut event);
        check(&event).unwrap_err().of(&event.id)
    }

    #[test]
    fn each_refusal_names_the_event_and_the_remedy() {
        assert_eq!(check(&valid()), Ok(()));
        let id = valid().id;
        for (error, code, what) in [
            (refused(|event| event.timestamp_unix_ns = -1), "invalid_time", "nanoseconds since 1970"),
            (refused(|event| event.event_type.clear()), "invalid_type", "give it a dotted name"),
            (refused(|event| event.event_type = "x".repeat(257)), "too_large", "at most 256 are accepted"),
            (refused(|event| event.source = "x".repeat(257)), "too_large", "its source has 257 bytes"),
            (
                refused(|event| drop(event.metadata.insert("k".to_owned(), "v".repeat(16 << 10)))),
                "too_large",
                "its metadata has",
            ),
            (
                refused(|event| event.metadata.extend((0..65).map(|n| (n.to_string(), String::new())))),
                "too_large",
                "leave some out",
            ),
        ] {
            assert_eq!((error.event_id.as_str(), error.code.as_str()), (id.as_str(), code));
            assert!(error.message.contains(&id) && error.message.contains(what), "{}", error.message);
        }
    }

    #[test]
    fn ids_that_are_not_ulids() {
        for id in ["", "1", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "0123456789ABCDEFGHJKMNPQRU", "\u{1b}[2J"] {
            let error = refused(|event| event.id = id.to_owned());
            assert_eq!((error.event_id.as_str(), error.code.as_str()), (id, "invalid_id"));
            assert!(!error.message.contains('\u{1b}'), "{}", error.message);
        }
        let long = refused(|event| event.id = "\u{e9}".repeat(1 << 19));
        assert_eq!(long.event_id, "\u{e9}".repeat(32));
        assert!(long.message.len() < 512, "{}", long.message.len());
    }
}
