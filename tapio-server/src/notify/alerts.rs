//! Alerts that come from an Alertmanager: each gets our why, which is sent back as an alert beside it.
//!
//! It is no annotation of the alert itself: of two with the same labels Alertmanager takes the annotations of the one that came
//! last, and who raised it sends it again each minute.

mod entity;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tapio_ahti::{
    answer::Answer,
    incident::{Incident, Name, Status},
};
use tapio_occurrence::timestamp;
use tapio_service::{backoff::Backoff, clock, metrics::metrics};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    RETRY,
    channel::{ALERT, Alertmanager, ENDS_NS},
    http::{Failure, Http},
    memory::File,
    plan::{Event, is_muted},
    settings::Target,
    text,
};
use crate::role::Context;

/// The name of our alert beside another one.
const WHY: &str = "TapioWhy";
/// The label that says beside which.
const BESIDE: &str = "tapio_alert";
/// Most alerts that are remembered.
const MAX: usize = 500;
/// Most bytes of an alert's labels.
const MAX_LABELS: usize = 16 << 10;
/// An alert that is not heard of again is forgotten: Alertmanager repeats what goes on every `repeat_interval`, 4 h by default.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;
/// How often the answers are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Alertmanager hears of what goes on so often.
const AGAIN_NS: u64 = 60_000_000_000;

/// What becomes of alerts, in words.
const OUTCOMES: [&str; 6] = ["explained", "waiting", "unknown", "own", "ended", "full"];

metrics! {
    /// What became of alerts.
    struct Own {
        alerts_received: Family<OfOutcome, Counter> = "Alerts that an Alertmanager sent, by outcome: explained, waiting, unknown, own, ended, full",
        alerts_answered: Family<OfTarget, Counter> = "Times that an alert of ours was sent beside one that came",
        alerts_unanswered: Family<OfTarget, Counter> = "Times that an Alertmanager was not reached, or did not take our alerts",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTarget {
    target: String,
}

/// What Alertmanager's webhook sends; other fields of it are not needed.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) version: String,
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: Phase,
    labels: Labels,
    fingerprint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Firing,
    Resolved,
}

/// An alert's labels, which are its identity.
type Labels = BTreeMap<String, String>;

/// An alert that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Received {
    labels: Labels,
    object: Name,
    heard_unix_ns: u64,
}

/// Alerts that go on, by fingerprint.
type All = BTreeMap<String, Received>;

/// How many alerts had which outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Outcomes {
    /// What they are about is part of an incident.
    explained: u64,
    /// What they are about is known, and part of none yet.
    waiting: u64,
    /// They name nothing that is known.
    unknown: u64,
    /// They are ours.
    own: u64,
    /// They are over.
    ended: u64,
    /// There are too many, or their labels are too long.
    full: u64,
}

/// The alerts that go on, and to whom the answers are sent.
pub(crate) struct Alerts {
    all: Mutex<All>,
    file: File,
    own: Own,
    targets: Vec<(String, Target)>,
}

/// Answers why an object fails.
pub(crate) type Ask = Arc<dyn Fn(&Name) -> Answer + Send + Sync>;

impl Alerts {
    /// Those that went on before the start.
    ///
    /// # Errors
    /// The state directory cannot be used.
    pub(crate) fn open(context: &Context) -> anyhow::Result<Self> {
        let config = &context.config;
        let (file, all) = File::open(&config.state_dir.as_path().join("alerts"), "received")?;
        let is_alertmanager = |target: &Target| target.alertmanager.url.get().is_some();
        let targets = config.notify.0.iter().filter(|(_, target)| is_alertmanager(target));
        let targets = targets.map(|(name, target)| (name.clone(), target.clone())).collect();
        let own = context.metrics.of_role(Own::registered);
        for outcome in OUTCOMES {
            own.alerts_received.get_or_create(&OfOutcome { outcome }).inc_by(0);
        }
        Ok(Self { all: Mutex::new(all), file, own, targets })
    }

