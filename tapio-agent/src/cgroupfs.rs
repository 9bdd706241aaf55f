//! What the files of cgroups, and of `/proc`, tell of memory, CPUs and waiting: read now and then, as
//! records that go the way of those from a kernel's ring.
//!
//! Looked at are the groups of containers and of systemd's units, the limits of the pods and slices above them, and the
//! node as a whole. Everything that cannot be read is [`UNKNOWN`](tapio_common::node::UNKNOWN).
//!
//! A pass is spread over turns of [`TURN`] groups, between which others run. The next begins after the interval, or
//! later where passes are expensive: reading takes one part in [`SHARE`] of a CPU at most. A trigger of the kernel
//! (Documentation/accounting/psi.rst, "Monitoring for pressure thresholds") brings it forward; while tasks wait, one
//! part in [`PRESSED_SHARE`].

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
use self::{
    above::Shared,
    sample::{Eyes, Node},
    tree::Tree,
    trigger::{Trigger, Waiting},
};
use crate::{
    enrich::memory::Past,
    source::{Part, Ready, Records, Source},
};

/// Groups that are read before others run.
const TURN: usize = 64;
/// One of how many parts of a CPU reading may take.
const SHARE: u32 = 200;
/// The same while tasks wait.
const PRESSED_SHARE: u32 = 50;
/// Passes that triggers bring forward are at least this far apart.
const FORWARD: Duration = Duration::from_secs(1);

/// The files, before there is a runtime and while all rights are there.
#[derive(Debug)]
pub struct Files {
    interval: Duration,
    tree: Tree,
    eyes: Eyes,
    triggers: Vec<Trigger>,
    parts: Vec<Part>,
    past: Arc<Past>,
}

/// The reader of an observer that looks at cgroups. Its records are made as they are asked for.
pub struct Reader {
    interval: Duration,
    tree: Tree,
    eyes: Eyes,
    triggers: Vec<Waiting>,
    past: Arc<Past>,
    /// When the next pass begins.
    next: Instant,
    /// When the last one began.
    began: Instant,
    /// Time on a CPU that it has taken so far: on a busy one a pass takes long, and costs no more.
    spent: Duration,
    /// What is left of the pass.
    at: Option<At>,
    left: usize,
    shared: Shared,
    record: Record,
}

/// Where a pass is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// At this one of the groups of containers and units.
    Group(usize),
    /// At the groups above them, of which so many are left: those below others come before these.
    Above(usize),
    /// At the node.
    Node,
}

/// A record that was made.
#[derive(Clone, Copy, Debug)]
enum Record {
    Sample(Sample),
    Above(Ancestor),
}

impl Files {
    /// Looks which there are: cgroups at `cgroup_root`, memory and pressure of the node at `proc_root`. The reader adds to
    /// `past` what cgroups with a limit hold.
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

    /// The reader. Within a runtime only.
    pub fn reader(&mut self) -> Reader {
        // One that cannot be waited for brings nothing forward.
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
    /// Waits until there is something to read. May be dropped while it waits.
    pub async fn scan(&mut self) {
        if self.at.is_none() {
            let earliest = self.began + FORWARD.max(self.spent * PRESSED_SHARE);
            tokio::select! {
                () = tokio::time::sleep_until(self.next) => {}
                () = trigger::any(&mut self.triggers, earliest) => {}
            }
            self.begin();
        } else {
            tokio::task::yield_now().await;
        }
        self.left = TURN;
    }

    /// The next record, if there is one: until then nothing is read.
    #[expect(
        clippy::should_implement_trait,
        reason = "an item borrows from the reader, which an iterator cannot"
    )]
    pub fn next(&mut self) -> Option<&[u8]> {
        loop {
            let at = self.at?;
            self.left = self.left.checked_sub(1)?;
            let start = clock::thread_cpu();
            let found = self.look(at);
            self.spent += clock::thread_cpu().saturating_sub(start);
            if self.at.is_none() {
                self.next = self.began + self.interval.max(self.spent * SHARE);
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

    /// Looks at what is next in the pass, and moves on.
    fn look(&mut self, at: At) -> Option<Record> {
        match at {
            At::Group(at) => {
                let Some(group) = self.tree.groups().get(at) else {
                    self.at = Some(At::Above(self.tree.above().len()));
                    return None;
                };
                self.at = Some(At::Group(at + 1));
                let Some(sample) = self.eyes.group(group, self.shared.is_limited(&self.tree, group)) else {
                    // It has vanished: the next pass looks for those that are there.
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
