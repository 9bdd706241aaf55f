//! Opens the sources of an observer: attaches its kernel programs, opens the files that are read for it, and prepares
//! the scrapes of a service.

use std::sync::Arc;

use tapio_common::Counts;

use crate::{
    cgroupfs::Files,
    config::Config,
    enrich::memory::Past,
    filesystems::Filesystems,
    kernel::Kernel,
    namespaces::Namespaces,
    observer::{self, Built, Reads},
    scrape::Scraper,
    slices::Sliced,
    snapshot::Snapshot,
    source::{Part, Records, Source},
};

/// The configured observers with their sources.
pub(super) struct Opened {
    pub(super) running: Vec<(Built, Sources)>,
    /// Observers that have nothing to observe with, and why.
    pub(super) refused: Vec<(&'static str, anyhow::Error)>,
    /// Memory history of cgroups with a limit.
    pub(super) past: Arc<Past>,
}

/// The sources of an observer.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    all: Vec<Box<dyn Source>>,
    /// The error if its kernel programs could not be loaded.
    refused: Option<anyhow::Error>,
}

/// Opens sources with this configuration and kernel.
pub(crate) struct Opener<'a> {
    pub(crate) config: &'a Config,
    /// This kernel, or the error why it cannot be used.
    pub(crate) kernel: Result<&'a Kernel, &'a anyhow::Error>,
    /// Memory history of cgroups with a limit, which the file reader adds to.
    pub(crate) past: Arc<Past>,
}

impl Opened {
    /// Opens the sources of the configured observers. Their programs start with the state of the snapshot.
    ///
    /// # Errors
    /// No observer can observe anything.
    pub(super) fn new(config: &Config, snapshot: Snapshot) -> anyhow::Result<Self> {
        let kernel = Kernel::open(config.proc_root.as_path())
            .map(|kernel| kernel.with(snapshot).with_cgroups(config.cgroup_root.as_path()));
        let past = Arc::default();
        let opener = Opener { config, kernel: kernel.as_ref(), past: Arc::clone(&past) };
        let (mut running, mut refused) = (Vec::new(), Vec::new());
        for built in observer::build(config.observers.names(), &config.observer) {
            let mut sources = opener.open(&built);
            match sources.refused.take_if(|_| !sources.all.iter().any(|source| source.observes())) {
                Some(error) => refused.push((built.name, error)),
                None => running.push((built, sources)),
            }
        }
        if !running.iter().any(|(_, sources)| sources.observes())
            && let Some((_, error)) = refused.pop()
        {
            return Err(error);
        }
        Ok(Self { running, refused, past })
    }
}

impl Opener<'_> {
    /// Opens every source of an observer that this machine supports.
    pub(crate) fn open(&self, built: &Built) -> Sources {
        let mut sources = Sources::default();
        if !built.hooks.is_empty() {
            let loaded = match self.kernel {
                Ok(kernel) => built.object().and_then(|object| kernel.load(&object)),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            match loaded {
                Ok(loaded) => sources.all.push(match built.reads {
                    Some(Reads::Slices(plan)) => Box::new(Sliced::new(loaded, plan, self.config)),
                    _ => Box::new(loaded),
                }),
                Err(error) => sources.refused = Some(error),
            }
        }
        let (cgroups, proc) = (self.config.cgroup_root.as_path(), self.config.proc_root.as_path());
        match built.reads {
            Some(Reads::Cgroups { interval }) => {
                let files = Files::open(cgroups, proc, interval, Arc::clone(&self.past));
                sources.all.push(Box::new(files));
            }
            Some(Reads::Namespaces { interval, share }) => {
                sources.all.push(Box::new(Namespaces::open(cgroups, proc, interval, share)));
            }
            Some(Reads::Filesystems { interval }) => {
                sources.all.push(Box::new(Filesystems::open(proc, interval)));
            }
            Some(Reads::Slices(_)) | None => {}
        }
        if let Some(target) = &built.scrapes {
            sources.all.push(Box::new(Scraper::new(target.clone())));
        }
        sources
    }
}

impl Sources {
    /// Whether any source works.
    pub(crate) fn observes(&self) -> bool {
        self.all.iter().any(|source| source.observes())
    }

    /// The error if the kernel programs could not be loaded.
    pub(crate) const fn refused(&self) -> Option<&anyhow::Error> {
        self.refused.as_ref()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &dyn Source> {
        self.all.iter().map(Box::as_ref)
    }

    pub(crate) fn parts(&self) -> Vec<Part> {
        self.iter().flat_map(Source::parts).collect()
    }

    pub(crate) fn counts(&self) -> anyhow::Result<Vec<(&'static str, Counts)>> {
        Ok(self.iter().map(Source::counts).collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Returns the records of all sources, once. Call it within the async runtime.
    pub(crate) fn records(&mut self) -> anyhow::Result<Vec<Box<dyn Records>>> {
        self.all.iter_mut().map(|source| source.records()).collect()
    }

    /// Stops all sources: detaches programs, but records and counts stay readable.
    pub(crate) fn close(&self) {
        self.iter().for_each(Source::close);
    }
}
