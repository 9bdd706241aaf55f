//! A real API server, with objects as a kubelet and controllers would have created them.

use std::{fs, path::PathBuf};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Node, Pod, Service},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    apiserver::{self, ApiServer},
    certificate::{self, For, TRUST},
    manifest::deploy,
    programs,
};

pub(crate) const NAMESPACE: &str = "shop";
/// The server's state directory.
const STATE: &str = "apiserver";
/// Concurrent requests when creating thousands of objects.
const AT_ONCE: usize = 40;

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    directory: TempDir,
}

/// The owner of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PodKind {
    Bare,
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    CronJob,
    Static,
}

/// The description of a pod to create.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) ip: String,
    pub(crate) kind: PodKind,
    pub(crate) host_network: bool,
    /// Start time of its container.
    pub(crate) started: Timestamp,
}

impl Shape {
    pub(crate) fn new(name: &str, node: &str, ip: &str) -> Self {
        Self {
            name: name.to_owned(),
            node: node.to_owned(),
            ip: ip.to_owned(),
            kind: PodKind::Bare,
            host_network: false,
            started: Timestamp::from_second(Timestamp::now().as_second() - 3600).unwrap(),
        }
    }

    /// The id of its container.
    pub(crate) fn container_id(&self) -> String {
        self.name.bytes().cycle().take(32).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Replaces the UID in the cgroup name of a static pod.
    pub(crate) const STATIC_HASH: &str = "0123456789abcdef0123456789abcdef";

    fn spec(&self) -> Value {
        let minutes = self.started.as_second() / 60 + 60;
        let owner = match self.kind {
            PodKind::Bare | PodKind::Static => None,
            PodKind::Deployment => Some(("apps/v1", "ReplicaSet", "checkout-7d9f8c6b5d".to_owned())),
            PodKind::StatefulSet => Some(("apps/v1", "StatefulSet", "redis".to_owned())),
            PodKind::DaemonSet => Some(("apps/v1", "DaemonSet", "exporter".to_owned())),
            PodKind::Job => Some(("batch/v1", "Job", "import-2".to_owned())),
            PodKind::CronJob => Some(("batch/v1", "Job", format!("backup-{minutes}"))),
        };
        let owners: Vec<_> = owner
            .map(|(version, kind, name)| {
                json!({ "apiVersion": version, "kind": kind, "name": name, "uid": "u", "controller": true })
            })
            .into_iter()
            .collect();
        let labels = match self.kind {
            PodKind::Deployment => {
                json!({ "pod-template-hash": "7d9f8c6b5d", "app.kubernetes.io/name": "checkout" })
            }
            _ => json!({}),
        };
        let annotations = match self.kind {
            PodKind::Static => json!({
                "kubernetes.io/config.hash": Self::STATIC_HASH,
                "kubernetes.io/config.mirror": Self::STATIC_HASH,
                "kubernetes.io/config.source": "file",
            }),
            _ => json!({ "resource.opentelemetry.io/service.name": "named", "other": "not kept" }),
        };
        json!({
            "metadata": {
                "name": self.name, "namespace": NAMESPACE,
                "labels": labels, "annotations": annotations, "ownerReferences": owners,
            },
            "spec": {
                "nodeName": self.node, "hostNetwork": self.host_network,
                "automountServiceAccountToken": false,
                "initContainers": [{ "name": "init", "image": "registry.example/init:1" }],
                "containers": [{ "name": "app", "image": "registry.example/app:1" }],
            },
        })
    }

    pub(crate) fn status(&self) -> Value {
        let id = format!("containerd://{}", self.container_id());
        let init = format!("containerd://{}", "f".repeat(24) + &self.container_id()[..40]);
        let started = self.started.to_string();
        json!({ "status": {
            "phase": "Running", "podIP": self.ip, "podIPs": [{ "ip": self.ip }], "startTime": started,
            "initContainerStatuses": [{
                "name": "init", "image": "sha256:1", "imageID": "", "ready": true, "restartCount": 0, "containerID": init,
                "state": { "terminated": {
                    "exitCode": 0, "containerID": init, "startedAt": started, "finishedAt": started,
                } },
            }],
            "containerStatuses": [{
                "name": "app", "image": "sha256:2", "imageID": "", "ready": true, "restartCount": 0, "containerID": id,
                "state": { "running": { "startedAt": started } },
            }],
        } })
    }
}

impl Cluster {
    /// Starts a server with the shipped objects, including the agent's role and service account, or returns
    /// why it cannot.
    pub(crate) async fn start() -> Result<Self, String> {
        let programs = programs(&["etcd", "kube-apiserver", "kubectl"])?;
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join(STATE);
        let server = tokio::task::block_in_place(|| ApiServer::start(&programs, &state, "127.0.0.1", 0));
        let server = server.unwrap();
        let config = Kubeconfig::read_from(server.admin()).unwrap();
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let cluster = Self { server, client, directory };
        cluster.kubectl(&["apply", "-f", deploy("tapio.yaml").to_str().unwrap()]);
        for arguments in ["create namespace shop", "create serviceaccount default --namespace=shop"] {
            cluster.kubectl(&arguments.split(' ').collect::<Vec<_>>());
        }
        Ok(cluster)
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        tokio::task::block_in_place(|| self.server.kubectl(arguments)).unwrap()
    }

