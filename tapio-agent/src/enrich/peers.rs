//! The other side of an anomaly: a pod of another node, a service, a node. Asked for only as anomalies name addresses,
//! a few times a second at most, and remembered.

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

/// Addresses that wait to be asked for. Of more, none would be answered in the time that an occurrence waits.
const MAX_WAITING: usize = 16;

/// What is known of addresses, and which are asked for.
#[derive(Debug)]
pub struct Peers {
    answers: Mutex<Answers>,
    questions: mpsc::Sender<Question>,
    /// The other end of it, until someone answers.
    asked: AsyncMutex<mpsc::Receiver<Question>>,
    /// Changes with each answer.
    answered: watch::Sender<()>,
}

/// An address that someone waits for.
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
    /// Whose an address was then, as far as it is known.
    #[must_use]
    pub fn known(&self, address: IpAddr, unix_ns: u64) -> Known {
        self.answers().get(address, unix_ns)
    }

    /// Asks for an address where it is not known and nobody has. True where an answer is on its way.
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

    /// Returns when nothing more will come to be known of an address then.
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
            // The sender is part of `self`.
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

    /// Tells those who wait.
    fn tell(&self) {
        self.answered.send_replace(());
    }
}

/// Whether an address can be a pod's, a service's or a node's at all.
#[must_use]
pub fn may_have_name(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || link_local)
}
