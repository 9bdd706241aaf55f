//! The node observer: from samples of files to the lines that leave the node.

use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::node::Node;
use tapio_common::{
    Header, WHOLE_NODE,
    baseline::{Baseline, Limits},
    node::{
        Ancestor, Sample,
        cycles::{CyclesEvent, Usage, extra},
        kind,
    },
};

use super::{SECOND, conforms, line::Line};

const MIB: u64 = 1 << 20;

fn sample(cgroup_id: u64) -> Sample {
    let header = Header { time_ns: 1_000 * SECOND, cgroup_id, pid: 0, suppressed: 0, comm: [0; 16].into() };
    let kind = if cgroup_id == WHOLE_NODE { kind::NODE } else { kind::CGROUP };
    Sample { swap_bytes: 0, swap_limit_bytes: 0, ..Sample::unknown(kind, header) }
}

/// Samples every five seconds; `then` provides each sample.
async fn reported(
    line: &mut Line,
    of: u64,
    looks: u64,
    mut then: impl FnMut(u64, &mut Sample),
) -> Vec<Value> {
    let mut look = sample(of);
    for at in 0..looks {
        look.header.time_ns += 5 * SECOND;
        then(at, &mut look);
        line.record(bytemuck::bytes_of(&look));
    }
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    reported
}

fn filled(mib: u64, look: &mut Sample) {
    (look.held_bytes, look.usage_bytes, look.limit_bytes) = (mib * MIB, (mib + 30) * MIB, 512 * MIB);
}

/// Adds to a counter that starts with the first sample.
fn sum(at: u64, sum: &mut u64, more: u64) {
    *sum = if at == 0 { 0 } else { *sum + more };
}

/// The container of the line.
const WHO: &str = "9b2c8089b3b0";

