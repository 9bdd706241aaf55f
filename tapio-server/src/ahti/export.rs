//! Facts as lines of JSON, which `kubectl tapio replay` explains to the same answer.

use std::sync::Arc;

use tapio_ahti::incident::Incident;
use tapio_occurrence::{Occurrence, event, kubernetes};

use super::Ahti;

/// Facts that are read at once.
const TOGETHER: usize = 1_024;
/// How long before an incident its causes may lie: the longest lag of a rule.
const BEFORE_NS: u64 = 24 * 3_600_000_000_000;

/// What is exported, and how far that is.
pub(super) struct Export {
    ahti: Arc<Ahti>,
    next: u64,
    /// Times of facts; what PORTTI says about objects is exported from the beginning, since it says it once.
    from_ns: u64,
    to_ns: u64,
}

impl Export {
    /// The facts of an incident; without one all of them.
    pub(super) fn new(ahti: Arc<Ahti>, of: Option<&Incident>) -> Self {
        let from_ns = of.map_or(0, |incident| incident.since_unix_ns.saturating_sub(BEFORE_NS));
        let to_ns = of.and_then(|incident| incident.resolved_unix_ns).unwrap_or(u64::MAX);
        Self { ahti, next: 0, from_ns, to_ns }
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// The journal cannot be read now.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        loop {
            let facts = self.ahti.journal.read(self.next, TOGETHER).await?;
            let Some((last, _)) = facts.last() else { return Ok(None) };
            self.next = last + 1;
            let mut lines = Vec::new();
            for (_, fact) in &facts {
                if let Some(fact) = event::occurrence(fact).ok().filter(|fact| self.wants(fact)) {
                    fact.write_json(&mut lines);
                    lines.push(b'\n');
                }
            }
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
    }

    fn wants(&self, fact: &Occurrence) -> bool {
        let is_of_graph = fact.source == kubernetes::SOURCE && fact.kind.starts_with("kubernetes.object");
        fact.time_unix_ns <= self.to_ns && (is_of_graph || fact.time_unix_ns >= self.from_ns)
    }
}
