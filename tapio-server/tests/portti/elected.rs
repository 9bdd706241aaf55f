//! Two replicas of PORTTI and one server: one of them reports, the other takes over, nothing is reported twice and nothing missed.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tapio_occurrence::{
    Occurrence,
    kubernetes::{Change, Deleted, Fact, Object, Verb},
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    process::{PROGRAM, Server, free_address, wait_until},
    support::{Cluster, Portti, cluster_or_skip, deploy, objects},
};

/// A pod of the overlay, as a process.
struct Replica {
    server: Server,
    directory: TempDir,
}

/// Starts one with what the overlay's pods have, and their permissions.
fn replica(cluster: &Cluster, receiver: &Server, directory: TempDir) -> Replica {
    let manifest = fs::read_to_string(deploy("kustomize/server-portti/portti.yaml")).unwrap();
    let objects = objects(&manifest);
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    let mut command = Command::new(PROGRAM);
    for variable in deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let value = match name {
            "TAPIO_SERVER_PORTTI_POLKU_ENDPOINT" => format!("http://{}", receiver.address),
            "TAPIO_SERVER_LISTEN" => continue,
            _ => variable["value"].as_str().unwrap().to_owned(),
        };
        command.env(name, value);
    }
    command.env("KUBECONFIG", Portti::kubeconfig(cluster, "tapio"));
    let server = Server::start_as(command, free_address(), directory.path(), &["--cluster=test"]);
    Replica { server, directory }
}

impl Replica {
    fn reports(&self) -> bool {
        self.server.status()["roles"]["portti"]["election"]["reports"] == true
    }

    /// Waits until its status says this of the Lease.
    fn is_told(&self, trouble: &str) {
        let election = || self.server.status()["roles"]["portti"]["election"].clone();
        wait_until(election, |election| {
            election["trouble"].as_str().is_some_and(|text| text.contains(trouble))
        });
        assert!(!self.reports());
    }

    /// Waits until it reports. Returns how long that took.
    fn takes_over(&self) -> Duration {
        let start = Instant::now();
        wait_until(|| self.reports(), |reports| *reports);
        start.elapsed()
    }
}

/// Everything in the server's journal.
fn received(receiver: &Server) -> Vec<Occurrence> {
    let (status, body) = receiver.answer("/api/v1/export");
    assert!(status.ends_with("200 OK"), "{status}: {body}");
    body.lines().map(|line| Occurrence::read_json(line.as_bytes()).unwrap()).collect()
}

fn all<F: Fact>(facts: &[Occurrence]) -> Vec<F> {
    facts.iter().filter_map(F::of).map(Result::unwrap).collect()
}

/// Changes of the number of replicas, by the number that they led to.
fn scalings(receiver: &Server) -> BTreeMap<u64, Vec<String>> {
    let mut all_by_number: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for change in all::<Change>(&received(receiver)) {
        if change.object.name == "pay" && change.verb == Verb::Updated {
            let [field] = &change.fields[..] else { panic!("{change:?}") };
            let number = |text: &Option<String>| text.as_ref().unwrap().parse::<u64>().unwrap();
            all_by_number.entry(number(&field.to)).or_default().push(field.from.clone().unwrap());
        }
    }
    all_by_number
}

struct World<'a> {
    cluster: &'a Cluster,
    scaled: u64,
}

impl World<'_> {
    /// Scales the Deployment by one each time.
    async fn scale(&mut self, times: u64) {
        for _ in 0..times {
            self.scaled += 1;
            let patch = format!(r#"{{"spec":{{"replicas":{}}}}}"#, self.scaled);
            self.cluster.kubectl(&["patch", "deployment", "pay", "-n", "shop", "--type=merge", "-p", &patch]);
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn delete(&self, name: &str) {
        self.cluster.kubectl(&["delete", "configmap", name, "-n", "shop"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_takes_over() {
    let cluster = cluster_or_skip!("another_replica_takes_over");
    let objects = objects(&fs::read_to_string(deploy("kustomize/server-portti/portti.yaml")).unwrap());
    let apply = |kind: &str| {
        let object = objects.iter().find(|object| object["kind"] == kind).unwrap();
        // The tests' service account.
        cluster.apply(
            &format!("{kind}.yaml"),
            &object.to_string().replace("\"tapio-server\"", "\"portti\""),
            &[],
        );
    };
    let maps = ["early", "late", "last"];
    for name in maps {
        cluster.kubectl(&["create", "configmap", name, "-n", "shop", "--from-literal=a=1"]);
    }
    let pod = "template: {metadata: {labels: {app: pay}}, spec: {containers: [{name: app, image: 'pay:1'}]}}";
    let text = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: pay, namespace: shop}}\n\
         spec: {{replicas: 1, selector: {{matchLabels: {{app: pay}}}}, {pod}}}\n"
    );
    cluster.apply("pay.yaml", &text, &[]);
    let directory = tempfile::tempdir().unwrap();
    let receiver = Server::start(directory.path(), &["--roles=polku,ahti"]);
    let first = replica(&cluster, &receiver, tempfile::tempdir().unwrap());
    // What is missing is said, with the remedy.
    first.is_told("there is no Lease tapio-portti: apply deploy/kustomize/server-portti");
    apply("Lease");
    first.is_told(
        "the Lease tapio-portti is forbidden (403): grant get and update on it (Role tapio-portti-lease)",
    );
    ["Role", "RoleBinding"].into_iter().for_each(apply);
    first.takes_over();
    let second = replica(&cluster, &receiver, tempfile::tempdir().unwrap());
    assert!(!second.reports() && first.reports());

    let mut world = World { cluster: &cluster, scaled: 1 };
    world.scale(10).await;
    world.delete("early");
    let Replica { server, directory: of_first } = first;
    server.kill();
    let killed = Instant::now();
    world.delete("late");
    world.scale(30).await;
    second.takes_over();
    println!("taken over {:.1} s after SIGKILL", killed.elapsed().as_secs_f64());
    world.scale(5).await;
    // The first one comes back with what it knew, and stands by until the second one is stopped.
    let first = replica(&cluster, &receiver, of_first);
    assert!(!first.reports() && second.reports());
    world.delete("last");
    world.scale(5).await;
    second.server.signal(Signal::TERM);
    world.scale(5).await;
    println!("taken over {:.1} s after SIGTERM", first.takes_over().as_secs_f64());
    world.scale(5).await;

    let expected = world.scaled;
    let known = wait_until(|| scalings(&receiver), |known| known.contains_key(&expected));
    for number in 2..=expected {
        assert_eq!(known.get(&number), Some(&vec![(number - 1).to_string()]), "{number}: {known:#?}");
    }
    let facts = received(&receiver);
    for name in maps {
        let deleted = all::<Deleted>(&facts).iter().filter(|deleted| deleted.object.name == name).count();
        let changes = all::<Change>(&facts);
        let changes =
            changes.iter().filter(|change| change.object.name == name && change.verb == Verb::Deleted);
        assert_eq!((deleted, changes.count()), (1, 1), "{name}");
    }
    // What exists is reported by each of them, and is there once.
    let namespaces = all::<Object>(&facts);
    let of_pay = |object: &&Object| object.object.kind == "ConfigMap" && object.object.name == "early";
    assert_eq!(namespaces.iter().filter(of_pay).count(), 1);
    assert!(Path::new(&second.directory.path().join("state/portti.redb")).is_file());
}
