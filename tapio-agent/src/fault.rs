//! Harmless real faults for `tapio selftest`: how an observer declares its faults, and the tools to cause them.
//!
//! Children of the self-test cause the faults, since an agent never judges itself. Values own everything that is made
//! for a fault, and remove it when they are dropped.

mod cgroup;
mod child;
mod filesystem;
mod namespace;
mod package;
pub mod role;

use std::{fmt, net::SocketAddr, path::PathBuf, pin::Pin};

use rustix::process::{Pid, Signal, kill_process};

pub use self::{
    cgroup::Cgroup,
    child::Child,
    filesystem::{Filesystem, mount_point},
    namespace::{Link, REQUEST_BYTES},
    role::Role,
};

/// A fault that an observer reports.
#[derive(Debug)]
pub struct Fault {
    /// Human-readable name.
    pub name: &'static str,
    /// The occurrence types, any one of which is a correct report.
    pub kinds: &'static [&'static str],
    /// The part of the observer's sources that must see it: a hook's program.
    pub part: &'static str,
    /// Causes it.
    pub cause: for<'a> fn(&'a mut Environment) -> Causing<'a>,
}

/// A fault that is being caused.
pub type Causing<'a> = Pin<Box<dyn Future<Output = Result<Caused, NotCaused>> + 'a>>;

/// A fault that was caused.
#[derive(Clone, Copy, Debug)]
pub struct Caused {
    /// The destination or process that identifies its report.
    pub subject: Subject,
    /// The process with the fault.
    pub pid: u32,
}

/// The subject of a fault, by which its report is recognised. No two faults share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The peer of a connection.
    To(SocketAddr),
    /// The process itself: something that it did, or its exit.
    Process,
    /// The file system at the [`mount_point`] of the process, which is not named.
    Filesystem,
    /// The listening socket at this port, whose process is not named.
    Listener(u16),
}

/// The reason why a fault was not caused.
#[derive(Debug)]
pub enum NotCaused {
    /// It should have worked, but did not.
    Failed(String),
    /// It cannot be caused on this host.
    Impossible {
        /// The reason.
        reason: String,
        /// The remedy, in one sentence.
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
            Self::Filesystem => f.write_str("of its file system"),
            Self::Listener(port) => write!(f, "at port {port}"),
        }
    }
}

/// The environment of the faults: namespaces, a cgroup and a file system, each created on first use, and children that stay.
#[derive(Debug)]
pub struct Environment {
    link: Option<Link>,
    cgroup: Option<Cgroup>,
    filesystem: Option<Filesystem>,
    children: Vec<Child>,
    cgroup_root: PathBuf,
}

impl Environment {
    /// Creates an empty one. `cgroup_root` is where the cgroup hierarchies are mounted.
    #[must_use]
    pub const fn new(cgroup_root: PathBuf) -> Self {
        Self { link: None, cgroup: None, filesystem: None, children: Vec::new(), cgroup_root }
    }

    /// Returns a cgroup with a memory limit.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn cgroup(&mut self) -> Result<&Cgroup, NotCaused> {
        match &mut self.cgroup {
            Some(cgroup) => Ok(cgroup),
            none => Ok(none.insert(Cgroup::new(&self.cgroup_root)?)),
        }
    }

    /// Returns a small file system.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn filesystem(&mut self) -> Result<&Filesystem, NotCaused> {
        match &mut self.filesystem {
            Some(filesystem) => Ok(filesystem),
            none => Ok(none.insert(Filesystem::new()?)),
        }
    }

    /// Returns two network namespaces with a link between them, which stand for two hosts.
    ///
    /// # Errors
    /// They cannot be created.
    pub fn link(&mut self) -> Result<&Link, NotCaused> {
        match &mut self.link {
            Some(link) => Ok(link),
            none => Ok(none.insert(Link::new()?)),
        }
    }

    /// Lets a child run until all faults are over.
    pub fn keep(&mut self, child: Child) {
        self.children.push(child);
    }

    /// Starts a child, moves it out of this process's cgroup into [`Self::cgroup`], resumes it or sends it a signal, and
    /// waits for its exit.
    ///
    /// # Errors
    /// The death was not caused.
    pub async fn death(&mut self, role: &str, signal: Option<Signal>) -> Result<Caused, NotCaused> {
        let mut child = Child::start(role, &[])?;
        child.wait_for("ready").await?;
        self.cgroup()?.add(child.pid())?;
        match signal {
            None => child.resume().await?,
            Some(signal) => {
                let pid =
                    i32::try_from(child.pid()).ok().and_then(Pid::from_raw).ok_or("odd pid".to_owned())?;
                kill_process(pid, signal).map_err(|error| format!("it cannot be killed: {error}"))?;
            }
        }
        child.wait_exit().await?;
        Ok(Caused { subject: Subject::Process, pid: child.pid() })
    }

    /// Removes leftovers of self-tests that were killed, and returns their names.
    #[must_use]
    pub fn remove_stale(&self) -> Vec<String> {
        let namespaces =
            namespace::remove_stale().into_iter().map(|name| format!("network namespace {name}"));
        let cgroups =
            cgroup::remove_stale(&self.cgroup_root).into_iter().map(|name| format!("cgroup {name}"));
        let filesystems = filesystem::remove_stale().into_iter().map(|point| format!("file system {point}"));
        namespaces.chain(cgroups).chain(filesystems).collect()
    }
}
