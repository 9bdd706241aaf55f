use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn pod(uid: &str, ids: &[&str]) -> Pod {
    let container =
        |id: &&str| Container { id: (*id).to_owned(), runtime: None, name: "app".to_owned(), image: None };
    Pod {
        uid: uid.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("pod-{uid}"),
        addresses: vec![[10, 0, 0, 1].into()],
        since_unix_ns: Some(100 * SECOND_NS),
        containers: ids.iter().map(container).collect(),
        ..Pod::default()
    }
}

fn name(workload: Option<Arc<Workload>>) -> Option<String> {
    workload.and_then(|workload| workload.pod.clone())
}

#[test]
fn a_container_that_was_replaced_is_remembered_for_a_while() {
    let (mut pods, start) = (Pods::default(), Instant::now());
    pods.apply(pod("a", &["1"]), start);
    pods.apply(pod("a", &["2"]), start + Duration::from_secs(10));
    let index = pods.index();
    assert!(index.container("1").is_some() && index.container("2").is_some());
    pods.apply(pod("a", &["2"]), start + Duration::from_secs(11) + REMEMBER);
    let index = pods.index();
    assert!(index.container("1").is_none() && index.container("2").is_some());
}

#[test]
fn what_is_gone_is_remembered_for_a_while_whichever_way_it_went() {
    let (mut pods, start) = (Pods::default(), Instant::now());
    pods.replace(vec![pod("a", &["1"]), pod("b", &["2"]), pod("c", &["3"])], start, 0);
    assert_eq!(pods.index().present(), 3);
    pods.delete(pod("a", &["1"]), start, 0);
    pods.replace(vec![pod("c", &["3"])], start + Duration::from_secs(1), 0);
    let index = pods.index();
    assert_eq!((index.present(), index.containers()), (1, 3));
    assert_eq!(name(index.container("1")).as_deref(), Some("pod-a"));
    assert_eq!(name(index.pod("b")).as_deref(), Some("pod-b"));
    pods = pods.remembering(2 * REMEMBER);
    pods.apply(pod("c", &["3"]), start + Duration::from_secs(2) + REMEMBER);
    assert_eq!(pods.index().containers(), 3);
    pods.apply(pod("c", &["3"]), start + Duration::from_secs(2) + 2 * REMEMBER);
    let index = pods.index();
    assert_eq!((name(index.container("1")), name(index.container("2"))), (None, None));
}

#[test]
fn probes_may_fail_until_a_pod_was_ready_once_and_while_it_is_deleted() {
    let (mut pods, now) = (Pods::default(), Instant::now());
    let address = [10, 0, 0, 1].into();
    let may_fail = |pods: &Pods, second: u64| pods.index().may_fail_probes(address, second * SECOND_NS);
    let ready = |second: Option<u64>| Pod {
        ready_unix_ns: second.map(|second| second * SECOND_NS),
        ..pod("a", &["1"])
    };
    pods.apply(ready(None), now);
    assert!(!may_fail(&pods, 98), "it has no address yet");
    assert!(may_fail(&pods, 99) && may_fail(&pods, 500));
    pods.apply(ready(Some(200)), now);
    assert!(may_fail(&pods, 199) && !may_fail(&pods, 200));
    // The address is lost, and regained.
    for later in [None, Some(400)] {
        pods.apply(ready(later), now);
        assert!(may_fail(&pods, 199) && !may_fail(&pods, 300));
    }
    pods.apply(Pod { is_over: true, ..ready(Some(200)) }, now);
    assert!(may_fail(&pods, 300));
    assert!(!pods.index().may_fail_probes([10, 0, 0, 2].into(), 300 * SECOND_NS));
    // It is gone at second 400, and another one has its address from 500 on.
    pods.apply(ready(Some(200)), now);
    pods.delete(pod("a", &["1"]), now, 400 * SECOND_NS);
    assert!(may_fail(&pods, 400) && may_fail(&pods, 530));
    let other = Pod {
        since_unix_ns: Some(500 * SECOND_NS),
        ready_unix_ns: Some(510 * SECOND_NS),
        ..pod("b", &["2"])
    };
    pods.apply(other, now);
    assert!(may_fail(&pods, 450) && may_fail(&pods, 505) && !may_fail(&pods, 530));
}

#[test]
fn memory_is_bounded_and_those_that_are_here_stay() {
    let (mut pods, start) = (Pods::default(), Instant::now());
    pods.apply(pod("here", &["here"]), start);
    for nth in 0..2 * MAX_PODS as u64 {
        let now = start + Duration::from_millis(nth);
        pods.delete(pod(&nth.to_string(), &[]), now, 0);
    }
    assert_eq!(pods.known.len(), MAX_PODS);
    assert!(pods.index().container("here").is_some());
    for nth in 0..2 * MAX_CONTAINERS {
        pods.apply(pod("here", &[&nth.to_string()]), start);
    }
    assert_eq!(pods.index().containers(), MAX_CONTAINERS + 1);
}

#[test]
fn an_address_is_whose_it_was_then() {
    let (mut pods, now) = (Pods::default(), Instant::now());
    let address = IpAddr::from([10, 0, 0, 1]);
    let at = |pods: &Pods, second: u64| {
        pods.index().at(address, second * SECOND_NS).and_then(|identity| identity.names.pod.clone())
    };
    pods.apply(pod("a", &[]), now);
    assert_eq!((at(&pods, 99), at(&pods, 100).as_deref()), (None, Some("pod-a")));
    pods.delete(pod("a", &[]), now, 200 * SECOND_NS);
    pods.apply(Pod { since_unix_ns: Some(210 * SECOND_NS), ..pod("b", &[]) }, now);
    for (second, expected) in [(199, Some("pod-a")), (200, None), (209, None), (210, Some("pod-b"))] {
        assert_eq!(at(&pods, second).as_deref(), expected, "{second}");
    }
    // If two pods both claim it, one of them is wrong.
    pods.apply(Pod { since_unix_ns: Some(150 * SECOND_NS), ..pod("c", &[]) }, now);
    assert_eq!(at(&pods, 160), None);
    // Pods on the host network have no address of their own.
    let mut pods = Pods::default();
    pods.apply(Pod { host_network: true, ..pod("d", &[]) }, now);
    assert_eq!(at(&pods, 160), None);
}

#[test]
fn a_pod_is_over_when_it_says_so_or_is_gone() {
    let (mut pods, now) = (Pods::default(), Instant::now());
    pods.apply(pod("runs", &[]), now);
    pods.apply(Pod { is_over: true, ..pod("done", &[]) }, now);
    pods.apply(pod("gone", &[]), now);
    pods.delete(pod("gone", &[]), now, 0);
    let index = pods.index();
    assert_eq!(["runs", "done", "gone", "never"].map(|uid| index.is_over(uid)), [false, true, true, false]);
}
