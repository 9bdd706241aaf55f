//! The memory of a cgroup in which a process was OOM-killed: which other processes hold most, and how usage
//! grew.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tapio_common::{CGROUP_V1, node::UNKNOWN};
use tapio_occurrence::{Data, Value};

/// The least time between two retained samples.
const STEP_NS: u64 = 30_000_000_000;
/// The most samples retained, including the latest: five minutes.
const MAX_SAMPLES: usize = 11;
/// A cgroup without a sample for this long is forgotten.
const FORGET_NS: u64 = 60_000_000_000;

/// How long after the kill the listed processes still count as those at the time of the kill. A death waits a
/// second for its reason, and perhaps for a walk over the cgroups. Folded repeats come later.
const RIGHT_AFTER_NS: u64 = 5_000_000_000;
/// How long after the kill memory held by no process still counts as that at the time of the kill: other
/// processes go on, and use what became free.
const AT_ONCE_NS: u64 = 1_000_000_000;
/// The most processes named.
const USERS: usize = 5;
/// A cgroup with more processes is not searched, nor one with more cgroups in it.
const MAX_PROCESSES: usize = 2048;
const MAX_GROUPS: usize = 256;

/// Past memory use of cgroups with a limit. The reader of their files writes it; it is read when one of them
/// is OOM.
#[derive(Debug, Default)]
pub struct Past(Mutex<HashMap<u64, VecDeque<Sample>>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    time_ns: u64,
    held_bytes: u64,
}

/// A process and the memory that it holds.
struct User {
    pid: u32,
    comm: String,
    rss_bytes: u64,
}

impl Past {
    /// Records the memory use of a cgroup, by its id in the memory controller's hierarchy.
    pub fn contribute(&self, id: u64, time_ns: u64, held_bytes: u64) {
        if held_bytes == UNKNOWN {
            return;
        }
        let sample = Sample { time_ns, held_bytes };
        let mut groups = self.groups();
        let samples = groups.entry(id).or_default();
        // Keep the first sample of each step, and the latest.
        let step = |sample: &Sample| sample.time_ns / STEP_NS;
        let mut last = samples.iter().rev().map(step);
        if last.next().is_some_and(|latest| last.next() == Some(latest)) {
            samples.pop_back();
        }
        samples.push_back(sample);
        if samples.len() > MAX_SAMPLES {
            samples.pop_front();
        }
    }

    /// Forgets cgroups that are no longer sampled.
    pub fn forget(&self, now_ns: u64) {
        let is_new = |sample: &Sample| now_ns.saturating_sub(sample.time_ns) < FORGET_NS;
        self.groups().retain(|_, samples| samples.back().is_some_and(is_new));
    }

