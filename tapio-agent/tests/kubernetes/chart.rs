//! The chart: its values, the values it refuses, and a release from installation to removal.

use std::fs;

use serde_json::{Value, json};
use tapio_agent::config::Config;

use crate::support::{Helm, cluster_or_skip, deploy, objects, one};

/// Capabilities that the chart may add to BPF and PERFMON.
pub(crate) const EVERY_CAPABILITY: &[&str] = &["SYS_ADMIN", "SYS_PTRACE", "SYS_RESOURCE"];

/// All values, and with them all settings of the agent.
pub(crate) fn every_value() -> Value {
    // The agent reads `off` as a string.
    let strict = serde_saphyr::options! { strict_booleans: true };
    let mut config: Value = serde_saphyr::from_str_with_options(&Config::default_file(), strict).unwrap();
    let settings = config.as_object_mut().unwrap();
    settings.remove(NODE_NAME);
    for (key, value) in
        [("listen", "[::]:9191"), ("cgroup_root", "/host/cgroup"), ("state_dir", "/var/lib/t, {x}")]
    {
        settings.insert(key.to_owned(), value.into());
    }
    json!({
        "image": { "repository": "registry.example/tapio", "tag": "1", "pullPolicy": "Always", "pullSecrets": ["key"] },
        "config": config,
        "env": [{ "name": "OTEL_EXPORTER_OTLP_HEADERS", "valueFrom": { "secretKeyRef": { "name": "otlp", "key": "h" } } }],
        "capabilities": EVERY_CAPABILITY,
        "seccompProfile": "Unconfined",
        "appArmorProfile": "Unconfined",
        "priorityClassName": "system-cluster-critical",
        "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
        "maxUnavailable": 1,
        "terminationGracePeriodSeconds": 400,
        "nodeSelector": { "disk": "ssd" },
        "affinity": { "podAntiAffinity": {} },
        "tolerations": [{ "key": "gpu", "operator": "Exists" }],
        "podAnnotations": { "a": "b" },
        "podLabels": { "team": "platform" },
        "schedulerMetrics": true,
        "podVolumes": "/var/lib/kubelet/pods",
        "volumes": [{ "name": "ca", "secret": { "secretName": "ca" } }],
        "volumeMounts": [{ "name": "ca", "mountPath": "/etc/ca" }],
        "podMonitor": { "enabled": true, "interval": "15s", "labels": { "release": "prometheus" } },
        "global": {},
    })
}

/// Each pod takes its node's name from the environment, which overrides the file.
const NODE_NAME: &str = "node_name";

fn schema_file() -> Value {
    serde_json::from_slice(&fs::read(deploy("helm/tapio/values.schema.json")).unwrap()).unwrap()
}

/// The schema has every setting of the agent, with the agent's documentation. `BLESS=1` writes it.
#[test]
fn the_schema_has_every_setting() {
    let mut schema = schema_file();
    let mut settings = Config::json_schema();
    settings["properties"].as_object_mut().unwrap().remove(NODE_NAME);
    // Without these the chart would mount nothing, or at an unknown place.
    settings["required"] = json!(["cgroup_root", "listen", "state_dir"]);
    if std::env::var_os("BLESS").is_some() {
        schema["properties"]["config"] = settings;
        fs::write(deploy("helm/tapio/values.schema.json"), format!("{schema:#}\n")).unwrap();
        return;
    }
    assert!(
        schema["properties"]["config"] == settings,
        "settings and schema differ: BLESS=1 cargo test --package tapio-agent --test kubernetes the_schema writes them into it"
    );
    let named = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(named(&schema["properties"]), named(&every_value()), "every_value() has all there are");
}

