//! Where facts go.

use tapio_occurrence::Occurrence;

/// Accepts facts. A role that makes facts does not know whether the next one is in this process.
pub trait Facts: Send + Sync + 'static {
    /// Returns when the facts are durable.
    fn accept(&self, facts: Vec<Occurrence>) -> impl Future<Output = anyhow::Result<()>> + Send;
}
