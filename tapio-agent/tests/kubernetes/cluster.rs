//! The shipped manifests on a real cluster: deployed, with faults in pods, updated, and removed without a
//! trace.
//!
//! Needs root, `cargo xtask kube cluster up`, and the agent's image in it (`cargo xtask kube cluster load`),
//! as `cargo xtask ci` prepares them. A machine has one cluster, so these tests never run concurrently.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{Helm, deploy, one, programs, shipped};

/// State directory of `cargo xtask kube cluster up`.
const CLUSTER: &str = "/var/lib/tapio-kube";
const FAULTS: &str = include_str!("data/faults.yaml");
const HEALTHY: &str = include_str!("data/healthy.yaml");
const UNPLACEABLE: &str = include_str!("data/unplaceable.yaml");
/// The metrics of the cluster's scheduler, at the node's address. Its certificate is self-signed.
const SCHEDULER: &str = "https://198.18.0.2:10259/metrics";
const PATIENCE: Duration = Duration::from_secs(180);

struct Cluster {
    kubectl: PathBuf,
    directory: tempfile::TempDir,
}

impl Cluster {
    /// The running cluster once it has the agent's image, or why there is none.
    fn find() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("takes root, to see what the agent holds in the kernel".to_owned());
        }
        if !is_up() {
            return Err("no cluster is up: cargo xtask kube cluster up".to_owned());
        }
        let kubectl = programs(&["kubectl"])?.join("kubectl");
        let cluster = Self { kubectl, directory: tempfile::tempdir().unwrap() };
        let shipped = shipped();
        let image = &one(&shipped, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["image"];
        let image = image.as_str().unwrap();
        // The kubelet reports its images after a while.
        cluster.until(|| {
            let images = "-o=jsonpath={.items[*].status.images[*].names}";
            let images = cluster.try_kubectl(&["get", "nodes", images])?;
            let missing = format!("the cluster has no image {image}: cargo xtask kube cluster load ARCHIVE");
            images.contains(image).then_some(()).ok_or(missing)
        });
        Ok(cluster)
    }

    fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let mut kubectl = Command::new(&self.kubectl);
        let output =
            kubectl.arg(format!("--kubeconfig={}", admin().display())).args(arguments).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap()
    }

    fn rolled_out(&self) {
        self.kubectl(&["rollout", "status", "daemonset/tapio", "--namespace=tapio", "--timeout=180s"]);
    }

    fn apply(&self, objects: &str) {
        let file = self.directory.path().join("objects.yaml");
        fs::write(&file, objects).unwrap();
        self.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// Everything the agent has reported.
    fn reported(&self) -> Result<Vec<Value>, String> {
        let log = self.try_kubectl(&["logs", "daemonset/tapio", "--namespace=tapio"])?;
        Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Applies the faults and returns their occurrences by type.
    fn faults(&self) -> [Value; 3] {
        self.apply(FAULTS);
        let types = ["network.connection_refused", "container.oom_kill", "container.crash"];
        let reported = types.map(|what| {
            self.until(|| {
                let of_faults = |reported: &&Value| {
                    reported["type"] == what && reported["workload"]["namespace"] == "faults"
                };
                let reported = self.reported()?;
                reported.iter().find(of_faults).cloned().ok_or(format!("no {what} in\n{reported:?}"))
            })
        });
        self.kubectl(&["delete", "namespace", "faults", "--timeout=120s"]);
        reported
    }

    /// The pid of the agent's only process on this node.
    fn agent(&self) -> u32 {
        let uid = "-o=jsonpath={.items[0].metadata.uid}";
        let uid = self.kubectl(&["get", "pods", "--namespace=tapio", "-l=app.kubernetes.io/name=tapio", uid]);
        assert!(!uid.is_empty());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let read =
            |pid: u32, file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let mut found =
            pids.filter(|pid| read(*pid, "comm") == "tapio\n" && read(*pid, "cgroup").contains(&uid));
        let pid = found.next().unwrap();
        assert_eq!(found.next(), None);
        pid
    }

    fn until<T>(&self, look: impl Fn() -> Result<T, String>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            match look() {
                Ok(found) => return found,
                Err(missing) => assert!(Instant::now() < end, "{missing}"),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Removes the test's objects, also when the test fails.
struct Cleaned<'a>(&'a Cluster);

impl Drop for Cleaned<'_> {
    fn drop(&mut self) {
        let file = deploy("tapio.yaml");
        let namespaces = ["faults", "healthy", "unplaceable"].map(|name| ["namespace", name]);
        let [faults, healthy, unplaceable] = &namespaces;
        for what in [&["-f", file.to_str().unwrap()][..], faults, healthy, unplaceable] {
            let delete = [&["delete", "--ignore-not-found", "--timeout=60s"], what].concat();
            if let Err(error) = self.0.try_kubectl(&delete) {
                eprintln!("{error}");
            }
        }
    }
}

fn admin() -> PathBuf {
    Path::new(CLUSTER).join("admin.kubeconfig")
}

/// Whether its kubelet runs: a cluster's files remain if the machine stopped while it was up.
fn is_up() -> bool {
    let pid = fs::read_to_string(Path::new(CLUSTER).join("kubelet.pid")).unwrap_or_default();
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
    command.windows(CLUSTER.len()).any(|part| part == CLUSTER.as_bytes())
}

/// The programs and maps that a process holds, by id. The kernel reuses an id only after all others.
fn held(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            match line.split_once(":\t") {
                Some(("prog_id", id)) => drop(programs.insert(id.parse().unwrap())),
                Some(("map_id", id)) => drop(maps.insert(id.parse().unwrap())),
                _ => {}
            }
        }
    }
    (programs, maps)
}

