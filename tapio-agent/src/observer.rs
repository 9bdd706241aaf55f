//! Observers: each watches one area, and judges the events that its kernel programs emit.
//!
//! An observer is pure: bytes and times in, anomalies out. It uses no files, sockets or clocks.

mod anomaly;
pub(crate) mod baseline;
pub mod container;
pub mod cpu;
pub mod dns;
mod duration;
mod gauge;
pub mod health;
mod kind;
pub mod link;
pub mod network;
pub mod node;
mod object;
pub mod scheduler;
pub mod storage;
mod target;
mod volume;

use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tapio_service::setting::Wrong;

use crate::fault::{Fault, Role};

pub use self::anomaly::{Actor, Anomaly, Only, Pace, Sandbox, Scope};
pub use self::kind::Kind;
pub use self::object::{
    Attach, ByHelper, Counter, Counters, Direction, Fallback, Hook, Object, Quantity, Right, Room,
    SnapshotMap,
};
pub use self::target::{Read, Target};
pub use self::volume::Volume;

/// Concatenates the fields that all hooks need and the extra fields of one hook.
const fn with<const A: usize, const B: usize, const ALL: usize>(
    shared: [usize; A],
    extra: [usize; B],
) -> [usize; ALL] {
    let mut all = [0; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = if i < A { shared[i] } else { extra[i - A] };
        i += 1;
    }
    all
}

/// Files that an observer has read for it, in addition to its kernel programs or instead of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Cgroup files and pressure, as [`tapio_common::node::Sample`].
    Cgroups {
        /// Time from one scan to the next.
        interval: Duration,
    },
    /// Mounted file systems, as [`storage::filesystem::Filesystem`].
    Filesystems {
        /// Time from one scan to the next.
        interval: Duration,
    },
    /// Counters of network namespaces, as [`link::Namespace`].
    Namespaces {
        /// Time from one scan to the next.
        interval: Duration,
        /// Scans use at most one part in this many of a CPU, and come less often where they would use more.
        share: u32,
    },
    /// What its program has counted in a slice of time, as [`health::Failed`].
    Slices(health::Plan),
}

/// A record that is not an event of this observer. It is counted and never causes a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its size is not the size of the event.
    #[error("a record of {0} bytes")]
    Size(usize),
    /// This version does not know its kind.
    #[error("a record of kind {0}")]
    Kind(u32),
}

/// Returns the compiled kernel programs of this observer.
///
/// # Errors
/// The build did not embed them.
pub fn programs(name: &str) -> anyhow::Result<&'static [u8]> {
    crate::object(name).with_context(|| format!("no kernel object {name} is embedded"))
}

/// An observer of any type, with its settings.
pub struct Built {
    /// Its name.
    pub name: &'static str,
    /// Its hooks; empty for an observer without kernel programs.
    pub hooks: &'static [Hook],
    /// The files that are read for it; `None` for most observers.
    pub reads: Option<Reads>,
    /// The service whose metrics are scraped for it; `None` for most observers.
    pub scrapes: Option<Target>,
    /// Capabilities that it uses in addition to CAP_BPF and CAP_PERFMON.
    pub rights: &'static [Right],
    object: fn(&[u8]) -> anyhow::Result<Object<'_>>,
    settings: Vec<u8>,
    judge: Box<dyn Fn() -> Box<dyn Judge> + Send + Sync>,
}

impl Built {
    /// Builds the observer `O` with these settings.
    #[must_use]
    pub fn new<O: Observer>(settings: &O::Settings) -> Self {
        let own = settings.clone();
        Self {
            name: O::NAME,
            hooks: O::HOOKS,
            reads: O::reads(settings),
            scrapes: O::scrapes(settings),
            rights: O::RIGHTS,
            object: |settings| Object::of::<O>(settings),
            settings: O::kernel_settings(settings),
            judge: Box::new(move || Box::new(O::new(&own))),
        }
    }

    /// Returns its kernel programs with everything that loading them needs.
    ///
    /// # Errors
    /// The build did not embed them.
    pub fn object(&self) -> anyhow::Result<Object<'_>> {
        (self.object)(&self.settings)
    }

    /// Returns a judge without any state.
    #[must_use]
    pub fn judge(&self) -> Box<dyn Judge> {
        (self.judge)()
    }
}

