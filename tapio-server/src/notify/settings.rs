//! Who is notified of incidents.

use std::{fmt, path::Path, str::FromStr};

use http::Uri;
use jiff::civil;
use tapio_ahti::incident::{Certainty, Incident};
use tapio_service::setting::{
    AbsolutePath, Form, Name, Named, Off, SEC, Switch, Time, Value, Wrong, choices, settings, shown,
};

use crate::route::Words;

/// Most targets. Each has a task, and labels in metrics.
const MAX: usize = 16;

settings! {
    /// Somebody who is notified of incidents: one of webhook, slack, pagerduty, alertmanager and kubernetes, and of which.
    pub struct Target {
        /// A program that takes CloudEvents.
        pub webhook: Webhook = Webhook::default(),
        /// A channel of Slack.
        pub slack: Slack = Slack::default(),
        /// A service of PagerDuty.
        pub pagerduty: PagerDuty = PagerDuty::default(),
        /// An Alertmanager with API v2, as all have since version 0.16.
        pub alertmanager: Alertmanager = Alertmanager::default(),
        /// Events of Kubernetes, on the cause and on who is hit, as `kubectl describe` shows them; or objects `Incident`.
        pub kubernetes: Kubernetes = Kubernetes::default(),
        /// Namespaces of the workloads that are hit, or of the cause; shop-* are all that begin so.
        pub namespace: Words = Words::default(),
        /// How sure the cause has to be.
        pub certainty: Least = Least::Likely,
        /// One message for all that happens in a period, instead of one for each thing.
        pub digest: Digest = Digest::default(),
        /// PEM file with the certificates of the authorities that are trusted, instead of the public ones.
        pub ca: Off<AbsolutePath> = Off(None),
    }
}

settings! {
    /// A program that takes CloudEvents.
    pub struct Webhook {
        /// Where they are posted to.
        pub url: Url = Url::default(),
        /// File with the secret that signs them by Standard Webhooks: whsec_ and Base64. With two lines, there are two
        /// signatures, so that the secret can be renewed.
        pub secret_file: Off<AbsolutePath> = Off(None),
    }
}

settings! {
    /// A channel of Slack.
    pub struct Slack {
        /// File with a bot's token (xoxb-), which may chat:write. A message is then changed in place.
        pub token_file: Off<AbsolutePath> = Off(None),
        /// The channel's id, with a token.
        pub channel: Name = Name::default(),
        /// File with the URL of an incoming webhook, instead of both. Messages cannot be changed then.
        pub url_file: Off<AbsolutePath> = Off(None),
        /// Slack's API.
        pub api: Url = Url::known("https://slack.com/api"),
    }
}

settings! {
    /// A service of PagerDuty.
    pub struct PagerDuty {
        /// File with the routing key of an integration by Events API v2.
        pub key_file: Off<AbsolutePath> = Off(None),
        /// Where events are sent; https://events.eu.pagerduty.com for accounts in Europe.
        pub url: Url = Url::known("https://events.pagerduty.com"),
    }
}

settings! {
    /// An Alertmanager.
    pub struct Alertmanager {
        /// Its address, with the prefix of its path if it has one.
        pub url: Url = Url::default(),
        /// File with a bearer token, if it asks for one.
        pub token_file: Off<AbsolutePath> = Off(None),
    }
}

settings! {
    /// Objects of Kubernetes: one of both.
    pub struct Kubernetes {
        /// Whether Events are written.
        pub events: Switch = Switch::False,
        /// Whether objects `Incident` are written, in the namespaces of the causes. It takes deploy/server/incidents.
        pub incidents: Switch = Switch::False,
        /// How long an `Incident` is kept after it is resolved.
        pub keep: Time<{ SEC }, { 86_400 * SEC }> = Time::of_ns(3_600 * SEC),
    }
}

settings! {
    /// One message for all that happens in a period. For webhook and slack.
    pub struct Digest {
        /// The period, such as 24h or 4h. off: each change is notified by itself.
        pub every: Off<Time<{ 10 * SEC }, { 86_400 * SEC }>> = Off(None),
        /// The time of day at which one ends, in UTC.
        pub at: TimeOfDay = TimeOfDay::default(),
        /// Whether there is a message when nothing happened, too.
        pub empty: Switch = Switch::False,
    }
}

choices! {
    /// How sure a cause has to be.
    pub enum Least {
        /// All incidents.
        Inconclusive = "inconclusive",
        /// What is likely or confirmed.
        Likely = "likely",
        /// What is confirmed.
        Confirmed = "confirmed",
    }
}

/// A time of day: HH:MM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeOfDay(pub(super) civil::Time);

/// An address of HTTP; may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url(Option<Uri>);

