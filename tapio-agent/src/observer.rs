//! Observers: what they watch, and how they judge what their kernel programs let through.
//!
//! An observer is pure: bytes and times in, anomalies out. No files, sockets or clocks.

pub(crate) mod baseline;
pub mod container;
mod kind;
pub mod network;
pub mod node;
mod object;

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use tapio_common::Header;
use tapio_occurrence::{Data, Normal, Occurrence, Outcome, Severity};

use crate::fault::{Act, Fault};

pub use self::kind::Kind;
pub use self::object::{
    Attach, ByHelper, Counter, Counters, Direction, Fallback, Hook, Object, Quantity, Right, Room,
    SnapshotMap,
};

/// Fields of all hooks, and more of one.
const fn with<const A: usize, const B: usize, const ALL: usize>(
    of_all: [usize; A],
    more: [usize; B],
) -> [usize; ALL] {
    let mut all = [0; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = if i < A { of_all[i] } else { more[i - A] };
        i += 1;
    }
    all
}

/// What an observer has read for it from files, beside its kernel programs or instead of them: cgroups and
/// pressure, as [`tapio_common::node::Sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// How often.
    pub interval: Duration,
}

/// A judgement on one or several events, not yet named.
#[derive(Clone, Debug)]
pub struct Anomaly {
    /// Its type.
    pub kind: &'static Kind,
    /// How bad it is.
    pub severity: Severity,
    /// How what was tried ended.
    pub outcome: Outcome,
    /// When, boot clock.
    pub time_ns: u64,
    /// Owner's cgroup; 0 where it is not known; [`tapio_common::WHOLE_NODE`] for the node itself.
    pub cgroup_id: u64,
    /// Owner's process; 0 where it is not known.
    pub pid: u32,
    /// Owner's command name, padded with zeros.
    pub comm: [u8; 16],
    /// Who had a hand in it.
    pub actor: Option<Box<Actor>>,
    /// The memory cgroup that is full, of which more is to be reported.
    pub full: Option<u64>,
    /// Of whom it is reported.
    pub only: Only,
    /// The other side: address and port.
    pub peer: Option<(IpAddr, u16)>,
    /// What it is about, besides its type, owner and peer address: a service's port. Repeats agree in it.
    pub detail: u32,
    /// What is particular to the type.
    pub data: Data,
    /// The group whose CPU time rose with it, and is likely to be why.
    pub noisy_neighbour: Option<u64>,
    /// What was normal.
    pub baseline: Option<Normal>,
    /// The number by which repeats are compared: of several the greatest is reported.
    pub magnitude: u64,
    /// How many it stands for, those that the kernel suppressed included.
    pub count: u64,
    /// How fast they came, of a follow-up. `None`: it is the first of its kind, or what is left at the agent's end.
    pub pace: Option<Pace>,
    /// Says it in one sentence, once it is named.
    pub message: fn(&Occurrence) -> String,
}

impl Anomaly {
    /// What those of a type have in common, of whom and when an event's header says. What is particular stands before it:
    /// `Anomaly { data, ..Anomaly::new(kind, header) }`.
    #[must_use]
    pub fn new(kind: &'static Kind, header: &Header) -> Self {
        Self {
            kind,
            severity: kind.severity,
            outcome: kind.outcome,
            time_ns: header.time_ns,
            cgroup_id: header.cgroup_id,
            pid: header.pid,
            comm: header.comm.into(),
            actor: None,
            full: None,
            only: Only::ALL,
            peer: None,
            detail: 0,
            data: Data::default(),
            noisy_neighbour: None,
            baseline: None,
            magnitude: 0,
            count: 1 + u64::from(header.suppressed),
            pace: None,
            message: kind.message,
        }
    }
}

/// How fast repeats came that were folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time that they came in.
    pub window_ns: u64,
    /// Most in a second.
    pub per_second: u64,
    /// About as many in each part of that time, and not in bursts.
    pub is_even: bool,
}

/// A process that had a hand in an anomaly, not yet named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its cgroup; 0 where it is not known.
    pub cgroup_id: u64,
    /// The process.
    pub pid: u32,
    /// Its command name, padded with zeros.
    pub comm: [u8; 16],
}

