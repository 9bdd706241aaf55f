//! Events of Kubernetes, on the cause and on who is hit: pointers for who looks at an object, which the API server keeps for an
//! hour.

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event as Written},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ObjectMeta, PostParams},
};
use tapio_ahti::{
    incident::{Incident, Name},
    visible::Place,
};
use tapio_kube::{Access, Mode};

use super::{News, What};
use crate::{
    notify::{http::Failure, plan::Event, text},
    portti::resource,
};

/// Who writes them. PORTTI does not read these.
const CONTROLLER: &str = "tapio.dev/ahti";
/// Most objects of one incident.
const MAX_OBJECTS: usize = 6;
/// Longest note, in bytes.
const MAX_NOTE: usize = 1_024;

#[derive(Debug)]
pub(in crate::notify) struct Kubernetes {
    access: Access,
    /// This server.
    instance: String,
}

impl Kubernetes {
    /// # Errors
    /// There is no way to the API server.
    pub(super) fn find() -> anyhow::Result<Self> {
        let access = Access::find(Mode::On)?;
        let access = access.ok_or_else(|| anyhow::anyhow!("there is no API server"))?;
        let instance = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self { access, instance })
    }

    pub(super) async fn tell(&self, news: News<'_>) -> Result<Option<String>, Failure> {
        let What::One { event, incident, key, .. } = news.what else { return Ok(None) };
        let client = self.access.client().await.map_err(|error| Failure::Hold(format!("{error:#}")))?;
        let mut names: Vec<&Name> = incident.root.iter().chain(&incident.hits).collect();
        names.dedup();
        let root = match &incident.root {
            Some(root) => reference(&client, root).await?,
            None => None,
        };
        for name in names.into_iter().take(MAX_OBJECTS) {
            // What is gone has no Events.
            let Some(object) = reference(&client, name).await? else { continue };
            let written = self.written(event, incident, key, &object, root.as_ref(), news.now_unix_ns)?;
            let namespace = object.namespace.as_deref().unwrap_or("default");
            let events: Api<Written> = Api::namespaced(client.clone(), namespace);
            match events.create(&PostParams::default(), &written).await {
                Ok(_) => {}
                // It was told before.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(failure(&error)),
            }
        }
        Ok(None)
    }

    fn written(
        &self,
        event: Event,
        incident: &Incident,
        key: &str,
        object: &ObjectReference,
        root: Option<&ObjectReference>,
        now_unix_ns: u64,
    ) -> Result<Written, Failure> {
        let (kind, reason) = match event {
            Event::Resolved => ("Normal", "TapioResolved"),
            Event::Opened | Event::Changed | Event::Regressed => ("Warning", "TapioIncident"),
        };
        // Who may read this namespace may not read others.
        let place = object.namespace.clone().map_or(Place::Cluster, Place::Namespace);
        let within = within(incident, &place);
        let note = match &within {
            Some(incident) => {
                [vec![text::head(event, incident, None)], text::body(event, incident)].concat().join("\n")
            }
            None => format!("part of {id}: kubectl tapio why {id}", id = incident.id),
        };
        let end = (0..=note.len().min(MAX_NOTE)).rev().find(|end| note.is_char_boundary(*end));
        let now = jiff::Timestamp::from_nanosecond(i128::from(now_unix_ns));
        let now = now.map_err(|error| Failure::Refused(format!("the clock of this host: {error}")))?;
        // The same again has the same name.
        let told =
            format!("{key}-{event:?}-{}-{}", incident.seen_before, object.uid.as_deref().unwrap_or_default());
        let digest = ring::digest::digest(&ring::digest::SHA256, told.as_bytes());
        let name: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Written {
            metadata: ObjectMeta {
                name: Some(format!("tapio.{name}")),
                namespace: Some(object.namespace.clone().unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.chars().take(128).collect()),
            action: Some("Explained".to_owned()),
            reason: Some(reason.to_owned()),
            regarding: Some(object.clone()),
            related: root.filter(|root| root.namespace == object.namespace && *root != object).cloned(),
            note: note.get(..end.unwrap_or_default()).map(str::to_owned),
            type_: Some(kind.to_owned()),
            ..Written::default()
        })
    }
}