impl Target {
    /// The names of the channels that are given.
    fn given(&self) -> Vec<&'static str> {
        let Self { webhook, slack, pagerduty, alertmanager, kubernetes, .. } = self;
        let given = [
            ("webhook", webhook.url.get().is_some()),
            ("slack", slack.token_file.0.is_some() || slack.url_file.0.is_some()),
            ("pagerduty", pagerduty.key_file.0.is_some()),
            ("alertmanager", alertmanager.url.get().is_some()),
            ("kubernetes.events", kubernetes.events == Switch::True),
            ("kubernetes.incidents", kubernetes.incidents == Switch::True),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    /// Whether it wants to hear of an incident.
    pub(super) fn wants(&self, incident: &Incident) -> bool {
        let least = match self.certainty {
            Least::Inconclusive => Certainty::Inconclusive,
            Least::Likely => Certainty::Likely,
            Least::Confirmed => Certainty::Confirmed,
        };
        let mut names = incident.hits.iter().chain(&incident.root);
        incident.certainty >= least
            && (self.namespace == Words::default()
                || names.any(|name| self.namespace.fits(name.namespace.as_deref())))
    }
}

/// Checks what depends on several keys. Returns the place and the reason.
pub(crate) fn check(targets: &Named<Target>) -> Result<(), (String, Wrong)> {
    let wrong = |key: String, what: &str| Err((key, Wrong(what.to_owned())));
    if targets.0.len() > MAX {
        return wrong(
            "notify".to_owned(),
            &format!("has {} targets, and {MAX} at most are possible", targets.0.len()),
        );
    }
    let mut writers = targets.0.iter().filter(|(_, target)| target.kubernetes.incidents == Switch::True);
    if let Some((name, _)) = writers.nth(1) {
        return wrong(
            format!("notify.{name}.kubernetes.incidents"),
            "is on in another one, too: each would delete what the other writes",
        );
    }
    for (name, target) in &targets.0 {
        let key = format!("notify.{name}");
        match target.given()[..] {
            [_] => {}
            [] => {
                return wrong(
                    key,
                    "goes nowhere: give webhook.url, slack.token_file, slack.url_file, pagerduty.key_file, alertmanager.url, kubernetes.events or kubernetes.incidents",
                );
            }
            _ => return wrong(key, &format!("has {}: give one", target.given().join(" and "))),
        }
        if target.digest.every.0.is_some() && !matches!(target.given()[..], ["webhook" | "slack"]) {
            return wrong(
                format!("{key}.digest.every"),
                "is for webhook and slack: the others are about what goes on now; leave it out",
            );
        }
        let Slack { token_file, channel, url_file, .. } = &target.slack;
        if token_file.0.is_some() && url_file.0.is_some() {
            return wrong(format!("{key}.slack"), "has token_file and url_file: give one");
        }
        if token_file.0.is_some() && channel.get().is_none() {
            return wrong(
                format!("{key}.slack.channel"),
                "is needed with token_file: give the id of a channel",
            );
        }
        let is_plain = |url: &Url| url.get().is_some_and(|url| url.scheme_str() == Some("http"));
        let secret = &target.alertmanager.token_file;
        if secret.0.is_some() && is_plain(&target.alertmanager.url) {
            return wrong(
                format!("{key}.alertmanager.token_file"),
                "is never sent without TLS: write https:// in its url",
            );
        }
    }
    Ok(())
}

impl Url {
    /// One that the code has.
    pub fn known(text: &'static str) -> Self {
        Self(Some(Uri::from_static(text)))
    }

    /// The address, unless it is empty.
    #[must_use]
    pub const fn get(&self) -> Option<&Uri> {
        self.0.as_ref()
    }

    /// The address with a path behind its own.
    pub(super) fn with(&self, path: &str) -> String {
        self.to_string().trim_end_matches('/').to_owned() + path
    }
}

impl Value for TimeOfDay {
    fn expected() -> String {
        "a time of day such as 08:00".to_owned()
    }

    fn form() -> Form {
        Form::Text("([01][0-9]|2[0-3]):[0-5][0-9]".to_owned())
    }
}

impl FromStr for TimeOfDay {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let time = civil::Time::strptime("%H:%M", text).ok().filter(|_| text.len() == 5);
        time.map(Self).ok_or_else(|| Wrong(format!("`{}` is not {}", shown(text), Self::expected())))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%H:%M"))
    }
}

impl Value for Url {
    fn expected() -> String {
        "an address such as https://HOST:PORT/PATH, or \"\" for none".to_owned()
    }

    fn form() -> Form {
        Form::Text(r"(https?://[^\s]+)?".to_owned())
    }
}

impl FromStr for Url {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parsed: Option<Uri> = text.parse().ok();
        let is_usable = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        };
        match parsed.filter(is_usable) {
            Some(uri) => Ok(Self(Some(uri))),
            None => Err(Wrong(format!("`{}` is not {}", shown(text), Self::expected()))),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |uri| uri.fmt(f))
    }
}

/// The lines of a file with a secret, without space around them.
pub(super) fn secrets(file: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    let lines: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(format!("{} is empty: it has to have the secret in its first line", file.display()));
    }
    Ok(lines)
}
