use bytemuck::Zeroable as _;
use tapio_common::Header;

use super::*;
use crate::observer;

const SECOND: u64 = 1_000_000_000;

pub(crate) fn refused(port: u32, magnitude: u64) -> Anomaly {
    let (_, kind) = observer::kind("network.connection_refused").unwrap();
    let header = Header { cgroup_id: 7, pid: 1, ..Header::zeroed() };
    Anomaly {
        peer: Some(([127, 0, 0, 1].into(), port as u16)),
        detail: port,
        magnitude,
        message: |_| String::new(),
        ..Anomaly::new(kind, &header)
    }
}

#[test]
fn first_at_once_repeats_folded_window_grows() {
    let mut fold = Fold::new(10 * SECOND, 30 * SECOND);
    let mut out = Vec::new();
    assert!(fold.admit(refused(80, 1), 0).is_some());
    for magnitude in [3, 9, 5] {
        assert!(fold.admit(refused(80, magnitude), SECOND).is_none());
    }
    assert!(fold.admit(refused(81, 1), SECOND).is_some(), "another subject");
    fold.flush(9 * SECOND, &mut out);
    assert!(out.is_empty());
    fold.flush(10 * SECOND, &mut out);
    assert_eq!(out.iter().map(|a| (a.count, a.magnitude)).collect::<Vec<_>>(), [(3, 9)]);

    out.clear();
    assert!(fold.admit(refused(80, 1), 12 * SECOND).is_none(), "the window goes on, now 20 s");
    fold.flush(29 * SECOND, &mut out);
    assert!(out.is_empty());
    fold.flush(30 * SECOND, &mut out);
    assert_eq!(out.len(), 1);
    fold.flush(60 * SECOND, &mut out);
    assert!(fold.admit(refused(80, 1), 61 * SECOND).is_some(), "quiet for a window: forgotten");
}

#[test]
fn a_follow_up_says_until_when_they_came() {
    let at = |seconds: u64, magnitude| Anomaly { time_ns: seconds * SECOND, ..refused(80, magnitude) };
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    fold.admit(at(0, 1), 0);
    for (seconds, magnitude) in [(1, 3), (5, 9), (27, 5)] {
        fold.admit(at(seconds, magnitude), seconds * SECOND);
    }
    let mut out = Vec::new();
    fold.flush(30 * SECOND, &mut out);
    let until = |out: &[Anomaly]| {
        out.iter().map(|a| (a.time_ns / SECOND, a.data.number("until_ms"))).collect::<Vec<_>>()
    };
    assert_eq!(until(&out), [(5, Some(22_000))]);
    out.clear();
    fold.admit(at(40, 1), 40 * SECOND);
    fold.flush(90 * SECOND, &mut out);
    assert_eq!(until(&out), [(40, None)], "it is the only one");
}

#[test]
fn it_is_woken_when_the_first_window_is_over_and_not_before() {
    let mut fold = Fold::new(10 * SECOND, 300 * SECOND);
    assert_eq!(fold.wake_at(), None);
    for (port, at) in [(80, 0), (81, 3), (80, 4), (81, 5)] {
        fold.admit(refused(port, 1), at * SECOND);
    }
    // Reported for 80 at 10 s and for 81 at 13 s, both go on for 20 s, and end without repeats.
    for (at, reported) in [(10, 1), (13, 1), (30, 0), (33, 0)] {
        assert_eq!(fold.wake_at(), Some(at * SECOND));
        let mut out = Vec::new();
        fold.flush(at * SECOND - 1, &mut out);
        assert!(out.is_empty(), "{at} s");
        fold.flush(at * SECOND, &mut out);
        assert_eq!(out.len(), reported, "{at} s");
    }
    assert_eq!(fold.wake_at(), None);
}

#[test]
fn a_port_scan_is_a_handful_and_loses_nothing() {
    let mut fold = Fold::new(SECOND, SECOND);
    let mut out: Vec<_> = (0..10_000).filter_map(|port| fold.admit(refused(port, 1), 0)).collect();
    assert_eq!(out.len(), MAX_SUBJECTS as usize + 4, "and at 10, 100 and 1000 of the others");
    fold.finish(&mut out);
    assert_eq!(out.iter().map(|a| a.count).sum::<u64>(), 10_000);
}

fn spike(magnitude: u64) -> Anomaly {
    Anomaly { kind: observer::kind("network.rtt_spike").unwrap().1, ..refused(80, magnitude) }
}

#[test]
fn what_is_ten_times_worse_goes_out_at_once_and_as_it_was_then() {
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    assert!(fold.admit(spike(20), 0).is_some());
    assert!(fold.admit(spike(199), 5 * SECOND).is_none());
    let worse = Anomaly { time_ns: 9 * SECOND, ..spike(200) };
    let at_once = fold.admit(worse, 9 * SECOND).expect("ten times as high");
    assert_eq!((at_once.count, at_once.magnitude, at_once.time_ns), (2, 200, 9 * SECOND));
    assert!(fold.admit(spike(1999), 10 * SECOND).is_none(), "compared with what was reported");
    // The next window.
    let mut out = Vec::new();
    fold.flush(39 * SECOND, &mut out);
    assert_eq!(out.len(), 1);
    assert!(fold.admit(spike(19_989), 50 * SECOND).is_none());
    assert!(fold.admit(spike(19_990), 51 * SECOND).is_some());
}

