//! What the API server lets this program do.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use crate::Fault;

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One permission.
#[derive(Debug, PartialEq, Eq)]
pub struct Right {
    /// As a ClusterRole names it.
    pub verb: &'static str,
    /// Of the core group.
    pub resource: &'static str,
    /// What it is good for.
    pub gives: &'static str,
}

/// Whether this program has a permission. Every user may ask that of itself: ClusterRole `system:basic-user`.
///
/// # Errors
/// The server did not say.
pub async fn may(client: &Client, right: &Right) -> Result<bool, Fault> {
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        resource: Some(right.resource.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews = Api::<SelfSubjectAccessReview>::all(client.clone());
    let answered = answer(reviews.create(&PostParams::default(), &review)).await?;
    Ok(answered.status.is_some_and(|status| status.allowed))
}

/// What the server answers, if it does within five seconds.
///
/// # Errors
/// It does not, or with an error.
pub async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    match timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(|error| Fault::from(&error)),
        Err(_) => Err(Fault::slow(PATIENCE)),
    }
}
