//! Heartbeats: each node says now and then that it looks, with what, and what became of what it saw. A receiver that
//! gets none knows that it does not know; nothing else is ever concluded from silence.

use std::{
    collections::BTreeMap,
    fs,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tapio_common::Counts;
use tapio_delivery::{Sinks, Status};
use tapio_occurrence::{Data, Occurrence, Outcome, SOURCE, Severity, Value};
use tapio_service::clock;
use tokio::time::MissedTickBehavior;
use ulid::Ulid;

use crate::{config::Config, metrics::AnomalyLedger};

/// The type of a heartbeat.
pub(super) const KIND: &str = "tapio.heartbeat";

/// Which heartbeat of an agent's run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first.
    Start,
    /// One of many.
    Run,
    /// The last, as the agent stops in order.
    Stop,
}

/// The node and the agent, which stay the same.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) node: Arc<str>,
    pub(super) cluster: Option<Arc<str>>,
    /// Which boot of the machine it is; absent where `/proc` does not say.
    pub(super) boot_id: Option<String>,
}

/// An observer, at one time.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) name: &'static str,
    /// `running`, `degraded`, `unsupported` or `failed`.
    pub(super) state: &'static str,
    /// Why its state is not `running`, or what it does without.
    pub(super) missing: Option<String>,
    /// `None` where the counts cannot be read.
    pub(super) counts: Option<Counts>,
}

/// The accounts at one time, since the agent's start.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    pub(super) observers: Vec<Observed>,
    pub(super) anomalies: AnomalyLedger,
    /// Losses by hop and reason, except those of rings and sinks.
    pub(super) dropped: Vec<(&'static str, &'static str, u64)>,
    pub(super) sinks: Vec<Status>,
}

impl Sender {
    /// As the configuration and this boot of the machine have it.
    pub(super) fn new(config: &Config) -> Self {
        let boot_id = config.proc_root.as_path().join("sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(boot_id).ok().map(|id| id.trim().to_owned());
        Self { node: config.node(), cluster: config.cluster.get().map(Into::into), boot_id }
    }
}

impl Accounts {
    /// Losses by hop and reason.
    fn losses(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let of_sink = |sink: &Status| -> Vec<_> {
            sink.ledger.dropped.iter().map(|(reason, count)| ((sink.sink, *reason), *count)).collect()
        };
        let own = self.dropped.iter().map(|(hop, reason, count)| ((*hop, *reason), *count));
        let ring_full = self.observers.iter().filter_map(|observer| Some(observer.counts?.failed)).sum();
        own.chain([(("ring", "full"), ring_full)]).chain(self.sinks.iter().flat_map(of_sink)).collect()
    }

    fn counts_of(&self, observer: &str) -> Option<Counts> {
        self.observers.iter().find(|known| known.name == observer)?.counts
    }

    /// Counts that cannot be read now stay as they were: the next heartbeat has what came since then.
    fn or_as_in(mut self, before: &Self) -> Self {
        for observer in &mut self.observers {
            observer.counts = observer.counts.or_else(|| before.counts_of(observer.name));
        }
        self
    }
}

/// Sends heartbeats again and again, until it is dropped or `stop` says so; then a last one.
pub(super) async fn run(
    accounts: impl Fn() -> Accounts,
    sinks: Sinks,
    sender: Sender,
    interval: Duration,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut phase, mut since, mut before) = (Phase::Start, Instant::now(), Accounts::default());
    loop {
        tokio::select! {
            () = &mut stop => phase = Phase::Stop,
            _ = tick.tick() => {}
        }
        let now = accounts();
        let heartbeat =
            occurrence(&sender, phase, clock::unix_ns(clock::boot_ns()), since.elapsed(), &now, &before);
        sinks.send_to_programs(&Arc::new(heartbeat));
        if phase == Phase::Stop {
            return;
        }
        (phase, since, before) = (Phase::Run, Instant::now(), now.or_as_in(&before));
    }
}

