//! The chart: its defaults are the manifest, and it refuses values that make no sense.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tapio_server::config::Config;

use crate::{deploy, file, forms::programs, named, objects, one, server};

pub(crate) struct Helm(PathBuf);

/// Values of all that is off.
pub(crate) const EVERYTHING: [&str; 7] = [
    "config.notify.objects.kubernetes.incidents=true",
    "config.notify.objects.kubernetes.events=true",
    "config.ahti.api=0.0.0.0:8080",
    "api.service=true",
    "api.tlsSecret=tapio-server-tls",
    "alerts.senders[0].name=alertmanager",
    "alerts.senders[0].namespace=monitoring",
];

impl Helm {
    pub(crate) fn of(programs: &Path) -> Self {
        Self(programs.join("helm"))
    }

    fn or_skip(test: &str) -> Option<Self> {
        match programs(&["helm"]) {
            Ok(programs) => Some(Self::of(&programs)),
            Err(reason) => {
                println!("SKIP {test}: {reason}");
                None
            }
        }
    }

    /// Returns its stdout, or its error output.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let mut helm = Command::new(&self.0);
        for what in ["CACHE", "CONFIG", "DATA"] {
            helm.env(format!("HELM_{what}_HOME"), directory.path().join(what));
        }
        let output = helm.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    pub(crate) fn template(&self, set: &[&str]) -> Result<String, String> {
        self.template_of("tapio-server", "tapio-server", set)
    }

    /// Installs or upgrades a release in a namespace of its name.
    pub(crate) fn install(&self, release: &str, kubeconfig: &str, set: &[&str]) -> Result<String, String> {
        let chart = deploy("helm/tapio-server");
        let namespace = format!("--namespace={release}");
        let flags = [
            "upgrade",
            "--install",
            release,
            chart.to_str().unwrap(),
            &namespace,
            "--create-namespace",
            kubeconfig,
        ];
        let set = set.iter().flat_map(|set| ["--set", set]);
        self.run(&flags.into_iter().chain(set).collect::<Vec<_>>())
    }

    fn template_of(&self, chart: &str, release: &str, set: &[&str]) -> Result<String, String> {
        let chart = deploy("helm").join(chart);
        let mut arguments = vec!["template", release, chart.to_str().unwrap(), "--namespace=tapio"];
        arguments.extend(set.iter().flat_map(|set| ["--set", set]));
        self.run(&arguments)
    }
}

/// The schema has every setting of the server, with the server's documentation. `BLESS=1` writes it.
#[test]
fn the_schema_has_every_setting() {
    let file = deploy("helm/tapio-server/values.schema.json");
    let mut schema: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut settings = Config::json_schema();
    // Without these the chart would mount nothing, or serve on an unknown port.
    settings["required"] = json!(["listen", "polku", "state_dir"]);
    settings["properties"]["polku"]["required"] = json!(["listen"]);
    if std::env::var_os("BLESS").is_some() {
        schema["properties"]["config"] = settings;
        fs::write(file, format!("{schema:#}\n")).unwrap();
        return;
    }
    assert!(
        schema["properties"]["config"] == settings,
        "settings and schema differ: BLESS=1 cargo test --package tapio-server --test deploy the_schema writes them into it"
    );
}

#[test]
fn the_defaults_are_the_manifest() {
    let Some(helm) = Helm::or_skip("the_defaults_are_the_manifest") else { return };
    // A release has a role of its own name.
    let rendered = helm.template(&[]).unwrap();
    let rendered = ["portti", "auth"]
        .iter()
        .fold(rendered, |text, role| text.replace(&format!("tapio-server-{role}"), &format!("tapio-{role}")));
    let sorted = |objects: Vec<Value>| {
        let mut objects: Vec<_> = objects
            .into_iter()
            .map(|object| (object["kind"].to_string() + &object["metadata"]["name"].to_string(), object))
            .collect();
        objects.sort_by(|(one, _), (other, _)| one.cmp(other));
        objects
    };
    // Helm creates the namespace and would refuse to adopt it, so the chart has none.
    let shipped = server().into_iter().filter(|object| object["kind"] != "Namespace");
    assert_eq!(sorted(objects(&rendered)), sorted(shipped.collect()));
    helm.run(&["lint", "--strict", deploy("helm/tapio-server").to_str().unwrap()]).unwrap();
}

