//! Objects `Incident` in the namespaces of causes, for `kubectl get incidents`: what each namespace may hear, no more than fit, and
//! deleted some time after the incident is over.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, Instant},
};

use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tapio_ahti::{
    incident::{Certainty, Incident, Status},
    visible::Place,
};
use tapio_kube::{Access, Mode};
use tapio_occurrence::{printable::printable, timestamp};

use super::{News, What, kubernetes::within};
use crate::notify::{http::Failure, plan::Event, text};

/// Who writes them.
const MANAGER: &str = "tapio-server";
const MANAGED: &str = "app.kubernetes.io/managed-by=tapio-server";
/// The label with the state, and the annotation with the end.
const STATE: &str = "tapio.dev/state";
const EXPIRES: &str = "tapio.dev/expires";
/// Most objects, and most in a namespace.
const MAX: usize = 500;
const MAX_OF_NAMESPACE: usize = 50;
/// Longest text, in characters.
const MAX_TEXT: usize = 1_024;
/// How often is looked for what has expired.
const TEND: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(in crate::notify) struct Incidents {
    access: Access,
    keep: Duration,
    tended: Mutex<Option<Instant>>,
}

impl Incidents {
    /// # Errors
    /// There is no way to the API server.
    pub(super) fn find(keep: Duration) -> anyhow::Result<Self> {
        let access = Access::find(Mode::On)?;
        let access = access.ok_or_else(|| anyhow::anyhow!("there is no API server"))?;
        Ok(Self { access, keep, tended: Mutex::default() })
    }

    pub(super) async fn tell(&self, news: News<'_>) -> Result<Option<String>, Failure> {
        let What::One { event, incident, key, reference } = news.what else { return Ok(None) };
        let client = self.client().await?;
        let Place::Namespace(namespace) = incident.place() else { return Ok(None) };
        let before = reference.and_then(|reference| reference.split_once('/'));
        // Its cause may be another one by now, and what is over has no place any more if its facts are gone.
        let (namespace, name) = match before {
            Some((before, name)) if before == namespace || event == Event::Resolved => {
                (before.to_owned(), name.to_owned())
            }
            _ => (namespace, name(key)),
        };
        if let Some((before, old)) = before.filter(|(before, _)| *before != namespace) {
            delete(&client, before, old).await?;
        }
        let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource());
        if before.is_none() && event != Event::Resolved {
            make_room(&client, &namespace).await?;
        }
        let object = object(&namespace, &name, incident, news.now_unix_ns, self.keep);
        let params = PatchParams::apply(MANAGER).force();
        match objects.patch(&name, &params, &Patch::Apply(&object)).await {
            Ok(_) => Ok(Some(format!("{namespace}/{name}"))),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Deletes what has expired, and what is of no incident that was told.
    pub(super) async fn tend(&self, told: &BTreeSet<&str>, now_unix_ns: u64) -> Result<(), Failure> {
        {
            let mut tended = self.tended.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if tended.is_some_and(|at| at.elapsed() < TEND) {
                return Ok(());
            }
            *tended = Some(Instant::now());
        }
        let client = self.client().await?;
        let now = timestamp(now_unix_ns).to_string();
        for object in own(&client).await? {
            let namespace = object.namespace().unwrap_or_default();
            let name = object.name_any();
            let is_over = object.annotations().get(EXPIRES).is_some_and(|expires| *expires <= now);
            if is_over || !told.contains(&*format!("{namespace}/{name}")) {
                delete(&client, &namespace, &name).await?;
            }
        }
        Ok(())
    }

    async fn client(&self) -> Result<Client, Failure> {
        self.access.client().await.map_err(|error| Failure::Hold(format!("{error:#}")))
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("tapio.dev", "v1alpha1", "Incident"),
        "incidents",
    )
}

/// What this server wrote.
async fn own(client: &Client) -> Result<Vec<kube::api::PartialObjectMeta<DynamicObject>>, Failure> {
    let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource());
    let listed = objects.list_metadata(&ListParams::default().labels(MANAGED)).await;
    listed.map(|list| list.items).map_err(|error| failure(&error))
}

/// An object as it matters for room.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    namespace: String,
    name: String,
    /// When it expires; absent while the incident is open.
    expires: Option<String>,
}

/// Whether one more fits.
#[derive(Debug, PartialEq, Eq)]
enum Room<'a> {
    Free,
    /// Without this one.
    Without(&'a Held),
    None,
}

/// Deletes the oldest that is over where there are too many.
async fn make_room(client: &Client, namespace: &str) -> Result<(), Failure> {
    let held = own(client).await?.into_iter().map(|object| Held {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        expires: object.annotations().get(EXPIRES).cloned(),
    });
    let held: Vec<Held> = held.collect();
    match room(&held, namespace) {
        Room::Free => Ok(()),
        Room::Without(oldest) => delete(client, &oldest.namespace, &oldest.name).await,
        Room::None => Err(Failure::Refused(format!(
            "there are {MAX_OF_NAMESPACE} open Incidents in {namespace}, or {MAX} in all, already"
        ))),
    }
}

