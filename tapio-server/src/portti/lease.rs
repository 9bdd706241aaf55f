//! The Lease that says which of several replicas reports.
//!
//! Clocks of replicas are not compared: a Lease is over when this replica has not seen it change for as long as it is
//! valid. A write names the version that it rests on, so that the API server takes only one of two.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams};
use tapio_kube::Access;
use tokio::time::timeout;

/// How long a Lease is valid without a sign of its holder.
const VALID: Duration = Duration::from_secs(15);
/// How often its holder renews it.
pub(super) const RENEW: Duration = Duration::from_secs(5);
/// How often others look at it, and how soon a failure is tried again.
pub(super) const LOOK: Duration = Duration::from_secs(2);
/// A holder that could not renew for so long stops reporting, before the Lease is over for others.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);
/// The longest time of a request.
const PATIENCE: Duration = Duration::from_secs(3);
/// The annotation with the time up to which the holder had delivered everything, seconds since 1970 UTC.
const DELIVERED: &str = "portti.tapio/delivered";

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This replica's.
    Own,
    /// Another one's: its identity, and up to when it has delivered everything, if it says so.
    Other(String, Option<u64>),
}

/// A Lease, as one replica sees it.
pub(super) struct Lease {
    access: Access,
    client: Option<Client>,
    name: String,
    identity: String,
    /// The version that was seen last, and when it was seen first.
    seen: Option<(String, Instant)>,
}

impl Lease {
    pub(super) const fn new(access: Access, name: String, identity: String) -> Self {
        Self { access, client: None, name, identity, seen: None }
    }

    /// Takes the Lease if nobody holds it, or renews it.
    ///
    /// # Errors
    /// The API server does not answer, or refuses it. The text has the remedy.
    pub(super) async fn turn(&mut self, delivered_s: u64) -> anyhow::Result<Turn> {
        let api = self.api().await?;
        let (object, is_free) = self.look(&api).await?;
        let spec = object.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let is_own = holder == self.identity;
        if !is_own && !is_free {
            let delivered = object.metadata.annotations.as_ref().and_then(|all| all.get(DELIVERED));
            return Ok(Turn::Other(holder, delivered.and_then(|text| text.parse().ok())));
        }
        let now = MicroTime(Timestamp::now());
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(VALID.as_secs()).ok(),
            acquire_time: if is_own { spec.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + i32::from(!is_own)),
            renew_time: Some(now),
            ..spec
        };
        match self.write(&api, object, spec, Some(delivered_s)).await? {
            true => Ok(Turn::Own),
            false => Ok(Turn::Other(holder, None)),
        }
    }

    /// Lets go of the Lease, if this replica holds it, so that another one need not wait until it is over.
    ///
    /// # Errors
    /// As [`Self::turn`].
    pub(super) async fn release(&mut self) -> anyhow::Result<()> {
        let api = self.api().await?;
        let (object, _) = self.look(&api).await?;
        let spec = object.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() == Some(&self.identity) {
            let spec = LeaseSpec { holder_identity: None, ..spec };
            self.write(&api, object, spec, None).await?;
        }
        Ok(())
    }

    /// The Lease as it is, and whether anybody may take it.
    async fn look(&mut self, api: &Api<Object>) -> anyhow::Result<(Object, bool)> {
        let object = match timeout(PATIENCE, api.get(&self.name)).await {
            Ok(answer) => self.checked(answer)?,
            Err(_) => return Err(self.silent()),
        };
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((known, since)) if *known == version => *since,
            _ => self.seen.insert((version, Instant::now())).1,
        };
        let spec = object.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let valid = spec.and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok());
        let valid = valid.map_or(VALID, Duration::from_secs);
        let is_free = holder.is_empty() || since.elapsed() >= valid;
        Ok((object, is_free))
    }

    /// Writes it; false if somebody else did since it was read.
    async fn write(
        &mut self,
        api: &Api<Object>,
        mut object: Object,
        spec: LeaseSpec,
        delivered_s: Option<u64>,
    ) -> anyhow::Result<bool> {
        object.spec = Some(spec);
        object.metadata.managed_fields = None;
        if let Some(seconds) = delivered_s {
            object
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(DELIVERED.to_owned(), seconds.to_string());
        }
        let replace = PostParams { field_manager: Some("tapio-portti".to_owned()), ..PostParams::default() };
        let written = timeout(PATIENCE, api.replace(&self.name, &replace, &object)).await;
        match written {
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Ok(written) => self.checked(written).map(|_| true),
            Err(_) => Err(self.silent()),
        }
    }

    async fn api(&mut self) -> anyhow::Result<Api<Object>> {
        let client = match self.client.take() {
            Some(client) => client,
            None => self.access.client().await?,
        };
        self.client = Some(client.clone());
        Ok(Api::default_namespaced(client))
    }

    /// The answer, or why there is none.
    fn checked(&mut self, answer: kube::Result<Object>) -> anyhow::Result<Object> {
        let name = &self.name;
        let remedy = match &answer {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                format!("there is no Lease {name}: apply deploy/kustomize/server-portti, or create it")
            }
            Err(kube::Error::Api(status)) if status.code == 403 => {
                format!(
                    "the Lease {name} is forbidden (403): grant get and update on it (Role tapio-portti-lease)"
                )
            }
            Err(_) => format!("the Lease {name}"),
            Ok(_) => String::new(),
        };
        if answer.is_err() {
            // Another one has credentials that may have been renewed.
            self.client = None;
        }
        answer.context(remedy)
    }

    fn silent(&mut self) -> anyhow::Error {
        self.client = None;
        anyhow::anyhow!("the Lease {}: the API server gave no answer within {PATIENCE:?}", self.name)
    }
}
