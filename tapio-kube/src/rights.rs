//! The permissions that the API server grants to this program.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use crate::Fault;

/// The timeout for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One permission.
#[derive(Debug, PartialEq, Eq)]
pub struct Right {
    /// The verb, as in a ClusterRole.
    pub verb: &'static str,
    /// The resource, in the core API group.
    pub resource: &'static str,
    /// What the agent uses it for.
    pub gives: &'static str,
}

/// Whether this program has a permission. Every user may ask that about itself: ClusterRole
/// `system:basic-user`.
///
/// # Errors
/// The server did not answer the question.
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

/// Waits for an answer of the server for at most five seconds.
///
/// # Errors
/// There was no answer, or the answer is an error.
pub async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    match timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(|error| Fault::from(&error)),
        Err(_) => Err(Fault::slow(PATIENCE)),
    }
}
