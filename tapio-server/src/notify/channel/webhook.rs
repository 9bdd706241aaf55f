//! CloudEvents by HTTP, signed by Standard Webhooks.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use ring::hmac;
use serde::Serialize;
use serde_json::{Value, json};
use tapio_ahti::incident::Incident;
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
        let body = serde_json::to_string(&event).map_err(|error| Failure::Hold(error.to_string()))?;
        let id = event.id;
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

/// A CloudEvent.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    /// The same again has the same.
    id: String,
    source: String,
    #[serde(rename = "type")]
    kind: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    /// As the API has it.
    One(&'a Incident),
    Storm {
        incidents: &'a [Incident],
    },
    Digest(Value),
}

fn event(news: News<'_>) -> CloudEvent<'_> {
    let (id, kind, subject, data) = match news.what {
        What::One { event, incident, key, .. } => {
            let word = match event {
                Event::Opened => "opened",
                Event::Changed => "changed",
                Event::Resolved => "resolved",
                Event::Regressed => "regressed",
            };
            let id = format!("{key}-{word}-{}", incident.revision);
            (id, format!("dev.tapio.incident.{word}.v1"), Some(&*incident.id), Data::One(incident))
        }
        What::Storm(incidents) => {
            let first =
                incidents.first().map(|incident| format!("{}-{}", incident.id, incident.since_unix_ns));
            let id = format!("storm-{}-{}", first.unwrap_or_default(), incidents.len());
            (id, "dev.tapio.storm.v1".to_owned(), None, Data::Storm { incidents })
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
            (id, "dev.tapio.digest.v1".to_owned(), None, Data::Digest(data))
        }
    };
    CloudEvent {
        specversion: "1.0",
        id,
        source: format!("/tapio/{}", news.cluster.unwrap_or_default()),
        kind,
        time: timestamp(news.now_unix_ns).to_string(),
        subject,
        datacontenttype: "application/json",
        data,
    }
}
