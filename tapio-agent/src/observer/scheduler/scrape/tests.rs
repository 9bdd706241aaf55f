use proptest::prelude::*;

use super::*;

/// Kubernetes 1.36, with two profiles.
const NOW: &str = r#"# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7959303439e+09
# HELP scheduler_pending_pods [STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.
# TYPE scheduler_pending_pods gauge
scheduler_pending_pods{queue="active"} 0
scheduler_pending_pods{queue="backoff"} 1
scheduler_pending_pods{queue="gated"} 4
scheduler_pending_pods{queue="unschedulable"} 12
# HELP scheduler_preemption_attempts_total [STABLE] Total preemption attempts in the cluster till now
# TYPE scheduler_preemption_attempts_total counter
scheduler_preemption_attempts_total 14
# HELP scheduler_preemption_victims [STABLE] Number of selected preemption victims
# TYPE scheduler_preemption_victims histogram
scheduler_preemption_victims_bucket{le="1"} 2
scheduler_preemption_victims_bucket{le="+Inf"} 3
scheduler_preemption_victims_sum 7
scheduler_preemption_victims_count 3
# HELP scheduler_scheduling_attempt_duration_seconds [STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)
# TYPE scheduler_scheduling_attempt_duration_seconds histogram
scheduler_scheduling_attempt_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="0.001"} 0
scheduler_scheduling_attempt_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="0.008"} 20
scheduler_scheduling_attempt_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="16.384"} 25
scheduler_scheduling_attempt_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="+Inf"} 25
scheduler_scheduling_attempt_duration_seconds_sum{profile="default-scheduler",result="scheduled"} 0.19
scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="scheduled"} 25
scheduler_scheduling_attempt_duration_seconds_bucket{profile="default-scheduler",result="unschedulable",le="+Inf"} 8
scheduler_scheduling_attempt_duration_seconds_sum{profile="default-scheduler",result="unschedulable"} 3.5
scheduler_scheduling_attempt_duration_seconds_count{profile="default-scheduler",result="unschedulable"} 8
scheduler_scheduling_attempt_duration_seconds_bucket{profile="a \"b\", {c}=1",result="scheduled",le="0.001"} 1
scheduler_scheduling_attempt_duration_seconds_bucket{profile="a \"b\", {c}=1",result="scheduled",le="+Inf"} 1
scheduler_scheduling_attempt_duration_seconds_sum{profile="a \"b\", {c}=1",result="scheduled"} 1e-05
scheduler_scheduling_attempt_duration_seconds_count{profile="a \"b\", {c}=1",result="scheduled"} 1
scheduler_unschedulable_pods{plugin="NodeResourcesFit",profile="default-scheduler"} 8
scheduler_unschedulable_pods{plugin="NodeResourcesFit",profile="other"} 1
scheduler_unschedulable_pods{plugin="SchedulingGates",profile="default-scheduler"} 4
scheduler_unschedulable_pods{plugin="TaintToleration",profile="default-scheduler"} 3
scheduler_unschedulable_pods{plugin="VolumeBinding",profile="default-scheduler"} -1
workqueue_depth{name="DynamicServingCertificateController"} 0
"#;

/// Kubernetes 1.22, whose attempts have their older name, and which names no plugins.
const OLD: &str = r#"process_start_time_seconds 1.61e+09
# HELP scheduler_e2e_scheduling_duration_seconds [ALPHA] E2e scheduling latency in seconds (scheduling algorithm + binding)
# TYPE scheduler_e2e_scheduling_duration_seconds histogram
scheduler_e2e_scheduling_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="0.001"} 0
scheduler_e2e_scheduling_duration_seconds_bucket{profile="default-scheduler",result="scheduled",le="+Inf"} 4
scheduler_e2e_scheduling_duration_seconds_sum{profile="default-scheduler",result="scheduled"} 0.05
scheduler_e2e_scheduling_duration_seconds_count{profile="default-scheduler",result="scheduled"} 4
scheduler_pending_pods{queue="active"} 0
scheduler_pending_pods{queue="backoff"} 0
scheduler_pending_pods{queue="unschedulable"} 2
"#;

fn read(text: &str) -> Result<Scrape, String> {
    let mut reader = Reader::default();
    text.lines().filter(|line| !line.starts_with('#')).try_for_each(|line| reader.line(line))?;
    reader.record(7).map(|record| bytemuck::pod_read_unaligned(&record))
}

fn pods<'a>(all: impl Iterator<Item = (String, u64)> + 'a) -> Vec<(String, u64)> {
    all.collect()
}

