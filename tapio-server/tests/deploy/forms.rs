//! All forms of the manifests, as an API server sees them.

use std::{path::PathBuf, process::Command};

use serde_json::{Value, json};
use tapio_server::config::Config;
use tempfile::TempDir;

use crate::{
    apiserver::{self, ApiServer},
    chart::{EVERYTHING, Helm},
    deploy, objects, one, toolchain,
};

const OVERLAYS: &[&str] = &["server", "server-volume", "both", "server-portti"];

struct Kubectl {
    program: PathBuf,
    /// `--kubeconfig=FILE`, with a server.
    kubeconfig: Option<String>,
}

impl Kubectl {
    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.program).args(&self.kubeconfig).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn overlay(&self, name: &str) -> String {
        self.run(&["kustomize", deploy("kustomize").join(name).to_str().unwrap()])
    }
}

/// The directory of the cluster's programs, or why this test cannot run here.
pub(crate) fn programs(names: &[&str]) -> Result<PathBuf, String> {
    let directory = match std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(named) => PathBuf::from(named),
        None => toolchain::cache()?.join("kube"),
    };
    match names.iter().find(|name| !directory.join(name).is_file()) {
        Some(missing) => {
            Err(format!("there is no {missing} in {}: run `cargo xtask kube build`", directory.display()))
        }
        None => Ok(directory),
    }
}

#[test]
fn overlays_change_what_they_say() {
    let programs = match programs(&["kubectl"]) {
        Ok(programs) => programs,
        Err(reason) => return println!("SKIP overlays_change_what_they_say: {reason}"),
    };
    let kubectl = Kubectl { program: programs.join("kubectl"), kubeconfig: None };
    let [alone, volume, both] = [0, 1, 2].map(|nth| objects(&kubectl.overlay(OVERLAYS[nth])));
    let state =
        |objects: &[Value]| one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"][1].clone();
    assert_eq!(state(&alone), json!({ "name": "state", "emptyDir": { "sizeLimit": "2Gi" } }));
    assert_eq!(
        state(&volume),
        json!({ "name": "state", "persistentVolumeClaim": { "claimName": "tapio-server" } })
    );
    assert_eq!(one(&volume, "PersistentVolumeClaim")["metadata"]["name"], "tapio-server");
    one(&both, "Namespace");
    let service = &one(&both, "Service")["metadata"];
    let address =
        format!("{}.{}:50051", service["name"].as_str().unwrap(), service["namespace"].as_str().unwrap());
    let agent = &one(&both, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let polku = agent["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "POLKU_ENDPOINT");
    assert_eq!(polku.unwrap()["value"], address);
}

#[test]
fn portti_on_its_own_sends_to_the_server_and_may_renew_its_lease() {
    let programs = match programs(&["kubectl"]) {
        Ok(programs) => programs,
        Err(reason) => {
            return println!("SKIP portti_on_its_own_sends_to_the_server_and_may_renew_its_lease: {reason}");
        }
    };
    let kubectl = Kubectl { program: programs.join("kubectl"), kubeconfig: None };
    let objects = objects(&kubectl.overlay("server-portti"));
    let container = |name: &str| {
        let found = objects
            .iter()
            .find(|object| object["kind"] == "Deployment" && object["metadata"]["name"] == name);
        found.unwrap()["spec"]["template"]["spec"]["containers"][0].clone()
    };
    let variables = |container: &Value| -> Vec<(String, String)> {
        let of = |variable: &Value, key: &str| variable[key].as_str().unwrap().to_owned();
        container["env"].as_array().unwrap().iter().map(|one| (of(one, "name"), of(one, "value"))).collect()
    };
    let (server, portti) = (container("tapio-server"), container("tapio-portti"));
    assert!(variables(&server).contains(&("TAPIO_SERVER_ROLES".to_owned(), "polku,ahti".to_owned())));
    assert_eq!(
        (&server["image"], &server["securityContext"]),
        (&portti["image"], &portti["securityContext"])
    );

    let environment = variables(&portti).into_iter().map(|(name, value)| (name.into(), value.into()));
    let config = Config::load(None, environment, &[]).unwrap();
    assert_eq!(config.roles.names(), ["portti"]);
    assert_eq!(config.journal.max_age, Config::default().journal.max_age, "as the server's");
    let service = one(&objects, "Service");
    let [name, namespace] = ["name", "namespace"].map(|key| service["metadata"][key].as_str().unwrap());
    let port = &service["spec"]["ports"][0]["port"];
    assert_eq!(config.portti.polku.endpoint.to_string(), format!("http://{name}.{namespace}:{port}"));

    let lease = config.portti.lease.get().unwrap();
    assert_eq!(one(&objects, "Lease")["metadata"]["name"], lease);
    let expected = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [lease],
        "verbs": ["get", "update"],
    }]);
    assert_eq!(one(&objects, "Role")["rules"], expected);
    assert_eq!(
        one(&objects, "RoleBinding")["subjects"],
        json!([{ "kind": "ServiceAccount", "name": "tapio-server", "namespace": "tapio" }])
    );
}

