//! Holds anomalies whose names may still come, so that they do not delay the others.

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::kubernetes::Missing;

/// The most anomalies that wait at a time. Any more are sent with the names known so far.
const MAX_WAITING: usize = 4_096;

/// Anomalies, or their successors on the way to an occurrence, that wait for names.
#[derive(Debug)]
pub struct Waiting<T> {
    held: FuturesUnordered<Held<T>>,
}

type Held<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl<T: Send + 'static> Default for Waiting<T> {
    fn default() -> Self {
        Self { held: FuturesUnordered::new() }
    }
}

impl<T: Send + 'static> Waiting<T> {
    /// Holds an item until its names are resolved. Returns it if there is no room.
    pub fn hold(&mut self, waits: T, missing: Missing) -> Option<T> {
        if self.held.len() >= MAX_WAITING {
            missing.forgo();
            return Some(waits);
        }
        self.held.push(Box::pin(async move {
            missing.wait().await;
            waits
        }));
        None
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The next item that has waited long enough; `None` if nothing waits.
    pub async fn next(&mut self) -> Option<T> {
        self.held.next().await
    }
}
