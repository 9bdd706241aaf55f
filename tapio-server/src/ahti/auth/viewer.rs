//! What somebody who asks may read, and what is left of an answer for them.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};
use futures_util::future::try_join_all;
use tapio_ahti::visible::{Place, Redact, Sight, Unknown};
use tapio_kube::{Permission, User};

use super::{Reviews, away, unauthorized};
use crate::ahti::{api::Refused, past::Knows};

/// The resource of Tapio's rights; there are objects of it only if they are asked for.
const GROUP: &str = "tapio.dev";
const INCIDENTS: &str = "incidents";
/// So it is for alerts that come from an Alertmanager.
const ALERTS: &str = "alerts";

/// Who asks.
#[derive(Clone)]
pub(in crate::ahti) enum Viewer {
    /// Everybody on this host, who may see everything.
    Everybody,
    /// A user of the cluster.
    User(Arc<Reviews>, Arc<User>),
}

impl<S: Send + Sync> FromRequestParts<S> for Viewer {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| unauthorized("nobody said who asks"))
    }
}

impl Viewer {
    async fn may(
        &self,
        verb: &'static str,
        (group, resource): (&'static str, &'static str),
        namespace: Option<&str>,
    ) -> Result<bool, Refused> {
        let Self::User(reviews, user) = self else { return Ok(true) };
        let namespace = namespace.map(ToOwned::to_owned);
        let permission = Permission { verb, group, resource, namespace };
        reviews.allows(user, permission).await.map_err(|fault| away(&fault))
    }

    /// Whether they may read everything that Tapio knows.
    pub(in crate::ahti) async fn reads_all(&self) -> Result<bool, Refused> {
        self.may("get", (GROUP, INCIDENTS), None).await
    }

    /// Whether they may read what is in a place.
    async fn reads(&self, place: &Place) -> Result<bool, Refused> {
        Ok(match place {
            Place::Everywhere => self.reads_all().await?,
            Place::Cluster => self.reads_all().await? || self.may("get", ("", "nodes"), None).await?,
            Place::Namespace(namespace) => {
                let namespace = Some(namespace.as_str());
                // For all namespaces at once first, which spares questions.
                self.reads_all().await?
                    || self.may("get", ("", "pods"), None).await?
                    || self.may("get", (GROUP, INCIDENTS), namespace).await?
                    || self.may("get", ("", "pods"), namespace).await?
            }
        })
    }

    /// Refuses, if they may not read what is in a place, whether there is such a place or not.
    pub(in crate::ahti) async fn require(&self, place: &Place) -> Result<(), Refused> {
        let Self::User(_, user) = self else { return Ok(()) };
        if self.reads(place).await? {
            return Ok(());
        }
        Err(Refused(StatusCode::FORBIDDEN, forbidden(user, place)))
    }

    /// Their name; `None` where nobody is asked who they are.
    pub(in crate::ahti) fn name(&self) -> Option<&str> {
        match self {
            Self::Everybody => None,
            Self::User(_, user) => Some(&user.name),
        }
    }

    /// Refuses, if they may not say anything of incidents of this place.
    pub(in crate::ahti) async fn require_update(&self, place: &Place, to: &str) -> Result<(), Refused> {
        let Self::User(_, user) = self else { return Ok(()) };
        let namespace = match place {
            Place::Namespace(namespace) => Some(namespace.as_str()),
            Place::Cluster | Place::Everywhere => None,
        };
        if self.may("update", (GROUP, INCIDENTS), namespace).await? {
            return Ok(());
        }
        let of = match namespace {
            // Only who may read a namespace hears its name.
            Some(namespace) if self.reads(place).await? => format!("in namespace {namespace}"),
            Some(_) => "where its cause lies, and you may not read that".to_owned(),
            None => "in all namespaces".to_owned(),
        };
        let what = format!(
            "{} may not {to}: that takes `update incidents.tapio.dev` {of} (ClusterRole tapio-feedback, or edit)",
            user.name
        );
        Err(Refused(StatusCode::FORBIDDEN, what))
    }

