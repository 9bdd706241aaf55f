//! What is in the cluster: agents, server, name server, and the application.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cluster::{Cluster, SHOP, until};
use super::directory;
use crate::arch::Arch;
use crate::{image, kube, machine, portable};

/// The application's images: the second is what a rollout brings.
const SHOP_IMAGES: [&str; 2] = ["localhost/shop:1", "localhost/shop:2"];
const TAPIO: &str = "tapio";
/// What agents have learned, on the node: deploy/tapio.yaml.
const STATE: &str = "/var/lib/tapio";
/// Time for agents and server to know the cluster.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the load flows before something is broken, so that baselines and connections are known.
const STEADY: Duration = Duration::from_secs(60);
/// Agents say sooner than by default that they are there and who talks to whom.
const AGENT: [&str; 2] = ["TAPIO_HEARTBEAT=10s", "TAPIO_EDGES=10s"];

/// Builds and loads the images, and deploys agents, server and name server.
pub(super) fn install(cluster: &Cluster) -> Result<()> {
    let directory = machine::target_directory()?.join("scenarios");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let [agent, server] = ["tapio.tar", "tapio-server.tar"].map(|name| directory.join(name));
    image::of_tests(image::AGENT, agent.clone())?;
    image::of_tests(image::SERVER, server.clone())?;
    kube::cluster_load(&agent)?;
    kube::cluster_load(&server)?;
    shop(&directory)?;

    let deploy = machine::workspace()?.join("deploy");
    cluster.apply_file(&deploy.join("server/tapio-server.yaml"))?;
    cluster.apply_file(&deploy.join("tapio.yaml"))?;
    cluster.apply_file(&super::directory()?.join("app/dns.yaml"))?;
    // By address: agents have to reach it when names do not resolve, too.
    let namespace = format!("--namespace={TAPIO}");
    let address = cluster.kubectl(&[
        "get",
        "service/tapio-server",
        &namespace,
        "--output=jsonpath={.spec.clusterIP}",
    ])?;
    let polku = format!("POLKU_ENDPOINT={}:50051", address.trim());
    cluster.kubectl(&["set", "env", "daemonset/tapio", &namespace, &polku, AGENT[0], AGENT[1]])?;
    // An image of the same name may be another.
    cluster.kubectl(&["rollout", "restart", "daemonset/tapio", &namespace])?;
    cluster.rolled_out("daemonset/tapio", TAPIO)?;
    cluster.kubectl(&["delete", "pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns"])?;
    cluster.rolled_out("deployment/coredns", "kube-system")
}

