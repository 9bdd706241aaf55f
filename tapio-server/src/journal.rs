//! The journal: every fact that this process accepted, in order, on disk.
//!
//! A fact is accepted once the transaction with it is on disk. One task writes; everything that waits when it begins
//! goes into one transaction, so that the number of facts a second does not depend on the disk's latency. Each fact has
//! a sequence number. Numbers grow, with gaps, and are never used twice, even if a damaged file was replaced; a follower
//! that remembers the last one continues after it.
//!
//! Design and limits: docs/server.md.

mod clock;
mod disk;
mod fact;
mod guarded;
mod outcome;
mod settings;
mod tables;
mod task;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use prost::Message as _;
use serde::Serialize;
use tapio_occurrence::event::v1::Event;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

pub use fact::is_ulid;
pub use outcome::{Outcome, Trouble, Unfit};
pub use settings::Settings;
pub use task::Task;

use self::{
    disk::{Disk, Open},
    fact::Fact,
    guarded::guarded,
    tables::FACTS,
};
use crate::metrics::{Metrics, Waiting};

/// The name of the file in the state directory.
pub const FILE: &str = "journal/facts.redb";
/// The largest fact.
pub const MAX_FACT_BYTES: usize = 4 << 20;
/// Requests that wait for the writer. What they hold in memory is limited by those who make them.
const QUEUE: usize = 256;
/// Bytes of facts after which a reading ends.
const READ_BYTES: usize = 4 << 20;

/// The journal's size and age.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum size on disk.
    pub max_bytes: u64,
    /// How long facts are retained.
    pub max_age: Duration,
}

/// The journal. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    origin: &'static str,
}

/// Facts that were given to the writer.
#[derive(Debug)]
pub struct Pending {
    answer: oneshot::Receiver<Result<Vec<Outcome>, Trouble>>,
    /// Positions of facts that the journal cannot take.
    unfit: Vec<(usize, Unfit)>,
}

/// The journal in `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `ok`, or the error.
    pub state: String,
    /// Facts in it.
    pub facts: u64,
    /// The approximate space that they take on disk.
    pub bytes: u64,
    /// The sequence number of the newest one, or of the last one that there was.
    pub newest: u64,
    /// Where the last damaged file is, if this process has found one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<PathBuf>,
}

/// The state of a journal that works.
const OK: &str = "ok";

#[derive(Debug)]
struct Shared {
    open: Open,
    status: Mutex<Status>,
    newest: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Request {
    Append(Append),
    /// Remove what is too old.
    Sweep,
    /// Check every page: a reader found something wrong.
    Check,
    /// Answer what came before, and end.
    Close,
}

#[derive(Debug)]
struct Append {
    facts: Vec<Fact>,
    answer: oneshot::Sender<Result<Vec<Outcome>, Trouble>>,
    waiting: Waiting,
    /// The sender's memory for them, which is free once they are written.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Journal {
    /// Opens the file, or creates it, with missing directories. A damaged file is set aside. The task has to run for as
    /// long as facts are appended.
    ///
    /// # Errors
    /// The file cannot be opened: another process has it open, or the directory cannot be written.
    pub fn open(path: &Path, limits: Limits, metrics: Arc<Metrics>) -> anyhow::Result<(Self, Task)> {
        let disk = Disk::open(path.to_owned(), limits.max_bytes, limits.max_age)
            .with_context(|| format!("the journal {} cannot be opened", path.display()))?;
        let newest = watch::Sender::new(disk.stock().next.saturating_sub(1));
        let shared = Arc::new(Shared { open: disk.shared(), status: Mutex::default(), newest, metrics });
        let (sender, requests) = mpsc::channel(QUEUE);
        let task = Task::new(disk, requests, sender.clone(), Arc::clone(&shared));
        Ok((Self { shared, requests: sender, origin: "process" }, task))
    }

    /// The same journal, whose facts are counted under this origin.
    #[must_use]
    pub fn of(&self, origin: &'static str) -> Self {
        self.shared.metrics.begin(origin);
        Self { origin, ..self.clone() }
    }

    /// Appends facts, and returns the outcome of each once all accepted ones are on disk.
    ///
    /// # Errors
    /// Nothing is known to be on disk: the same facts have to be given again.
    pub async fn append(&self, events: &[Event]) -> Result<Vec<Outcome>, Trouble> {
        self.submit(events, None).await?.outcomes().await
    }

