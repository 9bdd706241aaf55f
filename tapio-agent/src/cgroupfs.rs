//! Samples memory, CPU and pressure from cgroup files and `/proc`, and turns them into records like those of a kernel
//! ring buffer.
//!
//! It samples the cgroups of containers and systemd units, the limits of the pods and slices above them, and the node as
//! a whole. A value that cannot be read is [`UNKNOWN`](tapio_common::node::UNKNOWN).
//!
//! A scan yields to other tasks after each [`BATCH`] of cgroups. The next scan begins after the interval, or later if
//! scans are expensive: reading uses at most 1/[`SHARE`] of a CPU. A PSI trigger of the kernel
//! (Documentation/accounting/psi.rst, "Monitoring for pressure thresholds") starts a scan early. While tasks stall,
//! reading uses at most 1/[`PRESSED_SHARE`] of a CPU.

mod above;
pub mod hierarchy;
mod parse;
mod sample;
mod tree;
mod trigger;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytemuck::bytes_of;
use tapio_common::node::{Ancestor, Sample};
use tapio_service::clock;
use tokio::time::Instant;

pub use self::hierarchy::Hierarchy;
pub(crate) use self::tree::Tree;
use self::{
    above::Shared,
    sample::{Eyes, Node},
    trigger::{Trigger, Waiting},
};
use crate::{
    enrich::memory::Past,
    source::{Part, Ready, Records, Source},
};

/// Number of cgroups that are read before other tasks run.
const BATCH: usize = 64;
/// Reading uses at most one part in this many of a CPU.
const SHARE: u32 = 200;
/// Like [`SHARE`], while tasks stall.
const PRESSED_SHARE: u32 = 50;
/// Minimum time between scans that triggers start early.
const EARLY_SCAN: Duration = Duration::from_secs(1);

/// The open files. They are opened before the async runtime starts, while the agent still has all of its capabilities.
#[derive(Debug)]
pub struct Files {
    interval: Duration,
    tree: Tree,
    eyes: Eyes,
    triggers: Vec<Trigger>,
    parts: Vec<Part>,
    past: Arc<Past>,
}

/// Samples cgroups for an observer. It creates a record only when asked for the next one.
pub struct Reader {
    interval: Duration,
    tree: Tree,
    eyes: Eyes,
    triggers: Vec<Waiting>,
    past: Arc<Past>,
    /// When the next scan begins.
    next: Instant,
    /// When the last scan began.
    began: Instant,
    /// CPU time of the current scan. Wall-clock time would be wrong: a busy CPU makes a scan longer, not more expensive.
    spent: Duration,
    /// Position in the current scan; `None` between scans.
    at: Option<At>,
    left: usize,
    shared: Shared,
    record: Record,
}

/// Position in a scan.
#[derive(Clone, Copy, Debug)]
enum At {
    /// At the container or unit with this index.
    Group(usize),
    /// At the cgroups above them, with this many left: children come before their parents.
    Above(usize),
    /// At the node itself.
    Node,
}

/// The last record, which callers borrow.
#[derive(Clone, Copy, Debug)]
enum Record {
    Sample(Sample),
    Above(Ancestor),
}

impl Files {
    /// Opens the files that exist: cgroups at `cgroup_root`, memory and pressure of the node at `proc_root`. The reader
    /// adds the memory usage of cgroups with a limit to `past`.
    #[must_use]
    pub fn open(cgroup_root: &Path, proc_root: &Path, interval: Duration, past: Arc<Past>) -> Self {
        let hierarchy = Hierarchy::find(cgroup_root);
        let pressure: Vec<PathBuf> =
            ["memory", "io"].iter().map(|name| proc_root.join("pressure").join(name)).collect();
        let opened: Vec<io::Result<Trigger>> = pressure.iter().map(|path| Trigger::open(path)).collect();
        let parts = hierarchy::parts(&hierarchy, proc_root, &opened);
        Self {
            interval,
            tree: Tree::new(hierarchy.clone(), proc_root),
            eyes: Eyes::new(hierarchy, Node::new(proc_root)),
            triggers: opened.into_iter().flatten().collect(),
            parts,
            past,
        }
    }

