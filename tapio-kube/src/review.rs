//! Who somebody is, by a token, and what they may do: the API server is asked for another program's callers.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};

use crate::{Fault, answer};

/// A user of the cluster, as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// Name, such as `alice` or `system:serviceaccount:shop:ci`.
    pub name: String,
    /// UID, if there is one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// What else authorizers may look at.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A permission in a namespace, or in all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permission {
    /// The verb, as in a ClusterRole.
    pub verb: &'static str,
    /// The API group; empty for the core one.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The namespace; `None` for all of them, and for what is in none.
    pub namespace: Option<String>,
}

/// The user that a token is of; `None` if the API server does not accept it. Without an audience the token has to be one for the
/// API server itself.
///
/// # Errors
/// The API server did not answer the question.
pub async fn user_of(client: &Client, token: &str, audience: Option<&str>) -> Result<Option<User>, Fault> {
    let audiences = audience.map(|audience| vec![audience.to_owned()]);
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviews = Api::<TokenReview>::all(client.clone());
    let answered = answer(reviews.create(&PostParams::default(), &review)).await?;
    let status = answered.status.unwrap_or_default();
    // An authenticator that knows nothing of audiences accepts any, and names none.
    let is_meant = audience
        .is_none_or(|audience| status.audiences.iter().flatten().any(|accepted| accepted == audience));
    if status.authenticated != Some(true) || !is_meant {
        return Ok(None);
    }
    let user = status.user.unwrap_or_default();
    // Anonymous users have no name; nobody else does without.
    let Some(name) = user.username.filter(|name| !name.is_empty()) else { return Ok(None) };
    Ok(Some(User {
        name,
        uid: user.uid.filter(|uid| !uid.is_empty()),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }))
}

/// Whether a user has a permission.
///
/// # Errors
/// The API server did not answer the question.
pub async fn allows(client: &Client, user: &User, permission: &Permission) -> Result<bool, Fault> {
    let attributes = ResourceAttributes {
        verb: Some(permission.verb.to_owned()),
        group: Some(permission.group.to_owned()),
        resource: Some(permission.resource.to_owned()),
        namespace: permission.namespace.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: user.uid.clone(),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let answered = answer(reviews.create(&PostParams::default(), &review)).await?;
    Ok(answered.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
