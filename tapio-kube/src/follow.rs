//! Watches: each lists objects and then receives changes, until the server or the connection fails.

use std::{fmt::Debug, future::ready, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tapio_service::backoff::Backoff;
use tokio::time::{sleep, timeout};

use crate::Fault;

/// Waits between attempts: from 0.5 s up to 30 s.
pub const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The timeout for one step of the first list.
pub const LIST: Duration = Duration::from_secs(30);
/// Seconds after which the server ends a watch and the client starts another. A quiet watch sends nothing in
/// between, so one that is silent for longer is dead.
const WATCH: u32 = 60;
/// The status code in a watch whose resource version is too old. The watcher then lists again at once, by
/// itself.
const GONE: u16 = 410;

/// Watches objects until that fails, and returns the reason. `take` receives all objects, and then each
/// change. Create a new client before retrying, because the credentials may have been rotated.
pub async fn follow<K>(
    objects: Api<K>,
    config: watcher::Config,
    retry: &mut Backoff,
    mut take: impl FnMut(Event<K>),
) -> Fault
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let take = |event| {
        take(event);
        ready(())
    };
    follow_at_pace(objects, config, retry, take).await
}

/// Like [`follow`], for a receiver that may need time: nothing further is read until the future of `take` is ready.
pub async fn follow_at_pace<K, T: Future<Output = ()>>(
    objects: Api<K>,
    config: watcher::Config,
    retry: &mut Backoff,
    mut take: impl FnMut(Event<K>) -> T,
) -> Fault
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher(objects, config.timeout(WATCH)));
    let mut listing = true;
    loop {
        let next = if listing {
            match timeout(LIST, events.try_next()).await {
                Ok(next) => next,
                Err(_) => return Fault::slow(LIST),
            }
        } else {
            events.try_next().await
        };
        match next {
            Ok(Some(event)) => {
                listing = match &event {
                    Event::Init | Event::InitApply(_) => true,
                    Event::InitDone | Event::Apply(_) | Event::Delete(_) => false,
                };
                take(event).await;
                if !listing {
                    *retry = RETRY;
                }
            }
            Ok(None) => return Fault { why: "the watch has ended".to_owned(), code: None },
            Err(watcher::Error::WatchError(status)) if status.code == GONE => {
                tracing::debug!(%status, "kubernetes: too old to go on from; listed anew");
                sleep(retry.wait()).await;
            }
            Err(error) => return Fault::from(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Client, client::Body};
    use serde_json::json;
    use tower::service_fn;

    use super::*;

    /// A server whose watches are all too old, until listing fails.
    fn too_old(lists: u32) -> Client {
        let left = AtomicU32::new(lists);
        let service = service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            let (status, answer) = if uri.contains("watch=true") {
                let status =
                    json!({ "kind": "Status", "status": "Failure", "message": "too old", "code": 410 });
                (200, json!({ "type": "ERROR", "object": status }))
            } else if left.fetch_sub(1, Ordering::Relaxed) > 0 {
                let metadata = json!({ "resourceVersion": "1" });
                (200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": [] }))
            } else {
                (500, json!({ "kind": "Status", "status": "Failure", "message": "enough", "code": 500 }))
            };
            let body = Body::from(format!("{answer}\n").into_bytes());
            ready(Response::builder().status(status).body(body))
        });
        Client::new(service, "shop")
    }

    /// The runtime's clock is paused, so it advances only while a task waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_always_too_old_waits_between_its_lists() {
        let start = tokio::time::Instant::now();
        let mut retry = RETRY;
        let fault = follow(Api::<Pod>::all(too_old(5)), watcher::Config::default(), &mut retry, drop).await;
        assert!(fault.why.contains("enough"), "{fault}");
        assert!(start.elapsed() >= Duration::from_millis(5 * 500), "{:?}", start.elapsed());
    }
}