    /// Applies a manifest and returns the output.
    pub(crate) fn apply(&self, name: &str, text: &str, options: &[&str]) -> String {
        self.try_apply(name, text, options).unwrap()
    }

    /// Like [`Self::apply`], for a manifest that the server may refuse.
    pub(crate) fn try_apply(&self, name: &str, text: &str, options: &[&str]) -> Result<String, String> {
        let file = self.file(name);
        fs::write(&file, text).unwrap();
        let arguments = [&["apply", "-f", file.to_str().unwrap()], options].concat();
        tokio::task::block_in_place(|| self.server.kubectl(&arguments)).map_err(|error| format!("{error:#}"))
    }

    /// Writes a new token of the agent to the file that its kubeconfig names.
    pub(crate) fn renew_token(&self, options: &[&str]) {
        let mut arguments = vec!["create", "token", "tapio", "--namespace=tapio"];
        arguments.extend(options);
        fs::write(self.file("token"), self.kubectl(&arguments).trim()).unwrap();
    }

    /// The agent's kubeconfig. It names files for the credentials that are rotated.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        if !self.file("token").exists() {
            self.renew_token(&[]);
        }
        let (path, ca) = (self.file("kubeconfig"), self.file("agent-ca.crt"));
        if !ca.exists() {
            fs::copy(self.state().join("ca.crt"), &ca).unwrap();
        }
        let (token, url) = (self.file("token"), self.server.url());
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: \"{url}\", certificate-authority: \"{}\"}}}}]\n\
             users: [{{name: a, user: {{tokenFile: \"{}\"}}}}]\n",
            ca.display(),
            token.display(),
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn state(&self) -> PathBuf {
        self.file(STATE)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) async fn node(&self, name: &str, address: &str) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let addresses =
            json!([{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }]);
        let status = json!({ "status": { "addresses": addresses } });
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await.unwrap();
    }

    /// Creates a pod, reports it running, and returns its UID.
    pub(crate) async fn pod(&self, shape: &Shape) -> String {
        let pods = self.pods();
        let pod: Pod = serde_json::from_value(shape.spec()).unwrap();
        let made = pods.create(&PostParams::default(), &pod).await.unwrap();
        self.report(shape).await;
        made.metadata.uid.unwrap()
    }

    pub(crate) async fn report(&self, shape: &Shape) {
        let patch = Patch::Strategic(shape.status());
        self.pods().patch_status(&shape.name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Creates a pod that has no status yet.
    pub(crate) async fn pod_without_status(&self, shape: &Shape) -> String {
        let pod: Pod = serde_json::from_value(shape.spec()).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap().metadata.uid.unwrap()
    }

    pub(crate) async fn many_pods(&self, shapes: Vec<Shape>) {
        stream::iter(&shapes)
            .for_each_concurrent(AT_ONCE, |shape| async { drop(self.pod(shape).await) })
            .await;
    }

    pub(crate) async fn delete_pod(&self, name: &str) {
        let at_once = DeleteParams::default().grace_period(0);
        self.pods().delete(name, &at_once).await.unwrap();
    }

    pub(crate) async fn service(&self, name: &str, address: &str) {
        let services = Api::<Service>::namespaced(self.client.clone(), NAMESPACE);
        let service = json!({
            "metadata": { "name": name },
            "spec": { "clusterIP": address, "ports": [{ "port": 80 }], "selector": { "app": name } },
        });
        services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    }

    /// Gives the server a certificate of another CA, and returns the file with that CA's certificate.
    pub(crate) fn rotate_authority(&self) -> PathBuf {
        tokio::task::block_in_place(|| {
            let state = &self.state();
            certificate::make(state, "ca2", "/CN=kube-2", For::Authority, "").unwrap();
            self.server.certify("ca2").unwrap();
            let ca = state.join("ca2.crt");
            // The admin trusts both CAs.
            let trust = fs::read_to_string(state.join(TRUST)).unwrap() + &fs::read_to_string(&ca).unwrap();
            fs::write(state.join(TRUST), trust).unwrap();
            self.server.program("kube-apiserver").stop().unwrap();
            self.server.resume().unwrap();
            ca
        })
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = apiserver::remove(&self.state()) {
            eprintln!("{error:#}");
        }
    }
}
