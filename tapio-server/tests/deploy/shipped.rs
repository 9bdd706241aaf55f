//! `deploy/server/tapio-server.yaml`: its parts agree with each other, with the agents' manifest, and with the
//! settings.

use std::fs;

use serde_json::{Value, json};
use tapio_server::config::Config;

use crate::{file, named, one, server};

const CONFIG: &str = "tapio-server.yaml";

/// Otherwise `kubectl apply` of one would take a label of the other away.
#[test]
fn the_namespace_is_the_agents() {
    assert_eq!(one(&server(), "Namespace"), one(&file("tapio.yaml"), "Namespace"));
}

#[test]
fn the_role_is_portti_s() {
    let roles = file("server/portti-role.yaml");
    let role = roles.iter().find(|role| role["metadata"]["name"] == "tapio-portti").unwrap();
    let objects = server();
    assert_eq!(
        named(&objects, "ClusterRole", "tapio-portti"),
        role,
        "copy the one that is right: portti-role.yaml or tapio-server.yaml"
    );
    let binding = named(&objects, "ClusterRoleBinding", "tapio-portti");
    assert_eq!(binding["roleRef"]["name"], "tapio-portti");
    let account = &one(&objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"];
    assert_eq!(&binding["subjects"][0]["name"], account);
    named(&objects, "ServiceAccount", account.as_str().unwrap());
    for rule in role["rules"].as_array().unwrap() {
        assert_eq!(rule["verbs"], json!(["get", "list", "watch"]), "{rule}");
    }
}

#[test]
fn the_server_may_ask_about_users_and_users_get_their_rights_with_view_and_edit() {
    let objects = server();
    let account = &one(&objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"];
    for (role, binding, rules, subject) in [
        (
            "tapio-auth",
            "tapio-auth",
            json!([
                { "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"] },
                { "apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"] },
            ]),
            account,
        ),
        (
            "tapio-reader",
            "tapio-server-reader",
            json!([{ "apiGroups": ["tapio.dev"], "resources": ["incidents"], "verbs": ["get"] }]),
            &json!("tapio-reader"),
        ),
    ] {
        assert_eq!(named(&objects, "ClusterRole", role)["rules"], rules);
        let binding = named(&objects, "ClusterRoleBinding", binding);
        assert_eq!((&binding["roleRef"]["name"], &binding["subjects"][0]["name"]), (&json!(role), subject));
    }
    assert_eq!(named(&objects, "ClusterRole", "tapio-feedback")["rules"][0]["verbs"], json!(["update"]));
    for (role, to) in [("tapio-reader", "view"), ("tapio-feedback", "edit")] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        assert_eq!(named(&objects, "ClusterRole", role)["metadata"]["labels"][label], "true");
    }
    // Nothing runs as who may read everything.
    assert_eq!(named(&objects, "ServiceAccount", "tapio-reader")["automountServiceAccountToken"], false);
}

#[test]
fn the_server_takes_its_configuration_and_the_pod_fits_it() {
    let objects = server();
    let text = one(&objects, "ConfigMap")["data"][CONFIG].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(CONFIG);
    fs::write(&path, text).unwrap();
    let config = Config::of_file(&path).unwrap();

    let template = &one(&objects, "Deployment")["spec"]["template"];
    let sum = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let sum: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(template["metadata"]["annotations"]["checksum/config"], sum);

    let container = &template["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
    let is_writable = at(config.state_dir.as_path().to_str().unwrap()).get("readOnly").is_none();
    assert!(is_writable);
    assert_eq!(container["env"][0]["name"], "TAPIO_SERVER_CONFIG");
    let named = container["env"][0]["value"].as_str().unwrap();
    assert_eq!(at(named.strip_suffix(&format!("/{CONFIG}")).unwrap())["name"], "config");

    // Ports of the container, of the service, and of the settings.
    let listen = config.listen.0.unwrap().0;
    assert!(listen.ip().is_unspecified() && config.polku.listen.0.ip().is_unspecified());
    let [grpc, http] = [config.otlp.listen_grpc, config.otlp.listen_http].map(|listen| listen.0.unwrap().0);
    assert!(grpc.ip().is_unspecified() && http.ip().is_unspecified());
    let ports = [
        ("polku", config.polku.listen.0.port()),
        ("metrics", listen.port()),
        ("otlp-grpc", grpc.port()),
        ("otlp-http", http.port()),
    ];
    let service = one(&objects, "Service");
    for (nth, (name, port)) in ports.into_iter().enumerate() {
        assert_eq!(container["ports"][nth], json!({ "name": name, "containerPort": port }));
        let served = &service["spec"]["ports"][nth];
        assert_eq!((&served["targetPort"], &served["port"]), (&json!(name), &json!(port)));
    }
    assert!(config.ahti.api.0.unwrap().0.ip().is_loopback(), "it is reached by port-forwards");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "metrics");
    }
}

#[test]
fn the_pod_has_no_rights_on_its_node() {
    let objects = server();
    let deployment = one(&objects, "Deployment");
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["spec"]["strategy"]),
        (&json!(1), &json!({ "type": "Recreate" }))
    );
    let pod = &deployment["spec"]["template"]["spec"];
    let security = &pod["securityContext"];
    assert_eq!((&security["runAsNonRoot"], &security["runAsUser"]), (&json!(true), &json!(65532)));
    assert_eq!(security["seccompProfile"], json!({ "type": "RuntimeDefault" }));
    for key in ["hostPID", "hostNetwork", "hostIPC"] {
        assert_eq!(pod.get(key), None);
    }
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
        })
    );
    assert!(!pod["volumes"].to_string().contains("hostPath"));
}

#[test]
fn the_service_and_kubectl_tapio_find_the_pod() {
    let objects = server();
    let deployment = one(&objects, "Deployment");
    let labels: &Value = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/name"], "tapio-server");
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&one(&objects, "Service")["spec"]["selector"], labels);
    let api = file("server/api-service.yaml");
    assert_eq!(&one(&api, "Service")["spec"]["selector"], labels);
    // Variables of the service would be settings.
    assert_eq!(deployment["spec"]["template"]["spec"]["enableServiceLinks"], false);
}
