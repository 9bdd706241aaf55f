//! The task that delivers a sink's queue to its destination.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tapio_service::{backoff::Backoff, crash, span::Span};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Destination, Failure, PATIENCE, Receipt, State, Verdict,
    queue::{Next, Queue, on_disk},
};

/// Waits between attempts: 0.25 s to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// Waits between batches for a destination that is nearly full.
const SLOW: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

/// Why the task stopped delivering.
enum Stop {
    /// Nothing is left that would be lost.
    Drained,
    /// The batch was refused; the next may be accepted.
    Refused,
    Failed(Failure),
}

/// Runs a task of a sink. If it panics, the sink ends, which its state shows.
pub(super) async fn watched(
    queue: Arc<Queue>,
    ended: watch::Sender<Vec<String>>,
    task: impl Future<Output = ()>,
) {
    let Err(panic) = AssertUnwindSafe(task).catch_unwind().await else { return };
    let why = format!("it crashed: {}", crash::said(panic.as_ref()));
    if !queue.is_closed() {
        queue.turn(State::Closed(why.clone()));
        queue.abandon("closed");
        ended.send_modify(|ended| ended.push(why));
    }
}

/// The sink's task: delivers until the queue is drained or the destination ends.
pub(super) async fn run<D: Destination>(
    queue: Arc<Queue>,
    mut destination: D,
    ended: watch::Sender<Vec<String>>,
) {
    let mut retry = RETRY;
    loop {
        let connected = tokio::select! {
            connected = destination.connect() => connected,
            () = queue.drained() => break,
        };
        let stop = match connected {
            Ok(()) => {
                queue.connected(destination.endpoint());
                deliver(&queue, &mut destination, &mut retry).await
            }
            Err(failure) => Stop::Failed(failure),
        };
        match stop {
            Stop::Drained => break,
            Stop::Refused => {}
            Stop::Failed(Failure::Retry(why)) => {
                queue.turn(State::Retrying(why));
                queue.pause(retry.wait()).await;
            }
            Stop::Failed(Failure::Hold(why)) => {
                queue.turn(State::Misconfigured(why));
                queue.pause(retry.wait()).await;
            }
            Stop::Failed(Failure::Reject(why)) => {
                queue.turn(State::Closed(why.clone()));
                queue.abandon("closed");
                ended.send_modify(|ended| ended.push(why));
                return;
            }
        }
    }
    destination.close().await;
    queue.abandon("shutdown");
}

/// Waits for a delivery, and reports it as stalled if it takes too long.
async fn patiently<T>(queue: &Queue, stalled: Option<&'static str>, delivery: impl Future<Output = T>) -> T {
    let mut delivery = pin!(delivery);
    if let Some(why) = stalled {
        if let Ok(delivered) = timeout(PATIENCE, &mut delivery).await {
            return delivered;
        }
        queue.turn(State::Stalled(why));
    }
    delivery.await
}

/// Delivers until there is a failure.
async fn deliver<D: Destination>(queue: &Arc<Queue>, destination: &mut D, retry: &mut Backoff) -> Stop {
    let batching = destination.batching();
    let connected = Instant::now();
    let mut batch = Vec::new();
    let mut slow = SLOW;
    loop {
        // Before sending anything else, so that after a crash only what was in flight is repeated.
        if queue.has_finished() {
            on_disk(queue, |queue| queue.forget()).await;
        }
        let next = tokio::select! {
            biased;
            next = queue.next(batching, &mut batch) => next,
            failure = destination.idle() => {
                if connected.elapsed() > retry.most() {
                    retry.reset();
                }
                return Stop::Failed(failure);
            }
        };
        match next {
            Next::Deliver => {}
            Next::Read(count) => {
                on_disk(queue, move |queue| queue.read_back(count)).await;
                continue;
            }
            Next::Leave => return Stop::Drained,
        }
        let mut span = Span::to_other("deliver", "tapio.sink", queue.name);
        span.count("tapio.occurrences", batch.len());
        let delivered = tokio::select! {
            biased;
            delivered = patiently(queue, D::STALLED, destination.deliver(&batch)) => delivered,
            // All occurrences have been written in the meantime.
            () = queue.drained() => return Stop::Drained,
        };
        if let Err(failure) = &delivered {
            span.failed(failure);
        }
        span.end();
        match delivered {
            Ok(Receipt { verdicts, slow: wants_less }) => {
                let unanswered = verdicts.contains(&Verdict::Unanswered);
                let progress = queue.settle(&verdicts);
                if progress {
                    retry.reset();
                }
                if wants_less {
                    queue.turn(State::Slowed);
                    queue.pause(slow.wait()).await;
                } else {
                    slow.reset();
                    queue.turn(State::Ok);
                    if unanswered || !progress {
                        queue.pause(retry.wait()).await;
                    }
                }
            }
            Err(failure @ (Failure::Retry(_) | Failure::Hold(_))) => {
                queue.returned();
                queue.metrics.retried(queue.name);
                return Stop::Failed(failure);
            }
            Err(Failure::Reject(why)) => {
                tracing::warn!(sink = queue.name, why, count = batch.len(), "batch refused");
                queue.settle(&vec![Verdict::Refused; batch.len()]);
                return Stop::Refused;
            }
        }
    }
}