#[test]
fn values_go_where_they_belong() {
    let Some(helm) = Helm::or_skip("values_go_where_they_belong") else { return };
    let render = |set: &[&str]| objects(&helm.template(set).unwrap());
    let kept = render(&["volume.claim=true", "volume.size=9Gi", "volume.storageClass=fast"]);
    let claim = &one(&kept, "PersistentVolumeClaim")["spec"];
    assert_eq!(
        (&claim["storageClassName"], &claim["resources"]["requests"]["storage"]),
        (&json!("fast"), &json!("9Gi"))
    );
    let volume = &one(&kept, "Deployment")["spec"]["template"]["spec"]["volumes"][1];
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], "tapio-server");

    let secrets =
        render(&["config.portti.secrets=hashes"]).into_iter().find(|object| object["kind"] == "ClusterRole");
    assert!(
        secrets.unwrap()["rules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["resources"] == json!(["secrets"]))
    );
    let unwatched = render(&["config.portti.kubernetes=off"]);
    named(&unwatched, "ClusterRoleBinding", "tapio-server-auth");
    assert!(
        one(&unwatched, "Deployment")["spec"]["template"]["spec"]
            .get("automountServiceAccountToken")
            .is_none()
    );
    let alone = render(&["config.portti.kubernetes=off", "config.ahti.auth=none"]);
    assert!(!alone.iter().any(|object| object["kind"].as_str().unwrap().starts_with("ClusterRole")));
    assert_eq!(one(&alone, "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"], false);

    let ports = render(&["config.listen=[::]:9999", "config.polku.listen=[::]:5000"]);
    assert_eq!(one(&ports, "Service")["spec"]["ports"][0]["port"], 5000);
    let off = render(&["config.otlp.listen_http=off", "config.otlp.listen_grpc=[::]:5317"]);
    let served = one(&off, "Service")["spec"]["ports"].as_array().unwrap().clone();
    assert_eq!(
        (served.len(), &served[2]["name"], &served[2]["port"]),
        (3, &json!("otlp-grpc"), &json!(5317))
    );
    let container = &one(&ports, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&container["ports"][0]["containerPort"], &container["ports"][1]["containerPort"]),
        (&json!(5000), &json!(9999))
    );
}

/// What is off by default: as the files of `deploy/server` have it, and each only with its own value.
#[test]
fn objects_alerts_and_a_service_of_the_api_come_with_their_values_and_with_no_others() {
    let test = "objects_alerts_and_a_service_of_the_api_come_with_their_values_and_with_no_others";
    let Some(helm) = Helm::or_skip(test) else { return };
    let render = |set: &[&str]| objects(&helm.template(set).unwrap());
    let id = |object: &Value| (object["kind"].to_string(), object["metadata"]["name"].to_string());
    let defaults: Vec<_> = render(&[]).iter().map(id).collect();
    // As the files call it.
    let added = |set: &[&str]| -> Vec<Value> {
        let text = helm.template(set).unwrap();
        let text = ["incidents", "events", "alerts"]
            .iter()
            .fold(text, |text, of| text.replace(&format!("tapio-server-{of}"), &format!("tapio-{of}")));
        objects(&text).into_iter().filter(|object| !defaults.contains(&id(object))).collect()
    };
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(id);
        objects
    };
    let [incidents, events, api, service, tls, name, namespace] = EVERYTHING;
    let alone = added(&[incidents]);
    let shipped = [file("server/incidents/crd.yaml"), file("server/incidents/role.yaml")].concat();
    assert_eq!(sorted(alone), sorted(shipped));
    assert_eq!(sorted(added(&[events])), sorted(file("server/events-role.yaml")));
    assert_eq!(added(&[api, service]), file("server/api-service.yaml"));
    let shipped = [file("server/alerts.yaml"), file("server/api-service.yaml")].concat();
    assert_eq!(sorted(added(&[api, service, name, namespace])), sorted(shipped));
    for nothing in [
        "config.notify.objects.kubernetes.incidents=false",
        "config.notify.team.slack.channel=C1",
        "api.service=false",
        tls,
    ] {
        assert_eq!(added(&[nothing]), [] as [Value; 0], "{nothing}");
    }

    // The server has the files that its settings name, and probes are on the other port.
    let secured = render(&[tls]);
    let pod = &one(&secured, "Deployment")["spec"]["template"]["spec"];
    let text = one(&secured, "ConfigMap")["data"]["tapio-server.yaml"].as_str().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tapio-server.yaml");
    fs::write(&path, text).unwrap();
    let ahti = Config::of_file(&path).unwrap().ahti;
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == "tls").unwrap();
    for (file, name) in [(ahti.cert.file(), "tls.crt"), (ahti.key.file(), "tls.key")] {
        assert_eq!(file.unwrap(), Path::new(mount["mountPath"].as_str().unwrap()).join(name));
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let secret = json!({ "name": "tls", "secret": { "secretName": "tapio-server-tls" } });
    assert!(volumes.contains(&secret), "{volumes:?}");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "metrics");
    }
    // A server that writes objects needs a token, whatever else is off.
    let writes = render(&["config.portti.kubernetes=off", "config.ahti.auth=none", events]);
    assert_eq!(
        one(&writes, "Deployment")["spec"]["template"]["spec"].get("automountServiceAccountToken"),
        None
    );
}