    /// Whether there is nobody to whom answers could be sent.
    pub(crate) const fn go_nowhere(&self) -> bool {
        self.targets.is_empty()
    }

    /// Takes what an Alertmanager sends. It is on disk before this returns.
    ///
    /// # Errors
    /// It is not on disk.
    pub(crate) fn take(&self, payload: &Payload, ask: &Ask) -> anyhow::Result<Outcomes> {
        let now_ns = clock::unix_ns(clock::boot_ns());
        let mut outcomes = Outcomes::default();
        let is_asked = |alert: &Alert| alert.status == Phase::Firing && !is_own(&alert.labels);
        let answered: Vec<_> = payload
            .alerts
            .iter()
            .map(|alert| {
                (alert, Some(alert).filter(|alert| is_asked(alert)).and_then(|alert| object(alert, ask)))
            })
            .collect();
        let mut all = self.all();
        let before = all.clone();
        all.retain(|_, received| now_ns.saturating_sub(received.heard_unix_ns) < KEPT_NS);
        for (alert, object) in answered {
            let (count, outcome) = match object {
                _ if is_own(&alert.labels) => (&mut outcomes.own, "own"),
                _ if alert.status == Phase::Resolved => {
                    all.remove(&alert.fingerprint);
                    (&mut outcomes.ended, "ended")
                }
                None => (&mut outcomes.unknown, "unknown"),
                Some(_) if is_full(&all, alert) => (&mut outcomes.full, "full"),
                Some((object, is_explained)) => {
                    let received = Received { labels: alert.labels.clone(), object, heard_unix_ns: now_ns };
                    all.insert(alert.fingerprint.clone(), received);
                    match is_explained {
                        true => (&mut outcomes.explained, "explained"),
                        false => (&mut outcomes.waiting, "waiting"),
                    }
                }
            };
            *count += 1;
            self.own.alerts_received.get_or_create(&OfOutcome { outcome }).inc();
        }
        if let Err(error) = self.file.save(&*all) {
            // It comes again.
            *all = before;
            return Err(error);
        }
        Ok(outcomes)
    }

