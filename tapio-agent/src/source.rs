//! Sources deliver an observer's records: the ring buffer of kernel programs is one, cgroup files are another, a scraped
//! service is a third, counters of network namespaces are a fourth, what a program counts in slices of time is a fifth.
//!
//! The agent, `tapio doctor` and `tapio selftest` know a source by its parts, never by its type.

use std::{fmt, future::pending, io, pin::Pin, time::Duration};

use futures_util::future::select_all;
use tapio_common::Counts;

/// A source of records. It is opened before the async runtime starts, while the agent still has all of its capabilities.
pub trait Source: fmt::Debug + Send + Sync {
    /// One word for its parts, `hooks`, `files` or `endpoints`: the key in `/status`, and what the doctor's last line counts.
    fn of(&self) -> &'static str;

    /// The current state of everything that it reads.
    fn parts(&self) -> Vec<Part>;

    /// Updates the state of its parts, where that takes the network, which an agent that starts does not wait for. For
    /// the doctor, outside of the async runtime.
    fn check(&self) {}

    /// Whether any part works. If none does, the observer has nothing to do.
    fn observes(&self) -> bool {
        self.parts().iter().any(|part| part.state.is_ok() && !part.gives.is_empty())
    }

    /// A limit of this machine that costs details, but no part. Human-readable.
    fn degraded(&self) -> Option<&str> {
        None
    }

    /// Returns its records, once. Call it within the async runtime.
    ///
    /// # Errors
    /// The records were taken before, or the runtime cannot wait for them.
    fn records(&mut self) -> anyhow::Result<Box<dyn Records>>;

    /// The readings that each part counted; empty for a source that does not count.
    ///
    /// # Errors
    /// The counts cannot be read.
    fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        Ok(Vec::new())
    }

    /// How often each part ran in the kernel and for how long; see [`RunTime`].
    fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        Vec::new()
    }

    /// How many runs of each part the kernel skipped. No other count includes them.
    fn missed(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Passes the content of each map that a state snapshot holds to `put`, in chunks, and returns the number of
    /// entries of each map.
    ///
    /// # Errors
    /// A map cannot be read, or `put` fails.
    fn snapshot(&self, _put: &mut Put<'_>) -> anyhow::Result<Vec<(&'static str, usize)>> {
        Ok(Vec::new())
    }

    /// Passes the content of one of these maps to `take`, in chunks of alternating keys and values. Nothing if it has no
    /// such map.
    ///
    /// # Errors
    /// The map cannot be read.
    fn read(&self, _map: &str, _take: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        Ok(())
    }

    /// One element of such a map, if it is an array. `None` if it has no such element, or it cannot be read.
    fn element(&self, _map: &str, _index: u32) -> Option<Vec<u8>> {
        None
    }

    /// Stops it. Its remaining records and its counts can still be read.
    fn close(&self) {}
}

/// Takes a map's name and a chunk of its content.
pub type Put<'a> = dyn FnMut(&'static str, &[u8]) -> io::Result<()> + 'a;

/// The records of a source.
pub trait Records: Send {
    /// Waits until there may be a record. Cancel-safe: the caller may drop it while it waits.
    fn ready(&mut self) -> Ready<'_>;

    /// Passes the next record to `take`; returns false if there is none.
    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool;
}

/// A wait for records. It fails if the source cannot be polled.
pub type Ready<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// Records of several sources, read in order of the list: a ring buffer, which can overflow, comes before files.
impl Records for Vec<Box<dyn Records>> {
    fn ready(&mut self) -> Ready<'_> {
        if self.is_empty() {
            return Box::pin(pending());
        }
        let any = select_all(self.iter_mut().map(|records| records.ready()));
        Box::pin(async { any.await.0 })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.iter_mut().any(|records| records.next(take))
    }
}

/// One hook, file, endpoint or the like of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Human-readable name.
    pub name: &'static str,
    /// How it is attached or where it is, or the reason why it is absent.
    pub state: Result<String, Absent>,
    /// The occurrences that are lost without it, human-readable. Empty if its absence only delays them.
    pub gives: &'static str,
}

/// The reason why a part is absent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Absent {
    /// The reason, in one sentence.
    pub why: String,
    /// Whether the machine, the configuration or a failure is the cause.
    pub lack: Lack,
    /// The remedy, in one sentence. `None` if it depends on the agent's capabilities.
    pub remedy: Option<&'static str>,
}

/// The kind of cause why a part is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// This machine does not support it: not an error.
    Unsupported,
    /// It is turned off, or not at the configured place.
    Missing,
    /// This machine has nothing of the kind that could be observed: neither an error nor a loss.
    Inapplicable,
    /// It should work, but does not.
    Failed,
}

/// Run statistics of a kernel program, zero unless the kernel measures them (`sysctl kernel.bpf_stats_enabled=1`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Number of runs.
    pub runs: u64,
    /// Total time of all runs.
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Yields each number as a one-byte record.
    struct Numbers(std::ops::Range<u8>);

    impl Records for Numbers {
        fn ready(&mut self) -> Ready<'_> {
            let is_empty = self.0.is_empty();
            Box::pin(async move { if is_empty { pending().await } else { Ok(()) } })
        }

        fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
            self.0.next().is_some_and(|number| {
                take(&[number]);
                true
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_the_first_that_has_a_record_gives_it() {
        let sources: [Box<dyn Records>; 3] =
            [Box::new(Numbers(0..0)), Box::new(Numbers(1..3)), Box::new(Numbers(7..8))];
        let mut all = Vec::from(sources);
        let mut seen = Vec::new();
        let wait = Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, all.ready()).await.is_ok());
        while all.next(&mut |record| seen.extend_from_slice(record)) {}
        assert_eq!(seen, [1, 2, 7]);
        assert!(tokio::time::timeout(wait, all.ready()).await.is_err(), "nothing is left to wait for");
        assert!(tokio::time::timeout(wait, Vec::<Box<dyn Records>>::new().ready()).await.is_err());
    }
}
