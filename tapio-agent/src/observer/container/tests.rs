use super::{
    death::{HANDLED_NS, STOP_NS},
    *,
};

fn killed(pid: u32, kind: u32, time_ns: u64) -> ContainerEvent {
    let mut event: ContainerEvent = bytemuck::Zeroable::zeroed();
    (event.header.pid, event.header.time_ns, event.started_ns) = (pid, time_ns, 7);
    (event.kind, event.signal, event.origin) = (kind, signal::SIGKILL, origin::KERNEL);
    event
}

fn observe(container: &mut Container, event: &ContainerEvent) -> Vec<&'static str> {
    let mut out = Vec::new();
    container.observe(bytemuck::bytes_of(event), &mut out).unwrap();
    out.iter().map(|anomaly| anomaly.kind.name).collect()
}

fn tick(container: &mut Container, now_ns: u64) -> Vec<u32> {
    let mut out = Vec::new();
    container.tick(now_ns, &mut out);
    assert!(out.iter().all(|anomaly| anomaly.kind.name == "container.killed"));
    out.iter().map(|anomaly| anomaly.pid).collect()
}

#[test]
fn a_victim_that_is_gone_before_the_kernel_says_why_is_reported_once_with_the_reason() {
    let mut container = Container::new(&Settings::default());
    assert!(observe(&mut container, &killed(1, kind::SIGNALLED, 100)).is_empty());
    assert!(observe(&mut container, &killed(2, kind::SIGNALLED, 200)).is_empty());
    assert_eq!(observe(&mut container, &killed(1, kind::OOM_KILL, 90)), ["container.oom_kill"]);
    assert!(tick(&mut container, 150 + WORD_NS).is_empty());
    assert_eq!(tick(&mut container, 200 + WORD_NS), [2], "nobody said why");
    let other = ContainerEvent { started_ns: 8, ..killed(2, kind::OOM_KILL, 300) };
    observe(&mut container, &killed(2, kind::SIGNALLED, 300));
    observe(&mut container, &other);
    assert_eq!(tick(&mut container, u64::MAX), [2], "the other had its id before");
}

#[test]
fn a_request_that_was_long_survived_is_no_reason() {
    let reported = |kind, asked_signal, ago_ns| {
        let mut event = killed(1, kind, 2 * STOP_NS);
        (event.origin, event.actor.pid) = (origin::PROCESS, 77);
        (event.asked_signal, event.asked_ns) = (asked_signal, event.header.time_ns - ago_ns);
        let reported = judge(&event, &Settings::default()).unwrap();
        let asked =
            reported.data.text("asked_signal").map(str::to_owned).zip(reported.data.number("asked_ms"));
        (reported.severity, asked, reported.actor.is_some())
    };
    const SIGINT: u32 = 2;
    const SIGQUIT: u32 = 3;
    for (signal, name, most_ns) in [
        (signal::SIGTERM, "SIGTERM", STOP_NS),
        (SIGINT, "SIGINT", HANDLED_NS),
        (SIGQUIT, "SIGQUIT", HANDLED_NS),
    ] {
        let asked = Some((name.to_owned(), most_ns / 1_000_000));
        assert_eq!(reported(kind::SIGNALLED, signal, most_ns), (Severity::Warning, asked.clone(), true));
        assert_eq!(reported(kind::SIGNALLED, signal, most_ns + 1), (Severity::Error, None, true), "{name}");
        assert_eq!(reported(kind::EXIT_ERROR, signal, most_ns), (Severity::Error, asked, true));
        assert_eq!(reported(kind::EXIT_ERROR, signal, most_ns + 1), (Severity::Error, None, false), "{name}");
    }
}

#[test]
fn a_storm_of_deaths_by_the_kernel_is_bounded() {
    let mut container = Container::new(&Settings::default());
    let reported: usize =
        (0..2000).map(|pid| observe(&mut container, &killed(pid, kind::SIGNALLED, 1)).len()).sum();
    assert_eq!(reported + tick(&mut container, u64::MAX).len(), 2000);
    assert_eq!(reported, 2000 - MAX_WAITING);
}