#[test]
fn the_newest() {
    let scrape = read(NOW).unwrap();
    assert_eq!((scrape.header.time_ns, scrape.header.cgroup_id), (7, WHOLE_NODE));
    assert_eq!(scrape.started_ms, 1_795_930_343_900);
    assert_eq!(
        (scrape.attempts, scrape.attempts_us),
        (26, 190_010),
        "of both profiles, those that placed a pod"
    );
    assert_eq!((scrape.preemptions, scrape.victims), (14, 7));
    let buckets: Vec<_> = scrape
        .buckets
        .iter()
        .filter(|bucket| bucket.le_us > 0)
        .map(|bucket| (bucket.le_us, bucket.count))
        .collect();
    assert_eq!(buckets, [(1_000, 1), (8_000, 20), (16_384_000, 25), (UNKNOWN, 26)]);
    assert_eq!(
        [scrape.queue("unschedulable"), scrape.queue("gated"), scrape.queue("other")],
        [Some(12), Some(4), None]
    );
    let expected = [("NodeResourcesFit", 9), ("TaintToleration", 3), ("VolumeBinding", 0)];
    assert_eq!(pods(scrape.plugins()), expected.map(|(name, pods)| (name.to_owned(), pods)));
}

#[test]
fn an_old_one() {
    let scrape = read(OLD).unwrap();
    assert_eq!((scrape.attempts, scrape.attempts_us), (4, 50_000));
    assert_eq!((scrape.preemptions, scrape.victims), (UNKNOWN, UNKNOWN));
    assert_eq!((scrape.queue("unschedulable"), pods(scrape.plugins())), (Some(2), Vec::new()));
    // Those in between have both names, for the same attempts.
    let both = format!("{OLD}{}", OLD.replace("e2e_scheduling", "scheduling_attempt"));
    assert_eq!(read(&both).unwrap().attempts, 4);
}

#[test]
fn more_names_than_there_is_room_for() {
    let mut text = String::new();
    for plugin in 0..2_000 {
        text += &format!("scheduler_unschedulable_pods{{plugin=\"{plugin:0>90}\",profile=\"a\"}} {plugin}\n");
        text += &format!("scheduler_pending_pods{{queue=\"q{plugin}\"}} {plugin}\n");
        text += &format!("scheduler_scheduling_attempt_duration_seconds_bucket{{le=\"{plugin}\"}} 1\n");
    }
    let scrape = read(&text).unwrap();
    assert_eq!((scrape.plugins().count(), scrape.queues().count()), (MAX_PLUGINS, MAX_QUEUES));
    assert_eq!(scrape.plugins().next().unwrap(), ("0".repeat(MAX_NAME), MAX_NAMES as u64 - 1));
}

#[test]
fn what_is_something_else() {
    assert_eq!(read("").unwrap_err(), "it has no metrics of kube-scheduler");
    assert_eq!(
        read("up 1\nprocess_start_time_seconds 1\n").unwrap_err(),
        "it has no metrics of kube-scheduler"
    );
    assert_eq!(read("<html>"), read(""), "no line is one of a scheduler");
    for wrong in [
        "scheduler_pending_pods",
        "scheduler_pending_pods{queue=\"active\"}",
        "scheduler_pending_pods{queue=\"active\"} many",
        "scheduler_pending_pods{queue=\"active\"} +Inf",
        "scheduler_pending_pods{queue=\"active\"} NaN",
        "scheduler_pending_pods{queue=\"active} 1",
        "scheduler_pending_pods{queue=active} 1",
        "scheduler_pending_pods{queue=\"active\"} 1 1795930344000",
        "scheduler_pending_pods{queue=\"active\"} 1 2 3",
        "scheduler_scheduling_attempt_duration_seconds_bucket{le=\"x\"} 1",
    ] {
        let why = read(wrong).unwrap_err();
        assert!(
            why.contains("it is not in the text format") || why.contains("le=\"x\" is not a number"),
            "{wrong}: {why}"
        );
    }
}

proptest! {
    /// Whatever the answer contains, nothing panics, and a record has the size of one.
    #[test]
    fn any_text(
        lines in prop::collection::vec(
            prop_oneof![
                any::<String>(),
                ("(scheduler_[a-z_]{0,20}|process_start_time_seconds)", "[{ ,=\"a-zα}\\\\]{0,20}", any::<f64>())
                    .prop_map(|(name, labels, value)| format!("{name}{labels} {value}")),
                (0..NOW.lines().count(), 0_usize..200, any::<char>()).prop_map(|(line, at, put)| {
                    let mut line = NOW.lines().nth(line).unwrap_or_default().to_owned();
                    if at < line.len() {
                        line.replace_range(at..=at, &put.to_string());
                    }
                    line
                }),
                ("(scheduler_pending_pods|scheduler_unschedulable_pods|scheduler_preemption_victims_sum)", any::<f64>())
                    .prop_map(|(name, value)| format!("{name}{{queue=\"a\",plugin=\"b\"}} {value:e}")),
            ],
            0..40,
        )
    ) {
        let mut reader = Reader::default();
        for line in &lines {
            let _ = reader.line(line);
        }
        if let Ok(record) = reader.record(7) {
            prop_assert_eq!(record.len(), size_of::<Scrape>());
        }
    }
}
