//! Where the files are: cgroups of version 2, of version 1, or of both beside each other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{parse, tree::has_controller, trigger::Trigger};
use crate::source::{Absent, Lack, Part};

/// The hierarchies of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// None is mounted.
    None,
    /// Of version 2, with memory; its groups are those that are looked at.
    Two {
        /// For all controllers, or for all that version 1 does not have.
        root: PathBuf,
        /// Where version 1 stands beside it and has CPUs: kernels lose its memory control first.
        cpus: Option<Cpus>,
    },
    /// One a controller. Version 2 may stand beside them, without memory and CPUs.
    One {
        /// Of memory. Its groups are those that are looked at.
        memory: PathBuf,
        /// Of CPUs.
        cpus: Option<Cpus>,
        /// Of version 2, which has the pressure.
        unified: Option<PathBuf>,
    },
}

/// The hierarchies of version 1 that have CPU time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// Of its limits.
    pub cpu: PathBuf,
    /// Of what is used.
    pub cpuacct: Option<PathBuf>,
}

impl Cpus {
    /// With another path for each.
    pub(super) fn each(&self, path: impl Fn(&PathBuf) -> PathBuf) -> Self {
        Self { cpu: path(&self.cpu), cpuacct: self.cpuacct.as_ref().map(path) }
    }
}

impl Hierarchy {
    /// Those at or under `root` (usually `/sys/fs/cgroup`).
    #[must_use]
    pub fn find(root: &Path) -> Self {
        let is_two = |path: &Path| path.join("cgroup.controllers").is_file();
        if is_two(root) {
            return Self::Two { root: root.to_owned(), cpus: None };
        }
        let mut names: Vec<_> =
            fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let of = |controller| {
            let name = names.iter().find(|name| has_controller(name, controller))?;
            Some(root.join(name)).filter(|path| path.join("cgroup.procs").is_file())
        };
        let unified = Some(root.join("unified")).filter(|path| is_two(path));
        let cpus = of("cpu").map(|cpu| Cpus { cpu, cpuacct: of("cpuacct") });
        match (of("memory"), unified) {
            (Some(memory), unified) => Self::One { memory, cpus, unified },
            (None, Some(root)) => Self::Two { root, cpus },
            (None, None) => Self::None,
        }
    }

    /// The one whose groups are looked at.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Two { root, .. } | Self::One { memory: root, .. } => Some(root),
        }
    }

    /// How many groups there are, which tells cheaply whether one came or went.
    pub(super) fn count(&self, counts: &Path) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Two { root, .. } => {
                let [living, dying] = parse::keyed(
                    &fs::read(root.join("cgroup.stat")).ok()?,
                    ["nr_descendants", "nr_dying_descendants"],
                );
                // One that goes while another comes leaves a dying one behind, for a while.
                Some(living?.wrapping_mul(1 << 32).wrapping_add(dying?))
            }
            // `memory HIERARCHY NUMBER ENABLED`
            Self::One { .. } => parse::column(&fs::read(counts).ok()?, "memory", 2),
        }
    }
}

/// What there is to read, for people.
pub(super) fn parts(hierarchy: &Hierarchy, proc_root: &Path, triggers: &[io::Result<Trigger>]) -> Vec<Part> {
    vec![
        groups(hierarchy),
        cpus(hierarchy),
        node(proc_root),
        pressure(hierarchy, proc_root),
        prompt(triggers),
    ]
}

/// Something is not there that could be.
fn absent(why: impl Into<String>, remedy: &'static str) -> Absent {
    Absent { why: why.into(), lack: Lack::Missing, remedy: Some(remedy) }
}

fn groups(hierarchy: &Hierarchy) -> Part {
    const REMEDY: &str = "mount the host's /sys/fs/cgroup read-only, and give its place as `cgroup_root`";
    let state = match hierarchy {
        Hierarchy::None => Err(absent("no cgroups are mounted", REMEDY)),
        Hierarchy::Two { root, .. } if !controllers(root).contains("memory") => Err(absent(
            format!("{} has no memory controller", root.display()),
            "boot without cgroup_disable=memory; on some boards with cgroup_enable=memory",
        )),
        Hierarchy::Two { root, .. } => Ok(format!("version 2 at {}", root.display())),
        Hierarchy::One { memory, unified: None, .. } => Ok(format!("version 1 at {}", memory.display())),
        Hierarchy::One { memory, .. } => Ok(format!("version 1, beside version 2, at {}", memory.display())),
    };
    Part {
        name: "memory",
        state,
        gives: "node.memory_pressure and node.oom_predicted of containers and units",
    }
}

fn cpus(hierarchy: &Hierarchy) -> Part {
    let cpu = match hierarchy {
        Hierarchy::None => None,
        Hierarchy::Two { cpus: Some(one), .. } | Hierarchy::One { cpus: Some(one), .. } => Some(&one.cpu),
        Hierarchy::Two { root, .. } => Some(root).filter(|root| controllers(root).contains("cpu")),
        Hierarchy::One { .. } => None,
    };
    let state = cpu.map(|path| format!("at {}", path.display())).ok_or_else(|| {
        absent("no cpu controller", "mount the host's /sys/fs/cgroup with its cpu controller")
    });
    Part { name: "cpu", state, gives: "node.cpu_throttled" }
}

fn node(proc_root: &Path) -> Part {
    let path = proc_root.join("meminfo");
    let text = fs::read(&path).unwrap_or_default();
    let [total, available] = parse::keyed(&text, ["MemTotal:", "MemAvailable:"]);
    let state = total.and(available).map(|_| format!("at {}", path.display())).ok_or_else(|| {
        let why = format!("{} cannot be read", path.display());
        absent(why, "mount the host's /proc, and give its place as `proc_root`")
    });
    Part { name: "meminfo", state, gives: "node.memory_pressure and node.oom_predicted of the node" }
}

fn pressure(hierarchy: &Hierarchy, proc_root: &Path) -> Part {
    let path = proc_root.join("pressure/memory");
    let state = match (fs::read(&path), hierarchy) {
        (Ok(_), Hierarchy::Two { .. }) => Ok("of the node and of groups".to_owned()),
        (Ok(_), Hierarchy::One { unified: Some(_), .. }) => {
            Ok("of the node, and of groups that version 2 has, too".to_owned())
        }
        (Ok(_), _) => Err(absent(
            "of the node only: version 1 has none of groups",
            "mount a cgroup2 hierarchy, as systemd.unified_cgroup_hierarchy=1 on the kernel command line does",
        )),
        (Err(error), _) => Err(absent(
            format!("{} cannot be read ({error})", path.display()),
            "boot with psi=1, with a kernel built with CONFIG_PSI=y",
        )),
    };
    Part { name: "pressure", state, gives: "node.io_pressure, and node.memory_pressure by waiting" }
}

fn prompt(triggers: &[io::Result<Trigger>]) -> Part {
    let refused = triggers.iter().find_map(|trigger| trigger.as_ref().err());
    let state = match refused {
        None => Ok("set: what begins to wait is looked at within a second".to_owned()),
        Some(error) => Err(absent(
            format!("not set ({error}): what begins to wait is seen in the next pass"),
            "start it with CAP_SYS_RESOURCE, or with a kernel of 6.5 or later",
        )),
    };
    Part { name: "triggers", state, gives: "" }
}

fn controllers(root: &Path) -> String {
    fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
}