#[test]
fn one_release_has_the_agents_and_the_server_that_they_send_to() {
    let Some(helm) = Helm::or_skip("one_release_has_the_agents_and_the_server_that_they_send_to") else {
        return;
    };
    let render = |set: &[&str]| helm.template_of("tapio-both", "tapio", set);
    let both = objects(&render(&[]).unwrap());
    // Of each chart the same as in a release of its own, but for where the agents send, and what the release is called.
    let of_server =
        objects(&helm.template(&[]).unwrap().replace("instance: tapio-server", "instance: tapio"));
    let name = |object: &Value| (object["kind"].to_string(), object["metadata"]["name"].to_string());
    for object in &of_server {
        assert!(both.contains(object), "{}", name(object).1);
    }
    let service = one(&of_server, "Service");
    let (host, port) = (&service["metadata"]["name"], &service["spec"]["ports"][0]["port"]);
    let endpoint = format!("{}:{port}", host.as_str().unwrap());
    let set = format!("config.polku.endpoint={endpoint}");
    let of_agents = objects(&helm.template_of("tapio", "tapio", &[&set]).unwrap());
    for object in &of_agents {
        assert!(both.contains(object), "{}", name(object).1);
    }
    assert_eq!(both.len(), of_server.len() + of_agents.len());
    let mut names: Vec<_> = both.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), both.len(), "two objects have one name");
    helm.run(&["lint", "--strict", deploy("helm/tapio-both").to_str().unwrap()]).unwrap();

    let kept = objects(&render(&["tapio-server.volume.claim=true", "tapio.image.tag=v9"]).unwrap());
    assert_eq!(one(&kept, "PersistentVolumeClaim")["metadata"]["name"], "tapio-server");
    for (release, set, said) in [
        ("tapio", "tapio.config.quue=1", "'quue' not allowed"),
        ("tapio", "tapio-server.volume.claim=perhaps", "/volume/claim"),
        ("tapio", "server.volume.claim=true", "'server' not allowed"),
        ("tapio", "tapio-server.config.polku.listen=0.0.0.0:5000", "set it to tapio-server:5000"),
        ("tapio-server", "tapio.image.tag=v9", "the release is called tapio-server"),
    ] {
        let refused = helm.template_of("tapio-both", release, &[set]).expect_err(set);
        assert!(refused.contains(said), "{set}: {refused}");
    }
}

#[test]
fn bad_values_are_refused_by_name() {
    let Some(helm) = Helm::or_skip("bad_values_are_refused_by_name") else { return };
    for (set, said) in [
        ("imag.tag=1", "'imag' not allowed"),
        ("config.quue=1", "'quue' not allowed"),
        ("config.roles=pulku", "/config/roles"),
        ("config.journal.max_bytes=1", "/config/journal/max_bytes"),
        ("config.listen=127.0.0.1:9091", "config.listen: 127.0.0.1:9091 cannot be reached"),
        ("config.listen=off", "config.listen: off cannot be reached"),
        ("config.polku.listen=127.0.0.1:1", "config.polku.listen: 127.0.0.1:1 cannot be reached"),
        ("config.otlp.listen_grpc=127.0.0.1:1", "config.otlp.listen_grpc: 127.0.0.1:1 cannot be reached"),
        ("config.otlp.window=soon", "/config/otlp/window"),
        ("config.state_dir=null", "'state_dir'"),
        ("volume.size=2", "/volume/size"),
        ("volume.claim=perhaps", "/volume/claim"),
        ("replicas=2", "'replicas' not allowed"),
        ("api.service=true", "config.ahti.api: 127.0.0.1:8080 cannot be reached"),
        ("api.tlsSecret=A_b", "/api/tlsSecret"),
        ("alerts.senders[0].name=alertmanager", "/alerts/senders/0"),
        ("nameOverride=A_b", "/nameOverride"),
    ] {
        let refused = helm.template(&[set]).expect_err(set);
        assert!(refused.contains(said), "{set}: {refused}");
    }
    let refused = helm.template(&EVERYTHING[5..]).unwrap_err();
    assert!(refused.contains("alerts.senders: they send to the API's Service"), "{refused}");
}