impl<'a> Object<'a> {
    /// Returns the object of the observer `O`; `settings` is its `SETTINGS` constant.
    ///
    /// # Errors
    /// The build did not embed them.
    pub fn of<O: Observer>(settings: &'a [u8]) -> anyhow::Result<Self> {
        Ok(Self {
            name: O::NAME,
            bytes: programs(O::NAME)?,
            hooks: O::HOOKS,
            fields: O::FIELDS,
            by_helper: O::BY_HELPER,
            settings,
            counters: O::COUNTERS,
            snapshot_maps: O::SNAPSHOT_MAPS,
            room: O::ROOM,
        })
    }
}

/// Returns the occurrence type of this name, and the name of its observer.
#[must_use]
pub fn kind(name: &str) -> Option<(&'static str, &'static Kind)> {
    let all = KINDS.iter().flat_map(|(observer, kinds)| kinds.iter().map(move |kind| (*observer, *kind)));
    all.into_iter().find(|(_, kind)| kind.name == name)
}

/// Returns the name of the observer of an occurrence type; empty for an unknown type.
#[must_use]
pub fn of(name: &str) -> &'static str {
    kind(name).map_or("", |(observer, _)| observer)
}

/// An observer of any type, as the pipeline runs it.
pub trait Judge: Send {
    /// [`Observer::observe`].
    ///
    /// # Errors
    /// The record is not an event of this observer.
    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed>;

    /// [`Observer::tick`].
    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>);

    /// [`Observer::wake_at`].
    fn wake_at(&self) -> Option<u64>;

    /// [`Observer::pending`].
    fn pending(&self) -> u64;

    /// [`Observer::snapshot`].
    fn snapshot(&self) -> Option<Vec<u8>>;

    /// [`Observer::restore`].
    ///
    /// # Errors
    /// The bytes are not a snapshot of this observer.
    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()>;
}

impl<O: Observer> Judge for O {
    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        Observer::observe(self, record, out)
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        Observer::tick(self, now_ns, out);
    }

    fn wake_at(&self) -> Option<u64> {
        Observer::wake_at(self)
    }

    fn pending(&self) -> u64 {
        Observer::pending(self)
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        Observer::snapshot(self)
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        Observer::restore(self, snapshot)
    }
}

