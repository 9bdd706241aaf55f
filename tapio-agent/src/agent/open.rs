//! Opens the sources of an observer: its kernel programs, attached, and the files that are read for it.

use std::sync::Arc;

use tapio_common::Counts;

use crate::{
    cgroupfs::Files,
    config::Config,
    enrich::memory::Past,
    kernel::Kernel,
    observer::Built,
    source::{Part, Records, Source},
};

/// The sources of an observer.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    all: Vec<Box<dyn Source>>,
    /// Why it has no kernel programs where it should have.
    refused: Option<anyhow::Error>,
}

/// What sources are opened with.
pub(crate) struct Opener<'a> {
    pub(crate) config: &'a Config,
    /// This kernel, or why it cannot be used.
    pub(crate) kernel: Result<&'a Kernel, &'a anyhow::Error>,
    /// Learns what cgroups with a limit hold.
    pub(crate) past: Arc<Past>,
}

impl Opener<'_> {
    /// Opens all that an observer has, as far as this machine lets it.
    pub(crate) fn open(&self, built: &Built) -> Sources {
        let mut sources = Sources::default();
        if !built.hooks.is_empty() {
            let loaded = match self.kernel {
                Ok(kernel) => built.object().and_then(|object| kernel.load(&object)),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            match loaded {
                Ok(loaded) => sources.all.push(Box::new(loaded)),
                Err(error) => sources.refused = Some(error),
            }
        }
        if let Some(reads) = built.reads {
            let (cgroups, proc) = (self.config.cgroup_root.as_path(), self.config.proc_root.as_path());
            let files = Files::open(cgroups, proc, reads.interval, Arc::clone(&self.past));
            sources.all.push(Box::new(files));
        }
        sources
    }
}

impl Sources {
    /// Whether any of it works.
    pub(crate) fn observes(&self) -> bool {
        self.all.iter().any(|source| source.observes())
    }

    /// Why the kernel programs could not be loaded.
    pub(crate) const fn refused(&self) -> Option<&anyhow::Error> {
        self.refused.as_ref()
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &dyn Source> {
        self.all.iter().map(Box::as_ref)
    }

    /// The parts of all.
    pub(crate) fn parts(&self) -> Vec<Part> {
        self.iter().flat_map(Source::parts).collect()
    }

    /// The counts of all.
    pub(crate) fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        Ok(self.iter().map(Source::counts).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// The records of all, once. Within a runtime only.
    pub(crate) fn records(&mut self) -> anyhow::Result<Vec<Box<dyn Records>>> {
        self.all.iter_mut().map(|source| source.records()).collect()
    }

    /// Ends all.
    pub(crate) fn close(&self) {
        self.iter().for_each(Source::close);
    }
}