/// Of whom an anomaly is reported, and how often, which shows when it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Only {
    /// Owners.
    pub scope: Scope,
    /// Not where the actor is of the same container or unit.
    pub from_outside: bool,
    /// Learned in windows of this length: how often it comes of an owner; where that is expected, one of a window stands
    /// for all. `None`: each is news.
    pub expected_window_ns: Option<u64>,
    /// Not where it is the end of a pod's sandbox, the container that holds the pod's namespaces and is no one's.
    pub sandbox: Sandbox,
    /// Repeats are those of the same pod, too, whose containers are others each time.
    pub by_pod: bool,
    /// Of no one: the other end of the connection, which is on this node, too, reports it. It is counted.
    pub by_other_end: bool,
}

/// Whether an end may be that of a pod's sandbox. Never that of a container that the pod's status names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// It is not.
    No,
    /// It is if the pod is over and its status does not name the container.
    Unlisted,
    /// It is, in a pod.
    Likely {
        /// It is the first process of its pid namespace: then it is also where the cgroup has vanished.
        is_first: bool,
    },
}

impl Only {
    /// Whoever it is.
    pub const ALL: Self = Self {
        scope: Scope::All,
        from_outside: false,
        expected_window_ns: None,
        sandbox: Sandbox::No,
        by_pod: false,
        by_other_end: false,
    };
}

tapio_service::setting::choices! {
    /// Whose processes are meant; each takes in those before it.
    pub enum Scope {
        /// In containers and pods.
        Containers = "containers",
        /// Services of systemd, too.
        Services = "services",
        /// All on the host.
        All = "all",
    }
}

/// A record that is no event of this observer: counted, never a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Its size is not the event's.
    #[error("a record of {0} bytes")]
    Size(usize),
    /// It says that it is of a kind this version does not know.
    #[error("a record of kind {0}")]
    Kind(u32),
}

/// The compiled kernel programs of this name.
///
/// # Errors
/// The build did not embed them.
pub fn programs(name: &str) -> anyhow::Result<&'static [u8]> {
    crate::object(name).with_context(|| format!("no kernel object {name} is embedded"))
}

/// An observer of whichever type, with its settings.
pub struct Built {
    /// Its name.
    pub name: &'static str,
    /// Its kernel programs and where they belong; none where it has no object.
    pub hooks: &'static [Hook],
    /// The files that are read for it.
    pub reads: Option<Reads>,
    /// Capabilities that it uses.
    pub rights: &'static [Right],
    object: fn(&[u8]) -> anyhow::Result<Object<'_>>,
    settings: Vec<u8>,
    judge: Box<dyn Fn() -> Box<dyn Judge> + Send + Sync>,
}

impl Built {
    /// With these settings.
    #[must_use]
    pub fn new<O: Observer>(settings: &O::Settings) -> Self {
        let own = settings.clone();
        Self {
            name: O::NAME,
            hooks: O::HOOKS,
            reads: O::reads(settings),
            rights: O::RIGHTS,
            object: |settings| Object::of::<O>(settings),
            settings: O::kernel_settings(settings),
            judge: Box::new(move || Box::new(O::new(&own))),
        }
    }

    /// Its kernel programs, with what they need.
    ///
    /// # Errors
    /// The build did not embed them.
    pub fn object(&self) -> anyhow::Result<Object<'_>> {
        (self.object)(&self.settings)
    }

    /// One that has seen nothing.
    #[must_use]
    pub fn judge(&self) -> Box<dyn Judge> {
        (self.judge)()
    }
}

impl<'a> Object<'a> {
    /// Those of an observer, with its `SETTINGS` constant.
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

/// The type of this name, and its observer.
#[must_use]
pub fn kind(name: &str) -> Option<(&'static str, &'static Kind)> {
    let all = KINDS.iter().flat_map(|(observer, kinds)| kinds.iter().map(move |kind| (*observer, *kind)));
    all.into_iter().find(|(_, kind)| kind.name == name)
}

/// The observer of a type of occurrences.
#[must_use]
pub fn of(name: &str) -> &'static str {
    kind(name).map_or("", |(observer, _)| observer)
}

