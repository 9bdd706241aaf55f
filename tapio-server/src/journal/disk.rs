//! The journal's file.
//!
//! Any error closes the file, because redb requires that. The next call opens it again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _,
    WriteTransaction, backends::FileBackend,
};
use tapio_service::{backoff::Backoff, private};

use super::{
    Outcome, Trouble,
    clock::{unix_s, unix_us},
    fact::Fact,
    guarded::guarded,
    tables::{MARKS, Mark, Removed, Stock, Tables, content, has_tables, space},
};

/// The page cache.
const CACHE_BYTES: usize = 32 << 20;
/// The approximate size of one transaction, and of what redb retains of the one before.
const CHANGE_BYTES: u64 = 8 << 20;
/// The interval between two marks.
const MARK: u64 = 60;
/// Facts that are removed in one transaction.
const SWEEP_FACTS: usize = 4_096;
/// Waits before a failed write is tried again: 0.25 s to 5 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// The open file, shared with readers. A reader holds the lock for one transaction.
pub(super) type Open = Arc<RwLock<Option<Database>>>;

/// The file, and its known content.
pub(super) struct Disk {
    path: PathBuf,
    /// The limit of [`Stock::bytes`].
    limit_bytes: u64,
    max_age: Duration,
    open: Open,
    stock: Stock,
    marked: Mark,
    retry: Backoff,
    /// The last error, and when to try again.
    failed: Option<(Trouble, Instant)>,
    /// Whether the next opening checks every page.
    suspect: bool,
    quarantined: Option<PathBuf>,
}

/// Facts that a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// They were too old.
    pub(super) expired: u64,
    /// They were too many.
    pub(super) evicted: u64,
}

/// What one transaction did.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) outcomes: Vec<Outcome>,
    /// Number of facts that were removed to make room.
    pub(super) evicted: u64,
}

impl Swept {
    /// Whether there is nothing more to remove.
    pub(super) const fn is_all(self) -> bool {
        self.expired == 0 && self.evicted == 0
    }
}

impl Disk {
    /// Opens the file, or creates it. A damaged one is set aside.
    pub(super) fn open(path: PathBuf, max_bytes: u64, max_age: Duration) -> Result<Self, Trouble> {
        let mut disk = Self {
            path,
            // The rest is for pages that are only partly full.
            limit_bytes: (max_bytes / 4 * 3).saturating_sub(CHANGE_BYTES),
            max_age,
            open: Open::default(),
            stock: Stock::default(),
            marked: Mark::default(),
            retry: RETRY,
            failed: None,
            suspect: false,
            quarantined: None,
        };
        disk.ready()?;
        Ok(disk)
    }

    /// The open file, for readers.
    pub(super) fn shared(&self) -> Open {
        Arc::clone(&self.open)
    }

    pub(super) const fn stock(&self) -> Stock {
        self.stock
    }

    /// Where the last damaged file is, if there was one.
    pub(super) fn quarantined(&self) -> Option<&Path> {
        self.quarantined.as_deref()
    }

    /// The current error.
    pub(super) fn failed(&self) -> Option<&Trouble> {
        self.failed.as_ref().map(|(why, _)| why)
    }

