//! Reads which file systems the host has mounted and how full they are, and turns each scan into a record.
//!
//! What is mounted, and whether it takes writes, is in the mount table of the host's first process, which anyone may read
//! (`/proc/1/mountinfo`). How full a file system is takes a path to it, thus a mount of it in the agent's own namespace: in
//! a pod those of host paths only.
//!
//! `statfs` and the way to a mount point may hang for ever, on a dead network file system or disk. So only local file
//! systems are asked, and a thread of its own asks them: if it hangs, `/status` says where, and nothing else waits.

mod devices;
mod mounts;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::fs::{AtFlags, CWD, StatxFlags, statvfs, statx};
use tapio_service::clock;
use tokio::sync::mpsc;

use self::mounts::Mount;
use crate::{
    observer::storage::filesystem::{self, Amount, Filesystem, Space},
    source::{Absent, Lack, Part, Ready, Records, Source},
};

/// The agent's own mount table.
const OWN: &str = "/proc/self/mountinfo";
/// Where the kernel describes devices.
const SYS: &str = "/sys";
/// A file system that does not answer for this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The mounted file systems. The first look is taken when it is opened.
#[derive(Debug)]
pub struct Filesystems {
    interval: Duration,
    shared: Arc<Shared>,
}

/// What the scanning thread and the states of the parts share.
#[derive(Debug)]
struct Shared {
    /// The host's mount table.
    table: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    found: Result<Found, Absent>,
    /// The path that is being asked, and since when.
    asking: Option<(Instant, PathBuf)>,
    thread: Option<Thread>,
    is_closed: bool,
}

/// How many file systems the last scan found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    all: usize,
    /// Those whose space is known.
    reached: usize,
    /// Volumes of pods among those that cannot be reached.
    volumes: usize,
}

/// Mounts by which the agent reaches a file system: id and mount point.
type Paths = Vec<(u64, PathBuf)>;

/// Records of scans.
struct Scans {
    records: mpsc::Receiver<Vec<u8>>,
    next: Option<Vec<u8>>,
}

impl Filesystems {
    /// Looks at what is mounted. `proc_root` is where the host's processes are.
    #[must_use]
    pub fn open(proc_root: &Path, interval: Duration) -> Self {
        let state = State { found: Ok(Found::default()), asking: None, thread: None, is_closed: false };
        let shared = Arc::new(Shared { table: proc_root.join("1/mountinfo"), state: Mutex::new(state) });
        shared.find();
        Self { interval, shared }
    }

    /// Scans once, for whoever measures that.
    #[must_use]
    pub fn scan(&self) -> Option<Vec<u8>> {
        self.shared.scan()
    }
}

impl Source for Filesystems {
    fn of(&self) -> &'static str {
        "files"
    }

    fn parts(&self) -> Vec<Part> {
        let state = self.shared.state();
        let table = state.found.as_ref().map(|_| format!("at {}", self.shared.table.display()));
        let space = state.found.clone().and_then(|found| match &state.asking {
            Some((since, path)) if since.elapsed() > PATIENCE => Err(Absent {
                why: format!("{} has not answered for {} s", path.display(), since.elapsed().as_secs()),
                lack: Lack::Failed,
                remedy: Some("look at the disk under it; unmount it with umount --lazy"),
            }),
            _ => Ok(found.to_string()),
        });
        let mut parts = vec![
            Part {
                name: "mountinfo",
                state: table.map_err(Absent::clone),
                gives: "storage.filesystem_readonly",
            },
            Part { name: "statfs", state: space, gives: "storage.filesystem_full" },
        ];
        if let Ok(Found { volumes: volumes @ 1.., .. }) = state.found {
            parts.push(Part {
                name: "volumes",
                state: Err(Absent {
                    why: format!("volumes of pods ({volumes}) are not mounted here"),
                    lack: Lack::Unsupported,
                    remedy: Some(
                        "mount the kubelet's directory of pods, read-only, with mountPropagation: HostToContainer \
                         (chart: `podVolumes: /var/lib/kubelet/pods`)",
                    ),
                }),
                gives: "storage.filesystem_full of them",
            });
        }
        parts
    }

    fn records(&mut self) -> anyhow::Result<Box<dyn Records>> {
        let (send, records) = mpsc::channel(1);
        let (shared, interval) = (Arc::clone(&self.shared), self.interval);
        let thread = thread::Builder::new()
            .name("filesystems".to_owned())
            .spawn(move || shared.run(&send, interval))
            .context("no thread for file systems")?;
        self.shared.state().thread = Some(thread.thread().clone());
        Ok(Box::new(Scans { records, next: None }))
    }

    fn close(&self) {
        let mut state = self.shared.state();
        state.is_closed = true;
        if let Some(thread) = &state.thread {
            thread.unpark();
        }
    }
}

