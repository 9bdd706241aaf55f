//! Checks the Kubernetes API: whether it is reachable, accepts the agent, and permits the requests that names require.
//! Outside of a cluster there is nothing to check.

use tapio_kube::{Access, Fault, Right};

use super::{pod::Pod, report::Line};

use crate::{
    config::{Config, Kubernetes as Mode},
    enrich::kubernetes::{self, Check},
};

const API: &str = "API server";
/// What is lost without the Kubernetes API.
const LOST: &str = "nothing is named by its pod, owner or service";

pub(super) fn examine(config: &Config, pod: Pod) -> Vec<Line> {
    match (Access::find(config.kubernetes), config.kubernetes) {
        (Ok(Some(access)), _) => asked(&access, config, pod),
        (Ok(None), Mode::Off) if pod.is() => {
            vec![Line::note(API, format!("off: {LOST}"))]
        }
        (Ok(None), _) if pod.is() => vec![Line::degraded(
            API,
            format!("not asked, since this pod has no token: {LOST}"),
            "set automountServiceAccountToken: true in the pod or in its service account",
        )],
        // Not in a cluster: nothing is missing.
        (Ok(None), _) => Vec::new(),
        (Err(error), _) => vec![Line::failed(
            API,
            format!("the agent does not start: {error}"),
            "what the line says, or --kubernetes=auto, which does without",
        )],
    }
}

/// Checks the API server by the access that was found.
fn asked(access: &Access, config: &Config, pod: Pod) -> Vec<Line> {
    let node = config.node();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Line::failed(API, format!("it cannot be asked: {error}"), "try again")],
    };
    // Creating a client does not involve the server: a failure is the fault of the token or the file.
    if let Err(error) = runtime.block_on(access.client()) {
        return vec![unusable(access, &error)];
    }
    let checked = runtime.block_on(kubernetes::check(access, &node));
    match checked {
        Ok(check) => reported(access, &check, config, pod),
        Err(fault) => vec![refused(access, &fault)],
    }
}

/// The token, certificate or file for the API server cannot be used.
fn unusable(access: &Access, error: &anyhow::Error) -> Line {
    let remedy = match access {
        Access::InCluster => {
            "delete the pod, so that it gets a new token; see that automountServiceAccountToken is true in it"
        }
        Access::Kubeconfig(_) => {
            "correct what the line names, so that the agent can read and use it, or unset KUBECONFIG"
        }
    };
    Line::failed(API, format!("{error:#}: {LOST}"), remedy)
}

fn refused(access: &Access, fault: &Fault) -> Line {
    let found = format!("{fault} (by {}): {LOST}", access.place());
    let remedy = match (fault.code, access) {
        (Some(401), Access::InCluster) => {
            "delete the pod, so that it gets a new token; if that does not help, the API server's keys have changed"
        }
        (Some(401), Access::Kubeconfig(_)) => {
            "put a token of this cluster into the file that KUBECONFIG names"
        }
        _ => {
            "start the API server, or let the pod reach it: look at NetworkPolicies, and at the address that is named"
        }
    };
    Line::failed(API, found, remedy)
}

fn reported(access: &Access, check: &Check, config: &Config, pod: Pod) -> Vec<Line> {
    let by = access.place();
    let user = check.user.as_deref().unwrap_or("a user that the server does not name");
    let mut lines = vec![Line::ok(API, format!("{} answers {user}, by {by}", check.version))];
    lines.extend(node(check, config, pod));
    lines.extend(check.rights.iter().map(|(right, may)| permission(right, may, user)));
    lines
}

/// Checks that the cluster has this node. `None` if the agent may not read nodes: the line of that permission says so.
fn node(check: &Check, config: &Config, pod: Pod) -> Option<Line> {
    const NAME: &str = "node";
    let node = config.node();
    let remedy = match pod.is() {
        true => format!("give the container {}", Pod::NODE_NAME),
        false => {
            "give the name of its Node object with --node-name, or unset a KUBECONFIG of another cluster"
                .to_owned()
        }
    };
    match &check.node {
        Ok(true) => Some(Line::ok(NAME, format!("{node} is one of the cluster"))),
        Ok(false) if config.node_name.get().is_none() => {
            let found = format!(
                "NODE_NAME is not set, and the cluster has no node of this host's name, {node}: {LOST}"
            );
            Some(Line::failed(NAME, found, remedy))
        }
        Ok(false) => Some(Line::failed(NAME, format!("the cluster has no node {node}: {LOST}"), remedy)),
        Err(fault) if fault.code == Some(403) => None,
        Err(fault) => Some(Line::failed(NAME, format!("{fault}: {LOST}"), "try again")),
    }
}