#[test]
fn an_api_server_accepts_every_form() {
    let programs = match programs(&["etcd", "helm", "kube-apiserver", "kubectl"]) {
        Ok(programs) => programs,
        Err(reason) => return println!("SKIP an_api_server_accepts_every_form: {reason}"),
    };
    let directory = TempDir::new().unwrap();
    let state = directory.path().join("apiserver");
    let server = ApiServer::start(&programs, &state, "127.0.0.1", 0).unwrap();
    let kubectl = Kubectl {
        program: programs.join("kubectl"),
        kubeconfig: Some(format!("--kubeconfig={}", server.admin().display())),
    };
    let helm = Helm::of(&programs);
    let chart = helm.template(&EVERYTHING).unwrap();
    let accepted = std::panic::catch_unwind(|| {
        accepts(&kubectl, &directory, &chart);
        installs_beside_another(&helm, &kubectl);
    });
    apiserver::remove(&state).unwrap();
    accepted.unwrap();
}

fn accepts(kubectl: &Kubectl, directory: &TempDir, chart: &str) {
    let apply = |file: &str, flags: &[&str]| {
        kubectl.run(&[&["apply", "--validate=strict", "-f", file], flags].concat())
    };
    let [agents, server] =
        ["tapio.yaml", "server/tapio-server.yaml"].map(|name| deploy(name).to_str().unwrap().to_owned());
    // Together in any order, and again: nothing of one changes what the other has.
    for file in [&server, &agents, &server] {
        apply(file, &[]);
    }
    let said = apply(&agents, &[]);
    assert!(said.contains("namespace/tapio unchanged"), "{said}");
    for overlay in OVERLAYS {
        let file = directory.path().join(overlay);
        let text = kubectl.overlay(overlay);
        std::fs::write(&file, &text).unwrap();
        let said = apply(file.to_str().unwrap(), &["--dry-run=server"]);
        assert_eq!(said.lines().count(), objects(&text).len(), "{overlay}: {said}");
    }
    let file = directory.path().join("chart");
    std::fs::write(&file, chart).unwrap();
    let said = apply(file.to_str().unwrap(), &["--dry-run=server"]);
    assert_eq!(said.lines().count(), objects(chart).len(), "{said}");
    // The strictest level admits the server's pod.
    kubectl.run(&["create", "namespace", "strict"]);
    kubectl.run(&["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted"]);
    kubectl.run(&["create", "serviceaccount", "tapio-server", "--namespace=strict"]);
    let objects = crate::server();
    let template = &one(&objects, "Deployment")["spec"]["template"];
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
        "metadata": { "name": "a", "namespace": "strict", "labels": template["metadata"]["labels"] },
    });
    let file = directory.path().join("pod.yaml");
    std::fs::write(&file, pod.to_string()).unwrap();
    let said = apply(file.to_str().unwrap(), &["--dry-run=server"]);
    assert!(said.contains("pod/a created"), "{said}");
}

/// What all servers of a cluster share is there, made by `kubectl apply` and then by a release.
fn installs_beside_another(helm: &Helm, kubectl: &Kubectl) {
    let kubeconfig = kubectl.kubeconfig.as_deref().unwrap();
    let install = |name: &str, set: &[&str]| helm.install(name, kubeconfig, &[&EVERYTHING, set].concat());
    let is_refused = |name, whose: &str| {
        let said = install(name, &[]).unwrap_err();
        let expected = format!("shared: ClusterRole tapio-reader is there and {whose};");
        assert!(said.contains(&expected) && said.contains("set shared=false"), "{said}");
    };
    is_refused("one", "was made without Helm");
    install("one", &["shared=false"]).unwrap();
    kubectl.run(&["delete", "clusterrole", "tapio-reader", "tapio-feedback"]);
    // The second time it is this release's own.
    for _ in 0..2 {
        install("two", &[]).unwrap();
    }
    is_refused("three", "is of release two in namespace two");
    install("three", &["shared=false"]).unwrap();
}
