//! Harmless real faults, as `tapio selftest` causes them: how an observer declares its own, and what they are caused with.
//!
//! Faults come from children of the self-test, since an agent never judges itself. All that is made for them is held by values
//! that take it away when they are dropped.

pub mod act;
mod child;
mod group;
mod namespace;

use std::{fmt, net::SocketAddr, path::PathBuf, pin::Pin};

use rustix::process::{Pid, Signal, kill_process};

pub use self::{
    act::Act,
    child::Child,
    group::Group,
    namespace::{Link, REQUEST_BYTES},
};

/// A fault that an observer reports.
#[derive(Debug)]
pub struct Fault {
    /// Its name, for people.
    pub name: &'static str,
    /// The types of occurrences of which one is right.
    pub kinds: &'static [&'static str],
    /// The part of the observer's sources that should see it: a hook's program.
    pub part: &'static str,
    /// Causes it.
    pub cause: for<'a> fn(&'a mut Stage) -> Causing<'a>,
}

/// A fault that is being caused.
pub type Causing<'a> = Pin<Box<dyn Future<Output = Result<Caused, NotCaused>> + 'a>>;

/// A fault that was caused.
#[derive(Clone, Copy, Debug)]
pub struct Caused {
    /// What it is about.
    pub subject: Subject,
    /// The process that had it.
    pub pid: u32,
}

/// What a fault is about: no other fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A destination.
    To(SocketAddr),
    /// What the process did, or its end.
    Process,
}

/// Why a fault was not caused.
#[derive(Debug)]
pub enum NotCaused {
    /// It should have been.
    Failed(String),
    /// It cannot be, here.
    Impossible {
        /// Why.
        reason: String,
        /// What would help, in one sentence.
        remedy: String,
    },
}

impl From<String> for NotCaused {
    fn from(why: String) -> Self {
        Self::Failed(format!("it could not be caused: {why}"))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(to) => write!(f, "to {to}"),
            Self::Process => f.write_str("of its process"),
        }
    }
}

/// What faults are caused with. Each thing is made when it is first needed.
#[derive(Debug)]
pub struct Stage {
    link: Option<Link>,
    group: Option<Group>,
    cgroup_root: PathBuf,
}

impl Stage {
    /// With the cgroups at this place.
    #[must_use]
    pub const fn new(cgroup_root: PathBuf) -> Self {
        Self { link: None, group: None, cgroup_root }
    }

    /// A cgroup with a limit on its memory.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn group(&mut self) -> Result<&Group, NotCaused> {
        match &mut self.group {
            Some(group) => Ok(group),
            none => Ok(none.insert(Group::new(&self.cgroup_root)?)),
        }
    }

    /// Two hosts, as network namespaces with a link between them.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn link(&mut self) -> Result<&Link, NotCaused> {
        match &mut self.link {
            Some(link) => Ok(link),
            none => Ok(none.insert(Link::new()?)),
        }
    }

    /// A child in a cgroup of its own, which is not that of this process, goes on or is sent a signal, and dies.
    ///
    /// # Errors
    /// It could not be caused, or not here.
    pub async fn death(&mut self, act: &str, signal: Option<Signal>) -> Result<Caused, NotCaused> {
        let mut child = Child::start(act, &[])?;
        child.tells("ready").await?;
        self.group()?.add(child.pid())?;
        match signal {
            None => child.go_on().await?,
            Some(signal) => {
                let pid =
                    i32::try_from(child.pid()).ok().and_then(Pid::from_raw).ok_or("odd pid".to_owned())?;
                kill_process(pid, signal).map_err(|error| format!("it cannot be killed: {error}"))?;
            }
        }
        child.ends().await?;
        Ok(Caused { subject: Subject::Process, pid: child.pid() })
    }

    /// Removes what self-tests that were killed left behind, and says what that was.
    #[must_use]
    pub fn remove_stale(&self) -> Vec<String> {
        let namespaces =
            namespace::remove_stale().into_iter().map(|name| format!("network namespace {name}"));
        let cgroups = group::remove_stale(&self.cgroup_root).into_iter().map(|name| format!("cgroup {name}"));
        namespaces.chain(cgroups).collect()
    }
}
