//! A sink's spool on disk: a redb file with one table, from a number that only grows to a record.
//!
//! Whatever goes wrong closes the file, since redb asks for that; the next call opens and checks it again.

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
/// Memory for pages.
const CACHE_BYTES: usize = 2 << 20;
/// What one change may take, about.
pub(crate) const CHANGE_BYTES: u64 = 1 << 20;
/// Waits before something is written again after it could not be: 0.25 s to 5 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
/// An empty file over this is made small.
const SMALL_BYTES: u64 = 4 << 20;

/// What is wrong with a spool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// It cannot be written or read now.
    #[error("{0}")]
    Away(String),
    /// Its content is not what was written.
    #[error("{0}")]
    Damaged(String),
}

/// The file, and what is known of it.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// Most that [`Stock::bytes`] may be.
    limit_bytes: u64,
    database: Option<Database>,
    /// Keys of records that are in memory, too, or done with.
    held: BTreeSet<u64>,
    /// The key of the next record; those that are not under it were never said to be written.
    next: Option<u64>,
    stock: Stock,
    retry: Backoff,
    /// When it is tried again, after something went wrong.
    not_before: Option<Instant>,
}

/// What is in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stock {
    pub(crate) records: u64,
    /// Room that they take, about.
    pub(crate) bytes: u64,
}

/// What an opened file has.
#[derive(Debug)]
pub(crate) struct Opened {
    /// For the first time in this process.
    pub(crate) first: bool,
    /// Keys that were held and are not there.
    pub(crate) missing: BTreeSet<u64>,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The key of the first; those of the others follow.
    pub(crate) first: u64,
    /// How many older ones had to go.
    pub(crate) evicted: u64,
}

/// A key, and what was written under it.
pub(crate) type Read = (u64, Result<Occurrence, Malformed>);

impl Disk {
    /// Not opened yet. `cap_bytes` is what the file may take on disk: three quarters of it, less one
    /// change, are for records, the rest is what redb needs for pages that are only partly full.
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

    /// How many are there that are not held.
    pub(crate) fn unread(&self) -> u64 {
        self.stock.records.saturating_sub(self.held.len() as u64)
    }

    /// Opens the file where it is not open. `None`: it was.
    pub(crate) fn open(&mut self) -> Result<Option<Opened>, Trouble> {
        if self.database.is_some() {
            return Ok(None);
        }
        let known = self.next;
        let (database, stock, last, present) = guarded(|| {
            if let Some(directory) = self.path.parent() {
                private::make_inner_directory(directory)?;
            }
            // Each page is checked: what was altered on disk must not be reported as an occurrence.
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(FileBackend::new(private::open_or_create(&self.path)?)?)?;
            // Nothing is written where nothing has to be: the disk may be full.
            if !has_table(&database)? {
                let change = database.begin_write()?;
                change.open_table(RECORDS)?;
                change.commit()?;
            }
            // What was written by a change that was said to have failed is still in memory.
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

    /// Writes records after all others, and lets the oldest that are not held go where there would be too much.
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

    /// Takes these out for good.
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

    /// The oldest that are not held, at most so many; from now on they are.
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
        // That it can be read does not say that it can be written.
        let read = read.or_else(|trouble| self.settled(Err(trouble)))?;
        self.held.extend(read.iter().map(|(key, _)| *key));
        Ok(read)
    }

    /// A record is in memory, too.
    pub(crate) fn hold(&mut self, key: u64) {
        self.held.insert(key);
    }

    /// Puts the file aside, under a name that says when; only the last one is kept. Where it cannot be renamed it stays,
    /// and the spool is away.
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
        // One that is damaged may panic, and has nothing left to write.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Not too soon after something went wrong: to open a file again is expensive.
    pub(crate) fn may_write(&self) -> bool {
        self.not_before.is_none_or(|time| Instant::now() >= time)
    }

    /// Closes the file where something went wrong.
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

/// One change, on disk when this returns.
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

/// redb may panic on a file that it has not written so.
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

/// The file is too short, or begins with something else.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData)
}

/// What a record of so many bytes takes on disk: its share of a page of 4 KiB, or pages of its own, of which redb has
/// powers of two.
const fn room(bytes: usize) -> u64 {
    const PAGE: u64 = 4096;
    let with_key = bytes as u64 + 16;
    if with_key < PAGE { PAGE / (PAGE / with_key) } else { (with_key + 16).next_power_of_two() }
}

#[cfg(test)]
mod tests;