/// What of an incident is within a place; `None` if its sentence is not.
pub(super) fn within(incident: &Incident, place: &Place) -> Option<Incident> {
    let mut within = incident.clone();
    within.lines.retain(|line| line.text.is_only_of(place));
    within.hits.retain(|name| name.place() == *place);
    within.ruled_out.retain(|text| text.is_only_of(place));
    within.missing.retain(|text| text.is_only_of(place));
    within.advice.retain(|advice| advice.text.is_only_of(place));
    let has_cause = !incident.has_cause || within.lines.first() == incident.lines.first();
    (within.title.is_only_of(place) && has_cause).then_some(within)
}

/// An object as it is now; `None` if it is gone, or of a kind that the API server does not have.
async fn reference(client: &Client, name: &Name) -> Result<Option<ObjectReference>, Failure> {
    let Some(resource) = resource(&name.kind) else { return Ok(None) };
    let api: Api<DynamicObject> = match &name.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let found = api.get_metadata_opt(&name.name).await.map_err(|error| failure(&error))?;
    Ok(found.map(|found| ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(name.kind.clone()),
        namespace: name.namespace.clone(),
        name: Some(name.name.clone()),
        uid: found.metadata.uid,
        ..ObjectReference::default()
    }))
}

fn failure(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => Failure::Hold(format!(
            "{}: bind the ClusterRole tapio-events to the server's service account",
            status.message
        )),
        kube::Error::Api(status) if matches!(status.code, 400 | 404 | 422) => {
            Failure::Refused(status.message.clone())
        }
        error => Failure::Retry(format!("the API server: {error}"), None),
    }
}

#[cfg(test)]
mod tests {
    use tapio_ahti::visible::Prose;

    use super::*;

    fn incident(title: &[&str], lines: &[&str]) -> Incident {
        let mut incident: Incident = serde_json::from_value(serde_json::json!({
            "id": "TAP-1", "fingerprint": "v1:rollout:Deployment a/x", "revision": 1, "status": "open", "title": "",
            "certainty": "likely", "since_unix_ns": 1, "has_cause": true, "chain": [], "at_risk": [], "ruled_out": [],
            "missing": [], "advice": [], "considered": [], "seen_before": 0,
            "hits": lines.iter().map(|of| serde_json::json!({"kind": "Pod", "namespace": of, "name": "x"})).collect::<Vec<_>>(),
            "lines": lines.iter().map(|of| serde_json::json!({
                "since_unix_ns": 1, "last_unix_ns": 1, "type": "t", "text": "", "count": 1, "pods": 1, "source": "kernel",
                "owner": "exact", "facts": [],
                "entity": {"kind": "Pod", "namespace": of, "name": "x"},
                "workload": {"kind": "Pod", "namespace": of, "name": "x"},
            })).collect::<Vec<_>>(),
        }))
        .unwrap();
        let places = |of: &[&str]| of.iter().map(|of| Place::Namespace((*of).to_owned())).collect::<Vec<_>>();
        incident.title = Prose::new("t", places(title));
        for (line, of) in incident.lines.iter_mut().zip(lines) {
            line.text = Prose::new("l", places(&[*of]));
        }
        incident
    }

    #[test]
    fn an_event_says_only_what_its_namespace_may_hear() {
        let place = Place::Namespace("a".to_owned());
        let within = |title: &[&str], lines: &[&str]| {
            within(&incident(title, lines), &place)
                .map(|incident| (incident.lines.len(), incident.hits.len()))
        };
        assert_eq!(within(&["a"], &["a", "a"]), Some((2, 2)));
        assert_eq!(within(&["a"], &["a", "b"]), Some((1, 1)));
        assert_eq!(within(&["a", "b"], &["a", "b"]), None, "its sentence names another");
        assert_eq!(within(&["a"], &["b", "a"]), None, "its cause is elsewhere");
    }
}