/// Those of them that the kernel still has.
fn left((programs, maps): &(BTreeSet<u32>, BTreeSet<u32>)) -> Vec<String> {
    let loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let kept = loaded.filter(|program| programs.contains(&program.id()));
    let made = aya::maps::loaded_maps().filter_map(Result::ok).filter(|map| maps.contains(&map.id()));
    kept.map(|program| format!("program {}", program.id()))
        .chain(made.map(|map| format!("map {}", map.id())))
        .collect()
}

/// Pinned BPF objects on the node.
fn pins() -> Vec<String> {
    let kubelet = fs::read_to_string(Path::new(CLUSTER).join("kubelet.pid")).unwrap();
    let entries = fs::read_dir(format!("/proc/{}/root/sys/fs/bpf", kubelet.trim())).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn deployed_it_names_faults_and_leaves_nothing_behind() {
    const TEST: &str = "deployed_it_names_faults_and_leaves_nothing_behind";
    let Some(helm) = Helm::or_skip(TEST) else { return };
    let cluster = match Cluster::find() {
        Ok(cluster) => cluster,
        Err(reason) => return println!("SKIP {TEST}: {reason}"),
    };
    let _cleaned = Cleaned(&cluster);
    let pins_before = pins();
    let file = deploy("tapio.yaml");
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    cluster.rolled_out();
    for (reported, owner) in
        cluster.faults().iter().zip([["Deployment", "caller"], ["Job", "hog"], ["Job", "crasher"]])
    {
        let workload = &reported["workload"];
        assert!(workload["pod"].as_str().unwrap().starts_with(&format!("{}-", owner[1])), "{reported}");
        assert_eq!(json!([workload["owner_kind"], workload["owner"]]), json!(owner), "{reported}");
        assert_eq!(
            (&workload["container"], &workload["image"]),
            (&json!("app"), &json!("localhost/busybox:1")),
            "{reported}"
        );
        assert_eq!(reported["node"], "node", "{reported}");
        match owner[1] {
            "caller" => {
                let peer = json!({ "address": "10.96.0.91", "port": 6379, "namespace": "faults", "service": "closed" });
                assert_eq!(reported["peer"], peer, "{reported}");
            }
            // Only an agent that sees the node's processes can tell.
            "hog" => {
                assert!(
                    reported["data"]["users"].as_array().is_some_and(|users| !users.is_empty()),
                    "{reported}"
                )
            }
            _ => assert_eq!(reported["data"]["signal"], "SIGSEGV", "{reported}"),
        }
    }

    // Beside the agent, with the memory that the pod may use.
    let doctor = ["exec", "daemonset/tapio", "--namespace=tapio", "--", "tapio", "doctor", "--listen=off"];
    let report = cluster.kubectl(&doctor);
    assert!(report.contains(" hooks attached"), "{report}");

    // A new process, with nothing left of the first.
    let first = cluster.agent();
    let of_first = held(first);
    assert!(!of_first.0.is_empty() && !of_first.1.is_empty(), "{of_first:?}");
    assert!(!left(&of_first).is_empty());
    cluster.kubectl(&["rollout", "restart", "daemonset/tapio", "--namespace=tapio"]);
    cluster.rolled_out();
    let gone = |ids: &_| match left(ids) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    };
    cluster.until(|| gone(&of_first));
    let second = cluster.agent();
    assert_ne!(first, second);
    let of_second = held(second);
    cluster.faults();

    cluster.kubectl(&["delete", "-f", file.to_str().unwrap(), "--timeout=120s"]);
    cluster.until(|| gone(&of_second));
    assert_eq!(pins(), pins_before);

    // The chart, with its own test.
    let kubeconfig = format!("--kubeconfig={}", admin().display());
    let run = |arguments: &[&str]| helm.run(&[arguments, &["--namespace=tapio", &kubeconfig]].concat());
    run(&["install", "tapio", deploy("helm/tapio").to_str().unwrap(), "--create-namespace", "--wait"])
        .unwrap();
    let report = run(&["test", "tapio", "--logs"]);
    run(&["uninstall", "tapio", "--wait"]).unwrap();
    cluster.kubectl(&["delete", "namespace", "tapio", "--timeout=120s"]);
    let report = report.unwrap();
    assert!(report.contains("Phase:          Succeeded"), "{report}");
}