    /// Refuses, if they may not send alerts.
    pub(in crate::ahti) async fn require_alerts(&self) -> Result<(), Refused> {
        let Self::User(_, user) = self else { return Ok(()) };
        if self.may("create", (GROUP, ALERTS), None).await? {
            return Ok(());
        }
        let what = format!(
            "{} may not send alerts: that takes `create alerts.tapio.dev` in all namespaces (ClusterRole tapio-alerts, deploy/server/alerts.yaml)",
            user.name
        );
        Err(Refused(StatusCode::FORBIDDEN, what))
    }

    /// What is left of an answer for them.
    pub(in crate::ahti) async fn see<T: Redact + Clone>(
        &self,
        from: &impl Knows,
        answer: T,
    ) -> Result<T, Refused> {
        if self.reads_all().await? {
            return Ok(answer);
        }
        let mut sight = Sight::default();
        loop {
            let left = tokio::task::block_in_place(|| {
                let mut left = answer.clone();
                left.redact(&mut sight);
                left
            });
            let unknown = sight.unknown();
            if unknown.is_empty() {
                return Ok(left);
            }
            self.learn(from, &mut sight, unknown).await?;
        }
    }

    /// Finds out what has to be known.
    pub(in crate::ahti) async fn learn(
        &self,
        from: &impl Knows,
        sight: &mut Sight,
        unknown: Unknown,
    ) -> Result<(), Refused> {
        let rights = unknown.places.iter().map(|place| self.reads(place));
        let rights = try_join_all(rights).await?;
        unknown.places.into_iter().zip(rights).for_each(|(place, may_read)| sight.learn(place, may_read));
        if !unknown.words.is_empty() {
            let named = tokio::task::block_in_place(|| from.engine().naming(unknown.words));
            sight.learn_words(named);
        }
        Ok(())
    }
}

/// What is missing, and how it is granted.
fn forbidden(user: &User, place: &Place) -> String {
    let name = &user.name;
    let subject = match name.strip_prefix("system:serviceaccount:") {
        Some(account) => format!("--serviceaccount={}", quoted(account)),
        None => format!("--user={}", quoted(name)),
    };
    let binding = |role: &str| {
        let is_of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let of: String =
            name.to_ascii_lowercase().chars().map(|c| if is_of_name(c) { c } else { '-' }).collect();
        format!("{role}-{}", of.trim_matches('-'))
    };
    match place {
        Place::Namespace(namespace) => format!(
            "{name} may not read namespace {namespace}: that takes `get incidents.tapio.dev`, or `get pods`, there. Who may grant it: \
             kubectl create rolebinding {} --namespace={} --clusterrole=tapio-reader {subject}",
            binding("tapio-reader"),
            quoted(namespace),
        ),
        Place::Cluster | Place::Everywhere => format!(
            "{name} may not read nodes: that takes `get nodes`, or `get incidents.tapio.dev` in all namespaces. Who may grant the latter: \
             kubectl create clusterrolebinding {} --clusterrole=tapio-reader {subject}",
            binding("tapio-reader"),
        ),
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._:-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_granted_by_a_command() {
        let user = |name: &str| User { name: name.to_owned(), ..User::default() };
        let shop = Place::Namespace("shop".to_owned());
        let said = forbidden(&user("system:serviceaccount:ci:robot"), &shop);
        assert!(
            said.ends_with(
                "kubectl create rolebinding tapio-reader-system-serviceaccount-ci-robot --namespace=shop \
                 --clusterrole=tapio-reader --serviceaccount=ci:robot"
            ),
            "{said}"
        );
        let said = forbidden(&user("O'Neil, Ann"), &Place::Cluster);
        assert!(said.contains("clusterrolebinding tapio-reader-o-neil--ann "), "{said}");
        assert!(said.ends_with(r"--user='O'\''Neil, Ann'"), "{said}");
    }
}
