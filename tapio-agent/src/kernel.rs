//! The kernel side: loads an observer's object, attaches its hooks, and reads its ring buffer and its counts.
//!
//! Only this module names the loader, aya. If this kernel lacks a hook, a field or a capability, that one hook is
//! unsupported, with the reason. It never stops the agent.

mod attach;
pub mod btf;
mod counters;
mod instructions;
mod listeners;
mod loaded;
mod rights;
mod runs;
mod slices;
mod snapshot;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, Map, PerCpuArray, RingBuf},
};
use tapio_common::{
    ABSENT, AGENT, Agent, COOLDOWNS, COUNTERS, COUNTS, EVENTS, NESTS, OFFSETS, PAGE_BYTES, SEED, SETTINGS,
};
use tapio_service::clock;

pub(crate) use self::listeners::ListeningSocket;
use self::{
    attach::EPERM,
    rights::{forbids_reading, needed, raise_memlock_limit},
};
pub use self::{
    counters::Counting,
    listeners::{Listening, listening},
    loaded::{CountsReader, Events, HookState, Loaded},
    rights::{memlock_limit, version},
    runs::measure,
    slices::{Slice, Slices},
};
use crate::{
    observer::{Fallback, Object},
    snapshot::Snapshot,
};

/// The file in which the kernel exposes its types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The reason why a hook is not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// This kernel does not support it: not an error.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// It should have worked, but failed.
    #[error("failed: {0}")]
    Failed(String),
}

impl HookError {
    /// True if the kernel does not support the hook, which is not an error.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported(_))
    }
}

/// The running kernel, with everything that loading programs needs.
pub struct Kernel {
    btf: Btf,
    types: Vec<u8>,
    agent: Agent,
    proc_root: PathBuf,
    cgroup_root: PathBuf,
    snapshot: Snapshot,
}

/// Mount point of the cgroup hierarchies on most hosts.
const CGROUPS: &str = "/sys/fs/cgroup";

impl Kernel {
    /// Reads the kernel's types, and the agent's pid and pid namespace.
    ///
    /// # Errors
    /// The kernel has no BTF, or this process may not read it. The error is one sentence with the remedy.
    pub fn open(proc_root: &Path) -> anyhow::Result<Self> {
        Self::open_with(Path::new(BTF), proc_root)
    }

