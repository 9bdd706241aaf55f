//! Facts as lines of JSON, which `kubectl tapio replay` explains to the same answer.

use std::sync::Arc;

use anyhow::anyhow;
use axum::{
    body::{Body, Bytes},
    http::{
        HeaderMap, HeaderName,
        header::{CONTENT_TYPE, TRAILER},
    },
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tapio_ahti::{incident::Incident, visible::Sight};
use tapio_occurrence::{Occurrence, event, kubernetes};

use super::{Ahti, api::Refused, auth::Viewer};

/// Facts that are read at once.
const TOGETHER: usize = 1_024;
/// The trailer with the number of facts that are not shown, as who asks may not read all that they name.
pub(super) const HIDDEN: &str = "tapio-hidden";
/// How long before an incident its causes may lie: the longest lag of a rule.
const BEFORE_NS: u64 = 24 * 3_600_000_000_000;

/// What is exported, and how far that is.
pub(super) struct Export {
    ahti: Arc<Ahti>,
    next: u64,
    /// Times of facts; what PORTTI says about objects is exported from the beginning, since it says it once.
    from_ns: u64,
    to_ns: u64,
    /// For whom it is.
    viewer: Viewer,
    hidden: u64,
}

impl Export {
    /// The facts of an incident; without one all of them.
    pub(super) fn new(ahti: Arc<Ahti>, of: Option<&Incident>, viewer: Viewer) -> Self {
        let from_ns = of.map_or(0, |incident| incident.since_unix_ns.saturating_sub(BEFORE_NS));
        let to_ns = of.and_then(|incident| incident.resolved_unix_ns).unwrap_or(u64::MAX);
        Self { ahti, next: 0, from_ns, to_ns, viewer, hidden: 0 }
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// The journal cannot be read now, or the API server does not say what may be read.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let facts = self.ahti.journal.read(self.next, TOGETHER).await?;
            let Some((last, _)) = facts.last() else { return Ok(None) };
            self.next = last + 1;
            let facts = facts.iter().filter_map(|(_, fact)| event::occurrence(fact).ok());
            let facts = facts.filter(|fact| self.wants(fact)).collect();
            let mut lines = Vec::new();
            for fact in self.seen(facts).await? {
                fact.write_json(&mut lines);
                lines.push(b'\n');
            }
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
    }

    /// Those of facts that name nothing that is hidden. What may be read is asked for each time: a long export ends with the right.
    async fn seen(&mut self, mut facts: Vec<Occurrence>) -> anyhow::Result<Vec<Occurrence>> {
        let away = |refused: Refused| anyhow!(refused.1);
        if self.viewer.reads_all().await.map_err(away)? {
            return Ok(facts);
        }
        let mut sight = Sight::default();
        let mut shown = loop {
            let look = || facts.iter().map(|fact| sight.shows_fact(fact)).collect::<Vec<_>>();
            let shown = tokio::task::block_in_place(look);
            let unknown = sight.unknown();
            if unknown.is_empty() {
                break shown.into_iter();
            }
            self.viewer.learn(&self.ahti, &mut sight, unknown).await.map_err(away)?;
        };
        let all = facts.len();
        facts.retain(|_| shown.next() == Some(true));
        self.hidden += (all - facts.len()) as u64;
        Ok(facts)
    }

    fn wants(&self, fact: &Occurrence) -> bool {
        let is_of_graph = fact.source == kubernetes::SOURCE && fact.kind.starts_with("kubernetes.object");
        fact.time_unix_ns <= self.to_ns && (is_of_graph || fact.time_unix_ns >= self.from_ns)
    }
}

impl IntoResponse for Export {
    fn into_response(self) -> Response {
        let frames = stream::try_unfold(Some(self), |export| async move {
            let Some(mut export) = export else { return Ok::<_, anyhow::Error>(None) };
            if let Some(lines) = export.next().await? {
                return Ok(Some((Frame::data(Bytes::from(lines)), Some(export))));
            }
            let trailers = HeaderMap::from_iter([(HeaderName::from_static(HIDDEN), export.hidden.into())]);
            Ok(Some((Frame::trailers(trailers), None)))
        });
        let head = [(CONTENT_TYPE, "application/jsonl"), (TRAILER, HIDDEN)];
        (head, Body::new(StreamBody::new(frames))).into_response()
    }
}
