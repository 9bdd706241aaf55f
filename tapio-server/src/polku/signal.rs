//! Signals: what spans, metrics and log records say about calls, compared with what is normal.
//!
//! Pure: no I/O, and the time is a parameter. Nothing that was received is kept beyond the window that it is counted in,
//! but a few trace ids, and spans whose other end may still come. What is kept is bounded, and what is let go is counted.

mod entity;
mod fact;
mod histogram;
mod judge;
mod points;
mod series;
mod spans;
mod take_logs;
mod take_metrics;
mod take_spans;
mod traces;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::RandomState,
    sync::Arc,
};

use opentelemetry_proto::tonic::resource::v1::Resource;
use tapio_occurrence::{
    Occurrence,
    signal::{Call as Edge, Side},
};

pub(super) use self::take_logs::records;
use self::{
    entity::{Entities, Id, Sender},
    fact::Of,
    points::Streams,
    series::{Call, Draft, Records, Series},
    spans::Operation,
    traces::{TraceId, Traces},
};

/// What was not heard of for this long is let go.
const IDLE_NS: u64 = 3_600_000_000_000;
/// So long for what was heard of only for a moment.
const BRIEF_NS: u64 = 600_000_000_000;
/// Most series, edges, and addresses of which it is known who is behind them.
const MAX_SERIES: usize = 16_384;
const MAX_EDGES: usize = 16_384;
const MAX_BEHIND: usize = 16_384;
/// An edge is said again so often.
const EDGE_AGAIN_NS: u64 = 600_000_000_000;
/// Edges of one occurrence.
const MAX_EDGES_TOGETHER: usize = 64;
/// Calls to an address that nobody was found behind, until it is taken to be outside.
const OUTSIDE: u32 = 3;
/// While metrics of calls come, spans of the same calls are not judged, since they may be sampled.
const METRICS_NS: u64 = 300_000_000_000;

/// What a series was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Origin {
    Spans,
    Metrics,
    Logs,
}

impl Origin {
    const fn name(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Whose calls, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    entity: Id,
    peer: Option<Id>,
    side: Side,
    operation: Operation,
    origin: Origin,
}

/// What became of the parts of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Parts that were refused, by reason.
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// Parts that are not used, by reason; nothing is wrong with them.
    pub(super) unused: BTreeMap<&'static str, u64>,
    /// All parts.
    pub(super) received: u64,
}

impl Taken {
    fn refuse(&mut self, reason: &'static str, count: u64) {
        *self.refused.entry(reason).or_default() += count;
    }

    fn leave(&mut self, reason: &'static str, count: u64) {
        *self.unused.entry(reason).or_default() += count;
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) entities: usize,
    pub(crate) series: usize,
    pub(crate) traces: usize,
    pub(crate) streams: usize,
    pub(crate) edges: usize,
    /// What was let go since there was too much, since the last time.
    pub(crate) evicted: u64,
}

