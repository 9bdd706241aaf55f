use linux_raw_sys::general::{__NR_clone3, __NR_openat, __NR_write, __NR_writev};
use tapio_common::{Header, health::error};

use super::*;

const MS: u64 = 1_000_000;
const SLICE_NS: u64 = 100 * MS;
const SECOND: u64 = 1_000 * MS;
const CGROUP: u64 = 7;
/// So many slices teach what is normal.
const LEARNED: u64 = 8;

/// An observer, and when its last slice ended.
struct Observed {
    health: Health,
    second: u64,
}

impl Observed {
    fn new() -> Self {
        Self { health: Health::new(&Settings::default()), second: 0 }
    }

    fn learned() -> Self {
        let mut observed = Self::new();
        (0..LEARNED).for_each(|_| assert!(observed.slice(&[]).is_empty()));
        observed
    }

    /// A slice in which these calls failed so often.
    fn slice(&mut self, failed: &[(u32, u32, u64)]) -> Vec<Anomaly> {
        self.second += 10;
        let header = Header {
            time_ns: self.second * SECOND,
            cgroup_id: CGROUP,
            pid: 42,
            suppressed: 0,
            comm: (*b"writer\0\0\0\0\0\0\0\0\0\0").into(),
        };
        let of = |(number, errno, count)| Failed {
            header,
            number,
            errno,
            count,
            slice_ns: SLICE_NS,
            limit: UNKNOWN,
            used: UNKNOWN,
        };
        let mut out = Vec::new();
        for failed in failed.iter().copied().chain([(0, 0, 0)]) {
            self.health.observe(bytemuck::bytes_of(&of(failed)), &mut out).unwrap();
        }
        out
    }
}

#[test]
fn what_begins_to_fail_is_reported_in_the_second_slice_and_once() {
    let mut observed = Observed::learned();
    let full = [(__NR_write, error::ENOSPC, 4), (__NR_writev, error::ENOSPC, 6)];
    assert!(observed.slice(&full).is_empty(), "once is not again and again");
    let reported = observed.slice(&full);
    let [exhausted] = &reported[..] else { panic!("{reported:#?}") };
    assert_eq!(
        (exhausted.kind.name, exhausted.cgroup_id, exhausted.pid),
        (RESOURCE_EXHAUSTED.name, CGROUP, 42)
    );
    let text = ["error", "system_call", "resource"].map(|key| exhausted.data.text(key));
    assert_eq!(text, [Some("ENOSPC"), Some("writev"), Some("file_system")]);
    let numbers = ["rate_failures", "failures", "since_ms"].map(|key| exhausted.data.number(key));
    assert_eq!(numbers, [Some(6_000), Some(20), Some(10_100)]);
    (0..60).for_each(|_| assert!(observed.slice(&full).is_empty()));
    // It ends, and what was learned is forgotten.
    (0..30).for_each(|_| assert!(observed.slice(&[]).is_empty()));
    observed.slice(&full);
    assert_eq!(observed.slice(&full).len(), 1);
}

#[test]
fn what_fails_in_one_slice_is_nothing() {
    let mut observed = Observed::learned();
    for _ in 0..10 {
        assert!(observed.slice(&[(__NR_openat, error::EROFS, 500)]).is_empty());
        assert!(observed.slice(&[]).is_empty());
    }
}

#[test]
fn what_fails_from_the_start_is_normal_and_something_else_is_not() {
    let mut observed = Observed::new();
    let usual = (__NR_openat, error::EROFS, 5);
    for _ in 0..LEARNED * 4 {
        assert!(observed.slice(&[usual]).is_empty());
    }
    let both = [usual, (__NR_clone3, error::EAGAIN, 3)];
    assert!(observed.slice(&both).is_empty());
    let reported = observed.slice(&both);
    let [threads] = &reported[..] else { panic!("{reported:#?}") };
    assert_eq!(threads.data.text("resource"), Some("threads"));
    // Ten times as often is not usual.
    observed.slice(&[(__NR_openat, error::EROFS, 50)]);
    assert_eq!(observed.slice(&[(__NR_openat, error::EROFS, 50)]).len(), 1);
}

#[test]
fn a_later_agent_knows_what_is_normal() {
    let mut observed = Observed::new();
    let usual = [(__NR_openat, error::EROFS, 5)];
    (0..LEARNED * 2).for_each(|_| drop(observed.slice(&usual)));
    let snapshot = observed.health.snapshot().unwrap();
    let mut later = Observed { second: observed.second, ..Observed::new() };
    later.health.restore(&snapshot).unwrap();
    (0..4).for_each(|_| assert!(later.slice(&usual).is_empty()));
    let full = [(__NR_write, error::ENOSPC, 5)];
    later.slice(&full);
    assert_eq!(later.slice(&full).len(), 1, "it need not learn first");
    assert!(later.health.restore(b"{").is_err());
}

#[test]
fn series_are_bounded() {
    let mut health = Health::new(&Settings::default());
    for cgroup_id in 0..2 * MAX_TRACKS as u64 {
        let header = Header { time_ns: cgroup_id, cgroup_id, ..bytemuck::Zeroable::zeroed() };
        let failed = Failed {
            header,
            number: __NR_write,
            errno: error::ENOSPC,
            count: 1,
            ..bytemuck::Zeroable::zeroed()
        };
        health.observe(bytemuck::bytes_of(&failed), &mut Vec::new()).unwrap();
    }
    assert_eq!(health.state.tracks.len(), MAX_TRACKS);
    assert!(health.state.tracks.keys().all(|key| key.cgroup_id >= MAX_TRACKS as u64));
}

#[test]
fn records_that_are_not_of_this_observer_are_refused() {
    let mut health = Health::new(&Settings::default());
    assert_eq!(health.observe(&[0; 3], &mut Vec::new()), Err(Malformed::Size(3)));
    let unknown = Failed { count: 1, errno: 99, ..bytemuck::Zeroable::zeroed() };
    assert_eq!(health.observe(bytemuck::bytes_of(&unknown), &mut Vec::new()), Err(Malformed::Kind(99)));
}
