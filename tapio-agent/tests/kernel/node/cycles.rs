//! Cycles and instructions of containers: counted at each context switch, judged in the kernel.
//!
//! Most test machines have no PMU. There a clock stands in for cycles, and context switches for instructions,
//! which exercises everything but the numbers. An emulated PMU counts, but all instructions take the same
//! time and there is no cache to contend for. Its "cycles per instruction" changes only with the kernel's
//! share of the cycles, because instructions are counted in user space only. Only a real machine can show a
//! neighbour that takes the cache.

use tapio_agent::{kernel::HookError, observer::Quantity};

use crate::support::{AGENT, Cgroup, Counted, Process, Report, Tapio, Version, guest, needs_a_kernel, skip};

macro_rules! container {
    () => {
        match Cgroup::container(Version::Any).and_then(|cgroup| cgroup.is_of_two().map(|()| cgroup)) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

macro_rules! counted {
    ($cycles:ident, $instructions:ident, $($cgroup:ident),*) => {
        match Counted::start(&[$(&$cgroup),*], Quantity::$cycles, Quantity::$instructions) {
            Ok(counted) => counted,
            Err(HookError::Unsupported(reason)) => skip!("{reason}"),
            Err(error) => panic!("{error}"),
        }
    };
}

#[test]
fn slices_that_grow_longer_are_reported_with_the_neighbour_that_came_then() {
    needs_a_kernel!();
    let (victim, neighbour) = (container!(), container!());
    let mut counted = counted!(Clock, Switches, victim, neighbour);
    let (mut suffers, mut takes) = (Process::start("suffers"), Process::start("takes"));
    suffers.enter(&victim);
    takes.enter(&neighbour);
    // The victim uses a third of a CPU in slices of 0.2 ms, then of 0.8 ms; the neighbour uses almost
    // nothing, then as much.
    suffers.slice(200, 400);
    // The clock of an emulated CPU goes on while another has its turn: almost nothing would be much.
    if !guest::is_one() {
        takes.slice(200, 20_000);
    }
    counted.learn();
    assert_eq!(counted.reported_for(&victim).len(), 0);
    suffers.slice(800, 1_600);
    takes.slice(10_000, 10_000);
    counted.last();

    let reported = counted.reported_for(&victim);
    assert_eq!(reported.len(), 1, "{reported:?}");
    let reported =
        reported[0].clone().of_observer("node", "cpi_outlier").of_no_process().in_container(&victim);
    assert!(reported.baseline("ratio") > 1.5, "{reported:?}");
    reported.has("used_millicores", 50..500);
    reported.has("since_ms", Counted::reported_after());
    assert_eq!(reported.noisy_neighbour(), Some(&*neighbour.container_id), "{reported:?}");
    reported.has("noisy_neighbour_rise_millicores", 100..700);
    let counts = counted.counts();
    assert!(counts.emitted >= 1 && counts.normal > 0 && counts.learning > 0, "{counts:?}");
}

#[test]
fn without_a_neighbour_that_rose_with_it_none_is_named() {
    needs_a_kernel!();
    let (victim, neighbour) = (container!(), container!());
    let mut counted = counted!(Clock, Switches, victim, neighbour);
    let (mut suffers, mut is_there) = (Process::start("suffers"), Process::start("is-there"));
    suffers.enter(&victim);
    is_there.enter(&neighbour);
    suffers.slice(200, 400);
    is_there.slice(10_000, 10_000);
    counted.learn();
    suffers.slice(800, 1_600);
    counted.last();

    let reported = counted.reported_for(&victim);
    assert_eq!(reported.len(), 1, "{reported:?}");
    assert_eq!(reported[0].noisy_neighbour(), None, "{reported:?}");
}

#[test]
fn another_load_is_not_compared() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut counted = counted!(Clock, Switches, cgroup);
    let mut process = Process::start("changes");
    process.enter(&cgroup);
    // Twenty times the CPU time in slices four times as long: it uses more, and does more.
    process.slice(400, 15_000);
    counted.learn();
    process.slice(1_600, 1_600);
    counted.last();
    assert_eq!(counted.reported_for(&cgroup).len(), 0);
    counted.counts();
}

#[test]
fn a_pmu_shows_work_that_takes_more_cycles_an_instruction() {
    needs_a_kernel!();
    let (victim, neighbour) = (container!(), container!());
    let mut counted = counted!(Cycles, InstructionsOfUser, victim, neighbour);
    let (mut suffers, mut takes) = (Process::start("suffers"), Process::start("takes"));
    suffers.enter(&victim);
    takes.enter(&neighbour);
    suffers.slice(10_000, 15_000);
    takes.slice(200, 20_000);
    counted.learn();
    assert_eq!(counted.reported_for(&victim).len(), 0);
    suffers.call(10_000, 15_000);
    takes.slice(10_000, 15_000);
    counted.last();

    let reported = counted.reported_for(&victim);
    assert_eq!(reported.len(), 1, "{reported:?}");
    let reported = reported[0].clone().of_observer("node", "cpi_outlier").in_container(&victim);
    assert!(reported.baseline("ratio") > 1.5, "{reported:?}");
    assert_eq!(reported.noisy_neighbour(), Some(&*neighbour.container_id), "{reported:?}");
    counted.counts();
}

#[test]
fn steady_work_on_a_pmu_is_normal() {
    needs_a_kernel!();
    let cgroup = container!();
    let mut counted = counted!(Cycles, Instructions, cgroup);
    let mut process = Process::start("works");
    process.enter(&cgroup);
    process.slice(10_000, 15_000);
    counted.learn();
    counted.last();
    assert_eq!(counted.reported_for(&cgroup).len(), 0);
    let counts = counted.counts();
    assert!(counts.learning >= 16 && counts.normal > 0, "{counts:?}");
    assert_eq!(counts.emitted, 0);
}

#[test]
fn without_a_pmu_that_is_said_and_the_rest_of_the_observer_runs() {
    needs_a_kernel!();
    if Counted::start(&[], Quantity::Cycles, Quantity::Instructions).is_ok() {
        skip!("this machine has a PMU");
    }
    let tapio = Tapio::start_with(&["--observer=node"], "");
    tapio.expect_log("running(without sched_switch: unsupported: ", "PMU");
    let report = Report::of(std::process::Command::new(AGENT));
    report.says("warn", "sched_switch", "no node.cpi_outlier, node.ipc_degraded");
    report.says("warn", "sched_switch", "PMU");
    report.says("ok", "meminfo", "node.memory_pressure");
}