fn permission(right: &Right, may: &Result<bool, Fault>, user: &str) -> Line {
    let Right { verb, resource, gives } = right;
    let name = format!("may {verb} {resource}");
    match may {
        Ok(true) => Line::ok(name, *gives),
        Ok(false) => Line::failed(
            name,
            format!("no; without it: no {gives}"),
            format!(
                "bind the ClusterRole `tapio` to {user}; in it: {{apiGroups: [\"\"], resources: [{resource}], \
                 verbs: [{verb}]}}"
            ),
        ),
        Err(fault) => Line::degraded(
            name,
            format!("the server does not say: {fault}"),
            "bind the ClusterRole `system:basic-user` to the group system:authenticated, as clusters have it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::State, *};
    use crate::enrich::kubernetes::RIGHTS;

    fn fault(code: Option<u16>) -> Fault {
        Fault { why: "the API server says so".to_owned(), code }
    }

    #[test]
    fn a_missing_verb_is_named_with_what_it_costs_and_the_rule_that_gives_it() {
        let user = "system:serviceaccount:tapio:tapio";
        for right in RIGHTS {
            let line = permission(right, &Ok(false), user);
            assert_eq!(line.name, format!("may {} {}", right.verb, right.resource));
            assert!(line.found.contains(right.gives), "{line:?}");
            let State::Failed { remedy } = &line.state else { panic!("{line:?}") };
            assert!(
                remedy.contains(user) && remedy.contains(&format!("verbs: [{}]", right.verb)),
                "{remedy}"
            );
            assert_eq!(permission(right, &Ok(true), user).state, State::Ok);
            assert!(matches!(permission(right, &Err(fault(None)), user).state, State::Degraded { .. }));
        }
    }

    #[test]
    fn the_node_is_the_clusters_or_what_would_name_it() {
        let with = |node| Check { version: String::new(), user: None, node, rights: Vec::new() };
        let config = Config::default();
        let line = |found, pod| node(&with(found), &config, Pod(pod));
        assert_eq!(line(Ok(true), true).unwrap().state, State::Ok);
        let unset = line(Ok(false), true).unwrap();
        assert!(unset.found.starts_with("NODE_NAME is not set"), "{unset:?}");
        assert!(
            matches!(&unset.state, State::Failed { remedy } if remedy.contains("fieldPath: spec.nodeName"))
        );
        assert!(
            matches!(&line(Ok(false), false).unwrap().state, State::Failed { remedy } if remedy.contains("--node-name"))
        );
        assert_eq!(line(Err(fault(Some(403))), true).map(|line| line.name), None, "the permission tells");
        assert!(line(Err(fault(None)), true).is_some());
    }

    #[test]
    fn a_server_that_does_not_let_in_has_its_remedy() {
        let remedy = |access: &Access, code| match refused(access, &fault(code)).state {
            State::Failed { remedy } => remedy,
            other => panic!("{other:?}"),
        };
        assert!(remedy(&Access::InCluster, Some(401)).contains("new token"));
        assert!(remedy(&Access::Kubeconfig(Vec::new()), Some(401)).contains("KUBECONFIG"));
        assert!(remedy(&Access::InCluster, None).contains("NetworkPolicies"));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_no_server_is_asked_to_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config");
        for text in ["", "clusters: 7", "{}"] {
            if !text.is_empty() {
                std::fs::write(&file, text).unwrap();
            }
            let lines = asked(&Access::Kubeconfig(vec![file.clone()]), &Config::default(), Pod(false));
            let [Line { found, state: State::Failed { remedy }, .. }] = &lines[..] else {
                panic!("{lines:?}")
            };
            assert!(found.contains(&file.display().to_string()), "{found}");
            assert!(
                remedy.contains("unset KUBECONFIG") && !remedy.contains("start the API server"),
                "{remedy}"
            );
        }
    }
}
