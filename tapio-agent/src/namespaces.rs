//! Samples the counters of network namespaces, and turns them into records like those of a kernel ring buffer.
//!
//! It samples the node's namespace and those of containers, one for all containers of a pod. A process of a container leads to
//! its namespace: `/proc/PID/net` needs no capability, unlike `/proc/PID/ns/net`, and the inode number of `/proc/PID/net/stat` tells
//! namespaces apart. Kernel programs find the same number.

mod counters;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::Ipv6Addr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytemuck::{bytes_of, cast_slice};
use tapio_common::{Header, WHOLE_NODE};
use tapio_service::clock;
use tokio::time::Instant;

use self::counters::Counters;
use crate::{
    cgroupfs::{Hierarchy, Tree},
    enrich::cgroups::{has_host_pids, in_host_pid_namespace, parse_path},
    observer::link::Namespace,
    source::{Absent, Lack, Part, Ready, Records, Source},
};

/// Number of namespaces that are read before other tasks run.
const BATCH: usize = 16;
/// A process in the node's namespace.
const INIT: u32 = 1;

/// Where namespaces are found.
#[derive(Debug)]
pub(crate) struct Namespaces {
    interval: Duration,
    /// Reading uses at most one part in this many of a CPU.
    share: u32,
    tree: Tree,
    cgroups: Option<PathBuf>,
    proc_root: PathBuf,
    parts: Vec<Part>,
}

/// Samples namespaces. It creates a record only when asked for the next one.
struct Reader {
    interval: Duration,
    share: u32,
    tree: Tree,
    /// The hierarchy in which processes of cgroups are looked up.
    cgroups: Option<PathBuf>,
    proc_root: PathBuf,
    counters: Counters,
    /// When the next scan begins.
    next: Instant,
    /// When the last scan began.
    began: Instant,
    /// CPU time of the current scan.
    spent: Duration,
    /// The namespaces that are still to be read in this scan.
    waiting: Vec<Found>,
    left: usize,
    /// Overflows at the last scan, by namespace.
    overflows: HashMap<u64, u64>,
    record: Vec<u8>,
}

/// A namespace, its owner's cgroup, and a process in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    id: u64,
    cgroup_id: u64,
    pid: u32,
}

impl Namespaces {
    /// Finds the cgroups at `cgroup_root`, and the processes at `proc_root`.
    pub(crate) fn open(cgroup_root: &Path, proc_root: &Path, interval: Duration, share: u32) -> Self {
        let hierarchy = Hierarchy::find(cgroup_root);
        Self {
            interval,
            share,
            cgroups: hierarchy.root().map(Path::to_owned),
            tree: Tree::new(hierarchy, proc_root),
            proc_root: proc_root.to_owned(),
            parts: parts(proc_root, has_host_pids(proc_root, in_host_pid_namespace())),
        }
    }

    fn reader(&self) -> Reader {
        Reader {
            interval: self.interval,
            share: self.share,
            tree: self.tree.clone(),
            cgroups: self.cgroups.clone(),
            proc_root: self.proc_root.clone(),
            counters: Counters::default(),
            next: Instant::now(),
            began: Instant::now(),
            spent: Duration::ZERO,
            waiting: Vec::new(),
            left: 0,
            overflows: HashMap::new(),
            record: Vec::new(),
        }
    }
}

impl Source for Namespaces {
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
            if self.waiting.is_empty() {
                tokio::time::sleep_until(self.next).await;
                self.begin();
            } else {
                tokio::task::yield_now().await;
            }
            self.left = BATCH;
            Ok(())
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        while let Some(left) = self.left.checked_sub(1)
            && let Some(found) = self.waiting.pop()
        {
            self.left = left;
            let start = clock::thread_cpu();
            let sampled = self.sample(found);
            self.spent += clock::thread_cpu().saturating_sub(start);
            if self.waiting.is_empty() {
                self.next = self.began + self.interval.max(self.spent * self.share);
                tracing::debug!(
                    namespaces = self.overflows.len(),
                    spent_us = self.spent.as_micros(),
                    "network namespaces scanned"
                );
            }
            if sampled {
                take(&self.record);
                return true;
            }
        }
        false
    }
}

impl Reader {
    /// Finds the namespaces.
    fn begin(&mut self) {
        let start = clock::thread_cpu();
        self.began = Instant::now();
        self.tree.update();
        self.waiting = self.find();
        self.overflows.retain(|id, _| self.waiting.iter().any(|found| found.id == *id));
        self.spent = clock::thread_cpu().saturating_sub(start);
        self.next = self.began + self.interval.max(self.spent * self.share);
    }

