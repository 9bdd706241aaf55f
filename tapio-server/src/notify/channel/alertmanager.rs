//! Alertmanager, by its API v2. Labels are an alert's identity: where they change, the earlier alert ends.

use std::path::PathBuf;

use http::HeaderMap;
use serde_json::{Value, json};
use tapio_ahti::incident::{Certainty, Incident};
use tapio_occurrence::timestamp;

use super::{News, What, bearer, secret};
use crate::notify::{
    http::{Failure, Http},
    plan::Event,
    settings::{self, Url},
    text,
};

/// The name of an incident's alert.
pub(in crate::notify) const ALERT: &str = "TapioIncident";
/// An alert that is not heard of again ends after so long: it is repeated each minute.
pub(in crate::notify) const ENDS_NS: u64 = 300_000_000_000;

#[derive(Debug)]
pub(in crate::notify) struct Alertmanager {
    url: Url,
    token: Option<PathBuf>,
}

impl Alertmanager {
    pub(in crate::notify) fn of(settings: &settings::Alertmanager) -> Option<Self> {
        settings.url.get()?;
        Some(Self { url: settings.url.clone(), token: settings.token_file.file() })
    }

    pub(super) async fn tell(&self, http: &Http, news: News<'_>) -> Result<Option<String>, Failure> {
        let What::One { event, incident, reference, .. } = news.what else { return Ok(None) };
        let before: Option<Value> = reference.and_then(|text| serde_json::from_str(text).ok());
        let labels = match (&before, event) {
            (Some(before), Event::Resolved) => before.clone(),
            _ => labels(incident, news.cluster),
        };
        let mut alerts = vec![alert(&labels, event, incident, news)];
        if let Some(before) = before.filter(|before| *before != labels) {
            alerts.push(alert(&before, Event::Resolved, incident, news));
        }
        self.post(http, alerts).await?;
        Ok(Some(labels.to_string()))
    }

    /// Sends alerts.
    pub(in crate::notify) async fn post(&self, http: &Http, alerts: Vec<Value>) -> Result<(), Failure> {
        let headers = match &self.token {
            Some(file) => bearer(&secret(file)?)?,
            None => HeaderMap::new(),
        };
        let body = Value::from(alerts).to_string();
        http.post(&self.url.with("/api/v2/alerts"), headers, body.into()).await.map(|_| ())
    }
}

fn labels(incident: &Incident, cluster: Option<&str>) -> Value {
    let about = incident.root.as_ref().or(incident.hits.first());
    let severity = if incident.certainty >= Certainty::Likely { "critical" } else { "warning" };
    let all = [
        ("alertname", Some(ALERT.to_owned())),
        ("cluster", cluster.map(str::to_owned)),
        ("namespace", about.and_then(|name| name.namespace.clone())),
        ("kind", about.map(|name| name.kind.clone())),
        ("workload", about.map(|name| name.name.clone())),
        ("cause", incident.root_kind.clone()),
        ("severity", Some(severity.to_owned())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn alert(labels: &Value, event: Event, incident: &Incident, news: News<'_>) -> Value {
    let ends_ns = match event {
        Event::Resolved => news.now_unix_ns,
        _ => news.now_unix_ns.saturating_add(ENDS_NS),
    };
    json!({
        "labels": labels,
        "annotations": {
            "summary": text::head(event, incident, None),
            "description": text::body(event, incident).join("\n"),
            "incident": incident.id,
        },
        "startsAt": timestamp(incident.since_unix_ns).to_string(),
        "endsAt": timestamp(ends_ns).to_string(),
    })
}
