//! A sink's spool on disk: a redb file with one table that maps an increasing number to a record.
//!
//! Any error closes the file, because redb requires that. The next call reopens and checks it.

use std::{
    collections::BTreeSet,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    backends::FileBackend,
};
use tapio_occurrence::Occurrence;
use tapio_service::{backoff::Backoff, crash, private};

use super::record::{self, Malformed};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("occurrences");
/// The page cache.
const CACHE_BYTES: usize = 2 << 20;
/// The approximate size of one transaction.
pub(crate) const CHANGE_BYTES: u64 = 1 << 20;
/// Waits before a failed write is retried: 0.25 s to 5 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// An empty file larger than this is compacted.
const SMALL_BYTES: u64 = 4 << 20;

/// An error of a spool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The file cannot be written or read now.
    #[error("{0}")]
    Away(String),
    /// The file's content is not what was written.
    #[error("{0}")]
    Damaged(String),
}

/// The file, and its known content.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// The limit of [`Stock::bytes`].
    limit_bytes: u64,
    database: Option<Database>,
    /// Keys of records that are also in memory, or settled.
    held: BTreeSet<u64>,
    /// The key of the next record. Records from this key on were never reported as written.
    next: Option<u64>,
    stock: Stock,
    retry: Backoff,
    /// The earliest time of the next attempt, after an error.
    not_before: Option<Instant>,
}

/// The content of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    pub(crate) records: u64,
    /// The approximate space that they take.
    pub(crate) bytes: u64,
}

/// The result of opening a file.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Whether it is the first time in this process.
    pub(crate) first: bool,
    /// Keys that were held and are missing from the file.
    pub(crate) missing: BTreeSet<u64>,
}

/// The result of a write.
#[derive(Debug)]
pub(crate) struct Written {
    /// The key of the first record; those of the others follow.
    pub(crate) first: u64,
    /// Number of older records that were evicted.
    pub(crate) evicted: u64,
}

/// A key, and the record that was written under it.
pub(crate) type Read = (u64, Result<Occurrence, Malformed>);