#[derive(Debug)]
struct Calls {
    first_ns: u64,
    last_ns: u64,
    count: u64,
    said_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Behind {
    who: Option<Id>,
    /// How often nobody was found.
    alone: u32,
    last_ns: u64,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Signals {
    cluster: Option<Arc<str>>,
    entities: Entities,
    series: HashMap<Key, Series>,
    records: HashMap<Id, Records>,
    traces: Traces,
    streams: Streams,
    edges: BTreeMap<(Id, Id, Operation), Calls>,
    /// Who is behind an address, for a caller.
    behind: HashMap<(Id, Id), Behind>,
    /// Length of a window, and when the current one began.
    length_ns: u64,
    window_ns: u64,
    hasher: [RandomState; 2],
    evicted: u64,
}

impl Signals {
    pub(super) fn new(cluster: Option<Arc<str>>, length_ns: u64, now_ns: u64) -> Self {
        Self {
            cluster,
            entities: Entities::default(),
            series: HashMap::new(),
            records: HashMap::new(),
            traces: Traces::default(),
            streams: Streams::default(),
            edges: BTreeMap::new(),
            behind: HashMap::new(),
            length_ns,
            window_ns: now_ns,
            hasher: [RandomState::new(), RandomState::new()],
            evicted: 0,
        }
    }

    /// How much is kept.
    pub(super) fn sizes(&mut self) -> Sizes {
        Sizes {
            entities: self.entities.len(),
            series: self.series.len() + self.records.len(),
            traces: self.traces.len(),
            streams: self.streams.len(),
            edges: self.edges.len(),
            evicted: std::mem::take(&mut self.evicted) + std::mem::take(&mut self.traces.evicted),
        }
    }

    fn add(&mut self, key: Key, call: &Call, now_ns: u64) -> Result<(), &'static str> {
        let is_full = self.series.len() + self.records.len() >= MAX_SERIES;
        match self.series.get_mut(&key) {
            Some(series) => series.add(call, now_ns),
            None if is_full => return Err("series"),
            None => self.series.entry(key).or_default().add(call, now_ns),
        }
        Ok(())
    }

    fn edge(&mut self, caller: Id, called: Id, operation: Operation, at_ns: u64) {
        let is_full = self.edges.len() >= MAX_EDGES;
        match self.edges.get_mut(&(caller, called, operation)) {
            Some(known) => {
                known.first_ns = known.first_ns.min(at_ns);
                known.last_ns = known.last_ns.max(at_ns);
                known.count += 1;
            }
            None if is_full => self.evicted += 1,
            None => {
                let calls = Calls { first_ns: at_ns, last_ns: at_ns, count: 1, said_ns: 0 };
                self.edges.insert((caller, called, operation), calls);
            }
        }
    }

    fn sender(
        &mut self,
        resource: Option<&Resource>,
        count: u64,
        now_ns: u64,
        taken: &mut Taken,
    ) -> Option<Sender> {
        taken.received += count;
        let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
        match self.entities.sender(attributes, now_ns) {
            Ok(sender) => Some(sender),
            Err(unfit) => {
                taken.refuse(unfit.reason(), count);
                None
            }
        }
    }

    /// When the current window ends.
    pub(super) const fn due_ns(&self) -> u64 {
        self.window_ns.saturating_add(self.length_ns)
    }

    /// Ends the window, and says what is abnormal, and who calls whom.
    ///
    /// # Errors
    /// Never: see [`fact`].
    pub(super) fn close(&mut self, now_ns: u64) -> serde_json::Result<Vec<Occurrence>> {
        let from_ns = std::mem::replace(&mut self.window_ns, now_ns);
        self.expire_traces(now_ns);
        self.prefer_metrics(now_ns);
        let mut drafts: Vec<(Id, Option<Key>, Draft)> = Vec::new();
        for (key, series) in &mut self.series {
            let said = series.close(from_ns, self.length_ns, now_ns);
            drafts.extend(said.into_iter().map(|draft| (key.entity, Some(*key), draft)));
        }
        for (entity, records) in &mut self.records {
            drafts.extend(records.close(from_ns, now_ns).map(|draft| (*entity, None, draft)));
        }
        drafts.sort_by_key(|(entity, key, draft)| (*entity, *key, draft.about as u8));
        let mut facts = Vec::new();
        for (entity, key, draft) in drafts {
            let Some(entity) = self.entities.get(entity) else { continue };
            let of = Of {
                entity,
                peer: key.and_then(|key| key.peer).and_then(|peer| self.entities.get(peer)),
                side: key.map(|key| key.side),
                operation: key.map(|key| key.operation),
                origin: key.map_or(Origin::Logs, |key| key.origin),
                cluster: self.cluster.as_ref(),
            };
            let passed = |trace: &TraceId| self.traces.passed(trace);
            facts.push(fact::signal(&of, draft, now_ns, passed, |id| self.entities.get(id))?);
        }
        self.say_edges(now_ns, &mut facts)?;
        self.sweep(now_ns);
        Ok(facts)
    }

    /// Spans of calls that metrics count, too, only give their exemplars.
    fn prefer_metrics(&mut self, now_ns: u64) {
        let is_counted = |key: &&Key| {
            let of_metrics = Key { origin: Origin::Metrics, ..**key };
            key.origin == Origin::Spans
                && self
                    .series
                    .get(&of_metrics)
                    .is_some_and(|series| series.last_ns.saturating_add(METRICS_NS) > now_ns)
        };
        let counted: Vec<Key> = self.series.keys().filter(is_counted).copied().collect();
        for key in counted {
            let Some(mut spans) = self.series.remove(&key) else { continue };
            if let Some(metrics) = self.series.get_mut(&Key { origin: Origin::Metrics, ..key }) {
                metrics.take_few(&mut spans);
            }
        }
    }

    fn say_edges(&mut self, now_ns: u64, facts: &mut Vec<Occurrence>) -> serde_json::Result<()> {
        let mut due: BTreeMap<Id, Vec<Edge>> = BTreeMap::new();
        for ((caller, called, operation), calls) in &mut self.edges {
            let is_due = calls.count > 0 && calls.said_ns.saturating_add(EDGE_AGAIN_NS) <= now_ns;
            let (true, Some(called)) = (is_due, self.entities.get(*called)) else { continue };
            due.entry(*caller).or_default().push(Edge {
                object: called.of.clone(),
                operation: operation.name().to_owned(),
                since_ms: now_ns.saturating_sub(calls.first_ns) / 1_000_000,
                last_ms: now_ns.saturating_sub(calls.last_ns) / 1_000_000,
                count: calls.count,
            });
            (calls.said_ns, calls.count) = (now_ns, 0);
        }
        for (caller, edges) in due {
            let Some(entity) = self.entities.get(caller) else { continue };
            let of = Of {
                entity,
                peer: None,
                side: None,
                operation: None,
                origin: Origin::Spans,
                cluster: self.cluster.as_ref(),
            };
            for some in edges.chunks(MAX_EDGES_TOGETHER) {
                facts.push(fact::calls(&of, some.to_vec(), now_ns)?);
            }
        }
        Ok(())
    }

    fn sweep(&mut self, now_ns: u64) {
        let is_old = |last_ns: u64, kept_ns: u64| last_ns.saturating_add(kept_ns) <= now_ns;
        self.series.retain(|_, series| {
            let kept_ns = if series.is_learned() { IDLE_NS } else { BRIEF_NS };
            !series.is_calm() || !is_old(series.last_ns, kept_ns)
        });
        self.records.retain(|_, records| !records.is_calm() || !is_old(records.last_ns, IDLE_NS));
        self.edges.retain(|_, calls| !is_old(calls.last_ns, IDLE_NS));
        self.behind.retain(|_, behind| !is_old(behind.last_ns, IDLE_NS));
        self.streams.expire(now_ns);
        let mut used: HashSet<Id> = self.traces.used().collect();
        used.extend(self.series.keys().flat_map(|key| [Some(key.entity), key.peer]).flatten());
        used.extend(self.records.keys());
        used.extend(self.edges.keys().flat_map(|(caller, called, _)| [*caller, *called]));
        let behind =
            self.behind.iter().flat_map(|((caller, host), behind)| [Some(*caller), Some(*host), behind.who]);
        used.extend(behind.flatten());
        self.entities.sweep(&used, now_ns);
    }
}

#[cfg(test)]
mod tests;