    /// Returns the reader. Call it within the async runtime.
    pub fn reader(&mut self) -> Reader {
        // A trigger that cannot be polled starts no scan.
        let triggers = self.triggers.drain(..).filter_map(|trigger| trigger.wait().ok()).collect();
        Reader {
            interval: self.interval,
            tree: self.tree.clone(),
            eyes: self.eyes.clone(),
            triggers,
            past: Arc::clone(&self.past),
            next: Instant::now(),
            began: Instant::now(),
            spent: Duration::ZERO,
            at: None,
            left: 0,
            shared: Shared::default(),
            record: Record::Sample(bytemuck::Zeroable::zeroed()),
        }
    }
}

impl Source for Files {
    fn of(&self) -> &'static str {
        "files"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn records(&mut self) -> anyhow::Result<Box<dyn Records>> {
        Ok(Box::new(self.reader()))
    }
}

impl Records for Reader {
    fn ready(&mut self) -> Ready<'_> {
        Box::pin(async {
            self.scan().await;
            Ok(())
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(record) = Self::next(self) else { return false };
        take(record);
        true
    }
}

impl Reader {
    /// Waits until a scan begins or its next batch is due. Cancel-safe: the caller may drop it while it waits.
    pub async fn scan(&mut self) {
        if self.at.is_none() {
            let earliest = self.began + EARLY_SCAN.max(self.spent * PRESSED_SHARE);
            tokio::select! {
                () = tokio::time::sleep_until(self.next) => {}
                () = trigger::any(&mut self.triggers, earliest) => {}
            }
            self.begin();
        } else {
            tokio::task::yield_now().await;
        }
        self.left = BATCH;
    }

    /// Reads and returns the next record; `None` at the end of a batch or scan.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the reader, which an iterator cannot"
    )]
    pub fn next(&mut self) -> Option<&[u8]> {
        loop {
            let at = self.at?;
            self.left = self.left.checked_sub(1)?;
            let start = clock::thread_cpu();
            let found = self.sample(at);
            self.spent += clock::thread_cpu().saturating_sub(start);
            if self.at.is_none() {
                self.next = self.began + self.interval.max(self.spent * SHARE);
                tracing::debug!(
                    cgroups = self.tree.groups().len(),
                    spent_us = self.spent.as_micros(),
                    "cgroups scanned"
                );
            }
            if let Some(found) = found {
                self.record = found;
                return Some(match &self.record {
                    Record::Sample(sample) => bytes_of(sample),
                    Record::Above(above) => bytes_of(above),
                });
            }
        }
    }

    /// Samples the cgroup or node at this position, and moves on.
    fn sample(&mut self, at: At) -> Option<Record> {
        match at {
            At::Group(at) => {
                let Some(group) = self.tree.groups().get(at) else {
                    self.at = Some(At::Above(self.tree.above().len()));
                    return None;
                };
                self.at = Some(At::Group(at + 1));
                let Some(sample) = self.eyes.group(group, self.shared.is_limited(&self.tree, group)) else {
                    // It has vanished: the next scan lists the cgroups again.
                    self.tree.is_stale();
                    return None;
                };
                self.past.contribute(group.memory_id, sample.header.time_ns, sample.held_bytes);
                self.shared.add(&self.tree, group, &sample);
                Some(Record::Sample(sample))
            }
            At::Above(left) => {
                let Some(at) = left.checked_sub(1) else {
                    self.at = Some(At::Node);
                    return None;
                };
                self.at = Some(At::Above(at));
                let sample = self.eyes.above(self.tree.above().get(at)?)?;
                self.past.contribute(sample.header.cgroup_id, sample.header.time_ns, sample.held_bytes);
                self.shared.record(&self.tree, at, sample).map(Record::Above)
            }
            At::Node => {
                self.at = None;
                self.eyes.node().map(Record::Sample)
            }
        }
    }

    fn begin(&mut self) {
        let start = clock::thread_cpu();
        self.began = Instant::now();
        self.tree.update();
        self.eyes.begin();
        self.shared.begin(&self.tree);
        self.past.forget(clock::boot_ns());
        self.spent = clock::thread_cpu().saturating_sub(start);
        self.at = Some(At::Group(0));
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("interval", &self.interval).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
