//! The peer of an anomaly: a pod of another node, a service, a node. Peers are queried only for addresses in
//! anomalies, a few times per second at most, and the answers are cached.

mod answers;
mod ask;
mod nodes;

use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tapio_service::clock;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::Instant,
};

use self::answers::Answers;
pub use self::{answers::Known, ask::answer};
use crate::metrics::Metrics;

/// The most addresses that wait for a query. Any more would not be answered within the time that an
/// occurrence waits.
const MAX_WAITING: usize = 16;

/// The cache of answers and the queue of queries.
#[derive(Debug)]
pub struct Peers {
    answers: Mutex<Answers>,
    questions: mpsc::Sender<Question>,
    /// The receiving end of the queue, until a task takes it.
    asked: AsyncMutex<mpsc::Receiver<Question>>,
    /// Changes with each answer.
    answered: watch::Sender<()>,
}

/// An address that an anomaly waits for.
#[derive(Clone, Copy, Debug)]
struct Question {
    address: IpAddr,
    until: Instant,
}

impl Default for Peers {
    fn default() -> Self {
        let (questions, asked) = mpsc::channel(MAX_WAITING);
        Self {
            answers: Mutex::default(),
            questions,
            asked: AsyncMutex::new(asked),
            answered: watch::channel(()).0,
        }
    }
}

impl Peers {
    /// The peer that had an address at that time, as far as the cache knows.
    #[must_use]
    pub fn known(&self, address: IpAddr, unix_ns: u64) -> Known {
        self.answers().get(address, unix_ns)
    }

    /// Queues a query for an address unless it is known or queued already. True if an answer is on its way.
    pub fn ask(&self, address: IpAddr, unix_ns: u64, until: Instant, metrics: &Metrics) -> bool {
        let mut answers = self.answers();
        if answers.get(address, unix_ns) != Known::NotYet || answers.paused(Instant::now()) {
            return false;
        }
        if answers.is_asked(address) {
            return true;
        }
        let queued = self.questions.try_send(Question { address, until }).is_ok();
        if queued {
            answers.begin(address);
        } else {
            metrics.unresolved("peer", "limited");
        }
        queued
    }

    /// Returns when nothing more will become known of an address at that time.
    pub async fn settled(&self, address: IpAddr, unix_ns: u64) {
        let mut answered = self.answered.subscribe();
        loop {
            answered.mark_unchanged();
            {
                let mut answers = self.answers();
                if answers.get(address, unix_ns) != Known::NotYet || !answers.is_asked(address) {
                    return;
                }
            }
            // The sender is part of `self`, so this does not fail.
            if answered.changed().await.is_err() {
                return;
            }
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.at_clock(clock::unix_ns(0));
        answers
    }

    /// Wakes the waiting anomalies.
    fn tell(&self) {
        self.answered.send_replace(());
    }
}

/// Whether an address can belong to a pod, a service or a node at all.
#[must_use]
pub fn may_have_name(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}
