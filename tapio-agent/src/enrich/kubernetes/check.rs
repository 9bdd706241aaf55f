//! Checks for `tapio doctor` whether the API server will answer the agent's queries.

use k8s_openapi::api::{authentication::v1::SelfSubjectReview, core::v1::Node};
use kube::{Api, api::PostParams};
use tapio_kube::{Access, Fault, Right, answer, may};

/// The permissions that the agent uses, with what it loses without each. All of them are read-only.
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

/// The result of the check.
#[derive(Debug)]
pub struct Check {
    /// The server's version.
    pub version: String,
    /// The user that the server authenticates the agent as; `None` if the server does not report it.
    pub user: Option<String>,
    /// Whether the cluster has this node.
    pub node: Result<bool, Fault>,
    /// Each of [`RIGHTS`], and whether the agent has it.
    pub rights: Vec<(&'static Right, Result<bool, Fault>)>,
}

/// Runs all checks for the agent of this node.
///
/// # Errors
/// The server cannot be reached, or does not authenticate the agent.
pub async fn check(access: &Access, node: &str) -> Result<Check, Fault> {
    let client = access.client().await.map_err(|error| Fault::of_access(&error))?;
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
