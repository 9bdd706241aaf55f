//! Tells people and programs of incidents.
//!
//! What has to be told is what incidents are now, against what was told of them, which each target remembers on disk. So nothing
//! waits in a queue, a target that was away hears how things are, not how they were, and each thing is told at least once.

mod alerts;
mod channel;
mod digest;
mod http;
mod memory;
mod plan;
mod settings;
mod text;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use serde::Serialize;
use tapio_ahti::incident::Incident;
use tapio_service::{backoff::Backoff, clock, metrics::metrics};
use tokio::{sync::watch, task::JoinSet, time::sleep};

pub use self::settings::{Alertmanager, Digest, Least, PagerDuty, Slack, Target, Url, Webhook};
pub(crate) use self::{
    alerts::{Alerts, Ask, Outcomes, Payload},
    settings::check,
};
use self::{
    channel::{Channel, News, What},
    digest::Period,
    http::{Failure, Http},
    memory::File,
    plan::{Event, Memory, Step},
};
use crate::role::Context;

/// How often incidents are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Waits until something is told again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));

/// What is told, in words.
const EVENTS: [&str; 6] = ["opened", "changed", "resolved", "regressed", "storm", "digest"];

metrics! {
    /// What became of what was to be told.
    struct Own {
        notify_sent: Family<OfEvent, Counter> = "What targets were told, by event: opened, changed, resolved, regressed, storm, digest",
        notify_refused: Family<OfTarget, Counter> = "What a target refused for good",
        notify_retries: Family<OfTarget, Counter> = "Times that a target was not reached, or did not take something yet",
        notify_waiting: Family<OfTarget, Gauge> = "1 while something waits to be told since the target does not take it",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfEvent {
    target: String,
    event: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTarget {
    target: String,
}

/// Incidents as they are now, the newest first; `None` until all that was known before the start is known again.
pub(crate) type Now = watch::Receiver<Option<Arc<Vec<Incident>>>>;

/// All targets.
#[derive(Debug, Default)]
pub(crate) struct Targets(Vec<Arc<State>>);

/// The state of a target.
#[derive(Debug)]
struct State {
    name: String,
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Inner {
    /// Why it does not take something; absent while it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    sent: u64,
    refused: u64,
}

/// Tells one target.
struct Teller {
    state: Arc<State>,
    own: Arc<Own>,
    target: Target,
    channel: Channel,
    http: Http,
    file: File,
    memory: Memory,
    cluster: Option<String>,
}

/// Starts a task for each target. Call it within a tokio runtime.
///
/// # Errors
/// A file of a target cannot be used, or the state directory.
pub(crate) fn start(context: &Context, now: &Now, tasks: &mut JoinSet<()>) -> anyhow::Result<Targets> {
    let config = &context.config;
    let mut all = Targets::default();
    if config.notify.0.is_empty() {
        return Ok(all);
    }
    let own = Arc::new(context.metrics.of_role(Own::registered));
    for (name, target) in &config.notify.0 {
        let of = || format!("notify.{name}");
        let channel = Channel::of(target).with_context(of)?;
        let http = Http::new(target.ca.file().as_deref()).with_context(of)?;
        let (file, memory) = File::open(&config.state_dir.as_path().join("notify"), name).with_context(of)?;
        let labels = OfTarget { target: name.clone() };
        // So that each is there from the start.
        own.notify_waiting.get_or_create(&labels).set(0);
        own.notify_refused.get_or_create(&labels).inc_by(0);
        own.notify_retries.get_or_create(&labels).inc_by(0);
        for event in EVENTS {
            own.notify_sent.get_or_create(&OfEvent { target: name.clone(), event }).inc_by(0);
        }
        let state = Arc::new(State { name: name.clone(), inner: Mutex::default() });
        all.0.push(Arc::clone(&state));
        let teller = Teller {
            state,
            own: Arc::clone(&own),
            target: target.clone(),
            channel,
            http,
            file,
            memory,
            cluster: config.cluster.get().map(str::to_owned),
        };
        tasks.spawn(teller.run(now.clone(), context.stopped.clone()));
    }
    Ok(all)
}

/// Looks at incidents, each second, until the server stops.
pub(crate) async fn watch(
    mut look: impl FnMut() -> Option<Vec<Incident>>,
    now: watch::Sender<Option<Arc<Vec<Incident>>>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        if let Some(incidents) = look() {
            now.send_if_modified(|known| {
                let is_news = known.as_deref() != Some(&incidents);
                if is_news {
                    *known = Some(Arc::new(incidents));
                }
                is_news
            });
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

impl Targets {
    /// Each target with its state.
    pub(crate) fn status(&self) -> serde_json::Value {
        let of = self.0.iter().map(|state| {
            let inner = state.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (state.name.clone(), serde_json::to_value(inner).unwrap_or_default())
        });
        serde_json::Value::Object(of.collect())
    }
}

impl Teller {
    async fn run(mut self, now: Now, mut stopped: watch::Receiver<bool>) {
        let mut retry = RETRY;
        while !*stopped.borrow() {
            let wait = match self.step(&now).await {
                Ok(true) => {
                    retry.reset();
                    continue;
                }
                Ok(false) => LOOK,
                Err(after) => after.unwrap_or_default().max(retry.wait()),
            };
            tokio::select! {
                () = sleep(wait) => {}
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Tells one thing. Returns whether there was one; if it was not taken, after how long it may be.
    async fn step(&mut self, now: &Now) -> Result<bool, Option<Duration>> {
        let Some(incidents) = now.borrow().clone() else { return Ok(false) };
        let now_unix_ns = clock::unix_ns(clock::boot_ns());
        if self.memory.note_muted(&incidents, now_unix_ns) {
            self.save();
        }
        let is_wanted = |incident: &Incident| self.target.wants(incident);
        let step = match Period::of(&self.target.digest) {
            None => self.memory.next(&incidents, is_wanted, self.channel.able(), now_unix_ns),
            Some(period) => {
                let before = self.memory.digested_unix_ns;
                let digest = self.memory.digest(period, &incidents, is_wanted, now_unix_ns);
                if self.memory.digested_unix_ns != before {
                    self.save();
                }
                digest.map(|digest| Step::Digest(Box::new(digest)))
            }
        };
        let Some(step) = step else {
            let told = self.memory.told.iter().filter_map(|told| told.reference.as_deref()).collect();
            if let Err(failure) = self.channel.tend(&told, now_unix_ns).await {
                tracing::warn!(notify = self.state.name, ?failure, "what is over is not taken away yet");
            }
            return Ok(false);
        };
        let (key, reference) = match &step {
            Step::One(_, incident) => {
                let told = self.memory.of(incident);
                (self.memory.key(incident), told.and_then(|told| told.reference.clone()))
            }
            Step::Storm(_) | Step::Digest(_) => Default::default(),
        };
        let what = match &step {
            Step::One(event, incident) => {
                What::One { event: *event, incident, key: &key, reference: reference.as_deref() }
            }
            Step::Storm(incidents) => What::Storm(incidents),
            Step::Digest(digest) => What::Digest(digest),
        };
        let news = News { what, cluster: self.cluster.as_deref(), now_unix_ns };
        let reference = match self.channel.tell(&self.http, news).await {
            Ok(new) => {
                self.sent(&step);
                new
            }
            Err(Failure::Refused(why)) => {
                self.refused(&why);
                reference
            }
            Err(Failure::Retry(why, after)) => return Err(self.waits(why, after)),
            Err(Failure::Hold(why)) => return Err(self.waits(why, Some(RETRY.most()))),
        };
        match &step {
            Step::One(_, incident) => self.memory.note(incident, reference, false, now_unix_ns),
            Step::Storm(incidents) => {
                incidents.iter().for_each(|incident| self.memory.note(incident, None, true, now_unix_ns));
            }
            Step::Digest(digest) => self.memory.note_digest(digest, now_unix_ns),
        }
        self.save();
        Ok(true)
    }

    fn save(&self) {
        if let Err(error) = self.file.save(&self.memory) {
            tracing::warn!(
                notify = self.state.name,
                error = format!("{error:#}"),
                "after a restart it is told again"
            );
        }
    }

    fn sent(&self, step: &Step) {
        let event = match step {
            Step::One(Event::Opened, _) => "opened",
            Step::One(Event::Changed, _) => "changed",
            Step::One(Event::Resolved, _) => "resolved",
            Step::One(Event::Regressed, _) => "regressed",
            Step::Storm(_) => "storm",
            Step::Digest(_) => "digest",
        };
        let target = self.state.name.clone();
        self.own.notify_sent.get_or_create(&OfEvent { target, event }).inc();
        self.own.notify_waiting.get_or_create(&self.of()).set(0);
        let mut inner = self.state.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sent += 1;
        if inner.trouble.take().is_some() {
            tracing::info!(notify = self.state.name, "told again");
        }
    }

    fn refused(&self, why: &str) {
        tracing::warn!(notify = self.state.name, why, "refused for good: it is not told");
        self.own.notify_refused.get_or_create(&self.of()).inc();
        self.own.notify_waiting.get_or_create(&self.of()).set(0);
        let mut inner = self.state.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.refused += 1;
        // It answers, and nothing waits.
        inner.trouble = None;
    }

    fn waits(&self, why: String, after: Option<Duration>) -> Option<Duration> {
        self.own.notify_retries.get_or_create(&self.of()).inc();
        self.own.notify_waiting.get_or_create(&self.of()).set(1);
        let mut inner = self.state.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.trouble.as_ref() != Some(&why) {
            tracing::warn!(notify = self.state.name, why, "not told yet; it will be");
        }
        inner.trouble = Some(why);
        after
    }

    fn of(&self) -> OfTarget {
        OfTarget { target: self.state.name.clone() }
    }
}
