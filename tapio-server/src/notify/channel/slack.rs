//! Slack: one message an incident, which a bot changes in place. What is over or comes back is also said in the channel.

use std::path::PathBuf;

use http::HeaderMap;
use serde_json::{Value, json};

use super::{News, What, bearer, secret};
use crate::notify::{
    http::{Failure, Http},
    plan::Event,
    settings::{self, Url},
    text,
};

/// Longest text of a section, in characters: Slack takes 3,000.
const MAX_TEXT: usize = 2_900;

#[derive(Debug)]
pub(in crate::notify) enum Slack {
    /// By its API, with a token, into a channel.
    Bot { api: Url, token: PathBuf, channel: String },
    /// By an incoming webhook, whose URL is in a file.
    Webhook(PathBuf),
}

impl Slack {
    pub(super) fn of(settings: &settings::Slack) -> Option<Self> {
        let bot = settings.token_file.file().zip(settings.channel.get());
        let bot = bot.map(|(token, channel)| Self::Bot {
            api: settings.api.clone(),
            token,
            channel: channel.to_owned(),
        });
        bot.or_else(|| settings.url_file.file().map(Self::Webhook))
    }

    /// Whether messages can be changed.
    pub(super) const fn can_change(&self) -> bool {
        matches!(self, Self::Bot { .. })
    }

    pub(super) async fn tell(&self, http: &Http, news: News<'_>) -> Result<Option<String>, Failure> {
        let message = message(news);
        match self {
            Self::Webhook(file) => {
                http.post(&secret(file)?, HeaderMap::new(), message.to_string().into()).await.map(|_| None)
            }
            Self::Bot { api, token, channel } => {
                let call = async |method: &str, mut body: Value| {
                    body["channel"] = channel.as_str().into();
                    let headers = bearer(&secret(token)?)?;
                    let answer = http.post(&api.with(method), headers, body.to_string().into()).await?;
                    let said = answer.json();
                    if said["ok"] == true {
                        return Ok(said);
                    }
                    let error = said["error"].as_str().unwrap_or("an answer that is not Slack's").to_owned();
                    Err(match error.as_str() {
                        "ratelimited"
                        | "internal_error"
                        | "fatal_error"
                        | "request_timeout"
                        | "service_unavailable" => answer.retry(error),
                        "msg_too_long" | "msg_blocks_too_long" | "invalid_blocks" | "no_text" => {
                            Failure::Refused(error)
                        }
                        _ => Failure::Hold(error),
                    })
                };
                let What::One { event, reference, .. } = news.what else {
                    return call("/chat.postMessage", message).await.map(|_| None);
                };
                let Some(posted) = reference.filter(|_| event != Event::Regressed) else {
                    let said = call("/chat.postMessage", message).await?;
                    return Ok(said["ts"].as_str().map(str::to_owned));
                };
                let mut changed = message.clone();
                changed["ts"] = posted.into();
                match call("/chat.update", changed).await {
                    Ok(_) => {}
                    // Somebody deleted it.
                    Err(Failure::Hold(error)) if error == "message_not_found" => {
                        let said = call("/chat.postMessage", message).await?;
                        return Ok(said["ts"].as_str().map(str::to_owned));
                    }
                    Err(failure) => return Err(failure),
                }
                if event == Event::Resolved {
                    let reply =
                        json!({ "text": message["text"], "thread_ts": posted, "reply_broadcast": true });
                    call("/chat.postMessage", reply).await?;
                }
                Ok(Some(posted.to_owned()))
            }
        }
    }
}

/// A message: its text for notifications, and its blocks.
fn message(news: News<'_>) -> Value {
    let (head, lines) = match news.what {
        What::One { event, incident, .. } => {
            (text::head(event, incident, news.cluster), text::body(event, incident))
        }
        What::Storm(incidents) => text::storm(incidents, news.cluster),
        What::Digest(digest) => text::digest(digest, news.cluster),
    };
    let head = escaped(&head);
    let lines: Vec<String> = lines
        .iter()
        .map(|line| match escaped(line).split_once(": ") {
            Some((word, rest)) => format!("*{word}:* {rest}"),
            None => escaped(line),
        })
        .collect();
    let whole: String = format!("*{head}*\n{}", lines.join("\n")).chars().take(MAX_TEXT).collect();
    json!({
        "text": head,
        "blocks": [{ "type": "section", "text": { "type": "mrkdwn", "text": whole } }],
    })
}

/// The three characters that Slack gives a meaning. What would format is left: names with `_` or `*` are rare, and readable.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