    /// Starts a task for each Alertmanager. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A file of a target cannot be used.
    pub(crate) fn start(
        self: &Arc<Self>,
        ask: &Ask,
        stopped: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) -> anyhow::Result<()> {
        for (name, target) in &self.targets {
            let of = || format!("notify.{name}");
            let channel = Alertmanager::of(&target.alertmanager).with_context(of)?;
            let http = Http::new(target.ca.file().as_deref()).with_context(of)?;
            let sender = Sender {
                alerts: Arc::clone(self),
                ask: Arc::clone(ask),
                name: name.clone(),
                target: target.clone(),
                channel,
                http,
                sent: BTreeMap::new(),
            };
            tasks.spawn(sender.run(stopped.clone()));
        }
        Ok(())
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an alert is about, and whether that is part of an incident; `None` if it names nothing that is known.
fn object(alert: &Alert, ask: &Ask) -> Option<(Name, bool)> {
    entity::names(&alert.labels).into_iter().find_map(|name| {
        let answer = ask(&name);
        Some((answer.asked?, answer.incident.is_some_and(|incident| incident.status != Status::Resolved)))
    })
}

/// An alert of ours, which comes back.
fn is_own(labels: &Labels) -> bool {
    labels.get("alertname").is_some_and(|name| name == WHY || name == ALERT)
}

fn is_full(all: &All, alert: &Alert) -> bool {
    let bytes: usize = alert.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    bytes > MAX_LABELS || all.len() >= MAX && !all.contains_key(&alert.fingerprint)
}

/// Tells one Alertmanager.
struct Sender {
    alerts: Arc<Alerts>,
    ask: Ask,
    name: String,
    target: Target,
    channel: Alertmanager,
    http: Http,
    /// Our alerts that go on there, by the labels of each, with what they said and when.
    sent: BTreeMap<String, (Value, u64)>,
}

impl Sender {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut retry = RETRY;
        while !*stopped.borrow() {
            let wait = self.step(&mut retry).await;
            tokio::select! {
                () = sleep(wait) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Sends what is due. Returns when to look again.
    async fn step(&mut self, retry: &mut Backoff) -> Duration {
        let now_ns = clock::unix_ns(clock::boot_ns());
        let ours = tokio::task::block_in_place(|| self.ours(now_ns));
        let is_due = |key: &String, said: &Value| {
            self.sent
                .get(key)
                .is_none_or(|(before, at_ns)| before != said || now_ns.saturating_sub(*at_ns) >= AGAIN_NS)
        };
        let mut due: Vec<Value> = Vec::new();
        for (_, said) in ours.iter().filter(|(key, said)| is_due(key, said)) {
            due.push(until(said, now_ns.saturating_add(ENDS_NS)));
        }
        for (_, (said, _)) in self.sent.iter().filter(|(key, _)| !ours.contains_key(*key)) {
            due.push(until(said, now_ns));
        }
        if due.is_empty() {
            return LOOK;
        }
        let labels = OfTarget { target: self.name.clone() };
        let count = due.len() as u64;
        let failed = match self.channel.post(&self.http, due).await {
            Ok(()) => None,
            Err(Failure::Retry(why, after)) => Some((why, after.unwrap_or_default())),
            // Somebody has to correct it.
            Err(Failure::Hold(why) | Failure::Refused(why)) => Some((why, RETRY.most())),
        };
        if let Some((why, after)) = failed {
            tracing::warn!(notify = self.name, why, "alerts that came are not answered yet");
            self.alerts.own.alerts_unanswered.get_or_create(&labels).inc();
            return after.max(retry.wait());
        }
        retry.reset();
        self.alerts.own.alerts_answered.get_or_create(&labels).inc_by(count);
        let kept = |key: &String, said: &Value| self.sent.get(key).filter(|_| !is_due(key, said)).cloned();
        let sent = ours
            .iter()
            .map(|(key, said)| (key.clone(), kept(key, said).unwrap_or_else(|| (said.clone(), now_ns))));
        self.sent = sent.collect();
        LOOK
    }

    /// Our alerts as they should be now, by their labels.
    fn ours(&self, now_ns: u64) -> BTreeMap<String, Value> {
        let all: Vec<Received> = self.alerts.all().values().cloned().collect();
        let is_heard = |received: &Received| now_ns.saturating_sub(received.heard_unix_ns) < KEPT_NS;
        let ours = all.iter().filter(|received| is_heard(received)).filter_map(|received| {
            let answer = (self.ask)(&received.object);
            let incident = answer.incident.as_ref()?;
            let is_told = incident.status != Status::Resolved
                && self.target.wants(incident)
                && !is_muted(incident, now_ns);
            is_told.then(|| alert(&received.labels, &answer, incident))
        });
        ours.map(|alert| (alert["labels"].to_string(), alert)).collect()
    }
}

/// Our alert beside another one: the same labels but its name.
fn alert(beside: &Labels, answer: &Answer, incident: &Incident) -> Value {
    let mut labels = beside.clone();
    let name = labels.insert("alertname".to_owned(), WHY.to_owned());
    labels.extend(name.map(|name| (BESIDE.to_owned(), name)));
    let needed = answer.asked.as_ref().and_then(|asked| answer.needed_text(asked));
    let body = text::body(Event::Opened, incident);
    let lines: Vec<String> = needed.into_iter().chain(body).collect();
    let cause = incident.lines.first().filter(|_| incident.has_cause).map(|line| line.text.to_string());
    json!({
        "labels": labels,
        "annotations": {
            "summary": text::head(Event::Opened, incident, None),
            "description": lines.join("\n"),
            "cause": cause.unwrap_or_else(|| "not known".to_owned()),
            "incident": incident.id,
        },
        "startsAt": timestamp(incident.since_unix_ns).to_string(),
    })
}

fn until(alert: &Value, ends_ns: u64) -> Value {
    let mut alert = alert.clone();
    alert["endsAt"] = timestamp(ends_ns).to_string().into();
    alert
}
