//! The CPU observer: from the bytes of the ring buffer to the lines that leave the node.

use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::cpu::Cpu;
use tapio_common::{
    Header,
    baseline::{Baseline, Limits},
    cpu::{CpuEvent, Waits, kind},
    majority::Majority,
};

use super::{SECOND, conforms, line::Line};

const MS: u64 = 1_000_000;

fn event(cgroup_id: u64, instead: u64) -> CpuEvent {
    let mut baseline = Baseline::default();
    for at in 0..20 {
        baseline.observe(12_000, at, &Limits::DEFAULT);
    }
    let waits = Waits {
        sum_ns: 1_240 * MS,
        longest_ns: 48 * MS,
        count: 310,
        quota_ns: 0,
        instead: Majority { cgroup_id: instead, votes: 900 * MS, own: 1_030 * MS, all: 1_240 * MS },
    };
    let header = Header { time_ns: 1_000 * SECOND, cgroup_id, pid: 0, suppressed: 0, comm: [0; 16].into() };
    CpuEvent {
        header,
        kind: kind::SCHEDULING_DELAY,
        padding: 0,
        waits,
        window_ns: 2 * SECOND,
        since_ns: 994 * SECOND,
        baseline,
    }
}

async fn reported(line: &mut Line, event: &CpuEvent) -> Vec<Value> {
    line.record(bytemuck::bytes_of(event));
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    reported
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_waits() {
    let mut line = Line::of::<Cpu>();
    let of_line = line.cgroup_id;
    let [delayed] = reported(&mut line, &event(of_line, 1 << 40)).await.try_into().unwrap();
    let waited = "tasks waited for a CPU 620 ms per second for 6.0 s, normally 12 ms; longest wait 48 ms";
    assert_eq!(delayed["message"], format!("9b2c8089b3b0: {waited}"));
    let data = json!({"waited_per_second_us": 620_000, "waits": 310, "longest_us": 48_000, "window_ms": 2_000, "since_ms": 6_000});
    assert_eq!(delayed["data"], data, "a neighbour without a name is left out, with its share");
    assert_eq!((&delayed["baseline"]["mean"], &delayed["baseline"]["unit"]), (&json!(12_000), &json!("us")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ran_instead() {
    let mut line = Line::of::<Cpu>();
    let of_line = line.cgroup_id;
    // Whoever waited is gone.
    let [delayed] = reported(&mut line, &event(1 << 40, of_line)).await.try_into().unwrap();
    let message = delayed["message"].as_str().unwrap();
    assert!(
        message.starts_with("a container or unit that is gone: tasks waited for a CPU 620 ms"),
        "{message}"
    );
    assert!(message.ends_with("; 9b2c8089b3b0 ran instead for at least 83 % of that"), "{message}");
    assert_eq!(delayed["data"]["noisy_neighbour_percent"], 83);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_itself_is_not_its_own_neighbour() {
    let mut line = Line::of::<Cpu>();
    let of_line = line.cgroup_id;
    let [delayed] = reported(&mut line, &event(of_line, of_line)).await.try_into().unwrap();
    assert!(delayed["data"].get("noisy_neighbour").is_none(), "{delayed}");
}

proptest! {
    /// Whatever is in a record: what comes of it conforms.
    #[test]
    fn any_record(mut record in prop::collection::vec(any::<u8>(), size_of::<CpuEvent>())) {
        let at = size_of::<Header>();
        record[at..at + 4].copy_from_slice(&kind::SCHEDULING_DELAY.to_ne_bytes());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut line = Line::of::<Cpu>();
            let mut event: CpuEvent = bytemuck::pod_read_unaligned(&record);
            event.header.time_ns %= 1 << 50;
            (event.header.cgroup_id, event.header.pid) = (line.cgroup_id, 0);
            assert_eq!(reported(&mut line, &event).await.len(), 1);
        });
    }
}
