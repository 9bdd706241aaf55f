//! `GET /api/v1/events`: says when an incident has another revision, so that nobody has to ask again and again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::get,
};
use futures_util::stream;
use serde_json::json;
use tapio_ahti::{Engine, incident::Status};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, timeout},
};

use super::{Known, Refused, Route, document::Operation, question::Nothing, read};
use crate::ahti::{Ahti, auth::Viewer};

/// A sign of life comes so often: a page is stale after 15 s without one.
const BEAT: Duration = Duration::from_secs(5);
/// A browser connects again so soon after its stream has ended.
const AGAIN: Duration = Duration::from_secs(2);
/// A stream ends so soon, and a browser connects again: whose token has expired is not let in then.
const LASTS: Duration = Duration::from_secs(300);
/// Streams that are open at the same time.
pub(in crate::ahti) const MAX_STREAMS: usize = 512;

/// The revision and the status of each incident.
type Revisions = BTreeMap<String, (u64, Status)>;

/// What is known of the incidents, with a number that rises when anything of it changes.
#[derive(Clone, Debug, Default)]
pub(in crate::ahti) struct Latest {
    pub(in crate::ahti) number: u64,
    of: Arc<Revisions>,
}

/// Tells the streams if an incident has changed.
pub(in crate::ahti) fn publish(latest: &watch::Sender<Latest>, engine: &Engine) {
    let now: Revisions =
        engine.revisions().map(|(id, revision, status)| (id.to_owned(), (revision, status))).collect();
    latest.send_if_modified(|known| {
        let is_other = *known.of != now;
        if is_other {
            *known = Latest { number: known.number + 1, of: Arc::new(now) };
        }
        is_other
    });
}

pub(super) fn route() -> Route {
    let what = "When an incident has another revision";
    let operation = Operation::streams::<Nothing>("events", what, "text/event-stream");
    Route { path: "/api/v1/events", serves: get(events), operations: vec![operation] }
}

async fn events(State(ahti): Known, viewer: Viewer, headers: HeaderMap) -> Result<Response, Refused> {
    let permit = Arc::clone(&ahti.streams).try_acquire_owned();
    let permit = permit.map_err(|_| {
        let text = format!("{MAX_STREAMS} streams of events are open already: try again later");
        Refused(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let mut latest = ahti.latest.subscribe();
    let known = latest.borrow_and_update().clone();
    let mut events = VecDeque::from([beat(&known).retry(AGAIN)]);
    // Who comes again has missed what there was in between.
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let mut shown = BTreeSet::new();
    if seen.is_some_and(|seen| seen != known.number.to_string()) {
        events.extend(differing(&ahti, &viewer, &Revisions::new(), &known, &mut shown).await?);
    }
    let (stopped, ends) = (ahti.stopped.clone(), Instant::now() + LASTS);
    let stream = Stream { ahti, viewer, events, known, shown, latest, stopped, ends, _permit: permit };
    let stream = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    Ok(([("cache-control", "no-store")], Sse::new(stream)).into_response())
}

struct Stream {
    ahti: Arc<Ahti>,
    viewer: Viewer,
    events: VecDeque<Event>,
    known: Latest,
    /// The incidents of which it said something.
    shown: BTreeSet<String>,
    latest: watch::Receiver<Latest>,
    stopped: watch::Receiver<bool>,
    ends: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Stream {
    /// The next event; `None` once the server stops, or who asks has to say again who they are.
    async fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            if Instant::now() >= self.ends {
                return None;
            }
            let changed = tokio::select! {
                changed = timeout(BEAT, self.latest.changed()) => changed,
                _ = self.stopped.wait_for(|stop| *stop) => return None,
            };
            match changed {
                Ok(changed) => {
                    changed.ok()?;
                    let now = self.latest.borrow_and_update().clone();
                    let Self { ahti, viewer, known, shown, .. } = self;
                    // Without an answer about their rights it ends, and they ask again.
                    self.events.extend(differing(ahti, viewer, &known.of, &now, shown).await.ok()?);
                    self.known = now;
                }
                Err(_) => self.events.push_back(beat(&self.known)),
            }
        }
        self.events.pop_front()
    }
}

/// A sign of life, with the number of the latest change, so that nobody has to wonder whether one was missed.
fn beat(known: &Latest) -> Event {
    Event::default().event("beat").data(json!({ "number": known.number }).to_string())
}

/// An event for each incident that is not as it was, or is gone, of those that they may see.
async fn differing(
    ahti: &Ahti,
    viewer: &Viewer,
    before: &Revisions,
    now: &Latest,
    shown: &mut BTreeSet<String>,
) -> Result<Vec<Event>, Refused> {
    let mut events = Vec::new();
    let mut say = |data: serde_json::Value| {
        events.push(Event::default().event("incident").id(now.number.to_string()).data(data.to_string()));
    };
    for (id, (revision, status)) in now.of.iter().filter(|(id, state)| before.get(*id) != Some(*state)) {
        if read::incident(ahti, viewer, id).await?.is_some() {
            shown.insert(id.clone());
            say(json!({ "id": id, "revision": revision, "status": status }));
        }
    }
    for id in before.keys().filter(|id| !now.of.contains_key(*id)) {
        if shown.remove(id) {
            say(json!({ "id": id }));
        }
    }
    Ok(events)
}
