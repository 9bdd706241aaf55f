//! The shipped manifests: an API server accepts them, they request no more than the agent needs, and all
//! forms agree.

use std::{fs, process::Command};

use serde_json::{Value, json};
use tapio_agent::cli;

use crate::{
    chart::{EVERY_CAPABILITY, every_value},
    support::{Cluster, Helm, cluster_or_skip, deploy, objects, one, shipped},
};

const OVERLAYS: &[&str] = &["base", "polku", "otlp"];

fn kustomize(cluster: &Cluster, overlay: &str) -> String {
    cluster.kubectl(&["kustomize", deploy("kustomize").join(overlay).to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_is_valid_and_asks_for_little() {
    const TEST: &str = "every_form_is_valid_and_asks_for_little";
    let Some(helm) = Helm::or_skip(TEST) else { return };
    let cluster = cluster_or_skip!(TEST);
    // The part of the operator's definition that the chart uses.
    cluster.apply("podmonitor.yaml", include_str!("data/podmonitor.yaml"), &[]);
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com"]);
    let every_value = helm.values(&every_value());
    let mut forms = vec![
        ("tapio.yaml".to_owned(), fs::read_to_string(deploy("tapio.yaml")).unwrap()),
        ("chart".to_owned(), helm.template(&[]).unwrap()),
        ("every value".to_owned(), helm.template(&["--values", &every_value]).unwrap()),
    ];
    forms.extend(OVERLAYS.iter().map(|name| (format!("overlay {name}"), kustomize(&cluster, name))));
    for (name, text) in &forms {
        let said = cluster.apply("form.yaml", text, &["--dry-run=server", "--validate=strict"]);
        let objects = objects(text);
        assert_eq!(said.lines().count(), objects.len(), "{name}: {said}");
        let (beside, seccomp) = if name == "every value" {
            (EVERY_CAPABILITY, "Unconfined")
        } else {
            (&[][..], "RuntimeDefault")
        };
        asks_for_little(name, &objects, beside, seccomp);
    }
    // The server is strict: it refuses the same manifest with an unknown field.
    let wrong = forms[0].1.replace("hostPID:", "hostPid:");
    let refused =
        cluster.try_apply("form.yaml", &wrong, &["--dry-run=server", "--validate=strict"]).unwrap_err();
    assert!(refused.contains(r#"unknown field "spec.template.spec.hostPid""#), "{refused}");
}

fn asks_for_little(name: &str, objects: &[Value], beside: &[&str], seccomp: &str) {
    for object in objects {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let reads = |verb: &Value| verb == "get" || verb == "list" || verb == "watch";
            assert!(rule["verbs"].as_array().unwrap().iter().all(reads), "{name}: {rule}");
            if let Some(urls) = rule.get("nonResourceURLs") {
                assert_eq!((urls, name), (&json!(["/metrics"]), "every value"), "{rule}");
            } else {
                assert_eq!(rule["apiGroups"], json!([""]), "{name}: {rule}");
            }
        }
        let pod = match object["kind"].as_str().unwrap() {
            "DaemonSet" => &object["spec"]["template"]["spec"],
            "Pod" => &object["spec"],
            _ => continue,
        };
        assert_eq!((pod.get("hostNetwork"), pod.get("hostIPC")), (None, None), "{name}");
        let expected = [&["BPF", "PERFMON"], beside].concat();
        for container in pod["containers"].as_array().unwrap() {
            let mut security = container["securityContext"].clone();
            security.as_object_mut().unwrap().remove("appArmorProfile");
            assert_eq!(
                security,
                json!({
                    "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "runAsUser": 0, "capabilities": { "drop": ["ALL"], "add": expected },
                    "seccompProfile": { "type": seccomp },
                }),
                "{name}"
            );
            for volume in
                pod["volumes"].as_array().unwrap().iter().filter(|volume| volume.get("hostPath").is_some())
            {
                let mounts = container["volumeMounts"].as_array().unwrap().iter();
                let mount = mounts.clone().find(|mount| mount["name"] == volume["name"]).unwrap();
                assert_eq!(mount["readOnly"] == true, volume["name"] != "state", "{name}: {mount}");
            }
        }
    }
}

#[test]
fn the_forms_say_the_same() {
    let (file, base) = (deploy("tapio.yaml"), deploy("kustomize/base/tapio.yaml"));
    assert!(
        fs::read(&file).unwrap() == fs::read(&base).unwrap(),
        "{} and {} differ: copy the one that is right",
        file.display(),
        base.display()
    );
    let Some(helm) = Helm::or_skip("the_forms_say_the_same") else { return };
    let sorted = |objects: Vec<Value>| {
        let mut objects: Vec<_> =
            objects.into_iter().map(|object| (object["kind"].to_string(), object)).collect();
        objects.sort_by(|(one, _), (other, _)| one.cmp(other));
        objects
    };
    // Helm creates the namespace and would refuse to adopt it, so the chart has none. Only the chart has the
    // test pod.
    let rendered = objects(&helm.template(&[]).unwrap()).into_iter().filter(|object| object["kind"] != "Pod");
    let shipped = shipped().into_iter().filter(|object| object["kind"] != "Namespace");
    assert_eq!(sorted(rendered.collect()), sorted(shipped.collect()));
}

/// The agent accepts the file and environment of each form.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_takes_its_configuration() {
    const TEST: &str = "the_agent_takes_its_configuration";
    let Some(helm) = Helm::or_skip(TEST) else { return };
    let cluster = cluster_or_skip!(TEST);
    let every_value = helm.values(&every_value());
    let forms = OVERLAYS.iter().map(|overlay| kustomize(&cluster, overlay));
    for text in forms.chain([helm.template(&["--values", &every_value]).unwrap()]) {
        let objects = objects(&text);
        let config = one(&objects, "ConfigMap")["data"]["tapio.yaml"].as_str().unwrap();
        let file = cluster.file("tapio.yaml");
        fs::write(&file, config).unwrap();
        let check = Command::new(env!("CARGO_BIN_EXE_tapio"))
            .args(["config", "--check"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));

        let container = &one(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
        // Secrets are unknown here.
        let known = |variable: &'_ Value| match variable["name"].as_str()? {
            "TAPIO_CONFIG" => Some(("TAPIO_CONFIG".into(), file.clone().into_os_string())),
            "NODE_NAME" => Some(("NODE_NAME".into(), "node-a".into())),
            name => Some((name.into(), variable["value"].as_str()?.into())),
        };
        let environment: Vec<_> = container["env"].as_array().unwrap().iter().filter_map(known).collect();
        let command = cli::parse(["tapio".into()], environment).unwrap();
        let cli::Command::Run(config) = command else { panic!("{command:?}") };
        assert_eq!(&*config.node(), "node-a");
        // They are mounted where the agent reads them.
        let mounts = container["volumeMounts"].as_array().unwrap();
        for path in [&config.cgroup_root, &config.state_dir] {
            assert!(
                mounts.iter().any(|mount| mount["mountPath"] == path.as_path().to_str().unwrap()),
                "{path}"
            );
        }
        let polku = config.polku.endpoint.to_string();
        let expected = if text.contains("POLKU_ENDPOINT") { "polku.observability.svc:50051" } else { "off" };
        assert_eq!(polku, expected);
    }
}

/// The label of the shipped namespace is the strictest that admits the pod.
#[tokio::test(flavor = "multi_thread")]
async fn pod_security_admits_it_where_it_is_shipped_to() {
    let cluster = cluster_or_skip!("pod_security_admits_it_where_it_is_shipped_to");
    cluster.kubectl(&["create", "namespace", "strict"]);
    cluster.kubectl(&["create", "serviceaccount", "tapio", "--namespace=strict"]);
    cluster.kubectl(&["label", "namespace", "strict", "pod-security.kubernetes.io/enforce=baseline"]);
    let template = one(&shipped(), "DaemonSet")["spec"]["template"].clone();
    let pod_in = |namespace: &str| {
        let metadata =
            json!({ "name": "tapio-x", "namespace": namespace, "labels": template["metadata"]["labels"] });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
            .to_string()
    };
    let said = cluster.apply("pod.yaml", &pod_in("tapio"), &["--dry-run=server"]);
    assert!(said.contains("created"), "{said}");
    let refused = cluster.try_apply("pod.yaml", &pod_in("strict"), &["--dry-run=server"]).unwrap_err();
    assert!(refused.contains(r#"violates PodSecurity "baseline:latest""#), "{refused}");
    for reason in ["hostPID=true", "hostPath volumes", r#"must not include "BPF", "PERFMON""#] {
        assert!(refused.contains(reason), "{reason}: {refused}");
    }
}
