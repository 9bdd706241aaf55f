//! What the API server answers to the questions that the agent will have: for `tapio doctor`.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Node,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use super::{Access, Fault};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the agent asks for, and what is lost where it may not. All of it reads.
pub const RIGHTS: &[Right] = &[
    Right { verb: "list", resource: "pods", gives: "names of pods, their containers and owners" },
    Right { verb: "watch", resource: "pods", gives: "names of pods that start later on this node" },
    Right {
        verb: "get",
        resource: "nodes",
        gives: "names at all: that this node is one of the cluster has to be known first",
    },
    Right { verb: "list", resource: "nodes", gives: "names of peers that are nodes" },
    Right { verb: "list", resource: "services", gives: "names of peers that are services" },
];

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

/// What was found.
#[derive(Debug)]
pub struct Check {
    /// The server's version.
    pub version: String,
    /// Whom it takes the agent for; `None` where it does not tell.
    pub user: Option<String>,
    /// Whether it has this node.
    pub node: Result<bool, Fault>,
    /// Each of [`RIGHTS`], and whether the agent has it.
    pub rights: Vec<(&'static Right, Result<bool, Fault>)>,
}

/// Asks all of it, for the agent of this node.
///
/// # Errors
/// The server cannot be reached, or does not let the agent in.
pub async fn check(access: &Access, node: &str) -> Result<Check, Fault> {
    let client = access.client().await.map_err(|error| Fault { why: format!("{error:#}"), code: None })?;
    let version = answer(client.apiserver_version()).await?.git_version;
    let review = Api::<SelfSubjectReview>::all(client.clone());
    let user = answer(review.create(&PostParams::default(), &SelfSubjectReview::default())).await;
    let user = user.ok().and_then(|review| review.status?.user_info?.username);
    let nodes = Api::<Node>::all(client.clone());
    let node = answer(nodes.get_metadata_opt(node)).await.map(|found| found.is_some());
    let mut rights = Vec::new();
    for right in RIGHTS {
        rights.push((right, may(&client, right).await));
    }
    Ok(Check { version, user, node, rights })
}

/// Every user may ask that of itself: ClusterRole `system:basic-user`.
async fn may(client: &Client, right: &Right) -> Result<bool, Fault> {
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

async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
    match timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(|error| Fault::from(&error)),
        Err(_) => Err(Fault::slow(PATIENCE)),
    }
}