impl Records for Scans {
    fn ready(&mut self) -> Ready<'_> {
        Box::pin(async {
            if self.next.is_none() {
                self.next = self.records.recv().await;
            }
            // The thread has ended.
            if self.next.is_none() { std::future::pending().await } else { Ok(()) }
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(record) = self.next.take().or_else(|| self.records.try_recv().ok()) else { return false };
        take(&record);
        true
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scans until it is closed.
    fn run(&self, send: &mpsc::Sender<Vec<u8>>, interval: Duration) {
        while !self.is_closed() {
            let began = Instant::now();
            let scanned = self.scan();
            if let Some(record) = scanned
                && send.blocking_send(record).is_err()
            {
                return;
            }
            while let Some(left) = interval.checked_sub(began.elapsed())
                && !self.is_closed()
            {
                thread::park_timeout(left);
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// Reads the mount table, and asks what can be reached. `None` if the table cannot be read.
    fn scan(&self) -> Option<Vec<u8>> {
        let (time_ns, start) = (clock::boot_ns(), clock::thread_cpu());
        let mut all = self.find()?;
        for (filesystem, paths) in &mut all {
            filesystem.space = paths.iter().find_map(|(id, path)| self.ask(*id, path));
        }
        let all: Vec<_> = all.into_iter().map(|(filesystem, _)| filesystem).collect();
        let spent_us = clock::thread_cpu().saturating_sub(start).as_micros();
        tracing::debug!(filesystems = all.len(), spent_us, "file systems scanned");
        // It consists of numbers and text only.
        filesystem::record(time_ns, &all).ok()
    }

    /// The local file systems, each with the mounts by which the agent reaches it.
    fn find(&self) -> Option<Vec<(Filesystem, Paths)>> {
        let tables = read(&self.table).and_then(|host| Ok((host, read(Path::new(OWN))?)));
        let (host, own) = match tables {
            Ok(tables) => tables,
            Err(error) => {
                self.state().found = Err(Absent {
                    why: format!("{} cannot be read ({error})", self.table.display()),
                    lack: Lack::Missing,
                    remedy: Some("mount the host's /proc, and give its place as `proc_root`"),
                });
                return None;
            }
        };
        let mut paths: BTreeMap<u64, Paths> = BTreeMap::new();
        for Mount { id, device, point, .. } in mounts::local(&own) {
            paths.entry(device).or_default().push((id, point.into()));
        }
        let of = |(device, mounts): (u64, Vec<Mount>)| {
            let mut filesystem = mounts::filesystem(&mounts)?;
            let source = mounts.first().map_or("", |mount| &mount.source);
            (filesystem.device, filesystem.disks) = devices::of(Path::new(SYS), device, source);
            Some((filesystem, paths.remove(&device).unwrap_or_default()))
        };
        let all: Vec<_> = mounts::by_device(mounts::local(&host)).into_iter().filter_map(of).collect();
        let is_reached = |(_, paths): &&(Filesystem, Paths)| !paths.is_empty();
        let is_lost_volume = |(of, paths): &&(Filesystem, Paths)| of.volume.is_some() && paths.is_empty();
        self.state().found = Ok(Found {
            all: all.len(),
            reached: all.iter().filter(is_reached).count(),
            volumes: all.iter().filter(is_lost_volume).count(),
        });
        Some(all)
    }

    /// How full the file system at this path is. `None` if it is not that of this mount: another one may be mounted over it.
    fn ask(&self, mount: u64, path: &Path) -> Option<Space> {
        self.state().asking = Some((Instant::now(), path.to_owned()));
        let space = space(mount, path);
        self.state().asking = None;
        space.ok().flatten()
    }
}

fn space(mount: u64, path: &Path) -> io::Result<Option<Space>> {
    let flags = AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    if statx(CWD, path, flags, StatxFlags::MNT_ID)?.stx_mnt_id != mount {
        return Ok(None);
    }
    let found = statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Some(Space {
        bytes: Amount {
            used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            available: bytes(found.f_bavail),
        },
        inodes: (found.f_files != 0).then_some(Amount {
            used: found.f_files.saturating_sub(found.f_ffree),
            available: found.f_favail,
        }),
    }))
}

/// Reads a mount table. Paths that are not UTF-8 are not asked.
fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.all - self.reached {
            0 => f.write_str("of all local file systems"),
            _ => write!(
                f,
                "of {} of {} local file systems: the others are not mounted here",
                self.reached, self.all
            ),
        }
    }
}

impl fmt::Debug for Scans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scans").finish_non_exhaustive()
    }
}
