//! CloudEvents by HTTP, signed by Standard Webhooks.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use ring::hmac;
use serde_json::{Value, json};
use tapio_occurrence::timestamp;

use super::{News, What};
use crate::notify::{
    http::{Failure, Http},
    plan::Event,
    settings::{self, secrets},
};

const SECRET: &str = "whsec_";

#[derive(Debug)]
pub(in crate::notify) struct Webhook {
    url: String,
    secret: Option<PathBuf>,
}

impl Webhook {
    pub(super) fn of(settings: &settings::Webhook) -> Option<Self> {
        Some(Self { url: settings.url.get()?.to_string(), secret: settings.secret_file.file() })
    }

    pub(super) async fn tell(&self, http: &Http, news: News<'_>) -> Result<Option<String>, Failure> {
        let event = event(news);
        let id = event.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let body = event.to_string();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/cloudevents+json"));
        let seconds = (news.now_unix_ns / 1_000_000_000).to_string();
        let mut put = |name, value: &str| {
            let value = HeaderValue::from_str(value).map_err(|error| Failure::Hold(error.to_string()))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok(())
        };
        put("webhook-id", &id)?;
        put("webhook-timestamp", &seconds)?;
        if let Some(file) = &self.secret {
            let signed = format!("{id}.{seconds}.{body}");
            let mut signatures = Vec::new();
            for secret in secrets(file).map_err(Failure::Hold)? {
                let key = secret.strip_prefix(SECRET).and_then(|text| STANDARD.decode(text).ok());
                let Some(key) = key.filter(|key| key.len() >= 24) else {
                    let what = "has no secret of the form whsec_ and Base64 of 24 bytes or more";
                    return Err(Failure::Hold(format!("{} {what}", file.display())));
                };
                let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
                signatures.push(format!("v1,{}", STANDARD.encode(signature)));
            }
            put("webhook-signature", &signatures.join(" "))?;
        }
        http.post(&self.url, headers, body.into()).await.map(|_| None)
    }
}

/// A CloudEvent. The same again has the same id.
fn event(news: News<'_>) -> Value {
    let source = format!("/tapio/{}", news.cluster.unwrap_or_default());
    let time = timestamp(news.now_unix_ns).to_string();
    let (id, kind, subject, data) = match news.what {
        What::One { event, incident, key, .. } => {
            let word = match event {
                Event::Opened => "opened",
                Event::Changed => "changed",
                Event::Resolved => "resolved",
                Event::Regressed => "regressed",
            };
            let id = format!("{key}-{word}-{}", incident.revision);
            (id, format!("dev.tapio.incident.{word}.v1"), Some(&incident.id), json!(incident))
        }
        What::Storm(incidents) => {
            let first =
                incidents.first().map(|incident| format!("{}-{}", incident.id, incident.since_unix_ns));
            let id = format!("storm-{}-{}", first.unwrap_or_default(), incidents.len());
            (id, "dev.tapio.storm.v1".to_owned(), None, json!({ "incidents": incidents }))
        }
        What::Digest(digest) => {
            let id = format!("digest-{}-{}", digest.from_unix_ns, digest.to_unix_ns);
            let data = json!({
                "from": timestamp(digest.from_unix_ns).to_string(),
                "to": timestamp(digest.to_unix_ns).to_string(),
                "opened": digest.opened,
                "resolved": digest.resolved,
                "open": digest.open,
                "repeated": digest.repeated,
            });
            (id, "dev.tapio.digest.v1".to_owned(), None, data)
        }
    };
    let mut event = json!({
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": kind,
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    });
    if let (Some(subject), Some(event)) = (subject, event.as_object_mut()) {
        event.insert("subject".to_owned(), subject.as_str().into());
    }
    event
}
