//! Finds the cgroup hierarchies: version 2, version 1, or both (hybrid).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{parse, tree::has_controller, trigger::Trigger};
use crate::source::{Absent, Lack, Part};

/// The hierarchies of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// No hierarchy is mounted.
    None,
    /// Version 2 with the memory controller. Its cgroups are sampled.
    Two {
        /// Mount point. It has all controllers, or all that version 1 does not have.
        root: PathBuf,
        /// The CPU hierarchies of version 1, if they are mounted beside it: kernels drop version 1's memory controller
        /// first.
        cpus: Option<Cpus>,
    },
    /// Version 1, one hierarchy per controller. Version 2 may be mounted beside it, without memory and CPU.
    One {
        /// The memory hierarchy. Its cgroups are sampled.
        memory: PathBuf,
        /// The CPU hierarchies.
        cpus: Option<Cpus>,
        /// The version 2 hierarchy, which has the pressure files.
        unified: Option<PathBuf>,
    },
}

/// The version 1 hierarchies of CPU limits and CPU usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    /// The `cpu` hierarchy, which has the limits.
    pub cpu: PathBuf,
    /// The `cpuacct` hierarchy, which has the usage.
    pub cpuacct: Option<PathBuf>,
}

impl Cpus {
    /// Maps each path.
    pub(super) fn each(&self, path: impl Fn(&PathBuf) -> PathBuf) -> Self {
        Self { cpu: path(&self.cpu), cpuacct: self.cpuacct.as_ref().map(path) }
    }
}

impl Hierarchy {
    /// Finds the hierarchies at or under `root` (usually `/sys/fs/cgroup`).
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

    /// The hierarchy whose cgroups are sampled.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Two { root, .. } | Self::One { memory: root, .. } => Some(root),
        }
    }

    /// Whether a cgroup at this path below the root may exist: it may unless the kernel says that it does not.
    pub(super) fn may_have(&self, path: &Path) -> bool {
        self.root().is_some_and(|root| root.join(path).try_exists().unwrap_or(true))
    }

    /// A number that changes when a cgroup is created or removed: a cheap check before listing them.
    pub(super) fn count(&self, counts: &Path) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Two { root, .. } => {
                let [living, dying] = parse::keyed(
                    &fs::read(root.join("cgroup.stat")).ok()?,
                    ["nr_descendants", "nr_dying_descendants"],
                );
                // If one is removed while another is created, the removed one counts as dying for a while.
                Some(living?.wrapping_mul(1 << 32).wrapping_add(dying?))
            }
            // `memory HIERARCHY NUMBER ENABLED`
            Self::One { .. } => parse::column(&fs::read(counts).ok()?, "memory", 2),
        }
    }
}

/// The parts that can be read, human-readable.
pub(super) fn parts(hierarchy: &Hierarchy, proc_root: &Path, triggers: &[io::Result<Trigger>]) -> Vec<Part> {
    vec![
        groups(hierarchy),
        cpus(hierarchy),
        node(proc_root),
        pressure(hierarchy, proc_root),
        prompt(triggers),
    ]
}

/// A part that is absent, but that a change of the host or the configuration can provide.
fn absent(why: impl Into<String>, remedy: &'static str) -> Absent {
    Absent { why: why.into(), lack: Lack::Missing, remedy: Some(remedy) }
}

fn groups(hierarchy: &Hierarchy) -> Part {
    const REMEDY: &str = "mount the host's /sys/fs/cgroup read-only, and give its place as `cgroup_root`";
    let state = match hierarchy {
        Hierarchy::None => Err(absent("no cgroup hierarchy is mounted", REMEDY)),
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
        gives: "node.memory_pressure and node.oom_predicted of containers and units, node.service_stopped",
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
        (Ok(_), Hierarchy::Two { .. }) => Ok("of the node and of cgroups".to_owned()),
        (Ok(_), Hierarchy::One { unified: Some(_), .. }) => {
            Ok("of the node, and of cgroups in the version 2 hierarchy".to_owned())
        }
        (Ok(_), _) => Err(absent(
            "of the node only: cgroup version 1 has no pressure files",
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
        None => Ok("set: a stall is sampled within a second".to_owned()),
        Some(error) => Err(absent(
            format!("not set ({error}): a stall is sampled only at the next scan"),
            "start it with CAP_SYS_RESOURCE, or with a kernel of 6.5 or later",
        )),
    };
    Part { name: "triggers", state, gives: "" }
}

fn controllers(root: &Path) -> String {
    fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
}