/// Runs a healthy cluster for this many seconds: `QUIET_SECONDS=600`.
#[test]
fn a_healthy_cluster_is_quiet() {
    const TEST: &str = "a_healthy_cluster_is_quiet";
    let Some(seconds) = std::env::var("QUIET_SECONDS").ok() else {
        return println!("SKIP {TEST}: takes minutes, as QUIET_SECONDS says");
    };
    let cluster = match Cluster::find() {
        Ok(cluster) => cluster,
        Err(reason) => return println!("SKIP {TEST}: {reason}"),
    };
    let _cleaned = Cleaned(&cluster);
    cluster.kubectl(&["apply", "-f", deploy("tapio.yaml").to_str().unwrap()]);
    cluster.rolled_out();
    cluster.apply(HEALTHY);
    let of_web = |arguments: &[&str]| {
        cluster.kubectl(&[arguments, &["deployment/web", "--namespace=healthy"]].concat());
    };
    let pause = Duration::from_secs(seconds.parse::<u64>().unwrap()) / 5;
    for _ in 0..3 {
        of_web(&["rollout", "status", "--timeout=120s"]);
        std::thread::sleep(pause);
        of_web(&["rollout", "restart"]);
    }
    of_web(&["rollout", "status", "--timeout=120s"]);
    std::thread::sleep(pause);
    of_web(&["scale", "--replicas=1"]);
    std::thread::sleep(pause);
    // The API server closes connections to etcd with unread frames, which resets them. That is true, but not
    // about a workload. Here both run outside of pods, over loopback.
    let is_of_control_plane = |reported: &Value| {
        reported["type"] == "network.connection_reset"
            && reported["workload"].is_null()
            && reported["data"]["local_address"] == "127.0.0.1"
    };
    let (control_plane, reported): (Vec<_>, Vec<_>) =
        cluster.reported().unwrap().into_iter().partition(is_of_control_plane);
    let shown = |reported: &[Value]| {
        let lines = reported.iter().map(|reported| format!("{} {reported}", reported["message"]));
        lines.collect::<Vec<_>>().join("\n")
    };
    println!("of the control plane: {}", shown(&control_plane));
    assert!(reported.is_empty(), "{}", shown(&reported));
}

