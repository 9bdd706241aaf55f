//! A fact as the journal stores it.

use prost::Message;
use tapio_occurrence::event::v1::Event;
use ulid::{ULID_LEN, Ulid};

use super::{MAX_FACT_BYTES, Unfit};

/// A fact with its key in the index.
#[derive(Debug)]
pub(super) struct Fact {
    pub(super) id: u128,
    /// `polku.event.v1.Event`.
    pub(super) bytes: Vec<u8>,
}

impl Fact {
    pub(super) fn of(event: &Event) -> Result<Self, Unfit> {
        let id = parse(&event.id).ok_or(Unfit::Id)?;
        if event.encoded_len() > MAX_FACT_BYTES {
            return Err(Unfit::Size);
        }
        Ok(Self { id, bytes: event.encode_to_vec() })
    }
}

/// The id in an event's bytes.
pub(super) fn id_of(bytes: &[u8]) -> Option<u128> {
    /// An event, without the fields that are not needed.
    #[derive(Clone, PartialEq, Message)]
    struct OnlyId {
        #[prost(string, tag = "1")]
        id: String,
    }
    parse(&OnlyId::decode(bytes).ok()?.id)
}

/// The value of a ULID. Of its 26 characters the first stands for three bits only.
pub(super) fn parse(id: &str) -> Option<u128> {
    let fits = id.len() == ULID_LEN && matches!(id.as_bytes().first(), Some(b'0'..=b'7'));
    if fits { Ulid::from_string(id).ok().map(Into::into) } else { None }
}

/// Whether a text is a ULID.
#[must_use]
pub fn is_ulid(id: &str) -> bool {
    parse(id).is_some()
}
