//! The tables of the journal's file.

use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, Table, TableDefinition,
    TableError, WriteTransaction,
};
use tapio_delivery::spool::room;

use super::fact::id_of;

/// `polku.event.v1.Event` by sequence number.
pub(super) const FACTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("facts");
/// Sequence numbers by ULID.
const IDS: TableDefinition<'_, u128, u64> = TableDefinition::new("ids");
/// When facts were received: the facts from a sequence number on, not before this time, seconds since 1970 UTC. There
/// is an entry a minute at most.
pub(super) const MARKS: TableDefinition<'_, u64, u64> = TableDefinition::new("marks");
/// The sequence number of the next fact ([`NEXT`]), and the space that all take ([`BYTES`]).
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NEXT: &str = "next";
const BYTES: &str = "bytes";

/// The space of an entry of the index: 24 bytes in pages that are about half full.
const INDEX_BYTES: u64 = 48;

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stock {
    pub(super) facts: u64,
    /// The approximate space that they take.
    pub(super) bytes: u64,
    /// The sequence number of the next fact.
    pub(super) next: u64,
}

/// An entry of [`MARKS`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    pub(super) seq: u64,
    pub(super) received_s: u64,
}

/// The tables in a transaction.
pub(super) struct Tables<'t> {
    pub(super) facts: Table<'t, u64, &'static [u8]>,
    pub(super) ids: Table<'t, u128, u64>,
    pub(super) marks: Table<'t, u64, u64>,
    meta: Table<'t, &'static str, u64>,
}

/// Facts that were removed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Removed {
    pub(super) facts: u64,
    bytes: u64,
}

impl Stock {
    pub(super) fn remove(&mut self, removed: Removed) {
        self.facts = self.facts.saturating_sub(removed.facts);
        self.bytes = self.bytes.saturating_sub(removed.bytes);
    }
}

impl<'t> Tables<'t> {
    pub(super) fn of(change: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            facts: change.open_table(FACTS)?,
            ids: change.open_table(IDS)?,
            marks: change.open_table(MARKS)?,
            meta: change.open_table(META)?,
        })
    }

    /// Removes the oldest facts: at most `count`, with sequence numbers below `end`, until `bytes` are free.
    pub(super) fn remove_oldest(
        &mut self,
        count: usize,
        end: u64,
        bytes: u64,
    ) -> Result<Removed, redb::Error> {
        let mut removed = Removed::default();
        for entry in self.facts.extract_from_if(..end, |_, _| true)?.take(count) {
            let (_, value) = entry?;
            removed.facts += 1;
            removed.bytes += space(value.value().len());
            if let Some(id) = id_of(value.value()) {
                self.ids.remove(id)?;
            }
            if removed.bytes >= bytes {
                break;
            }
        }
        Ok(removed)
    }

    pub(super) fn keep(&mut self, stock: Stock) -> Result<(), redb::Error> {
        self.meta.insert(NEXT, stock.next)?;
        self.meta.insert(BYTES, stock.bytes)?;
        Ok(())
    }
}

/// Whether the file has tables yet.
pub(super) fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The content of the file, and its last mark.
pub(super) fn content(database: &Database) -> Result<(Stock, Mark), redb::Error> {
    let view = database.begin_read()?;
    let meta = view.open_table(META)?;
    let of = |name: &str| -> Result<u64, redb::Error> {
        meta.get(name)?.map(|value| value.value()).ok_or_else(|| redb::Error::Corrupted(format!("no {name}")))
    };
    let stock = Stock { facts: view.open_table(FACTS)?.len()?, bytes: of(BYTES)?, next: of(NEXT)? };
    let marks = view.open_table(MARKS)?;
    let marked = marks.last()?.map(|(seq, received)| Mark { seq: seq.value(), received_s: received.value() });
    Ok((stock, marked.unwrap_or_default()))
}

/// The space that a fact of this size takes on disk.
pub(super) const fn space(bytes: usize) -> u64 {
    room(bytes) + INDEX_BYTES
}