fn room<'a>(held: &'a [Held], namespace: &str) -> Room<'a> {
    let is_here = |held: &&Held| held.namespace == namespace;
    let is_full_here = held.iter().filter(is_here).count() >= MAX_OF_NAMESPACE;
    if held.len() < MAX && !is_full_here {
        return Room::Free;
    }
    let over = held.iter().filter(|held| held.expires.is_some() && (!is_full_here || is_here(held)));
    over.min_by_key(|held| held.expires.clone()).map_or(Room::None, Room::Without)
}

async fn delete(client: &Client, namespace: &str, name: &str) -> Result<(), Failure> {
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource());
    match objects.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        // Somebody else deleted it, or its namespace.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(failure(&error)),
    }
}

/// The name of an incident's object: the same for its whole life.
fn name(key: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, key.as_bytes());
    let digest: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let id = key.split('-').take(2).collect::<Vec<_>>().join("-").to_ascii_lowercase();
    format!("{id}-{digest}")
}

/// The object, with what its namespace may hear.
fn object(namespace: &str, name: &str, incident: &Incident, now_ns: u64, keep: Duration) -> Value {
    let state = match incident.status {
        Status::Open => "open",
        Status::Resolved => "resolved",
        Status::Regressed => "regressed",
    };
    let certainty = match incident.certainty {
        Certainty::Confirmed => "confirmed",
        Certainty::Likely => "likely",
        Certainty::Inconclusive => "inconclusive",
    };
    let within = within(incident, &Place::Namespace(namespace.to_owned()));
    let shown = |text: &str| printable(text).chars().take(MAX_TEXT).collect::<String>();
    let title = match &within {
        Some(incident) => shown(&incident.title),
        None => format!("part of {id}: kubectl tapio why {id}", id = incident.id),
    };
    let cause =
        within.as_ref().filter(|incident| incident.has_cause).and_then(|incident| incident.lines.first());
    let mut said = json!({
        "id": incident.id,
        "title": title,
        "certainty": certainty,
        "state": state,
        "since": timestamp(incident.since_unix_ns).to_string(),
        "why": format!("kubectl tapio why {}", incident.id),
    });
    if let Some(within) = &within {
        said["answer"] = text::body(Event::Opened, within).iter().map(|line| shown(line)).collect();
        said["hits"] = within.hits.iter().map(ToString::to_string).collect();
    }
    if let Some(cause) = cause {
        said["cause"] = shown(&cause.text).into();
    }
    let mut annotations = json!({});
    if let Some(over_ns) = incident.resolved_unix_ns {
        said["resolved"] = timestamp(over_ns).to_string().into();
        let keep_ns = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX);
        annotations[EXPIRES] = timestamp(now_ns.saturating_add(keep_ns)).to_string().into();
    }
    json!({
        "apiVersion": "tapio.dev/v1alpha1",
        "kind": "Incident",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/managed-by": MANAGER, STATE: state },
            "annotations": annotations,
        },
        "incident": said,
    })
}

fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status)
            if matches!(status.code, 401 | 403) && !status.message.contains("being terminated") =>
        {
            Failure::Hold(format!(
                "{}: bind the ClusterRole tapio-incidents to the server's service account",
                status.message
            ))
        }
        kube::Error::Api(status) if status.code == 404 && !status.message.starts_with("namespaces ") => {
            Failure::Hold(format!("{}: kubectl apply -k deploy/server/incidents", status.message))
        }
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 404 | 422) => {
            Failure::Refused(status.message.clone())
        }
        error => Failure::Retry(format!("the API server: {error}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_an_object_and_the_incident_s_own() {
        let (one, other) = (name("TAP-142-1762913231000000000"), name("TAP-142-1762913231000000001"));
        assert!(one.starts_with("tap-142-") && one.len() == 16, "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn what_is_over_makes_room_in_its_namespace_or_in_all() {
        let held = |namespace: &str, nth: usize, expires: Option<&str>| Held {
            namespace: namespace.to_owned(),
            name: nth.to_string(),
            expires: expires.map(str::to_owned),
        };
        let mut all: Vec<Held> = (0..MAX_OF_NAMESPACE).map(|nth| held("shop", nth, None)).collect();
        assert_eq!(room(&all[1..], "shop"), Room::Free);
        assert_eq!((room(&all, "shop"), room(&all, "pay")), (Room::None, Room::Free));
        all.push(held("pay", 1, Some("2026-11-12T02:00:00Z")));
        assert_eq!(room(&all, "shop"), Room::None, "another namespace makes no room in this one");
        all[7].expires = Some("2026-11-12T04:00:00Z".to_owned());
        all[9].expires = Some("2026-11-12T03:00:00Z".to_owned());
        assert_eq!(room(&all, "shop"), Room::Without(&all[9]));
        let many = (all.len()..MAX).map(|nth| held(&nth.to_string(), nth, None));
        all.extend(many);
        assert_eq!(room(&all, "new"), Room::Without(&all[MAX_OF_NAMESPACE]), "the oldest of all");
    }
}