    /// The memory use before `time_ns`, the latest last.
    fn before(&self, id: u64, time_ns: u64) -> Option<Value> {
        let groups = self.groups();
        let sample = |sample: &Sample| {
            let seconds_ago = time_ns.saturating_sub(sample.time_ns) / 1_000_000_000;
            Data::from([("seconds_ago", seconds_ago.into()), ("held_bytes", sample.held_bytes.into())])
        };
        let samples: Vec<Data> =
            groups.get(&id)?.iter().filter(|l| l.time_ns < time_ns).map(sample).collect();
        (!samples.is_empty()).then_some(Value::List(samples))
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<Sample>>> {
        // A panicking thread leaves only whole samples behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cgroup that ran out of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full {
    pub(super) id: u64,
    /// The time of the OOM kill, boot clock.
    pub(super) time_ns: u64,
    /// The most that others than the victim can have held; `None` if unknown.
    pub(super) of_others: Option<u64>,
}

/// The details known at `now_ns` of an OOM cgroup. Its directory may have vanished, and its past may be
/// unknown.
pub(super) fn of(full: Full, now_ns: u64, directory: Option<&Path>, proc_root: &Path, past: &Past) -> Data {
    let since_ns = now_ns.saturating_sub(full.time_ns);
    let right_after = |most_ns| directory.filter(|_| since_ns <= most_ns);
    // This comes first, because such memory may be freed along with the victim.
    let mut found =
        right_after(AT_ONCE_NS).map_or_else(Vec::new, |directory| held_by_nobody(full, directory));
    let users = right_after(RIGHT_AFTER_NS).and_then(|directory| users(full.id, directory, proc_root));
    found.extend(users.map(|users| ("users", Value::List(users))));
    found.extend(past.before(full.id, full.time_ns).map(|before| ("before", before)));
    found.into_iter().collect()
}

/// Memory in a cgroup and its descendants that no process needs to hold: files in memory (tmpfs, shared
/// memory) and kernel memory. It is still there now, so it was there at the time of the OOM kill, unless it
/// is more than there was room for beside the victim.
fn held_by_nobody(full: Full, directory: &Path) -> Vec<(&'static str, Value)> {
    let Some(of_others) = full.of_others.filter(|_| is(full.id, directory)) else { return Vec::new() };
    let read = |file| fs::read_to_string(directory.join(file)).ok();
    let stat = |key: &str| {
        let text = read("memory.stat")?;
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
    };
    let (shmem, kernel) = if full.id & CGROUP_V1 == 0 {
        (stat("shmem"), stat("kernel"))
    } else {
        (
            stat("total_shmem"),
            read("memory.kmem.usage_in_bytes").and_then(|text| text.trim_end().parse().ok()),
        )
    };
    if !is(full.id, directory) {
        return Vec::new();
    }
    let certain = |bytes: Option<u64>| bytes.filter(|bytes| *bytes <= of_others);
    let found = [("cgroup_shmem_bytes", certain(shmem)), ("cgroup_kernel_bytes", certain(kernel))];
    found.into_iter().filter_map(|(key, bytes)| Some((key, bytes?.into()))).collect()
}

/// Whether a directory is that of the cgroup. Another one may have replaced it, as when a unit restarts.
fn is(id: u64, directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.ino() == id & !CGROUP_V1)
}

/// The processes in a cgroup and its descendants that hold most. `None` if some of them cannot be seen,
/// because then the largest ones are not certain.
fn users(id: u64, directory: &Path, proc_root: &Path) -> Option<Vec<Data>> {
    if !is(id, directory) {
        return None;
    }
    let page_bytes = rustix::param::page_size() as u64;
    let mut users: Vec<User> = processes(directory)?
        .into_iter()
        // An ended process holds nothing.
        .filter_map(|pid| user(&proc_root.join(pid.to_string()), pid, page_bytes))
        .collect();
    users.sort_by_key(|user| std::cmp::Reverse(user.rss_bytes));
    users.truncate(USERS);
    let data = |user: User| {
        let comm = Value::Text(user.comm.into());
        Data::from([
            ("pid", u64::from(user.pid).into()),
            ("comm", comm),
            ("rss_bytes", user.rss_bytes.into()),
        ])
    };
    (!users.is_empty() && is(id, directory)).then(|| users.into_iter().map(data).collect())
}

fn user(process: &Path, pid: u32, page_bytes: u64) -> Option<User> {
    let statm = fs::read_to_string(process.join("statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let comm = fs::read(process.join("comm")).ok()?;
    let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
    Some(User { pid, comm, rss_bytes: pages.checked_mul(page_bytes)? }).filter(|user| user.rss_bytes > 0)
}

/// The processes in a cgroup and its descendants.
fn processes(directory: &Path) -> Option<Vec<u32>> {
    let mut processes = Vec::new();
    let mut waiting = vec![PathBuf::from(directory)];
    let mut groups = 0;
    while let Some(group) = waiting.pop() {
        groups += 1;
        // Descendants may vanish in the meantime.
        let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) else {
            if groups == 1 { return None } else { continue }
        };
        for line in text.lines() {
            // 0: a process that this pid namespace does not see.
            let pid = line.parse().ok().filter(|pid| *pid != 0)?;
            processes.push(pid);
        }
        let below = fs::read_dir(&group).into_iter().flatten().flatten();
        waiting.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
        if processes.len() > MAX_PROCESSES || groups + waiting.len() > MAX_GROUPS {
            return None;
        }
    }
    Some(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn id(group: &Path) -> u64 {
        fs::metadata(group).unwrap().ino()
    }

    fn process(proc_root: &Path, pid: u32, comm: &[u8], pages: &str) {
        let process = proc_root.join(pid.to_string());
        fs::create_dir(&process).unwrap();
        fs::write(process.join("comm"), comm).unwrap();
        fs::write(process.join("statm"), pages).unwrap();
    }

    #[test]
    fn who_hold_most_come_first_and_from_groups_below_too() {
        let tree = tempfile::tempdir().unwrap();
        let group = tree.path().join("group");
        fs::create_dir_all(group.join("below")).unwrap();
        fs::write(group.join("cgroup.procs"), "1\n2\n3\n4\n5\n6\n7\n9\n").unwrap();
        fs::write(group.join("below/cgroup.procs"), "8\n").unwrap();
        for pid in 1..=6 {
            process(tree.path(), pid, b"small\n", &format!("100 {pid} 0"));
        }
        process(tree.path(), 7, b"garbage\n", "no numbers");
        process(tree.path(), 8, b"od\xffd\n", "100 50 0");
        let users = users(id(&group), &group, tree.path()).unwrap();
        assert_eq!(users.len(), USERS, "and one has ended");
        let page_bytes = rustix::param::page_size() as u64;
        assert_eq!(users[0].text("comm"), Some("od\u{fffd}d"));
        assert_eq!((users[0].number("pid"), users[0].number("rss_bytes")), (Some(8), Some(50 * page_bytes)));
        assert_eq!(users[1].number("pid"), Some(6));
    }

    #[test]
    fn whom_one_cannot_see_might_hold_most() {
        let tree = tempfile::tempdir().unwrap();
        process(tree.path(), 5, b"seen\n", "100 50 0");
        for text in ["5\n0\n", "5\nx\n"] {
            fs::write(tree.path().join("cgroup.procs"), text).unwrap();
            assert!(users(id(tree.path()), tree.path(), tree.path()).is_none(), "{text:?}");
        }
        assert!(users(7, &tree.path().join("vanished"), tree.path()).is_none());
    }

    #[test]
    fn who_held_memory_is_known_right_after_the_kill_and_of_the_same_group() {
        let tree = tempfile::tempdir().unwrap();
        process(tree.path(), 5, b"seen\n", "100 50 0");
        fs::write(tree.path().join("cgroup.procs"), "5\n").unwrap();
        let past = Past::default();
        let own = id(tree.path());
        past.contribute(own, SECOND, 7);
        past.contribute(own | CGROUP_V1, SECOND, 7);
        let keys = |id, now_ns| {
            let full = Full { id, time_ns: 100 * SECOND, of_others: Some(1 << 30) };
            let reported = of(full, now_ns, Some(tree.path()), tree.path(), &past);
            reported.0.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        let (then, late) = (100 * SECOND + RIGHT_AFTER_NS, 101 * SECOND + RIGHT_AFTER_NS);
        for id in [own, own | CGROUP_V1] {
            assert_eq!(keys(id, then), ["users", "before"]);
            assert_eq!(keys(id, late), ["before"], "what was folded comes later");
        }
        past.contribute(own + 1, SECOND, 7);
        assert_eq!(keys(own + 1, then), ["before"], "another group has the place");
    }

    #[test]
    fn what_no_process_holds_is_reported_at_once_and_where_it_was_there_before() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("memory.stat"), "anon 1\nshmem 80\nkernel 9\ntotal_shmem 70\n").unwrap();
        fs::write(tree.path().join("memory.kmem.usage_in_bytes"), "5\n").unwrap();
        let own = id(tree.path());
        let reported = |id, of_others, now_ns| {
            let full = Full { id, time_ns: SECOND, of_others };
            let reported = of(full, now_ns, Some(tree.path()), tree.path(), &Past::default());
            (reported.number("cgroup_shmem_bytes"), reported.number("cgroup_kernel_bytes"))
        };
        assert_eq!(reported(own, Some(80), 2 * SECOND), (Some(80), Some(9)));
        assert_eq!(reported(own | CGROUP_V1, Some(80), 2 * SECOND), (Some(70), Some(5)));
        assert_eq!(reported(own, Some(79), 2 * SECOND), (None, Some(9)), "more than there was room for");
        assert_eq!(reported(own, None, 2 * SECOND), (None, None), "not known what the victim held");
        assert_eq!(reported(own, Some(80), 2 * SECOND + 1), (None, None), "later");
        assert_eq!(reported(own + 1, Some(80), 2 * SECOND), (None, None), "another group has the place");
        fs::write(tree.path().join("memory.stat"), "anon 1\n").unwrap();
        assert_eq!(reported(own, Some(80), 2 * SECOND), (None, None), "an older kernel");
    }

    #[test]
    fn samples_are_thirty_seconds_apart_and_the_latest() {
        let past = Past::default();
        for second in 0..1000 {
            past.contribute(7, second * SECOND, second);
        }
        past.contribute(7, 1001 * SECOND, UNKNOWN);
        let Some(Value::List(samples)) = past.before(7, 1000 * SECOND) else { panic!("nothing is known") };
        assert_eq!(samples.len(), MAX_SAMPLES);
        assert_eq!(
            (samples[0].number("seconds_ago"), samples[0].number("held_bytes")),
            (Some(1000 - 720), Some(720))
        );
        assert_eq!(samples[MAX_SAMPLES - 1].number("held_bytes"), Some(999));
        assert!(past.before(8, 1000 * SECOND).is_none(), "another");
        assert!(past.before(7, 0).is_none(), "nothing was before");
        past.forget(1100 * SECOND);
        assert!(past.before(7, 1000 * SECOND).is_none());
    }
}
