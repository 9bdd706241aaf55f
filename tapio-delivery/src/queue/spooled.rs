//! The queue and its spool: when occurrences are written and read back, and what happens if the disk fails.
//!
//! Everything but [`keep`] blocks on the disk, and is called only where that delays nothing else.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tapio_occurrence::Occurrence;
use tapio_service::backoff::Backoff;
use tokio::time::{Instant, sleep, timeout_at};

use super::{HOLD, Inner, LAST_WAIT, Phase, Queue};
use crate::{
    State,
    spool::{CHANGE_BYTES, Disk, OK, OPENING, Trouble, encode},
};

/// The most records written in one transaction.
const CHANGE_RECORDS: usize = 1024;
/// Opening a spool is logged if it takes longer than this.
const SLOW: Duration = Duration::from_secs(1);
/// Waits before the spool is retried: 0.25 s to 5 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// When the spool's task has its next work.
enum Due {
    At(Instant),
    /// Nothing is waiting to become due.
    Whenever,
    /// Nothing will ever become due.
    Never,
}

/// The spool's task: opens the spool, and writes occurrences that have been in memory for too long.
pub(crate) async fn keep(queue: Arc<Queue>) {
    tokio::select! {
        () = on_disk(&queue, |queue| queue.open_spool()) => queue.no_longer_opening(),
        // Opening only reads the file, so it can be abandoned half-way.
        () = queue.nothing_left_to_write() => return queue.draining.notify_one(),
    }
    let mut retry = RETRY;
    loop {
        match queue.due() {
            Due::Never => return queue.draining.notify_one(),
            Due::Whenever => queue.unwritten.notified().await,
            Due::At(time) if time > Instant::now() => {
                // A timeout and a notification are equivalent: both lead to another check.
                let _ = timeout_at(time, queue.unwritten.notified()).await;
            }
            Due::At(_) => {
                if on_disk(&queue, |queue| queue.write_out()).await {
                    retry.reset();
                } else {
                    let draining = queue.lock().phase != Phase::Open;
                    sleep(if draining { LAST_WAIT } else { retry.wait() }).await;
                }
            }
        }
    }
}

/// Runs blocking disk work on a thread of its own.
pub(crate) async fn on_disk<T: Send + Default + 'static>(
    queue: &Arc<Queue>,
    work: impl FnOnce(&Queue) -> T + Send + 'static,
) -> T {
    let queue = Arc::clone(queue);
    match tokio::task::spawn_blocking(move || work(&queue)).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "the spool's work was not done");
            T::default()
        }
    }
}

impl Queue {
    /// Opens the spool for the first time: reads the whole file and checks each page.
    fn open_spool(&self) {
        let Some(spool) = &self.spool else { return };
        let start = Instant::now();
        let mut disk = spool.lock();
        self.opened(&mut disk);
        let (stock, took) = (disk.stock(), start.elapsed());
        drop(disk);
        if took > SLOW {
            tracing::info!(
                sink = self.name,
                records = stock.records,
                bytes = stock.bytes,
                ?took,
                "spool opened"
            );
        }
    }

    /// Whether the spool is still being opened.
    pub(crate) fn is_opening(&self) -> bool {
        self.lock().opening_until.is_some()
    }

    /// Returns when draining has begun and no occurrence is in memory only.
    async fn nothing_left_to_write(&self) {
        while !self.lock().may_leave() {
            self.unwritten.notified().await;
        }
    }

