//! Many OOM kills at once.

use super::{MIB, TOO_MUCH, of, start};
use crate::support::{Process, needs_a_kernel};

const CONTAINERS: usize = 4;
const EACH: usize = 5;

#[test]
fn oom_kills_at_once_in_different_and_the_same_containers_are_all_counted_and_each_as_its_own() {
    needs_a_kernel!();
    let mut cgroups = Vec::new();
    for _ in 0..CONTAINERS {
        // The first one created the parent cgroups of all, so it is removed last.
        cgroups.insert(0, super::container!());
    }
    cgroups.iter().for_each(|cgroup| cgroup.limit(30 * MIB));
    let tapio = start();
    // Alternate, so that consecutive processes are in different containers.
    let mut hogs: Vec<_> = (0..CONTAINERS * EACH).map(|_| Process::start("storm")).collect();
    for (hog, cgroup) in hogs.iter().zip(cgroups.iter().cycle()) {
        hog.enter(cgroup);
    }
    hogs.iter_mut().for_each(|hog| hog.begin_allocate(TOO_MUCH));
    hogs.iter_mut().for_each(Process::await_death);

    // The first kill of each container is reported at once, the others at the end.
    for cgroup in &cgroups {
        tapio.expect_some(of(cgroup));
    }
    let ended = tapio.end();
    for cgroup in &cgroups {
        let reported: Vec<_> = ended.occurrences.iter().filter(|o| o.is_in(cgroup)).collect();
        assert!(reported.iter().all(|o| o.kind == "container.oom_kill"), "{reported:?}");
        assert_eq!(reported.iter().map(|o| o.count).sum::<u64>(), EACH as u64, "{reported:?}");
        assert!(reported.len() <= 3, "not folded: {reported:?}");
        let is_of_one = |o: &&crate::support::Occurrence| hogs.iter().any(|hog| o.is_of(hog));
        assert!(reported.iter().all(is_of_one), "{reported:?}");
    }
    for (program, counts) in &ended.programs {
        assert_eq!((counts.failed, counts.seen), (0, counts.accounted()), "{program}: {counts:?}");
    }
    let marked = ended.programs.iter().find(|(program, _)| program == "mark_victim").unwrap();
    assert!(marked.1.emitted >= (CONTAINERS * EACH) as u64, "{marked:?}");
}