#[test]
fn bad_values_are_refused_by_name() {
    let Some(helm) = Helm::or_skip("bad_values_are_refused_by_name") else { return };
    for (set, said) in [
        ("imag.tag=1", "'imag' not allowed"),
        ("image.repository=", "/image/repository"),
        ("image.tag=a b", "/image/tag"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("config.quue=1", "'quue' not allowed"),
        ("config.queue=0", "/config/queue"),
        ("config.queue=many", "/config/queue"),
        ("config.output=xml", "/config/output"),
        ("config.kubernetes=false", "/config/kubernetes"),
        ("config.fold.window=30", "/config/fold/window"),
        ("config.observers={network,disk}", "/config/observers/1"),
        ("config.polku.endpoint=polku", "/config/polku/endpoint"),
        ("config.polku.endpoint={a:1,b}", "/config/polku/endpoint/1"),
        ("config.polku.ca=ca.crt", "/config/polku/ca"),
        ("config.observer.network.rtt.ratio=1", "/config/observer/network/rtt/ratio"),
        ("config.observer.network.retransmit.min_share=5", "/config/observer/network/retransmit/min_share"),
        ("config.state_dir=state", "/config/state_dir"),
        ("config.state_dir=null", "'state_dir'"),
        ("config.node_name=a", "'node_name' not allowed"),
        ("config.listen=127.0.0.1:9090", "config.listen: 127.0.0.1:9090 cannot be reached"),
        ("podMonitor.enabled=true,config.listen=off", "podMonitor.enabled: there are no metrics"),
        ("capabilities={SYS_MODULE}", "/capabilities/0"),
        ("capabilities={NET_ADMIN}", "/capabilities/0"),
        ("capabilities={BPF}", "/capabilities/0"),
        ("privileged=true", "'privileged' not allowed"),
        ("seccompProfile=none", "/seccompProfile"),
        ("appArmorProfile=none", "/appArmorProfile"),
        ("priorityClassName=A B", "/priorityClassName"),
        ("maxUnavailable=some", "/maxUnavailable"),
        ("terminationGracePeriodSeconds=-1", "/terminationGracePeriodSeconds"),
        ("env[0].nam=x", "/env/0"),
        ("podLabels.a=1", "/podLabels/a"),
        ("resources.limit.memory=1Mi", "'limit' not allowed"),
        ("schedulerMetrics=yes", "/schedulerMetrics"),
        ("podVolumes=pods", "/podVolumes"),
        ("podMonitor.interval=soon", "/podMonitor/interval"),
        ("podMonitor.enabled=yes", "/podMonitor/enabled"),
    ] {
        let refused = helm.template(&["--set", set]).expect_err(set);
        assert!(refused.contains(said), "{set}: {refused}");
    }
    helm.run(&["lint", "--strict", deploy("helm/tapio").to_str().unwrap()]).unwrap();
}

#[test]
fn values_go_where_they_belong() {
    let Some(helm) = Helm::or_skip("values_go_where_they_belong") else { return };
    let render = |values: &[&str]| objects(&helm.template(values).unwrap());
    // Without a listener there are no probes.
    let quiet = render(&["--set", "config.listen=off"]);
    let template = &one(&quiet, "DaemonSet")["spec"]["template"];
    let container = template["spec"]["containers"][0].as_object().unwrap();
    assert!(!container.keys().any(|key| key.ends_with("Probe") || key == "ports"), "{container:?}");
    assert_eq!(template["metadata"]["annotations"].as_object().unwrap().len(), 1);
    // Without names from Kubernetes there are no permissions and no token.
    let alone = render(&["--set", "config.kubernetes=off"]);
    assert!(!alone.iter().any(|object| object["kind"].as_str().unwrap().starts_with("ClusterRole")));
    for pod in [&one(&alone, "DaemonSet")["spec"]["template"]["spec"], &one(&alone, "Pod")["spec"]] {
        assert_eq!(pod["automountServiceAccountToken"], false);
    }
    // The test pod has the agent's view of the node.
    let full = render(&["--values", &helm.values(&every_value())]);
    let agent = &one(&full, "DaemonSet")["spec"]["template"];
    let test = &one(&full, "Pod")["spec"];
    assert_eq!((&test["containers"][0]["args"], &test["hostPID"]), (&json!(["doctor"]), &json!(true)));
    for what in ["env", "image", "securityContext", "volumeMounts"] {
        assert_eq!(test["containers"][0][what], agent["spec"]["containers"][0][what], "{what}");
    }
    assert_eq!(test["volumes"], agent["spec"]["volumes"]);
    let mounts = agent["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let pods = json!({
        "name": "pods", "mountPath": "/host/var/lib/kubelet/pods", "readOnly": true,
        "mountPropagation": "HostToContainer",
    });
    assert!(mounts.contains(&pods), "{mounts:#?}");
    assert_eq!(agent["spec"]["containers"][0]["ports"][0]["containerPort"], 9191);
    assert_eq!(agent["metadata"]["annotations"].get("prometheus.io/scrape"), None);
    assert_eq!(agent["metadata"]["labels"]["team"], "platform");
}

/// Installed, upgraded and removed, next to the objects of `tapio.yaml`.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_changes_and_goes() {
    const TEST: &str = "a_release_comes_changes_and_goes";
    let Some(helm) = Helm::or_skip(TEST) else { return };
    let cluster = cluster_or_skip!(TEST);
    let (chart, admin) = (deploy("helm/tapio"), format!("--kubeconfig={}", cluster.server.admin().display()));
    let run = |arguments: &[&str]| {
        let arguments = [arguments, &["--namespace=watch", &admin]].concat();
        tokio::task::block_in_place(|| helm.run(&arguments)).unwrap()
    };
    let notes = run(&["install", "second", chart.to_str().unwrap(), "--create-namespace"]);
    assert!(notes.contains("helm --namespace watch test second --logs"), "{notes}");
    assert!(notes.contains("go to the log of each pod, as JSON lines"), "{notes}");
    let checksum = || {
        let path = r"-o=jsonpath={.spec.template.metadata.annotations.checksum/config}";
        cluster.kubectl(&["get", "daemonset/second", "--namespace=watch", path])
    };
    let first = checksum();
    let collected = ["--set=config.queue=16", "--set=config.otlp.endpoint=http://c:4318"];
    let notes = run(&[&["upgrade", "second", chart.to_str().unwrap()][..], &collected].concat());
    assert!(!notes.contains("the log of each pod"), "{notes}");
    assert!(first.len() == 64 && first != checksum(), "{first}");
    let config = cluster.kubectl(&[
        "get",
        "configmap/second",
        "--namespace=watch",
        "-o=jsonpath={.data.tapio\\.yaml}",
    ]);
    assert!(config.contains("queue: 16"), "{config}");
    run(&["uninstall", "second"]);
    let kinds = "daemonsets,configmaps,serviceaccounts,resourcequotas,clusterroles,clusterrolebindings";
    let left = cluster.kubectl(&[
        "get",
        kinds,
        "--all-namespaces",
        "-l=app.kubernetes.io/instance=second",
        "-o=name",
    ]);
    assert_eq!(left, "");
}
