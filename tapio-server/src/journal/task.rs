//! The task that writes the journal.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    time::interval,
};

use super::{Append, Outcome, Request, Shared, Trouble, clock::unix_s, disk::Disk};

/// The most that goes into one transaction, unless a single request has more.
const GROUP_FACTS: usize = 16_384;
const GROUP_BYTES: usize = 8 << 20;
/// How often facts that are too old are looked for, and a write that failed is tried again.
const SWEEP: Duration = Duration::from_secs(5);

/// The task that writes the journal.
#[derive(Debug)]
pub struct Task {
    writer: Writer,
    sender: mpsc::Sender<Request>,
}

struct Writer {
    disk: Disk,
    requests: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    /// Whether there may be more facts that are too old.
    sweeping: bool,
}

impl Task {
    pub(super) fn new(
        disk: Disk,
        requests: mpsc::Receiver<Request>,
        sender: mpsc::Sender<Request>,
        shared: Arc<Shared>,
    ) -> Self {
        shared.publish(&disk);
        Self { writer: Writer { disk, requests, shared, sweeping: false }, sender }
    }

    /// Writes until [`Journal::close`](super::Journal::close), then closes the file. The writing itself is on a blocking
    /// thread.
    ///
    /// # Errors
    /// The writer panicked.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { writer, sender } = self;
        let mut writing = tokio::task::spawn_blocking(move || writer.run());
        let mut tick = interval(SWEEP);
        loop {
            tokio::select! {
                done = &mut writing => {
                    return done.map_err(|error| anyhow::anyhow!("the journal's writer crashed: {error}"));
                }
                _ = tick.tick() => {
                    // A full queue has more urgent things in it.
                    let _ = sender.try_send(Request::Sweep);
                }
            }
        }
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(request) = self.next() {
            match request {
                Request::Append(first) => {
                    if self.write(first) {
                        break;
                    }
                }
                Request::Sweep => self.sweep(),
                Request::Check => self.disk.doubt(),
                Request::Close => break,
            }
            self.shared.publish(&self.disk);
        }
        self.disk.close();
    }

    /// The next request; while there is none, and there is something to remove, that is done.
    fn next(&mut self) -> Option<Request> {
        if !self.sweeping {
            return self.requests.blocking_recv();
        }
        match self.requests.try_recv() {
            Ok(request) => Some(request),
            Err(TryRecvError::Empty) => Some(Request::Sweep),
            Err(TryRecvError::Disconnected) => None,
        }
    }

    fn sweep(&mut self) {
        // The disk logs an error, and has it in its state.
        let swept = self.disk.sweep(unix_s()).unwrap_or_default();
        self.shared.metrics.expired("age", swept.expired);
        self.shared.metrics.expired("bytes", swept.evicted);
        self.sweeping = !swept.is_all();
    }

    /// Writes a request and those that wait behind it. Returns whether the journal is to be closed.
    fn write(&mut self, first: Append) -> bool {
        let size = |append: &Append| -> usize { append.facts.iter().map(|fact| fact.bytes.len()).sum() };
        let (mut count, mut bytes) = (first.facts.len(), size(&first));
        let mut group = vec![first];
        let mut is_last = false;
        while count < GROUP_FACTS && bytes < GROUP_BYTES {
            match self.requests.try_recv() {
                Ok(Request::Append(append)) => {
                    count += append.facts.len();
                    bytes += size(&append);
                    group.push(append);
                }
                Ok(Request::Sweep) => self.sweeping = true,
                Ok(Request::Check) => self.disk.doubt(),
                Ok(Request::Close) => {
                    is_last = true;
                    break;
                }
                Err(_) => break,
            }
        }
        let written = self.disk.append(group.iter().flat_map(|append| &append.facts));
        let metrics = &self.shared.metrics;
        match written {
            Ok(written) => {
                metrics.committed();
                metrics.expired("bytes", written.evicted);
                // Facts are readable before their senders know it.
                self.shared.publish(&self.disk);
                let mut outcomes = written.outcomes.into_iter();
                for Append { facts, answer, waiting, .. } in group {
                    let own: Vec<_> = outcomes.by_ref().take(facts.len()).collect();
                    let accepted = own.iter().filter(|one| matches!(one, Outcome::Accepted(_))).count();
                    waiting.settle(accepted as u64, (own.len() - accepted) as u64);
                    // Nobody waits for it where the sender is gone.
                    let _ = answer.send(Ok(own));
                }
            }
            Err(why) => {
                metrics.failed_to_write();
                self.shared.publish(&self.disk);
                refuse(group, &why);
            }
        }
        is_last
    }
}

/// Answers that nothing was written.
fn refuse(group: Vec<Append>, why: &Trouble) {
    for Append { answer, waiting, .. } in group {
        drop(waiting);
        let _ = answer.send(Err(why.clone()));
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("sweeping", &self.sweeping).finish_non_exhaustive()
    }
}