    /// Ends the wait of occurrences in memory, whether or not the spool could be opened.
    fn no_longer_opening(&self) {
        let mut inner = self.lock();
        inner.opening_until = None;
        if inner.spool.state == OPENING {
            OK.clone_into(&mut inner.spool.state);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Closes the spool after everything is written.
    pub(crate) fn close_spool(&self) {
        if let Some(spool) = &self.spool {
            let mut disk = spool.lock();
            self.tidy(&mut disk);
            disk.close();
        }
    }

    /// Writes the occurrences that are in memory only at this time, oldest first, and removes settled ones.
    /// True on success. Those that arrive in the meantime wait for the next call, because other tasks need
    /// the spool, too.
    pub(crate) fn write_out(&self) -> bool {
        let Some(spool) = &self.spool else { return true };
        let mut disk = spool.lock();
        if !disk.may_write() || !self.opened(&mut disk) || !self.tidy(&mut disk) {
            return false;
        }
        let last = self.lock().nth;
        loop {
            let entries = self.lock().oldest_unwritten(last);
            if entries.is_empty() {
                self.well(&disk);
                // Removes those acknowledged during the write.
                return self.tidy(&mut disk);
            }
            let mut bytes = 0_u64;
            let mut records = Vec::new();
            for (_, occurrence) in &entries {
                let record = encode(occurrence);
                bytes += record.len() as u64;
                records.push(record);
                if bytes > CHANGE_BYTES {
                    break;
                }
            }
            match disk.append(&records) {
                Ok(written) => {
                    let keys = (written.first..).zip(entries.iter().take(records.len()));
                    let mut keys = keys.map(|(key, (nth, _))| (*nth, key)).collect();
                    let mut inner = self.lock();
                    inner.unread -= written.evicted;
                    inner.ledger.drop("spool_full", written.evicted);
                    inner.written(&mut keys).iter().for_each(|key| disk.hold(*key));
                    // What the spool holds and what the ledger counts change together.
                    inner.stocked(&disk);
                    drop(inner);
                    self.well(&disk);
                    if written.evicted > 0 {
                        self.metrics.dropped(self.name, "spool_full", written.evicted);
                    }
                    self.changed.notify_one();
                    self.draining.notify_one();
                }
                Err(trouble) => {
                    self.troubled(&mut disk, trouble);
                    return false;
                }
            }
        }
    }

    /// Reads the oldest occurrences of the spool into memory.
    pub(crate) fn read_back(&self, count: usize) {
        let Some(spool) = &self.spool else { return };
        let mut disk = spool.lock();
        if !self.opened(&mut disk) {
            return;
        }
        match disk.read(count) {
            Ok(records) => {
                let mut malformed = Vec::new();
                let mut inner = self.lock();
                inner.unread -= records.len() as u64;
                for (key, record) in records {
                    match record {
                        Ok(occurrence) => {
                            let entry = inner.entry(Arc::new(occurrence), Some(key));
                            inner.head.push_back(entry);
                        }
                        Err(why) => {
                            inner.finished.push(key);
                            malformed.push(why);
                        }
                    }
                }
                let count = malformed.len() as u64;
                inner.ledger.drop("spool_malformed", count);
                drop(inner);
                if let Some(why) = malformed.first() {
                    tracing::warn!(sink = self.name, count, %why, "records of the spool cannot be read");
                    self.metrics.dropped(self.name, "spool_malformed", count);
                }
            }
            Err(trouble) => self.troubled(&mut disk, trouble),
        }
    }

    /// Whether the spool contains settled occurrences.
    pub(crate) fn has_finished(&self) -> bool {
        !self.lock().finished.is_empty()
    }

    /// Removes settled occurrences from the spool.
    pub(crate) fn forget(&self) {
        if let Some(spool) = &self.spool {
            let mut disk = spool.lock();
            if disk.may_write() && self.opened(&mut disk) {
                self.tidy(&mut disk);
            }
        }
    }

    fn due(&self) -> Due {
        let inner = self.lock();
        let oldest = inner.head.iter().find(|entry| entry.key.is_none()).or(inner.tail.front());
        match (inner.phase, oldest) {
            (Phase::Closed(_), _) | (Phase::Draining(_), None) => Due::Never,
            (Phase::Draining(flush_at), _) if matches!(inner.state, State::Ok | State::Slowed) => {
                Due::At(flush_at)
            }
            (Phase::Draining(_), _) => Due::At(Instant::now()),
            _ if inner.spool.state != OK || inner.alone >= self.capacity.div_ceil(2) => {
                Due::At(Instant::now())
            }
            (Phase::Open, Some(oldest)) => Due::At(oldest.arrived + HOLD),
            (Phase::Open, None) => Due::Whenever,
        }
    }

    /// Removes settled occurrences; false if that fails.
    fn tidy(&self, disk: &mut Disk) -> bool {
        let finished = self.lock().finished.clone();
        if finished.is_empty() {
            return true;
        }
        match disk.remove(&finished) {
            Ok(()) => {
                // Keys added in the meantime come after these.
                self.lock().finished.drain(..finished.len());
                self.well(disk);
                true
            }
            Err(trouble) => {
                self.troubled(disk, trouble);
                false
            }
        }
    }

    /// Opens the file if it is closed, and accounts for its content. False if that fails.
    fn opened(&self, disk: &mut Disk) -> bool {
        match disk.open() {
            Ok(None) => {}
            Ok(Some(opened)) => {
                let mut inner = self.lock();
                let now = disk.unread();
                let before = match inner.phase {
                    // Nothing of this run is in the file, and none of its content has been counted, even if
                    // draining ended before it opened.
                    _ if opened.first => 0,
                    // A closed queue has counted what was in memory as unread, too.
                    Phase::Closed(_) => now,
                    _ => inner.unread,
                };
                let lost = before.saturating_sub(now);
                let recovered = now.saturating_sub(before);
                inner.unread = now;
                inner.away = false;
                inner.ledger.recovered += recovered;
                inner.ledger.drop("spool_lost", lost);
                inner.no_longer_written(&opened.missing);
                inner.stocked(disk);
                drop(inner);
                self.metrics.recovered(self.name, recovered);
                if lost > 0 {
                    self.metrics.dropped(self.name, "spool_lost", lost);
                }
                if recovered > 0 {
                    tracing::info!(sink = self.name, recovered, "the spool has what an earlier run left");
                }
                if opened.first {
                    self.well(disk);
                }
                self.changed.notify_one();
            }
            Err(trouble) => self.failed(disk, &trouble),
        }
        disk.is_open()
    }

    /// Handles a failure, after which the file is closed. A file that is still readable is reopened at once.
    fn troubled(&self, disk: &mut Disk, trouble: Trouble) {
        self.failed(disk, &trouble);
        if !disk.is_open() {
            self.opened(disk);
        }
    }

    fn failed(&self, disk: &mut Disk, trouble: &Trouble) {
        self.metrics.spool_failed(self.name);
        if let Trouble::Damaged(why) = trouble {
            let mut inner = self.lock();
            let lost = std::mem::take(&mut inner.unread);
            inner.finished.clear();
            inner.head.iter_mut().for_each(|entry| entry.key = None);
            inner.alone = inner.head.len() + inner.tail.len();
            inner.ledger.drop("spool_damaged", lost);
            drop(inner);
            if lost > 0 {
                self.metrics.dropped(self.name, "spool_damaged", lost);
            }
            match disk.quarantined() {
                Ok(aside) => {
                    self.metrics.spool_quarantined(self.name);
                    let aside = aside.display();
                    tracing::error!(
                        sink = self.name, why, lost, %aside,
                        "the spool is damaged: it is quarantined, and a new one begun"
                    );
                    if let Ok(Some(_)) = disk.open() {
                        let mut inner = self.lock();
                        inner.away = false;
                        return inner.stocked(disk);
                    }
                }
                Err(error) => {
                    let why = format!("{why}; it cannot be quarantined: {error}");
                    return self.away(disk, &Trouble::Damaged(why));
                }
            }
        }
        self.away(disk, trouble);
    }

    /// Records that the spool can be neither written nor read.
    fn away(&self, disk: &Disk, trouble: &Trouble) {
        self.lock().away = true;
        self.unwell(disk, trouble);
        self.changed.notify_one();
        self.unwritten.notify_one();
    }

    /// Records that the spool works, and logs it if it did not before.
    fn well(&self, disk: &Disk) {
        let mut inner = self.lock();
        inner.stocked(disk);
        if inner.spool.state != OK {
            let before = std::mem::replace(&mut inner.spool.state, OK.to_owned());
            drop(inner);
            if before == OPENING {
                return;
            }
            tracing::info!(sink = self.name, file = %disk.path().display(), "the spool is well again");
        }
    }

    /// Records that the spool fails, and logs it if it worked before.
    fn unwell(&self, disk: &Disk, trouble: &Trouble) {
        let mut inner = self.lock();
        inner.stocked(disk);
        let before = std::mem::replace(&mut inner.spool.state, format!("memory only({trouble})"));
        drop(inner);
        if before == OK || before == OPENING {
            tracing::warn!(
                sink = self.name, why = %trouble, file = %disk.path().display(),
                "nothing can be spooled: what the sink does not take waits in memory alone"
            );
        }
    }
}

impl Inner {
    fn stocked(&mut self, disk: &Disk) {
        let stock = disk.stock();
        (self.spool.records, self.spool.bytes) = (stock.records, stock.bytes);
    }

    /// The oldest occurrences in memory only, up to this number, with their numbers.
    fn oldest_unwritten(&self, last: u64) -> Vec<(u64, Arc<Occurrence>)> {
        let head = self.head.iter().filter(|entry| entry.key.is_none());
        let oldest = head.chain(&self.tail).take(CHANGE_RECORDS).take_while(|entry| entry.nth <= last);
        oldest.map(|entry| (entry.nth, Arc::clone(&entry.occurrence))).collect()
    }

    /// Records the keys of written occurrences, by number, and returns those that are in memory, too.
    /// Occurrences settled in the meantime are removed from the spool later.
    fn written(&mut self, keys: &mut HashMap<u64, u64>) -> Vec<u64> {
        let mut held = Vec::new();
        for entry in &mut self.head {
            if let Some(key) = keys.remove(&entry.nth) {
                entry.key = Some(key);
                self.alone -= 1;
                held.push(key);
            }
        }
        while let Some(first) = self.tail.front()
            && keys.remove(&first.nth).is_some()
        {
            self.tail.pop_front();
            self.alone -= 1;
            self.unread += 1;
        }
        let mut finished: Vec<_> = keys.values().copied().collect();
        finished.sort_unstable();
        held.extend(&finished);
        self.finished.extend(finished);
        held
    }

    fn no_longer_written(&mut self, missing: &BTreeSet<u64>) {
        for entry in &mut self.head {
            if entry.key.take_if(|key| missing.contains(key)).is_some() {
                self.alone += 1;
            }
        }
        self.finished.retain(|key| !missing.contains(key));
    }
}