/// Builds and loads the images of the application: its program, and busybox for people who kill.
fn shop(directory: &Path) -> Result<()> {
    let arch = Arch::native()?;
    machine::run(portable::cargo(arch, "build", portable::QUICK)?.args(["--package", SHOP]))?;
    let root = directory.join("shop");
    fs::create_dir_all(root.join("bin")).with_context(|| format!("cannot make {}", root.display()))?;
    let busybox = machine::program("busybox").context("busybox is not installed")?;
    for (from, to) in [(portable::binary(arch, portable::QUICK, SHOP)?, "shop"), (busybox, "bin/busybox")] {
        fs::copy(&from, root.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    for name in SHOP_IMAGES {
        let archive = directory.join("shop.tar");
        let mut file =
            fs::File::create(&archive).with_context(|| format!("cannot write {}", archive.display()))?;
        kube::write_image(name, &root, &["/shop"], &mut file)?;
        kube::cluster_load(&archive)?;
    }
    Ok(())
}

/// Makes everything new: a server without facts, and the application in a new namespace. Returns when the load has
/// flowed for a while.
pub(super) fn heal(cluster: &Cluster) -> Result<()> {
    let app = directory()?.join("app");
    remove_shop(cluster)?;
    // What agents still say at their end is of the scenario before.
    agents_end(cluster)?;
    // The journal ends with the pod.
    let namespace = format!("--namespace={TAPIO}");
    cluster.kubectl(&["delete", "pods", &namespace, "--selector=app.kubernetes.io/name=tapio-server"])?;
    cluster.rolled_out("deployment/tapio-server", TAPIO)?;
    run_agents_on(cluster, "null")?;
    cluster.rolled_out("daemonset/tapio", TAPIO)?;
    cluster.apply_file(&app.join("dns.yaml"))?;
    cluster.rolled_out("deployment/coredns", "kube-system")?;
    until(PATIENCE, || {
        let said = cluster.doctor()?;
        let fails = said.lines().any(|line| line.starts_with("FAIL") || line.starts_with("error"));
        Ok(fails.then_some(said))
    })
    .context("Tapio does not know the cluster")?;

    cluster.apply_file(&app.join("shop.yaml"))?;
    for name in ["db", "stock", "payments", "orders", "gateway"] {
        cluster.rolled_out(&format!("deployment/{name}"), SHOP)?;
    }
    cluster.apply_file(&app.join("load.yaml"))?;
    cluster.rolled_out("deployment/load", SHOP)?;
    std::thread::sleep(STEADY);
    let namespace = format!("--namespace={SHOP}");
    until(PATIENCE, || {
        let log = cluster.kubectl(&["logs", "deployment/load", &namespace, "--tail=1"])?;
        Ok((!flows(&log)).then(|| log.trim_end().to_owned()))
    })
    .context("the load does not flow")
}

/// Ends the agents, with what they have learned: to them, what the scenario before broke may be normal.
fn agents_end(cluster: &Cluster) -> Result<()> {
    let namespace = format!("--namespace={TAPIO}");
    let agents = "--selector=app.kubernetes.io/name=tapio";
    run_agents_on(cluster, "\"none\"")?;
    cluster.kubectl(&["wait", "pods", &namespace, agents, "--for=delete", "--timeout=120s"])?;
    cluster.on_node(&["rm", "--recursive", "--force", STATE]).map(drop)
}

/// Runs agents only on nodes with this value of a label, as JSON.
fn run_agents_on(cluster: &Cluster, nodes: &str) -> Result<()> {
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{{"scenarios":{nodes}}}}}}}}}}}"#);
    let namespace = format!("--namespace={TAPIO}");
    cluster.kubectl(&["patch", "daemonset/tapio", &namespace, "--type=merge", "--patch", &patch]).map(drop)
}

/// `97 good, 0 bad, 1 waiting`
fn flows(log: &str) -> bool {
    log.split_once(" good, 0 bad").is_some_and(|(good, _)| good.parse::<u64>().is_ok_and(|good| good > 0))
}

/// Takes everything out of the cluster.
pub(super) fn remove(cluster: &Cluster) -> Result<()> {
    remove_shop(cluster)?;
    let deploy = machine::workspace()?.join("deploy");
    let files = [
        deploy.join("server/tapio-server.yaml"),
        deploy.join("tapio.yaml"),
        directory()?.join("app/dns.yaml"),
    ];
    for file in files {
        delete(cluster, &["-f", &file.to_string_lossy()])?;
    }
    Ok(())
}

fn remove_shop(cluster: &Cluster) -> Result<()> {
    delete(cluster, &["namespace", SHOP])
}

fn delete(cluster: &Cluster, what: &[&str]) -> Result<()> {
    cluster.kubectl(&[&["delete", "--ignore-not-found", "--timeout=120s"], what].concat()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_flows_without_errors() {
        for (log, expected) in [
            ("97 good, 0 bad, 1 waiting\n", true),
            ("97 good, 1 bad, 0 waiting", false),
            ("0 good, 0 bad, 9 waiting", false),
            ("", false),
        ] {
            assert_eq!(flows(log), expected, "{log}");
        }
    }

    /// The name server knows the addresses of the application's services.
    #[test]
    fn records_are_the_services() -> Result<()> {
        let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/app");
        let dns = fs::read_to_string(app.join("dns.yaml"))?;
        let shop = fs::read_to_string(app.join("shop.yaml"))?;
        let objects: Vec<serde_json::Value> =
            serde_saphyr::from_multiple(&shop).map_err(anyhow::Error::msg)?;
        let services: Vec<_> = objects.iter().filter(|object| object["kind"] == "Service").collect();
        assert_eq!(services.len(), 5);
        for service in services {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let (name, address) = (text(&service["metadata"]["name"]), text(&service["spec"]["clusterIP"]));
            assert!(dns.contains(&format!("    {name}.{SHOP}.svc.cluster.local={address}\n")), "{name}");
        }
        Ok(())
    }
}