/// The real scheduler's metrics, in an agent's pod with the chart's permission for them.
#[test]
fn pods_that_no_node_can_take() {
    const TEST: &str = "pods_that_no_node_can_take";
    let Some(helm) = Helm::or_skip(TEST) else { return };
    let cluster = match Cluster::find() {
        Ok(cluster) => cluster,
        Err(reason) => return println!("SKIP {TEST}: {reason}"),
    };
    let _cleaned = Cleaned(&cluster);
    let kubeconfig = format!("--kubeconfig={}", admin().display());
    let run =
        |arguments: &[&str]| helm.run(&[arguments, &["--namespace=tapio", &kubeconfig]].concat()).unwrap();
    let with = |permission: bool| {
        let scheduler = json!({
            "url": SCHEDULER, "insecure_skip_verify": "true", "interval": "1s", "unschedulable_after": "5s",
        });
        let config = json!({ "observers": ["scheduler"], "observer": { "scheduler": scheduler } });
        helm.values(&json!({ "schedulerMetrics": permission, "config": config }))
    };
    let chart = deploy("helm/tapio");
    let state = || {
        let status = ["get", "--raw", "/api/v1/namespaces/tapio/pods"];
        let pods: Value = serde_json::from_str(&cluster.try_kubectl(&status)?).unwrap();
        let pod = pods["items"][0]["metadata"]["name"].as_str().ok_or("no pod")?;
        let path = format!("/api/v1/namespaces/tapio/pods/{pod}:9090/proxy/status");
        let status: Value = serde_json::from_str(&cluster.try_kubectl(&["get", "--raw", &path])?).unwrap();
        Ok(status["observers"]["scheduler"].clone())
    };
    let until = |said: &str| {
        cluster.until(|| {
            let state: Result<Value, String> = state();
            let state = state?;
            state.to_string().contains(said).then_some(()).ok_or(format!("not `{said}`: {state}"))
        });
    };

    run(&["install", "tapio", chart.to_str().unwrap(), "--create-namespace", "--values", &with(false)]);
    until("status 403");
    run(&["upgrade", "tapio", chart.to_str().unwrap(), "--values", &with(true)]);
    until(" series");
    cluster.apply(UNPLACEABLE);
    let unschedulable = || {
        let reported = cluster.reported()?;
        Ok(reported
            .into_iter()
            .filter(|reported| reported["type"] == "scheduler.unschedulable")
            .collect::<Vec<_>>())
    };
    let found = cluster.until(|| {
        let found: Result<Vec<Value>, String> = unschedulable();
        found?.into_iter().next().ok_or("no scheduler.unschedulable".to_owned())
    });
    assert_eq!(found["data"]["unschedulable_pods"], 3, "{found}");
    assert_eq!(found["data"]["plugins"], json!([{ "plugin": "NodeAffinity", "pods": 3 }]), "{found}");
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("kube-scheduler: 3 pods are unschedulable: NodeAffinity (3); "), "{message}");
    assert_eq!((found.get("workload"), found.get("process")), (None, None), "{found}");
    // Once.
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(unschedulable().unwrap().len(), 1);
    run(&["uninstall", "tapio", "--wait"]);
    cluster.kubectl(&["delete", "namespace", "tapio", "--timeout=120s"]);
}