    /// Gives facts to the writer, and returns as soon as it has room for them. What one caller submits is written in this
    /// order. The permit, of whoever limits the memory of facts, is dropped with the facts, when they are written.
    ///
    /// # Errors
    /// The journal is closed.
    pub async fn submit(
        &self,
        events: &[Event],
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<Pending, Trouble> {
        let mut facts = Vec::with_capacity(events.len());
        let mut unfit = Vec::new();
        for (position, event) in events.iter().enumerate() {
            match Fact::of(event) {
                Ok(fact) => facts.push(fact),
                Err(why) => {
                    self.shared.metrics.refused(self.origin, why.reason(), 1);
                    unfit.push((position, why));
                }
            }
        }
        let waiting = Waiting::new(&self.shared.metrics, self.origin, facts.len() as u64);
        let (answer, answered) = oneshot::channel();
        let append = Append { facts, answer, waiting, _memory: memory };
        self.requests.send(Request::Append(append)).await.map_err(|_| Trouble::Closed)?;
        Ok(Pending { answer: answered, unfit })
    }

    /// The facts from a sequence number on, at most `max` of them and about 4 MiB. Empty only if there are none.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub async fn read(&self, from: u64, max: usize) -> Result<Vec<(u64, Event)>, Trouble> {
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || shared.read(from, max)).await;
        let read = read.unwrap_or_else(|error| Err(Trouble::Away(error.to_string())));
        if let Err(Trouble::Damaged(_)) = &read {
            // The writer may be finding the same, or be busy; the next reading asks again.
            let _ = self.requests.try_send(Request::Check);
        }
        read
    }

    /// The sequence number of the newest fact on disk, or of the last one that there was.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    /// The state and the size of the journal.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the last write worked.
    ///
    /// # Errors
    /// Why it did not.
    pub fn works(&self) -> Result<(), String> {
        let status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state == OK { Ok(()) } else { Err(format!("journal: {}", status.state)) }
    }

    /// Lets the task end after everything submitted so far. Later facts are not taken.
    pub async fn close(&self) {
        // An error means that it has ended already.
        let _ = self.requests.send(Request::Close).await;
    }
}

impl Pending {
    /// Waits until the facts are on disk, and returns their outcomes in order.
    ///
    /// # Errors
    /// Nothing is known to be on disk: the same facts have to be given again.
    pub async fn outcomes(self) -> Result<Vec<Outcome>, Trouble> {
        let mut outcomes = self.answer.await.unwrap_or(Err(Trouble::Closed))?;
        for (position, why) in self.unfit {
            outcomes.insert(position.min(outcomes.len()), Outcome::Refused(why));
        }
        Ok(outcomes)
    }
}

impl Shared {
    fn read(&self, from: u64, max: usize) -> Result<Vec<(u64, Event)>, Trouble> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let database = open.as_ref().ok_or_else(|| Trouble::Away("the journal is not open".to_owned()))?;
        guarded(|| {
            use redb::ReadableDatabase as _;
            let table = database.begin_read()?.open_table(FACTS)?;
            let (mut read, mut bytes) = (Vec::new(), 0);
            for entry in table.range(from..)? {
                if read.len() >= max || bytes >= READ_BYTES {
                    break;
                }
                let (seq, value) = entry?;
                bytes += value.value().len();
                match Event::decode(value.value()) {
                    Ok(event) => read.push((seq.value(), event)),
                    Err(error) => {
                        self.metrics.malformed();
                        tracing::warn!(seq = seq.value(), %error, "a fact in the journal cannot be read, and is skipped");
                    }
                }
            }
            Ok(read)
        })
    }

    /// Publishes the writer's state.
    fn publish(&self, disk: &Disk) {
        let stock = disk.stock();
        let newest = stock.next.saturating_sub(1);
        let status = Status {
            state: disk.failed().map_or_else(|| OK.to_owned(), ToString::to_string),
            facts: stock.facts,
            bytes: stock.bytes,
            newest,
            quarantined: disk.quarantined().map(Path::to_owned),
        };
        self.metrics.journal(status.facts, status.bytes);
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
        self.newest.send_if_modified(|known| std::mem::replace(known, newest) != newest);
    }
}

#[cfg(test)]
mod tests;
