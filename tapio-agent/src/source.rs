//! Sources: where an observer's records come from. The ring of kernel programs is one, cgroup files are another.
//!
//! The agent, `tapio doctor` and `tapio selftest` know a source by its parts, and never by its type.

use std::{fmt, future::pending, io, pin::Pin, time::Duration};

use futures_util::future::select_all;
use tapio_common::Counts;

/// A source, opened before there is a runtime and while the agent has all of its rights.
pub trait Source: fmt::Debug + Send + Sync {
    /// Its parts in one word, as `/status` and the doctor's last line have it: `hooks`, `files`.
    fn of(&self) -> &'static str;

    /// Everything that it reads, as it is now.
    fn parts(&self) -> Vec<Part>;

    /// Whether any of it works: without, an observer has nothing to do.
    fn observes(&self) -> bool {
        self.parts().iter().any(|part| part.state.is_ok() && !part.gives.is_empty())
    }

    /// A limit of this machine that costs details and no part of it, for people.
    fn degraded(&self) -> Option<&str> {
        None
    }

    /// Its records, once. Within a runtime only.
    ///
    /// # Errors
    /// They were given out before, or the runtime cannot wait for them.
    fn records(&mut self) -> anyhow::Result<Box<dyn Records>>;

    /// The readings that each part counted; nothing where it counts none.
    ///
    /// # Errors
    /// The counts cannot be read.
    fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        Ok(Vec::new())
    }

    /// How often each part ran in the kernel and how long that took, as far as the kernel measures it.
    fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        Vec::new()
    }

    /// How many runs of each part the kernel skipped, so that they are in no count.
    fn missed(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Gives `put` the content of each map that belongs in a state snapshot, piece by piece, and says how many entries each
    /// map has.
    ///
    /// # Errors
    /// A map cannot be read, or `put` fails.
    fn snapshot(&self, _put: &mut Put<'_>) -> anyhow::Result<Vec<(&'static str, usize)>> {
        Ok(Vec::new())
    }

    /// Ends it. Records that are in it can still be read, counts too.
    fn close(&self) {}
}

/// Takes a map's name and a piece of its content.
pub type Put<'a> = dyn FnMut(&'static str, &[u8]) -> io::Result<()> + 'a;

/// The records of a source.
pub trait Records: Send {
    /// Waits until there may be a record. The caller may drop it while it waits.
    fn ready(&mut self) -> Ready<'_>;

    /// Gives the next record to `take`; false if there is none.
    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool;
}

/// A wait for records; it fails where the source cannot be waited for.
pub type Ready<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// The records of several sources. The first that has one gives it: a ring, which can overflow, stands before files.
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

/// One hook, file or the like of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name, for people.
    pub name: &'static str,
    /// How it is attached or where it is, or why it is not there.
    pub state: Result<String, Absent>,
    /// The occurrences that are lost without it, for people; empty where they only come later.
    pub gives: &'static str,
}

/// Why a part is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Absent {
    /// In one sentence.
    pub why: String,
    /// Whose fault it is.
    pub lack: Lack,
    /// What would help, in one sentence; `None` where that depends on the agent's rights.
    pub remedy: Option<&'static str>,
}

/// Why a part can be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// This machine has nothing for it: nobody's fault.
    Unsupported,
    /// It is not where the configuration says, or is turned off.
    Missing,
    /// It should work and does not.
    Failed,
}

/// How often a kernel program ran, and how long all runs took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunTime {
    /// Runs.
    pub runs: u64,
    /// Time of all of them.
    pub total: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many records, each its number.
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