#[tokio::test(flavor = "multi_thread")]
async fn near_its_limit() {
    let mut line = Line::of::<Node>();
    let group = line.cgroup_id;
    let near = reported(&mut line, group, 2, |at, look| filled(300 + 120 * at, look)).await;
    assert_eq!(near[0]["message"], format!("{WHO}: memory 420 MiB of 512 MiB (82 %)"));
    assert_eq!(near[0]["workload"]["pod_uid"], "4f93bb12-5e82-afe0-0791-1dab3df5704b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leak() {
    let mut line = Line::of::<Node>();
    let group = line.cgroup_id;
    let leak = reported(&mut line, group, 80, |at, look| filled(20 + 6 * at, look)).await;
    assert_eq!(leak[0]["type"], "node.oom_predicted");
    assert_eq!(
        leak[0]["message"],
        format!(
            "{WHO}: memory 350 MiB of 512 MiB (68 %), grows 72 MiB a minute: out of memory in about 2 minutes"
        )
    );
    assert_eq!(leak[0]["data"]["confidence"], json!(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_waits() {
    let mut line = Line::of::<Node>();
    let waiting = reported(&mut line, WHOLE_NODE, 24, |at, look| {
        let us = if at < 20 { 100_000 } else { 3_200_000 };
        sum(at, &mut look.io_some_us, us);
        sum(at, &mut look.io_full_us, us / 2);
        (look.memory_some_us, look.memory_full_us) = (look.io_some_us, look.io_full_us);
    })
    .await;
    let waits = "64 % of the time (32 % with nothing else to do), normally 2 %";
    assert_eq!(waiting[0]["message"], format!("node node-a: waits for memory {waits}"));
    assert_eq!(waiting[1]["message"], format!("node node-a: waits for I/O {waits}"));
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 0, "the node is known");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled() {
    let mut line = Line::of::<Node>();
    let group = line.cgroup_id;
    let throttled = reported(&mut line, group, 24, |at, look| {
        let share = if at < 20 { 1 } else { 31 };
        (look.quota_us, look.period_us) = (25_000, 100_000);
        sum(at, &mut look.periods, 50);
        sum(at, &mut look.throttled, share);
        sum(at, &mut look.throttled_us, share * 50_000);
        sum(at, &mut look.cpu_us, 1_250_000);
    })
    .await;
    assert_eq!(
        throttled[0]["message"],
        format!(
            "{WHO}: throttled in 62 % of its periods, normally 2 %: it may use 0.25 CPU, and wants about 0.56"
        )
    );
}

/// The same for the quota of its pod, and for memory of a slice.
#[tokio::test(flavor = "multi_thread")]
async fn limits_further_up() {
    let mut line = Line::of::<Node>();
    let mut above: Ancestor = bytemuck::Zeroable::zeroed();
    above.sample = Sample { kind: kind::ANCESTOR, ..sample(1 << 40) };
    (above.cpu_cgroup, above.cpu_levels) = (line.cgroup_id, 1);
    (above.memory_cgroup, above.memory_levels) = (line.cgroup_id, 2);
    above.name[..12].copy_from_slice(b"pod4f93.slic");
    for at in 0..24 {
        let look = &mut above.sample;
        look.header.time_ns += 5 * SECOND;
        let share = if at < 20 { 1 } else { 31 };
        (look.quota_us, look.period_us) = (25_000, 100_000);
        sum(at, &mut look.periods, 50);
        sum(at, &mut look.throttled, share);
        sum(at, &mut look.throttled_us, share * 50_000);
        sum(at, &mut look.cpu_us, 1_250_000);
        filled(if at < 23 { 300 } else { 420 }, look);
        line.record(bytemuck::bytes_of(&above));
    }
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    let messages: Vec<_> = reported.iter().map(|reported| reported["message"].as_str().unwrap()).collect();
    let throttled = format!(
        "{WHO}: throttled by the CPU quota of pod4f93.slic (1 level up) in 62 % of its periods, normally 2 %: those in it \
         may use 0.25 CPU together, and want about 0.56"
    );
    let near = format!("{WHO}: memory 420 MiB of 512 MiB (82 %) of pod4f93.slic (2 levels up)");
    assert_eq!(messages, [&throttled[..], &near[..]]);
    assert_eq!(reported[0]["data"]["ancestor"], "pod4f93.slic");
}

/// Two and a half cycles per instruction for half a minute, normally one.
fn slow(kind: u32, cgroup_id: u64, extra_kind: u32) -> CyclesEvent {
    let mut cpi = Baseline::default();
    for time in 0..30 {
        cpi.observe(1024, time, &Limits::DEFAULT);
    }
    let usage = Usage {
        cycles: 10_000_000_000,
        instructions: 4_000_000_000,
        extra: 200_000_000,
        ns: 5 * SECOND,
        counted_ns: 5 * SECOND,
        slices: 900,
        ..Usage::default()
    };
    let header = Header { time_ns: 1_100 * SECOND, cgroup_id, ..sample(cgroup_id).header };
    CyclesEvent { header, kind, extra_kind, usage, window_ns: 10 * SECOND, since_ns: 1_065 * SECOND, cpi }
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_per_instruction() {
    let mut line = Line::of::<Node>();
    let group = line.cgroup_id;
    line.record(bytemuck::bytes_of(&slow(kind::CPI_OUTLIER, group, extra::STALLED)));
    // Another cgroup. Its slowdown began when this one's usage rose.
    let reported_until_then = reported(&mut line, group, 20, |at, look| {
        sum(at, &mut look.cpu_us, if at < 13 { 500_000 } else { 7_500_000 });
    })
    .await;
    let message = format!("{WHO}: 2.50 cycles per instruction for 35 seconds, normally 1.00");
    assert_eq!(reported_until_then[0]["message"], message);
    assert_eq!(reported_until_then[0]["data"]["stalled_percent"], 2);
    line.record(bytemuck::bytes_of(&slow(kind::CPI_OUTLIER, 1 << 40, extra::MISSES)));
    let suffers = line.occurrences().await;
    suffers.iter().for_each(conforms);
    let message = format!(
        "a container or unit that is gone: 2.50 cycles per instruction for 35 seconds, normally 1.00, since {WHO} uses \
         1.4 more CPU (1.5)"
    );
    assert_eq!(suffers[0]["message"], message);
    assert!(suffers[0]["data"]["noisy_neighbour"]["container_id"].as_str().unwrap().starts_with(WHO));
    assert_eq!(suffers[0]["data"]["misses_per_1000_instructions"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn instructions_per_cycle_of_the_node() {
    let mut line = Line::of::<Node>();
    line.record(bytemuck::bytes_of(&slow(kind::IPC_DEGRADED, WHOLE_NODE, extra::NONE)));
    line.finish();
    let degraded = line.occurrences().await;
    degraded.iter().for_each(conforms);
    let message = "node node-a: 0.40 instructions per cycle for 35 seconds, normally 1.00";
    assert_eq!(degraded[0]["message"], message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_gone_is_nobody() {
    let mut line = Line::of::<Node>();
    let near = reported(&mut line, 1 << 40, 2, |at, look| filled(300 + 120 * at, look)).await;
    assert_eq!(near[0].get("workload"), None);
    assert!(near[0]["message"].as_str().unwrap().starts_with("a container or unit that is gone: memory"));
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 1);
}

proptest! {
    /// Whatever a sample contains, nothing panics and nothing is lost.
    #[test]
    fn any_looks_are_counted(
        looks in prop::collection::vec((prop::array::uniform17(any::<u64>()), 0_u32..4), 0..64)
    ) {
        let mut line = Line::of::<Node>();
        let mut malformed = 0;
        for (words, sort) in &looks {
            let mut look = sample(7);
            let body = size_of::<Header>() + 8;
            bytemuck::bytes_of_mut(&mut look)[body..].copy_from_slice(bytemuck::cast_slice(&words[..16]));
            (look.header.time_ns, look.kind) = (words[16], *sort);
            malformed += u64::from(*sort != kind::CGROUP);
            line.record(bytemuck::bytes_of(&look));
        }
        line.finish();
        prop_assert_eq!((line.events(), line.malformed()), (looks.len() as u64, malformed));
    }
}
