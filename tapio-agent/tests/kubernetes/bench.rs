//! The cost of names from Kubernetes: memory on a node with many pods, and API requests while anomalies
//! arrive.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it shares the tests' API server")]

#[allow(dead_code, unused_imports, unused_macros, reason = "most of it is the tests'")]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;

use support::{Agent, Cluster, Shape};

/// More than nine times the default maximum per node.
const PODS: u32 = 1_000;
/// Peers of a node's workloads: pods elsewhere, services, addresses outside the cluster.
const PEERS: [(&str, u8); 3] = [("10.2.0", 40), ("10.96.7", 15), ("203.0.113", 5)];
const ANOMALIES: u32 = 5_000;
/// All of them together take 50 seconds, during which some cached answers expire.
const BETWEEN: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = Cluster::start().await.map_err(anyhow::Error::msg)?;
    memory(&cluster).await?;
    questions(&cluster).await
}

/// Peak memory of the agent itself on a node without pods and on one with many, once it knows them.
async fn memory(cluster: &Cluster) -> anyhow::Result<()> {
    let shape = |nth: u32| {
        let ip = format!("10.1.{}.{}", nth / 250, nth % 250 + 1);
        Shape::new(&format!("checkout-7d9f8c6b5d-{nth:05}"), "full", &ip)
    };
    cluster.many_pods((0..PODS).map(shape).collect()).await;
    cluster.node("empty", "192.168.0.8").await;
    cluster.node("full", "192.168.0.9").await;
    let (empty, full) = (most_kib(cluster, "empty")?, most_kib(cluster, "full")?);
    println!("kubernetes_memory_per_1000_pods {:.0} KiB", (full - empty) * 1_000.0 / f64::from(PODS));
    println!("kubernetes_memory_ratio {:.3} x", full / empty);
    Ok(())
}

fn most_kib(cluster: &Cluster, node: &str) -> anyhow::Result<f64> {
    let state = tempfile::tempdir()?;
    let mut agent = Command::new(env!("CARGO_BIN_EXE_tapio"))
        .args(["--observer=node", "--output=none", "--listen=127.0.0.1:0", "--kubernetes=on"])
        .arg(format!("--node-name={node}"))
        .arg(format!("--state-dir={}", state.path().display()))
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("KUBECONFIG", cluster.kubeconfig())
        .stderr(Stdio::piped())
        .spawn()
        .context("the agent does not start")?;
    let log = BufReader::new(agent.stderr.take().context("it has no log")?);
    let known =
        log.lines().map_while(Result::ok).any(|line| line.contains("the pods of this node are known"));
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()));
    agent.kill().context("the agent does not end")?;
    agent.wait()?;
    anyhow::ensure!(known, "the agent ended before it knew the pods of {node}");
    let most =
        status?.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok());
    most.context("/proc has no VmHWM")
}

/// Requests to the API server for a series of anomalies with random peers.
async fn questions(cluster: &Cluster) -> anyhow::Result<()> {
    let mut peers = Vec::new();
    for (network, hosts) in PEERS {
        for host in 1..=hosts {
            let address = format!("{network}.{host}");
            match network {
                "10.2.0" => {
                    drop(cluster.pod(&Shape::new(&format!("pod-{host}"), "elsewhere", &address)).await)
                }
                "10.96.7" => cluster.service(&format!("service-{host}"), &address).await,
                _ => {}
            }
            peers.push(address);
        }
    }
    let mut agent = Agent::synced(cluster, "empty").await;
    let before = agent.requests();
    let mut pace = tokio::time::interval(BETWEEN);
    for _ in 0..ANOMALIES {
        pace.tick().await;
        agent.give(Agent::anomaly(0, &peers[fastrand::usize(..peers.len())]));
    }
    let mut named = 0_u32;
    for _ in 0..ANOMALIES {
        let reported = agent.reported().await;
        named += u32::from(reported["peer"].get("pod").or(reported["peer"].get("service")).is_some());
    }
    let asked = (agent.requests() - before) as f64;
    println!("kubernetes_requests_per_anomaly {:.3} requests", asked / f64::from(ANOMALIES));
    let inside = f64::from(PEERS[0].1 + PEERS[1].1) / peers.len() as f64;
    println!("kubernetes_peers_named {:.3} ratio", f64::from(named) / (inside * f64::from(ANOMALIES)));
    Ok(())
}
