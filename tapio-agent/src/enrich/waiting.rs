//! Where anomalies wait for names that may yet come, beside the way of the others.

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use super::kubernetes::Missing;

/// Anomalies that wait at a time; what comes on top goes out with what is known.
const MAX_WAITING: usize = 4_096;

/// Anomalies, or what becomes occurrences, that wait.
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
    /// Keeps it until nothing is missing, if there is room; else gives it back.
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

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The next that need not wait any more; `None` where none waits.
    pub async fn next(&mut self) -> Option<T> {
        self.held.next().await
    }
}