/// What the pipeline runs: an observer of whichever type.
pub trait Judge: Send {
    /// [`Observer::observe`].
    ///
    /// # Errors
    /// The record is no event of this observer.
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
    /// It is not what an observer of this kind had learned.
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

/// Judges one kind of records, of a kernel's ring or of a reader of files. The documentation of a settings field is its entry in the
/// default configuration file.
pub trait Observer: Send + Sized + 'static {
    /// Its one name: object, source files, configuration section, metric label.
    const NAME: &'static str;
    /// The kernel programs.
    const HOOKS: &'static [Hook];
    /// The types of its occurrences.
    const KINDS: &'static [&'static Kind];
    /// The kernel fields that they load, in the order of the object's `OFFSETS`.
    const FIELDS: &'static [&'static str];
    /// Of them those that its programs read with a helper, and do without.
    const BY_HELPER: ByHelper = ByHelper { fields: &[], lost: "" };
    /// The performance counters that one of them reads: none, for most.
    const COUNTERS: Option<&'static Counters> = None;
    /// The maps in which they keep what they have learned.
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[];
    /// The sizes of their ring and of their cool-downs.
    const ROOM: Room = Room::SMALL;
    /// Capabilities that it uses beside CAP_BPF and CAP_PERFMON: none, for most.
    const RIGHTS: &'static [Right] = &[];
    /// The faults that the self-test causes for it.
    const FAULTS: &'static [Fault] = &[];
    /// The parts that children of the self-test play in them.
    const ACTS: &'static [Act] = &[];
    /// Its section of the configuration.
    type Settings: DeserializeOwned + Default + Clone + Send + Sync + 'static;

    /// Makes one that has seen nothing.
    fn new(settings: &Self::Settings) -> Self;

    /// The object's `SETTINGS` constant.
    fn kernel_settings(settings: &Self::Settings) -> Vec<u8>;

    /// What is read for it from files: nothing, for most.
    fn reads(_settings: &Self::Settings) -> Option<Reads> {
        None
    }

    /// Judges one record.
    ///
    /// # Errors
    /// The record is no event of this observer.
    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed>;

    /// Reports what waits for time to pass, and is due: at [`Self::wake_at`], or some time before or after. `u64::MAX`: now
    /// or never.
    fn tick(&mut self, _now_ns: u64, _out: &mut Vec<Anomaly>) {}

    /// When the next [`Self::tick`] is due, boot clock; `None` while nothing waits.
    fn wake_at(&self) -> Option<u64> {
        None
    }

    /// How many anomalies wait in it for a [`Self::tick`]: what is lost with one that crashed. None, for most.
    fn pending(&self) -> u64 {
        0
    }

    /// What it has learned, for one of an agent that comes later. `None`, for most: what they learn is in maps of their
    /// programs.
    fn snapshot(&self) -> Option<Vec<u8>> {
        None
    }

    /// Takes up what one before it had learned.
    ///
    /// # Errors
    /// It is not what an observer of this kind had learned.
    fn restore(&mut self, _learned: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Makes the names, and the sections of the configuration, from the table of observers.
macro_rules! observers {
    ($($(#[doc = $doc:literal])* $name:ident: $observer:ty,)*) => {
        /// The observers there are.
        pub const NAMES: &[&str] = &[$(<$observer as Observer>::NAME),*];

        /// The observers with the types of their occurrences.
        pub const KINDS: &[(&str, &[&Kind])] =
            &[$((<$observer as Observer>::NAME, <$observer as Observer>::KINDS)),*];

        /// How many hooks all of them have.
        pub const HOOKS: usize = 0 $(+ <$observer as Observer>::HOOKS.len())*;

        /// The faults that the self-test causes, by observer.
        pub const FAULTS: &[(&str, &[Fault])] =
            &[$((<$observer as Observer>::NAME, <$observer as Observer>::FAULTS)),*];

        /// The parts of the self-test's children.
        pub const ACTS: &[&[Act]] = &[$(<$observer as Observer>::ACTS),*];

        /// The maps that state snapshots hold, by observer.
        pub(crate) const SNAPSHOT_MAPS: &[&[SnapshotMap]] = &[$(<$observer as Observer>::SNAPSHOT_MAPS),*];

        /// Makes those that are named.
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
    };
}

observers! {
    /// The container observer: who died, and of what.
    container: container::Container,
    /// The network observer. Its kernel programs judge, so a change takes effect at the next start.
    network: network::Network,
    /// The node observer: memory, CPUs and waiting of containers, units and the node.
    node: node::Node,
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
                assert_eq!(name.split_once('.').map(|(of, _)| of), Some(*observer), "{name}");
            }
        }
    }
}
