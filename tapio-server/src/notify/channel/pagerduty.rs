//! PagerDuty, by Events API v2.

use std::path::PathBuf;

use http::HeaderMap;
use serde_json::{Value, json};
use tapio_ahti::incident::Certainty;
use tapio_occurrence::timestamp;

use super::{News, What, secret};
use crate::notify::{
    http::{Failure, Http},
    plan::Event,
    settings::{self, Url},
    text,
};

/// Longest summary, in characters, and longest key, in bytes.
const MAX_SUMMARY: usize = 1_024;
const MAX_KEY: usize = 255;

#[derive(Debug)]
pub(in crate::notify) struct PagerDuty {
    url: Url,
    key: PathBuf,
}

impl PagerDuty {
    pub(super) fn of(settings: &settings::PagerDuty) -> Option<Self> {
        Some(Self { url: settings.url.clone(), key: settings.key_file.file()? })
    }

    pub(super) async fn tell(&self, http: &Http, news: News<'_>) -> Result<Option<String>, Failure> {
        let mut event = event(news);
        event["routing_key"] = secret(&self.key)?.into();
        http.post(&self.url.with("/v2/enqueue"), HeaderMap::new(), event.to_string().into())
            .await
            .map(|_| None)
    }
}

fn event(news: News<'_>) -> Value {
    let source = news.cluster.unwrap_or("tapio");
    match news.what {
        What::One { event: Event::Resolved, key, .. } => {
            json!({ "event_action": "resolve", "dedup_key": short(key) })
        }
        What::One { event, incident, key, .. } => {
            let about = incident.root.as_ref().or(incident.hits.first());
            let severity = if incident.certainty >= Certainty::Likely { "error" } else { "warning" };
            json!({
                "event_action": "trigger",
                "dedup_key": short(key),
                "client": "Tapio",
                "payload": {
                    "summary": summary(&text::head(event, incident, None)),
                    "source": source,
                    "severity": severity,
                    "timestamp": timestamp(incident.since_unix_ns).to_string(),
                    "component": about.map(|name| name.name.clone()),
                    "group": about.and_then(|name| name.namespace.clone()),
                    "class": incident.root_kind,
                    "custom_details": { "incident": incident.id, "answer": text::body(event, incident) },
                },
            })
        }
        What::Storm(incidents) => many(text::storm(incidents, None), news),
        What::Digest(digest) => many(text::digest(digest, None), news),
    }
}

/// Several incidents. Nothing resolves it: somebody has to look.
fn many((head, lines): (String, Vec<String>), news: News<'_>) -> Value {
    json!({
        "event_action": "trigger",
        "dedup_key": short(&format!("storm-{}", news.now_unix_ns / 1_000_000_000)),
        "client": "Tapio",
        "payload": {
            "summary": summary(&head),
            "source": news.cluster.unwrap_or("tapio"),
            "severity": "critical",
            "timestamp": timestamp(news.now_unix_ns).to_string(),
            "custom_details": { "incidents": lines },
        },
    })
}

fn summary(head: &str) -> String {
    head.chars().take(MAX_SUMMARY).collect()
}

fn short(key: &str) -> &str {
    let end = (0..=key.len().min(MAX_KEY)).rev().find(|end| key.is_char_boundary(*end));
    key.get(..end.unwrap_or_default()).unwrap_or_default()
}
