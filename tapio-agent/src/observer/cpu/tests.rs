use tapio_common::{Header, baseline::Baseline, cpu::Waits, majority::Majority};

use super::*;

const MS: u64 = 1_000_000;

fn event() -> CpuEvent {
    let header = Header { time_ns: 60_000 * MS, cgroup_id: 7, ..bytemuck::Zeroable::zeroed() };
    let waits = Waits {
        sum_ns: 1_200 * MS,
        longest_ns: 48 * MS,
        count: 200,
        quota_ns: 0,
        instead: Majority { cgroup_id: 9, votes: 1_000 * MS, own: 1_100 * MS, all: 1_200 * MS },
    };
    CpuEvent {
        header,
        kind: kind::SCHEDULING_DELAY,
        padding: 0,
        waits,
        window_ns: 2_000 * MS,
        since_ns: 54_000 * MS,
        baseline: Baseline::default(),
    }
}

fn judged(event: &CpuEvent) -> Anomaly {
    let mut out = Vec::new();
    Cpu.observe(bytemuck::bytes_of(event), &mut out).unwrap();
    out.remove(0)
}

#[test]
fn who_waited_how_long_and_who_ran_instead() {
    let delayed = judged(&event());
    assert_eq!((delayed.kind.name, delayed.cgroup_id, delayed.pid), ("cpu.scheduling_delay", 7, 0));
    for (key, value) in [
        ("waited_per_second_us", 600_000),
        ("waits", 200),
        ("longest_us", 48_000),
        ("window_ms", 2_000),
        ("since_ms", 6_000),
        ("noisy_neighbour_percent", 91),
    ] {
        assert_eq!(delayed.data.number(key), Some(value), "{key}");
    }
    assert_eq!((delayed.noisy_neighbour, delayed.magnitude), (Some(9), 600_000));
    assert!(delayed.data.get("waited_for_quota_us").is_none());
}

#[test]
fn who_ran_instead_is_named_only_if_it_is_clear_and_can_be() {
    let mut several = event();
    several.waits.instead.own = 500 * MS;
    let mut kernel = event();
    kernel.waits.instead.cgroup_id = ROOT_CGROUP;
    for event in [several, kernel] {
        let delayed = judged(&event);
        assert_eq!(delayed.noisy_neighbour, None);
        assert!(delayed.data.get("noisy_neighbour_percent").is_none());
    }
}

#[test]
fn waits_for_a_quota_are_told_apart() {
    let mut throttled = event();
    throttled.waits.quota_ns = 300 * MS;
    let delayed = judged(&throttled);
    assert_eq!(delayed.data.number("waited_for_quota_us"), Some(300_000));
    assert_eq!(delayed.data.number("waited_per_second_us"), Some(600_000));
}

#[test]
fn settings_of_which_nothing_would_be_reported_are_refused() {
    let settings = |sustain, run| Settings {
        sustain: tapio_service::setting::Count::of(sustain),
        run: tapio_service::setting::Count::of(run),
        ..Settings::default()
    };
    assert!(Cpu::check(&settings(5, 5)).is_ok());
    let (key, wrong) = Cpu::check(&settings(6, 5)).unwrap_err();
    assert!(key == "sustain" && wrong.0.contains("observer.cpu.run"), "{wrong:?}");
}

#[test]
fn records_that_are_no_events_are_refused() {
    assert_eq!(Cpu.observe(&[0; 3], &mut Vec::new()), Err(Malformed::Size(3)));
    let unknown = CpuEvent { kind: 99, ..event() };
    assert_eq!(Cpu.observe(bytemuck::bytes_of(&unknown), &mut Vec::new()), Err(Malformed::Kind(99)));
}
