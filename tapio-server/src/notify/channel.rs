//! The ways to tell.

mod alertmanager;
mod incidents;
mod kubernetes;
mod pagerduty;
mod slack;
mod webhook;

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context as _;
use tapio_ahti::incident::Incident;
use tapio_service::setting::Switch;

pub(super) use self::alertmanager::{ALERT, Alertmanager, ENDS_NS};
use self::{
    incidents::Incidents, kubernetes::Kubernetes, pagerduty::PagerDuty, slack::Slack, webhook::Webhook,
};
use super::{
    digest::Digest,
    http::{Failure, Http},
    plan::{Able, Event},
    settings::Target,
};

/// One thing to tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct News<'a> {
    pub(super) what: What<'a>,
    pub(super) cluster: Option<&'a str>,
    pub(super) now_unix_ns: u64,
}

/// What it is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<'a> {
    /// One incident, with its name for those who are told, and what the channel needs to change what it said.
    One { event: Event, incident: &'a Incident, key: &'a str, reference: Option<&'a str> },
    /// Many incidents.
    Storm(&'a [Incident]),
    /// What happened in a period.
    Digest(&'a Digest),
}

/// A way to tell.
#[derive(Debug)]
pub(super) enum Channel {
    Webhook(Webhook),
    Slack(Slack),
    PagerDuty(PagerDuty),
    Alertmanager(Alertmanager),
    Kubernetes(Kubernetes),
    Incidents(Incidents),
}

impl Channel {
    /// The one that a target has.
    ///
    /// # Errors
    /// It has none, or it writes to Kubernetes, and there is no way to the API server.
    pub(super) fn of(target: &Target) -> anyhow::Result<Self> {
        if target.kubernetes.events == Switch::True {
            return Kubernetes::find().map(Self::Kubernetes);
        }
        if target.kubernetes.incidents == Switch::True {
            return Incidents::find(target.kubernetes.keep.get()).map(Self::Incidents);
        }
        let webhook = Webhook::of(&target.webhook).map(Self::Webhook);
        let slack = || Slack::of(&target.slack).map(Self::Slack);
        let pagerduty = || PagerDuty::of(&target.pagerduty).map(Self::PagerDuty);
        let alertmanager = || Alertmanager::of(&target.alertmanager).map(Self::Alertmanager);
        webhook.or_else(slack).or_else(pagerduty).or_else(alertmanager).context("goes nowhere")
    }

    pub(super) const fn able(&self) -> Able {
        let able = Able { changes: true, repeats: None, storms: true };
        match self {
            Self::Slack(slack) => Able { changes: slack.can_change(), ..able },
            // It forgets what it does not hear of again, and groups by itself.
            Self::Alertmanager(_) => Able { repeats: Some(Duration::from_secs(60)), storms: false, ..able },
            // Each is about an object that has its own.
            Self::Kubernetes(_) => Able { changes: false, storms: false, ..able },
            // Each is an object.
            Self::Incidents(_) => Able { storms: false, ..able },
            Self::Webhook(_) | Self::PagerDuty(_) => able,
        }
    }

    /// Tells it. Returns what is needed to change it later.
    pub(super) async fn tell(&self, http: &Http, news: News<'_>) -> Result<Option<String>, Failure> {
        match self {
            Self::Webhook(webhook) => webhook.tell(http, news).await,
            Self::Slack(slack) => slack.tell(http, news).await,
            Self::PagerDuty(pagerduty) => pagerduty.tell(http, news).await,
            Self::Alertmanager(alertmanager) => alertmanager.tell(http, news).await,
            Self::Kubernetes(kubernetes) => kubernetes.tell(news).await,
            Self::Incidents(incidents) => incidents.tell(news).await,
        }
    }

    /// Takes away what it said and nobody needs any more. `told` is what is needed to change what it said.
    pub(super) async fn tend(&self, told: &BTreeSet<&str>, now_unix_ns: u64) -> Result<(), Failure> {
        match self {
            Self::Incidents(incidents) => incidents.tend(told, now_unix_ns).await,
            _ => Ok(()),
        }
    }
}

/// A secret from a file, which is read each time so that a renewed one is used.
fn secret(file: &std::path::Path) -> Result<String, Failure> {
    let lines = super::settings::secrets(file).map_err(Failure::Hold)?;
    lines.into_iter().next().ok_or_else(|| Failure::Hold(format!("{} is empty", file.display())))
}

/// A bearer token as a header.
fn bearer(token: &str) -> Result<http::HeaderMap, Failure> {
    let value = http::HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value =
        value.map_err(|_| Failure::Hold("the token has characters that no header has".to_owned()))?;
    value.set_sensitive(true);
    Ok(http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]))
}