impl Disk {
    /// Describes a file without opening it. `cap_bytes` is the limit of the file on disk: three quarters of
    /// it, minus one transaction, are for records, and redb needs the rest for pages that are only partly
    /// full.
    pub(crate) fn new(path: PathBuf, cap_bytes: u64) -> Self {
        Self {
            path,
            limit_bytes: (cap_bytes / 4 * 3).saturating_sub(CHANGE_BYTES),
            database: None,
            held: BTreeSet::new(),
            next: None,
            stock: Stock::default(),
            retry: RETRY,
            not_before: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn stock(&self) -> Stock {
        self.stock
    }

    /// Number of records that are not held.
    pub(crate) fn unread(&self) -> u64 {
        self.stock.records.saturating_sub(self.held.len() as u64)
    }

    /// Opens the file; `None` if it was open already.
    pub(crate) fn open(&mut self) -> Result<Option<Opened>, Trouble> {
        if self.database.is_some() {
            return Ok(None);
        }
        let known = self.next;
        let (database, stock, last, present) = guarded(|| {
            if let Some(directory) = self.path.parent() {
                private::make_inner_directory(directory)?;
            }
            // Each page is checked: data altered on disk must not be reported as an occurrence.
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(FileBackend::new(private::open_or_create(&self.path)?)?)?;
            // Nothing is written unless necessary, because the disk may be full.
            if !has_table(&database)? {
                let change = database.begin_write()?;
                change.open_table(RECORDS)?;
                change.commit()?;
            }
            // A transaction that was reported as failed may have written records. They are still in memory.
            if let Some(next) = known
                && last_key(&database)? >= Some(next)
            {
                let change = database.begin_write()?;
                change.open_table(RECORDS)?.retain_in(next.., |_, _| false)?;
                change.commit()?;
            }
            let mut stock = Stock::default();
            let mut present = BTreeSet::new();
            for entry in database.begin_read()?.open_table(RECORDS)?.iter()? {
                let (key, value) = entry?;
                stock.records += 1;
                stock.bytes += room(value.value().len());
                if self.held.contains(&key.value()) {
                    present.insert(key.value());
                }
            }
            let last = last_key(&database)?;
            Ok((database, stock, last, present))
        })?;
        self.database = Some(database);
        self.stock = stock;
        let missing = &self.held - &present;
        self.held = present;
        self.next = known.max(Some(last.map_or(0, |last| last + 1)));
        Ok(Some(Opened { first: known.is_none(), missing }))
    }

    /// Appends records, and evicts the oldest that are not held if the limit would be exceeded.
    pub(crate) fn append(&mut self, records: &[Vec<u8>]) -> Result<Written, Trouble> {
        let first = self.next.unwrap_or_default();
        let (limit_bytes, held) = (self.limit_bytes, &self.held);
        let mut stock = self.stock;
        let mut evicted = 0;
        let written = write(&self.database, |table| {
            stock.records += records.len() as u64;
            stock.bytes += records.iter().map(|record| room(record.len())).sum::<u64>();
            if stock.bytes > limit_bytes {
                let excess = stock.bytes - limit_bytes;
                let mut freed = 0;
                let oldest = table.extract_if(|key, _| !held.contains(&key))?;
                for entry in oldest {
                    freed += room(entry?.1.value().len());
                    evicted += 1;
                    if freed >= excess {
                        break;
                    }
                }
                stock.records -= evicted;
                stock.bytes -= freed;
            }
            for (key, record) in (first..).zip(records) {
                table.insert(key, record.as_slice())?;
            }
            Ok(())
        });
        self.settled(written)?;
        self.stock = stock;
        self.next = Some(first + records.len() as u64);
        Ok(Written { first, evicted })
    }

    /// Removes these records for good.
    pub(crate) fn remove(&mut self, keys: &[u64]) -> Result<(), Trouble> {
        let mut stock = self.stock;
        let removed = write(&self.database, |table| {
            for key in keys {
                if let Some(value) = table.remove(key)? {
                    stock.records -= 1;
                    stock.bytes -= room(value.value().len());
                }
            }
            Ok(())
        });
        self.settled(removed)?;
        self.stock = stock;
        keys.iter().for_each(|key| {
            self.held.remove(key);
        });
        if stock.records == 0
            && fs::metadata(&self.path).is_ok_and(|file| file.len() > SMALL_BYTES)
            && let Some(database) = &mut self.database
        {
            let compacted = guarded(|| Ok(database.compact().map(drop)?));
            self.settled(compacted)?;
        }
        Ok(())
    }

    /// Reads the oldest records that are not held, at most this many, and marks them as held.
    pub(crate) fn read(&mut self, count: usize) -> Result<Vec<Read>, Trouble> {
        let (database, held) = (&self.database, &self.held);
        let read = guarded(|| {
            let Some(database) = database else { return Ok(Vec::new()) };
            let table = database.begin_read()?.open_table(RECORDS)?;
            let mut read = Vec::new();
            for entry in table.iter()? {
                if read.len() == count {
                    break;
                }
                let (key, value) = entry?;
                if !held.contains(&key.value()) {
                    read.push((key.value(), record::decode(value.value())));
                }
            }
            Ok(read)
        });
        // A successful read does not show that writes work.
        let read = read.or_else(|trouble| self.settled(Err(trouble)))?;
        self.held.extend(read.iter().map(|(key, _)| *key));
        Ok(read)
    }

    /// Marks a record as also in memory.
    pub(crate) fn hold(&mut self, key: u64) {
        self.held.insert(key);
    }

    /// Renames the file, with the time in its new name; only the latest such file is retained. If it cannot
    /// be renamed it stays, and the spool is unavailable.
    pub(crate) fn quarantined(&mut self) -> io::Result<PathBuf> {
        self.close();
        (self.held, self.stock) = (BTreeSet::new(), Stock::default());
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mark = format!("{name}.damaged-");
        if let Some(directory) = self.path.parent() {
            for entry in fs::read_dir(directory)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&mark) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = self.path.with_file_name(format!("{mark}{now}"));
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Closes the file.
    pub(crate) fn close(&mut self) {
        let database = self.database.take();
        // Dropping a damaged database may panic; it has nothing left to write.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Not too soon after an error, because reopening a file is expensive.
    pub(crate) fn may_write(&self) -> bool {
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Closes the file if there was an error.
    fn settled<T>(&mut self, done: Result<T, Trouble>) -> Result<T, Trouble> {
        match &done {
            Ok(_) => {
                self.not_before = None;
                self.retry.reset();
            }
            Err(_) => {
                self.not_before = Some(Instant::now() + self.retry.wait());
                self.close();
            }
        }
        done
    }
}

type Table<'t> = redb::Table<'t, u64, &'static [u8]>;

/// Runs one transaction, which is on disk when this returns.
fn write(
    database: &Option<Database>,
    change: impl FnOnce(&mut Table<'_>) -> Result<(), redb::Error>,
) -> Result<(), Trouble> {
    guarded(|| {
        let Some(database) = database else { return Ok(()) };
        let transaction = database.begin_write()?;
        change(&mut transaction.open_table(RECORDS)?)?;
        transaction.commit()?;
        Ok(())
    })
}

fn has_table(database: &Database) -> Result<bool, redb::Error> {
    match database.begin_read()?.open_table(RECORDS) {
        Ok(_) => Ok(true),
        Err(TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn last_key(database: &Database) -> Result<Option<u64>, redb::Error> {
    let table = database.begin_read()?.open_table(RECORDS)?;
    Ok(table.last()?.map(|(key, _)| key.value()))
}

/// Catches panics: redb may panic on a file that it did not write that way.
fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Trouble> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| match &error {
            redb::Error::Io(io) if !is_damage(io) => Trouble::Away(error.to_string()),
            redb::Error::DatabaseAlreadyOpen => Trouble::Away("another agent has it open".to_owned()),
            redb::Error::LockProtocolMismatch | redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                Trouble::Away(error.to_string())
            }
            _ => Trouble::Damaged(error.to_string()),
        }),
        Err(panic) => Err(Trouble::Damaged(crash::said(panic.as_ref()))),
    }
}

/// The file is too short, or has the wrong magic number.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// The space that a record of this size takes on disk: its share of a 4 KiB page, or pages of its own, whose
/// sizes in redb are powers of two.
#[must_use]
pub const fn room(bytes: usize) -> u64 {
    const PAGE: u64 = 4096;
    let with_key = bytes as u64 + 16;
    if with_key < PAGE { PAGE / (PAGE / with_key) } else { (with_key + 16).next_power_of_two() }
}

#[cfg(test)]
mod tests;