/// Judges the records of one observer, from a kernel ring buffer, from files or from a scraped service. The doc comment of a settings field
/// becomes its entry in the default configuration file.
pub trait Observer: Send + Sized + 'static {
    /// Its name everywhere: object, source files, configuration section, metric label.
    const NAME: &'static str;
    /// Its kernel programs and where they attach.
    const HOOKS: &'static [Hook];
    /// Its occurrence types.
    const KINDS: &'static [&'static Kind];
    /// The kernel fields that its programs load, in the order of the object's `OFFSETS`.
    const FIELDS: &'static [&'static str];
    /// The fields among them that its programs read with a helper and can do without.
    const BY_HELPER: ByHelper = ByHelper { fields: &[], lost: "" };
    /// The performance counters that one of its programs reads. Most observers have none.
    const COUNTERS: Option<&'static Counters> = None;
    /// The maps that hold learned state.
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[];
    /// The sizes of its ring buffer and of its cool-down map.
    const ROOM: Room = Room::SMALL;
    /// Capabilities that it uses in addition to CAP_BPF and CAP_PERFMON. Most observers use none.
    const RIGHTS: &'static [Right] = &[];
    /// The faults that the self-test causes for it.
    const FAULTS: &'static [Fault] = &[];
    /// The roles of the self-test's children in these faults.
    const ROLES: &'static [Role] = &[];
    /// Its section of the configuration.
    type Settings: DeserializeOwned + Default + Clone + Send + Sync + 'static;

    /// Checks combinations of its settings. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// Two keys contradict each other.
    fn check(_settings: &Self::Settings) -> Result<(), (&'static str, Wrong)> {
        Ok(())
    }

    /// Creates one without any state.
    fn new(settings: &Self::Settings) -> Self;

    /// Returns the bytes of the object's `SETTINGS` constant.
    fn kernel_settings(settings: &Self::Settings) -> Vec<u8>;

    /// The files to read for it. `None` for most observers.
    fn reads(_settings: &Self::Settings) -> Option<Reads> {
        None
    }

    /// The service whose metrics are scraped for it. `None` for most observers.
    fn scrapes(_settings: &Self::Settings) -> Option<Target> {
        None
    }

    /// Judges one record.
    ///
    /// # Errors
    /// The record is not an event of this observer.
    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed>;

    /// Reports pending anomalies that are due. Called at [`Self::wake_at`], or somewhat before or after. `u64::MAX` is
    /// the last call: report everything that is pending.
    fn tick(&mut self, _now_ns: u64, _out: &mut Vec<Anomaly>) {}

    /// When the next [`Self::tick`] is due, in boot clock nanoseconds; `None` while nothing is pending.
    fn wake_at(&self) -> Option<u64> {
        None
    }

    /// Number of anomalies that wait for a [`Self::tick`]. A crash loses them. Zero for most observers.
    fn pending(&self) -> u64 {
        0
    }

    /// Its learned state, for the state snapshot. `None` for most observers: their state is in the maps of their
    /// programs.
    fn snapshot(&self) -> Option<Vec<u8>> {
        None
    }

    /// Restores the learned state of an earlier run.
    ///
    /// # Errors
    /// The bytes are not a snapshot of this observer.
    fn restore(&mut self, _snapshot: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Generates the lists of observers and the configuration sections from the table of observers.
macro_rules! observers {
    ($($(#[doc = $doc:literal])* $name:ident: $observer:ty,)*) => {
        /// The names of all observers.
        pub const NAMES: &[&str] = &[$(<$observer as Observer>::NAME),*];

        /// The occurrence types, by observer.
        pub const KINDS: &[(&str, &[&Kind])] =
            &[$((<$observer as Observer>::NAME, <$observer as Observer>::KINDS)),*];

        /// The number of hooks of all observers.
        pub const HOOKS: usize = 0 $(+ <$observer as Observer>::HOOKS.len())*;

        /// The faults that the self-test causes, by observer.
        pub const FAULTS: &[(&str, &[Fault])] =
            &[$((<$observer as Observer>::NAME, <$observer as Observer>::FAULTS)),*];

        /// The roles of the self-test's children.
        pub const ROLES: &[&[Role]] = &[$(<$observer as Observer>::ROLES),*];

        /// The maps that state snapshots hold, by observer.
        pub(crate) const SNAPSHOT_MAPS: &[&[SnapshotMap]] = &[$(<$observer as Observer>::SNAPSHOT_MAPS),*];

        /// Builds the observers with these names.
        #[must_use]
        pub fn build(names: &[&str], settings: &Settings) -> Vec<Built> {
            let mut built = Vec::new();
            $(if names.contains(&<$observer as Observer>::NAME) {
                built.push(Built::new::<$observer>(&settings.$name));
            })*
            built
        }

        tapio_service::setting::settings! {
            /// One section for each observer.
            pub struct Settings {
                $($(#[doc = $doc])* pub $name: <$observer as Observer>::Settings = Default::default(),)*
            }
        }

        impl Settings {
            /// Checks combinations of keys. Returns the invalid key, and the reason.
            ///
            /// # Errors
            /// Two keys contradict each other.
            pub fn check(&self) -> Result<(), (String, Wrong)> {
                $(<$observer as Observer>::check(&self.$name)
                    .map_err(|(key, wrong)| (format!("{}.{key}", <$observer as Observer>::NAME), wrong))?;)*
                Ok(())
            }
        }
    };
}

observers! {
    /// The container observer: who died, and of what.
    container: container::Container,
    /// The CPU observer: tasks that wait for a CPU because others run. Its kernel program judges, so a change takes effect at
    /// the next start.
    cpu: cpu::Cpu,
    /// The DNS observer: look-ups that fail, are not answered, or take long. Its kernel programs judge, so a change takes
    /// effect at the next start.
    dns: dns::Dns,
    /// The health observer: system calls that fail since something is used up.
    health: health::Health,
    /// The link observer: what the network drops below its connections.
    link: link::Link,
    /// The network observer. Its kernel programs judge, so a change takes effect at the next start.
    network: network::Network,
    /// The node observer: memory, CPUs and waiting of containers, units and the node.
    node: node::Node,
    /// The scheduler observer: what kube-scheduler says of itself, scraped from its /metrics.
    scheduler: scheduler::Scheduler,
    /// The storage observer: block devices that fail, or became slow, and file systems that are full or read-only. Its
    /// kernel program judges, so a change takes effect at the next start.
    storage: storage::Storage,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_service::setting::Section;

    #[test]
    fn an_observer_has_one_name() {
        assert_eq!(NAMES, Settings::KEYS);
        for (observer, kinds) in KINDS {
            for Kind { name, .. } in *kinds {
                assert_eq!(of(name), *observer, "{name}");
                // What is wrong with DNS is wrong with the network.
                let area = if *observer == "dns" { "network" } else { observer };
                assert_eq!(name.split_once('.').map(|(of, _)| of), Some(area), "{name}");
            }
        }
    }
}