/// The heartbeat of the time since `before`.
pub(super) fn occurrence(
    sender: &Sender,
    phase: Phase,
    time_unix_ns: u64,
    elapsed: Duration,
    now: &Accounts,
    before: &Accounts,
) -> Occurrence {
    let observers: Vec<Data> = now.observers.iter().map(|observer| of_observer(observer, before)).collect();
    let working = now.observers.iter().filter(|observer| observer.state == "running").count();
    let reported = now.anomalies.reported.saturating_sub(before.anomalies.reported);
    let phase = match phase {
        Phase::Start => "start",
        Phase::Run => "run",
        Phase::Stop => "stop",
    };
    let mut data = Data::from([
        ("phase", phase.into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("elapsed_ms", u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).into()),
    ]);
    if let Some(boot_id) = &sender.boot_id {
        data.push("boot_id", boot_id.clone());
    }
    let all = observers.len();
    data.push("observers", Value::List(observers));
    data.push("reported", reported);
    data.push("expected", now.anomalies.expected.saturating_sub(before.anomalies.expected));
    data.push("out_of_scope", now.anomalies.out_of_scope.saturating_sub(before.anomalies.out_of_scope));
    let past = before.losses();
    let lost = now.losses().into_iter().filter_map(|(of @ (hop, reason), count)| {
        let count = count.saturating_sub(past.get(&of).copied().unwrap_or_default());
        let fields = [("hop", hop.into()), ("reason", reason.into()), ("count", count.into())];
        (count > 0).then(|| (count, Data::from(fields)))
    });
    let (counts, lost): (Vec<u64>, Vec<Data>) = lost.unzip();
    let dropped: u64 = counts.iter().sum();
    data.push("dropped", Value::List(lost));
    data.push("sinks", Value::List(now.sinks.iter().map(|sink| of_sink(sink, before)).collect()));
    Occurrence {
        id: Ulid::from_parts(time_unix_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns,
        source: SOURCE.into(),
        kind: KIND.into(),
        severity: Severity::Debug,
        outcome: Outcome::Success,
        message: format!(
            "{}: {working} of {all} observers run; {reported} anomalies reported, {dropped} dropped in {} s",
            sender.node,
            elapsed.as_secs()
        ),
        cluster: sender.cluster.clone(),
        node: Arc::clone(&sender.node),
        workload: None,
        process: None,
        actor: None,
        peer: None,
        data,
        baseline: None,
        count: 1,
    }
}

fn of_observer(observer: &Observed, before: &Accounts) -> Data {
    let mut data = Data::from([("observer", observer.name.into()), ("state", observer.state.into())]);
    if let Some(missing) = &observer.missing {
        data.push("missing", missing.clone());
    }
    let Some(counts) = observer.counts else { return data };
    let past = before.counts_of(observer.name).unwrap_or_default();
    for (key, count, past) in [
        ("readings", counts.seen, past.seen),
        ("events", counts.emitted, past.emitted),
        ("suppressed", counts.suppressed, past.suppressed),
    ] {
        data.push(key, count.saturating_sub(past));
    }
    data
}

fn of_sink(sink: &Status, before: &Accounts) -> Data {
    let past = before.sinks.iter().find(|known| known.sink == sink.sink).map(|known| &known.ledger);
    let mut data = Data::from([
        ("sink", sink.sink.into()),
        ("state", sink.state.label().into()),
        ("sent", sink.ledger.sent.saturating_sub(past.map_or(0, |ledger| ledger.sent)).into()),
        ("rejected", sink.ledger.rejected.saturating_sub(past.map_or(0, |ledger| ledger.rejected)).into()),
        ("queued", sink.ledger.queued.into()),
        ("spooled", sink.ledger.spooled.into()),
    ]);
    if let Some(spool) = &sink.spool {
        data.push("spool_bytes", spool.bytes);
    }
    data
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    const SCHEMA: &str = include_str!("../../../docs/occurrence.schema.json");

    fn observed(name: &'static str, seen: u64) -> Observed {
        let counts = Counts { seen, emitted: seen / 100, suppressed: 3, ..Counts::default() };
        Observed { name, state: "running", missing: None, counts: Some(counts) }
    }

    fn heartbeat(now: &Accounts, before: &Accounts) -> Json {
        let sender =
            Sender { node: "node-a".into(), cluster: Some("prod".into()), boot_id: Some("7c".into()) };
        let elapsed = Duration::from_secs(30);
        let occurrence = occurrence(&sender, Phase::Run, 1_700_000_000_000_000_000, elapsed, now, before);
        let mut line = Vec::new();
        occurrence.write_json(&mut line);
        let json: Json = serde_json::from_slice(&line).unwrap();
        let schema: Json = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let wrong: Vec<_> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{json:#}");
        json
    }

    #[test]
    fn it_has_what_came_since_the_one_before_it() {
        let before = Accounts {
            observers: vec![observed("network", 1000)],
            anomalies: AnomalyLedger { judged: 7, reported: 5, ..AnomalyLedger::default() },
            dropped: vec![("record", "crash", 2)],
            sinks: Vec::new(),
        };
        let degraded = Observed {
            state: "degraded",
            missing: Some("cpu: no cpu controller".to_owned()),
            ..observed("node", 0)
        };
        let now = Accounts {
            observers: vec![observed("network", 1900), degraded],
            anomalies: AnomalyLedger { judged: 9, reported: 6, out_of_scope: 1, ..AnomalyLedger::default() },
            dropped: vec![("record", "crash", 5)],
            sinks: Vec::new(),
        };
        let json = heartbeat(&now, &before);
        let data = &json["data"];
        assert_eq!(data["observers"][0]["readings"], 900);
        assert_eq!(data["observers"][0]["suppressed"], 0);
        assert_eq!(data["observers"][1]["missing"], "cpu: no cpu controller");
        assert_eq!((&data["reported"], &data["out_of_scope"]), (&json!(1), &json!(1)));
        assert_eq!(data["dropped"], json!([{ "hop": "record", "reason": "crash", "count": 3 }]));
        assert_eq!(json["message"], "node-a: 1 of 2 observers run; 1 anomalies reported, 3 dropped in 30 s");
    }

    #[test]
    fn counts_that_cannot_be_read_for_once_are_not_counted_twice() {
        let at = |counts| {
            let observer = Observed { counts, ..observed("network", 0) };
            Accounts { observers: vec![observer], ..Accounts::default() }
        };
        let counts = |seen, failed| Some(Counts { seen, failed, ..Counts::default() });
        let first = at(counts(1000, 4));
        let unread = at(None);
        let silent = heartbeat(&unread, &first);
        assert!(silent["data"]["observers"][0].get("readings").is_none());
        assert_eq!(silent["data"]["dropped"], json!([]));
        let next = heartbeat(&at(counts(1500, 6)), &unread.or_as_in(&first));
        assert_eq!(next["data"]["observers"][0]["readings"], 500);
        assert_eq!(next["data"]["dropped"], json!([{ "hop": "ring", "reason": "full", "count": 2 }]));
    }

    #[test]
    fn the_first_has_all_since_the_start_and_what_is_not_known_is_absent() {
        let unread = Observed { counts: None, ..observed("network", 0) };
        let now = Accounts { observers: vec![unread], ..Accounts::default() };
        let json = heartbeat(&now, &Accounts::default());
        assert_eq!(json["data"]["observers"], json!([{ "observer": "network", "state": "running" }]));
        assert_eq!(json["data"]["dropped"], json!([]));
    }
}