    /// Writes facts, and removes the oldest ones if the limit would be exceeded. They are on disk when this returns.
    pub(super) fn append<'f>(
        &mut self,
        facts: impl Iterator<Item = &'f Fact> + Clone,
    ) -> Result<Written, Trouble> {
        let first = self.try_append(facts.clone());
        match first {
            // With a file that was set aside there is a new one.
            Err(Trouble::Damaged(_)) => self.try_append(facts),
            other => other,
        }
    }

    fn try_append<'f>(&mut self, facts: impl Iterator<Item = &'f Fact>) -> Result<Written, Trouble> {
        self.ready()?;
        let (mut stock, limit_bytes) = (self.stock, self.limit_bytes);
        let now = unix_s();
        let is_due = now.abs_diff(self.marked.received_s) >= MARK;
        let mark = Mark { seq: stock.next, received_s: now };
        let mut written = Written::default();
        let done = self.change(|change| {
            let mut tables = Tables::of(change)?;
            for fact in facts {
                if tables.ids.get(fact.id)?.is_some() {
                    written.outcomes.push(Outcome::Repeated);
                    continue;
                }
                tables.ids.insert(fact.id, stock.next)?;
                tables.facts.insert(stock.next, fact.bytes.as_slice())?;
                written.outcomes.push(Outcome::Accepted(stock.next));
                stock.bytes += space(fact.bytes.len());
                stock.facts += 1;
                stock.next += 1;
            }
            if stock.next == mark.seq {
                return Ok(false);
            }
            if is_due {
                tables.marks.insert(mark.seq, mark.received_s)?;
            }
            if stock.bytes > limit_bytes {
                // Not all at once, after the limit was lowered; sweeping does the rest.
                let most = written.outcomes.len() + SWEEP_FACTS;
                let removed = tables.remove_oldest(most, u64::MAX, stock.bytes - limit_bytes)?;
                stock.remove(removed);
                written.evicted = removed.facts;
            }
            tables.keep(stock)?;
            Ok(true)
        });
        if self.settled(done)? {
            self.stock = stock;
            if is_due {
                self.marked = mark;
            }
        }
        Ok(written)
    }

    /// Removes some of the facts that are too old, or too many.
    pub(super) fn sweep(&mut self, now_s: u64) -> Result<Swept, Trouble> {
        self.ready()?;
        self.mark_the_end(now_s)?;
        let before = now_s.saturating_sub(self.max_age.as_secs());
        let expired = self.read(|database| {
            let marks = database.begin_read()?.open_table(MARKS)?;
            let mut expired = None;
            for mark in marks.iter()? {
                let (seq, received) = mark?;
                if received.value() > before {
                    break;
                }
                expired = Some(seq.value());
            }
            Ok(expired)
        });
        let expired = expired.map_err(|why| self.fail(why))?.unwrap_or_default();
        let (mut stock, limit_bytes) = (self.stock, self.limit_bytes);
        if expired == 0 && stock.bytes <= limit_bytes {
            return Ok(Swept::default());
        }
        let mut swept = Swept::default();
        let done = self.change(|change| {
            let mut tables = Tables::of(change)?;
            let old = tables.remove_oldest(SWEEP_FACTS, expired, u64::MAX)?;
            stock.remove(old);
            let excess = stock.bytes.saturating_sub(limit_bytes);
            let many = match excess {
                0 => Removed::default(),
                excess => tables.remove_oldest(SWEEP_FACTS, u64::MAX, excess)?,
            };
            stock.remove(many);
            swept = Swept { expired: old.facts, evicted: many.facts };
            tables.keep(stock)?;
            if swept.is_all() {
                // Only their marks are left; the last one says when the others were received.
                let before = tables.marks.len()?;
                tables.marks.retain_in(..expired, |_, _| false)?;
                return Ok(tables.marks.len()? < before);
            }
            Ok(true)
        });
        self.settled(done)?;
        self.stock = stock;
        Ok(swept)
    }

    /// Marks the end of the journal if nothing has come for a while, so that the last facts get old, too. After an error
    /// this also shows whether the file can be written again.
    fn mark_the_end(&mut self, now_s: u64) -> Result<(), Trouble> {
        let mark = Mark { seq: self.stock.next, received_s: now_s };
        let is_due = self.stock.facts > 0
            && self.marked.seq < mark.seq
            && now_s.abs_diff(self.marked.received_s) >= MARK;
        if !is_due && self.failed.is_none() {
            return Ok(());
        }
        let stock = self.stock;
        let done = self.change(|change| {
            let mut tables = Tables::of(change)?;
            if is_due {
                tables.marks.insert(mark.seq, mark.received_s)?;
            }
            tables.keep(stock)?;
            Ok(true)
        });
        self.settled(done)?;
        if is_due {
            self.marked = mark;
        }
        Ok(())
    }

    /// Has every page checked, because a reader found something wrong.
    pub(super) fn doubt(&mut self) {
        self.suspect = true;
        self.close();
    }

    /// Closes the file.
    pub(super) fn close(&mut self) {
        let database = self.open.write().unwrap_or_else(PoisonError::into_inner).take();
        // Dropping a damaged database may panic; it has nothing left to write.
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }

    /// Opens the file if it is not open.
    fn ready(&mut self) -> Result<(), Trouble> {
        if self.open.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        if let Some((why, until)) = &self.failed
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        let opened = match self.load() {
            Err(Trouble::Damaged(why)) => self.quarantine(&why).and_then(|()| self.load()),
            other => other,
        };
        self.suspect = false;
        opened.map_err(|why| self.fail(why))
    }

    fn load(&mut self) -> Result<(), Trouble> {
        let check = self.suspect;
        // A new file goes on after everything that an earlier one may have had: numbers are never used twice.
        let fresh = self.stock.next.max(unix_us());
        let (database, stock, marked) = guarded(|| {
            if let Some(directory) = self.path.parent() {
                private::make_inner_directory(directory)?;
            }
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(check)
                .create_with_backend(FileBackend::new(private::open_or_create(&self.path)?)?)?;
            // Nothing is written unless necessary, because the disk may be full.
            if !has_tables(&database)? {
                let mut change = database.begin_write()?;
                change.set_quick_repair(true);
                Tables::of(&change)?.keep(Stock { next: fresh, ..Stock::default() })?;
                change.commit()?;
            }
            let (stock, marked) = content(&database)?;
            Ok((database, stock, marked))
        })?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        (self.stock, self.marked) = (stock, marked);
        Ok(())
    }

    /// Renames the file, with the time in its new name; only the latest such file is retained.
    fn quarantine(&mut self, why: &str) -> Result<(), Trouble> {
        self.close();
        let aside = self.set_aside().map_err(|error| {
            Trouble::Away(format!("it is damaged ({why}), and cannot be renamed: {error}"))
        })?;
        tracing::error!(
            why,
            file = %aside.display(),
            "the journal is damaged: it was set aside, and a new one begins"
        );
        self.quarantined = Some(aside);
        (self.stock, self.marked) = (Stock { next: self.stock.next, ..Stock::default() }, Mark::default());
        Ok(())
    }

    fn set_aside(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mark = format!("{name}.damaged-");
        if let Some(directory) = self.path.parent() {
            for entry in fs::read_dir(directory)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&mark) {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let aside = self.path.with_file_name(format!("{mark}{}", unix_s()));
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Runs one transaction, and commits it if `work` returns true.
    fn change(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<bool, redb::Error>,
    ) -> Result<bool, Trouble> {
        self.read(|database| {
            let mut change = database.begin_write()?;
            // After a crash the file opens at once, whatever its size.
            change.set_quick_repair(true);
            let is_changed = work(&change)?;
            match is_changed {
                true => change.commit()?,
                false => change.abort()?,
            }
            Ok(is_changed)
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Trouble> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or(Trouble::Closed)?;
        guarded(|| work(database))
    }

    /// After a write, whether it changed anything.
    fn settled(&mut self, done: Result<bool, Trouble>) -> Result<bool, Trouble> {
        let is_changed = done.map_err(|why| self.fail(why))?;
        if is_changed {
            self.retry.reset();
            if self.failed.take().is_some() {
                tracing::info!("the journal can be written again");
            }
        }
        Ok(is_changed)
    }

    /// Closes the file after an error.
    fn fail(&mut self, why: Trouble) -> Trouble {
        if let Trouble::Damaged(why) = &why {
            tracing::warn!(why, "the journal may be damaged: its pages are checked");
            self.doubt();
            return Trouble::Damaged(why.clone());
        }
        if self.failed.is_none() {
            tracing::error!(%why, file = %self.path.display(), "the journal cannot be written: free space, or correct the directory");
        }
        self.failed = Some((why.clone(), Instant::now() + self.retry.wait()));
        self.close();
        why
    }
}