    /// The node's namespace, and those of containers. A container in the node's namespace has none of its own; one that
    /// several pods share is nobody's.
    fn find(&self) -> Vec<Found> {
        let mut all = BTreeMap::new();
        if let Some(id) = self.namespace_of(INIT) {
            all.insert(id, Found { id, cgroup_id: WHOLE_NODE, pid: INIT });
        }
        for (path, cgroup_id) in self.containers() {
            let Some(pid) = self.process_in(path) else { continue };
            let Some(id) = self.namespace_of(pid) else { continue };
            let found = all.entry(id).or_insert(Found { id, cgroup_id, pid });
            if found.cgroup_id != cgroup_id && found.cgroup_id != WHOLE_NODE {
                found.cgroup_id = 0;
            }
        }
        // They are read from the last to the first: the oldest one, the node's, comes first.
        all.into_values().rev().collect()
    }

    /// The cgroups of containers, each with that of its owner: the pod, or the container itself.
    fn containers(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.tree.groups().iter().filter_map(|group| {
            parse_path(&group.path.to_string_lossy()).innermost()?.container_id?;
            let above = group.above.and_then(|at| self.tree.above().get(at));
            let pod = above.filter(|above| {
                parse_path(&above.path.to_string_lossy())
                    .innermost()
                    .is_some_and(|named| named.pod_uid.is_some())
            });
            Some((group.path.as_path(), pod.map_or(group.id, |pod| pod.id)))
        })
    }

    /// A process in a cgroup.
    fn process_in(&self, group: &Path) -> Option<u32> {
        let processes = fs::read_to_string(self.cgroups.as_ref()?.join(group).join("cgroup.procs")).ok()?;
        // A process that this one cannot see is 0.
        processes.lines().find_map(|line| line.parse().ok().filter(|pid| *pid != 0))
    }

    /// Identifies the network namespace of a process.
    fn namespace_of(&self, pid: u32) -> Option<u64> {
        fs::metadata(self.net(pid).join("stat")).ok().map(|file| file.ino())
    }

    fn net(&self, pid: u32) -> PathBuf {
        self.proc_root.join(pid.to_string()).join("net")
    }

    /// Reads a namespace as a record. Returns false if its process has ended, or another one has its pid.
    fn sample(&mut self, found: Found) -> bool {
        let header = Header {
            time_ns: clock::boot_ns(),
            cgroup_id: found.cgroup_id,
            pid: 0,
            suppressed: 0,
            comm: [0; 16].into(),
        };
        let net = self.net(found.pid);
        let mut sample = Namespace::unknown(found.id, header);
        self.counters.read(&self.proc_root, &net, &mut sample);
        if found.cgroup_id == WHOLE_NODE {
            self.counters.read_node(&net, &mut sample);
        }
        let before = self.overflows.insert(found.id, sample.listen_overflows);
        if before.is_some_and(|before| before != sample.listen_overflows) {
            let (port, waiting) = counters::longest_queue(&net);
            (sample.port, sample.longest) = (port.into(), waiting);
        }
        let next_hops = self.counters.next_hops(&net);
        sample.next_hops = next_hops.len() as u32;
        self.record.clear();
        self.record.extend_from_slice(bytes_of(&sample));
        self.record.extend(next_hops.iter().flat_map(Ipv6Addr::octets));
        self.record.extend_from_slice(cast_slice(&self.counters.devices(&net)));
        self.namespace_of(found.pid) == Some(found.id)
    }
}

fn parts(proc_root: &Path, has_host_pids: bool) -> Vec<Part> {
    let net = proc_root.join(INIT.to_string()).join("net");
    let at = |name: &str| {
        let path = net.join(name);
        match fs::read(&path) {
            _ if !has_host_pids => Err(Absent {
                why: format!("{} is not of the host's processes", proc_root.display()),
                lack: Lack::Missing,
                remedy: Some("run the agent in the host's pid namespace (`hostPID: true` in its pod)"),
            }),
            Ok(_) => Ok(format!("at {}, and of containers", path.display())),
            Err(error) => Err(Absent {
                why: format!("{} cannot be read ({error})", path.display()),
                lack: Lack::Missing,
                remedy: Some("mount the host's /proc, and give its place as `proc_root`"),
            }),
        }
    };
    let tracking = at("stat/nf_conntrack").map_err(|absent| {
        let is_off = has_host_pids && net.join("netstat").exists();
        if !is_off {
            return absent;
        }
        Absent {
            why: "no connection is tracked on this host: the module nf_conntrack is not loaded".to_owned(),
            lack: Lack::Inapplicable,
            remedy: None,
        }
    });
    vec![
        Part {
            name: "netstat",
            state: at("netstat"),
            gives: "link.listen_overflow, link.packet_drops, and whose network the others are about",
        },
        Part { name: "conntrack", state: tracking, gives: "link.conntrack_full" },
    ]
}

#[cfg(test)]
mod tests;