#[test]
fn a_rate_ten_times_as_high_goes_out_at_once() {
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    let mut out = Vec::new();
    // One per second is no storm, however long it lasts.
    let mut said = 0;
    for second in 0..100 {
        said += usize::from(fold.admit(refused(80, second), second * SECOND).is_some());
        fold.flush(second * SECOND, &mut out);
    }
    assert_eq!((said, out.len()), (1, 2));
    let storm: Vec<u64> = (0..20)
        .filter_map(|n| fold.admit(refused(80, 1), 100 * SECOND + n))
        .map(|anomaly| anomaly.count)
        .collect();
    assert_eq!(storm.len(), 1, "{storm:?}");
    // Anomalies that the kernel suppressed count.
    let held = Anomaly { count: 1_000, ..refused(80, 1) };
    assert_eq!(fold.admit(held, 102 * SECOND).map(|anomaly| anomaly.count), Some(1_010));
}

#[test]
fn how_long_a_refusal_took_is_no_measure() {
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    assert!(fold.admit(refused(80, 40), 0).is_some());
    assert!(fold.admit(refused(80, 4_000), SECOND).is_none());
}

#[test]
fn what_comes_after_a_quiet_minute_goes_out_at_once() {
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    let mut out = Vec::new();
    for second in 0..300 {
        fold.admit(refused(80, 1), second * SECOND);
        fold.flush(second * SECOND, &mut out);
    }
    out.clear();
    fold.flush(358 * SECOND, &mut out);
    assert!(out.is_empty(), "its window is of four minutes");
    fold.flush(359 * SECOND, &mut out);
    assert_eq!(out.len(), 1);
    assert!(fold.admit(refused(80, 1), 360 * SECOND).is_some());
    // Nobody called `flush` in the meantime.
    assert!(fold.admit(refused(80, 1), 361 * SECOND).is_none());
    let late = Anomaly { time_ns: 421 * SECOND, ..refused(80, 2) };
    let late = fold.admit(late, 421 * SECOND).unwrap();
    assert_eq!((late.count, late.time_ns), (2, 421 * SECOND));
}

#[test]
fn a_storm_that_grows_for_ever_is_reported_a_logarithmic_number_of_times() {
    let mut fold = Fold::new(30 * SECOND, 600 * SECOND);
    let (mut said, mut count) = (0, 0);
    for n in 0..1_000_000_u64 {
        // Rising magnitude and rate, within one second.
        if let Some(anomaly) = fold.admit(spike(n), n) {
            (said, count) = (said + 1, count + anomaly.count);
        }
    }
    assert!((6..=13).contains(&said), "{said}");
    let mut out = Vec::new();
    fold.finish(&mut out);
    assert_eq!(count + out.iter().map(|a| a.count).sum::<u64>(), 1_000_000);
}

#[test]
fn what_many_owners_share_is_of_none_of_them() {
    let mut fold = Fold::new(SECOND, SECOND);
    let mut out = Vec::new();
    let local = ("local_address".into(), "10.0.0.1".into());
    for owner in 0..20_000_u64 {
        let mut anomaly = Anomaly { cgroup_id: owner + 1, comm: [b'x'; 16], ..refused(80, owner) };
        anomaly.data.0.push(local.clone());
        out.extend(fold.admit(anomaly, 0));
    }
    fold.flush(2 * SECOND, &mut out);
    let shared: Vec<_> = out.iter().filter(|anomaly| anomaly.cgroup_id == 0).collect();
    assert!(!shared.is_empty());
    for anomaly in &shared {
        assert_eq!((anomaly.pid, anomaly.comm, anomaly.data.get("local_address")), (0, [0; 16], None));
        // Each occurs once.
        assert_eq!(anomaly.data.number(OWNERS), Some(anomaly.count));
    }
    assert!(out.iter().all(|anomaly| anomaly.count == 1 || anomaly.cgroup_id == 0), "nor of one of them");
    assert_eq!(out.iter().map(|anomaly| anomaly.count).sum::<u64>(), 20_000);
}

#[test]
fn what_many_could_share_and_one_has_is_of_that_one() {
    let mut fold = Fold::new(SECOND, SECOND);
    for owner in 0..=MAX_WINDOWS as u64 {
        fold.admit(Anomaly { cgroup_id: owner + 1, ..refused(80, 1) }, 0);
    }
    for _ in 0..3 {
        fold.admit(Anomaly { cgroup_id: 99_999, ..refused(80, 1) }, 0);
    }
    let mut out = Vec::new();
    fold.finish(&mut out);
    let said: Vec<_> = out.iter().map(|a| (a.cgroup_id, a.count, a.data.number(OWNERS))).collect();
    assert_eq!(said, [(99_999, 3, None)]);
}

#[test]
fn memory_is_bounded_whoever_comes() {
    let mut fold = Fold::new(SECOND, SECOND);
    let mut said = 0;
    for owner in 0..50_000 {
        let anomaly = Anomaly { cgroup_id: owner + 1, ..refused(80, 1) };
        said += fold.admit(anomaly, 0).map_or(0, |a| a.count);
    }
    assert!(fold.windows.len() <= MAX_WINDOWS + 1);
    let mut out = Vec::new();
    fold.flush(2 * SECOND, &mut out);
    assert_eq!(said + out.iter().map(|a| a.count).sum::<u64>(), 50_000);
    fold.flush(9 * SECOND, &mut out);
    assert!(fold.windows.is_empty() && fold.subjects.is_empty());
}