    /// Like [`Self::open`], with the kernel's types in another file.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(types: &Path, proc_root: &Path) -> anyhow::Result<Self> {
        let types = std::fs::read(types).with_context(|| {
            format!(
                "{} cannot be read: Tapio needs a kernel of 5.10 or later built with CONFIG_DEBUG_INFO_BTF=y \
                 (in a container: mount the host's /sys/kernel/btf read-only)",
                types.display()
            )
        })?;
        let btf =
            Btf::parse(&types, aya::Endianness::default()).context("the kernel's BTF cannot be read")?;
        let namespace = rustix::fs::stat("/proc/self/ns/pid").context("/proc/self/ns/pid cannot be read")?;
        let agent = Agent {
            pid_namespace_device: namespace.st_dev,
            pid_namespace_inode: namespace.st_ino,
            pid: u64::from(std::process::id()),
            tick_ns: clock::tick_ns(),
        };
        raise_memlock_limit();
        let snapshot = Snapshot::new().context("the kernel gives no random seed")?;
        Ok(Self { btf, types, agent, proc_root: proc_root.to_owned(), cgroup_root: CGROUPS.into(), snapshot })
    }

    /// Sets the mount point of the cgroup hierarchies; the default is `/sys/fs/cgroup`.
    #[must_use]
    pub fn with_cgroups(self, root: &Path) -> Self {
        Self { cgroup_root: root.to_owned(), ..self }
    }

    /// Sets the state snapshot that the maps of loaded programs are restored from.
    #[must_use]
    pub fn with(self, snapshot: Snapshot) -> Self {
        Self { snapshot, ..self }
    }

    /// Loads an observer's object and attaches every hook that this kernel supports.
    ///
    /// # Errors
    /// The object as a whole cannot be loaded: no capabilities, no ring buffers, or no memory.
    pub fn load(&self, object: &Object<'_>) -> anyhow::Result<Loaded> {
        let types = btf::Types::parse(&self.types)?;
        let offsets: Vec<_> = object.fields.iter().map(|path| types.offset(path)).collect();
        // The verifier skips the branches that use an absent field.
        let by_helper = object.by_helper;
        let is_locked_down = !by_helper.fields.is_empty() && forbids_reading();
        let forbidden = if is_locked_down { by_helper.fields } else { &[] };
        let value = |(field, offset): (usize, &Result<u32, _>)| match offset {
            Ok(offset) if !forbidden.contains(&field) => *offset,
            _ => ABSENT,
        };
        let values: Vec<u32> = offsets.iter().enumerate().map(value).collect();
        let mut group = object.counters.map(counters::Group::open).transpose();
        let chosen = match (&group, object.counters) {
            (Ok(Some(group)), _) => group.chosen.clone(),
            (_, counters) => vec![0; counters.map_or(0, |counters| counters.all.len())],
        };
        let Agent { pid_namespace_device, pid_namespace_inode, pid, tick_ns } = self.agent;
        let agent = [pid_namespace_device, pid_namespace_inode, pid, tick_ns];
        let page_bytes = rustix::param::page_size() as u64;
        let nests = u32::from(rights::programs_nest());
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&self.btf))
            .map_max_entries(EVENTS, object.room.ring_bytes)
            .map_max_entries(COOLDOWNS, object.room.cooldowns)
            .override_global(OFFSETS, values.as_slice(), true)
            .override_global(SETTINGS, object.settings, !object.settings.is_empty())
            .override_global(PAGE_BYTES, &page_bytes, false)
            .override_global(NESTS, &nests, true)
            .override_global(SEED, &self.snapshot.seed, false)
            .override_global(AGENT, agent.as_slice(), true);
        if object.counters.is_some() {
            loader.override_global(COUNTERS, chosen.as_slice(), true);
        }
        let words = instructions::place(object.bytes, &values);
        let mut programs =
            loader.load(bytemuck::cast_slice(&words)).map_err(|error| explain_load(object.name, error))?;
        let counting = match &mut group {
            Ok(group) => group.take().map(|group| group.place(&mut programs)).transpose()?,
            Err(_) => None,
        };
        let snapshot_maps =
            snapshot::Maps::take(&mut programs, object.name, object.snapshot_maps, &self.snapshot)?;
        let obstacle = |by: &Fallback| {
            let missing = by.needs.iter().find_map(|field| match offsets.get(*field)? {
                Err(absent) => Some(absent.to_string()),
                Ok(_) => forbidden.contains(field).then(|| FORBIDDEN.to_owned()),
            });
            match (missing, &group, object.counters) {
                (Some(missing), ..) => Some(HookError::Unsupported(missing)),
                (None, Err(error), Some(counters)) if counters.program == by.program => Some(error.clone()),
                _ => None,
            }
        };
        let hooks = object.hooks.iter();
        let hooks =
            hooks.map(|hook| attach::hook(hook, &mut programs, &self.btf, &self.cgroup_root, obstacle));
        let hooks = hooks.collect();
        if let Some(map) = programs.take_map(listeners::MAP) {
            listeners::fill(&mut HashMap::try_from(map)?, &self.proc_root);
        }
        let degraded = (is_locked_down && !by_helper.lost.is_empty()).then(|| {
            let lost = by_helper.lost;
            format!("{FORBIDDEN}: {lost}")
        });
        // The loader omits the ring of an object that emits nothing.
        let ring = programs.take_map(EVENTS).map(RingBuf::try_from).transpose()?;
        let counts = CountsReader {
            map: PerCpuArray::try_from(take(&mut programs, COUNTS)?)?,
            programs: u32::try_from(object.hooks.len())?,
        };
        Ok(Loaded {
            hooks,
            counts,
            degraded,
            ring,
            counted: object.counters.map(|counters| counters.program),
            counting: Mutex::new(counting),
            snapshot_maps,
            programs: Arc::new(Mutex::new(Some(programs))),
            missed: Mutex::default(),
        })
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("agent", &self.agent).finish_non_exhaustive()
    }
}

fn take(programs: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    programs.take_map(name).ok_or_else(|| anyhow!("the object has no map {name}"))
}

const FORBIDDEN: &str = "lockdown forbids reading untyped kernel memory";

fn explain_load(name: &str, error: aya::EbpfError) -> anyhow::Error {
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if cause.downcast_ref::<io::Error>().is_some_and(|e| e.raw_os_error() == Some(EPERM)) {
            tracing::debug!(%error, "the refusal");
            // Cause and remedy are separate: `tapio doctor` gives another remedy to a process that has the capabilities.
            let remedy =
                format!("no right to load the programs of {name}: run as root, or with {}", needed());
            return anyhow!("{cause}").context(remedy);
        }
        source = cause.source();
    }
    anyhow!("the programs of {name} cannot be loaded: {error}")
}
