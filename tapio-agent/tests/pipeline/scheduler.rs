//! The scheduler observer: from scrapes to the lines that leave the node.

use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::scheduler::{
    Scheduler,
    scrape::{Bucket, Pods, Scrape},
};

use super::{SECOND, conforms, line::Line};

/// A scheduler at rest.
fn rest() -> Scrape {
    let mut scrape = Scrape::empty(1_000 * SECOND);
    (scrape.attempts, scrape.attempts_us, scrape.preemptions, scrape.victims) = (0, 0, 0, 0);
    scrape.queues = [Pods::new("", 0); 8];
    for (at, queue) in ["active", "backoff", "gated", "unschedulable"].iter().enumerate() {
        scrape.queues[at] = Pods::new(queue, 0);
    }
    scrape
}

/// Scrapes every 15 seconds, 20 times with `normal` and three times with `now`. Returns the first report.
async fn reported(normal: impl Fn(&mut Scrape), now: impl Fn(&mut Scrape)) -> Value {
    let (mut line, mut scrape) = (Line::of::<Scheduler>(), rest());
    for at in 0..23 {
        scrape.header.time_ns += 15 * SECOND;
        if at < 20 {
            normal(&mut scrape)
        } else {
            now(&mut scrape)
        }
        line.record(bytemuck::bytes_of(&scrape));
    }
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    assert_eq!(line.metric("tapio_unattributed_total", &[]), 0, "it is about no workload");
    for key in ["workload", "process", "peer"] {
        assert_eq!(reported[0].get(key), None);
    }
    reported[0].clone()
}

fn attempts(us: u64) -> impl Fn(&mut Scrape) {
    move |scrape| {
        scrape.attempts += 37;
        scrape.attempts_us += 37 * us;
        scrape.buckets[0] = Bucket { le_us: 1_024_000, count: scrape.attempts };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    let latency = reported(attempts(12_000), attempts(410_000)).await;
    assert_eq!(
        latency["message"],
        "kube-scheduler: placing a pod took 410 ms on average, 99 % of them at most 1.0 s, normally 12 ms: 37 attempts in \
         15 seconds"
    );
    let queue = reported(|scrape| scrape.queues[0].pods = 3, |scrape| scrape.queues[0].pods = 120).await;
    assert_eq!(queue["message"], "kube-scheduler: 120 pods in the queue `active`, normally 3");
    assert_eq!(queue["baseline"]["unit"], "pods");
    let unschedulable = |scrape: &mut Scrape| {
        scrape.queues[3].pods = 12;
        scrape.plugins[0] = Pods::new("NodeResourcesFit", 9);
        scrape.plugins[1] = Pods::new("TaintToleration", 3);
    };
    let message = "kube-scheduler: 12 pods are unschedulable: NodeResourcesFit (9), TaintToleration (3); some have been for \
                   30 seconds";
    let of_rest = reported(|_| {}, unschedulable).await;
    assert_eq!(of_rest["message"], message);
    assert_eq!(of_rest["data"]["plugins"][0], json!({ "plugin": "NodeResourcesFit", "pods": 9 }));
    // Some always are.
    let of_two = reported(|scrape| scrape.queues[3].pods = 2, unschedulable).await;
    assert_eq!(of_two["message"], "kube-scheduler: 2 pods are unschedulable; some have been for 30 seconds");
    let one = reported(|_| {}, |scrape| scrape.queues[3].pods = 1).await;
    assert_eq!(one["message"], "kube-scheduler: 1 pod is unschedulable; some have been for 30 seconds");
    let preempted = reported(|_| {}, |scrape| (scrape.preemptions, scrape.victims) = (1, 3)).await;
    assert_eq!(
        preempted["message"],
        "kube-scheduler chose 3 pods to be evicted in 15 seconds, to make room for pods of higher priority; normally 0"
    );
}

proptest! {
    /// Whatever a scrape contains, nothing panics and nothing is lost.
    #[test]
    fn any_scrapes_are_counted(
        scrapes in prop::collection::vec(
            (any::<u64>(), prop::collection::vec((0..size_of::<Scrape>() / 8, any::<u64>()), 0..60), 0..2_u8),
            0..40,
        )
    ) {
        let mut line = Line::of::<Scheduler>();
        let mut malformed = 0;
        for (time_ns, words, whole) in &scrapes {
            let mut scrape = rest();
            let all: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut scrape));
            words.iter().for_each(|(at, word)| all[*at] = *word);
            scrape.header.time_ns = *time_ns;
            scrape.header.suppressed = 0;
            let bytes = bytemuck::bytes_of(&scrape);
            let is_malformed = *whole == 0 || scrape.header.cgroup_id != rest().header.cgroup_id;
            malformed += u64::from(is_malformed);
            line.record(if *whole == 0 { &bytes[1..] } else { bytes });
        }
        line.finish();
        prop_assert_eq!((line.events(), line.malformed()), (scrapes.len() as u64, malformed));
    }
}
