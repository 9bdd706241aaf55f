//! The watch on one kind: objects are reduced as they arrive, and wait their turn in a bounded channel.

use std::time::Duration;

use kube::{
    Api,
    api::DynamicObject,
    runtime::watcher::{Config, Event as WatchEvent},
};
use tapio_kube::{Access, Fault, RETRY};
use tapio_service::{backoff::Backoff, clock};
use tokio::{sync::mpsc, time::sleep};

use super::{
    event::Event,
    form::{Arrived, key},
    kinds::{Kind, Role},
    read::time,
    salt::Salt,
};

/// Objects in one answer of a list. Each is reduced before the next answer is asked for.
const PAGE: u32 = 100;
/// Waits before a kind that was refused is tried again: permissions and kinds seldom come.
const REFUSED: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(300));

/// Something that a watch received.
#[derive(Debug)]
pub(super) struct Item {
    /// The kind that was watched.
    pub(super) kind: &'static Kind,
    /// When it was received.
    pub(super) at_unix_ns: u64,
    /// What it is.
    pub(super) what: What,
}

/// What a watch receives.
#[derive(Debug)]
pub(super) enum What {
    /// All objects come next.
    Listing,
    /// An object as it is.
    Object(Box<Arrived>),
    /// An Event.
    Event(Box<Event>),
    /// A sign of life of a node.
    Sign(String, u64),
    /// The object with this key is gone.
    Gone(String),
    /// All objects have come.
    Listed,
    /// The watch failed.
    Lost(Fault),
}

/// Watches a kind until nobody takes what it receives. Lists are asked for as they are now, in pages: a streaming list may
/// be of an earlier time.
pub(super) async fn watch(access: Access, kind: &'static Kind, salt: Salt, items: mpsc::Sender<Item>) {
    let (mut retry, mut refused) = (RETRY, REFUSED);
    loop {
        let fault = match access.client().await {
            Ok(client) => {
                let api: Api<DynamicObject> = match kind.namespace {
                    Some(namespace) => Api::namespaced_with(client, namespace, &kind.api()),
                    None => Api::all_with(client, &kind.api()),
                };
                let config = Config { page_size: Some(PAGE), ..Config::default() };
                let config = if kind.fields.is_empty() { config } else { config.fields(kind.fields) };
                let take = |event| {
                    let what = read(kind, &salt, event);
                    let items = items.clone();
                    async move {
                        if let Some(what) = what {
                            send(&items, kind, what).await
                        }
                    }
                };
                tokio::select! {
                    fault = tapio_kube::follow_at_pace(api, config, &mut retry, take) => fault,
                    () = items.closed() => return,
                }
            }
            Err(error) => Fault::of_access(&error),
        };
        let is_refusal = fault.is_refusal();
        tracing::debug!(kind = kind.name, %fault, "portti: a watch ended");
        send(&items, kind, What::Lost(fault)).await;
        let wait = if is_refusal {
            refused.wait()
        } else {
            refused = REFUSED;
            retry.wait()
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = items.closed() => return,
        }
    }
}

/// Reduces what arrived; `None` for an object that nothing can be said of.
fn read(kind: &'static Kind, salt: &Salt, event: WatchEvent<DynamicObject>) -> Option<What> {
    match event {
        WatchEvent::Init => Some(What::Listing),
        WatchEvent::InitDone => Some(What::Listed),
        WatchEvent::InitApply(object) | WatchEvent::Apply(object) => match kind.role {
            Role::Object => Arrived::read(kind, object, salt).map(|arrived| What::Object(Box::new(arrived))),
            Role::Event => Event::read(&object).map(|event| What::Event(Box::new(event))),
            Role::Sign => Some(What::Sign(object.metadata.name?, time(&object.data, "/spec/renewTime")?)),
        },
        WatchEvent::Delete(object) => {
            let reference = tapio_occurrence::kubernetes::Reference {
                kind: kind.name.to_owned(),
                namespace: object.metadata.namespace,
                name: object.metadata.name?,
                uid: object.metadata.uid,
            };
            Some(What::Gone(key(&reference)))
        }
    }
}

async fn send(items: &mpsc::Sender<Item>, kind: &'static Kind, what: What) {
    let item = Item { kind, at_unix_ns: clock::unix_ns(clock::boot_ns()), what };
    // Nobody takes it any more: the role ends.
    let _ = items.send(item).await;
}
