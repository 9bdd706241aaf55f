//! `portti_memory_mb`: what PORTTI takes to watch this many pods (10,000 unless another number is given). The API server is
//! imitated: it makes each page of its list as it is asked for, and its watches stay silent.
//!
//! `cargo run --release --example portti_memory [PODS]`

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tapio_kube::Access;
use tapio_occurrence::Occurrence;
use tapio_server::{
    facts::Facts,
    portti::{self, Place, Settings, Status},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Counts what it gets.
struct Counter(Arc<AtomicU64>);

impl Facts for Counter {
    async fn accept(&mut self, facts: Vec<Occurrence>) -> anyhow::Result<()> {
        self.0.fetch_add(facts.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let pods = std::env::args().nth(1).map_or(Ok(10_000), |number| number.parse())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("kubeconfig");
    fs::write(
        &file,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: \"http://{address}\"}}}}]\nusers: [{{name: a, user: {{}}}}]\n"
        ),
    )?;
    tokio::spawn(serve(listener, pods));
    let before = memory_kb("VmRSS")?;
    let (status, facts) = (Arc::new(Status::default()), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let known = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !status.is_settled() {
            look.tick().await;
        }
    };
    let state = directory.path().join("state");
    let settings = Settings::default();
    let place = Place { directory: state.clone(), cluster: None, retained: Duration::from_secs(1 << 31) };
    portti::run(
        Access::Kubeconfig(vec![file]),
        &settings,
        place,
        &mut Counter(Arc::clone(&facts)),
        Arc::clone(&status),
        known,
    )
    .await?;
    let megabytes = |kilobytes: u64| kilobytes as f64 / 1024.0;
    let (after, peak) = (memory_kb("VmRSS")?, memory_kb("VmHWM")?);
    println!(
        "portti_memory_mb {:.1} (from {:.1}, peak {:.1}); {pods} pods, {} facts in {:.1} s; on disk {:.1} MB",
        megabytes(after),
        megabytes(before),
        megabytes(peak),
        facts.load(Ordering::Relaxed),
        start.elapsed().as_secs_f64(),
        fs::metadata(state.join("portti.redb"))?.len() as f64 / 1_048_576.0,
    );
    Ok(())
}

/// A line of this process's status, kB.
fn memory_kb(key: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(key)).context("there is no such line")?;
    Ok(line.split_whitespace().nth(1).context("the line is empty")?.parse()?)
}

async fn serve(listener: TcpListener, pods: u64) {
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(answer(connection, pods));
    }
}

/// Answers requests until one is a watch, which stays open and silent.
async fn answer(mut connection: TcpStream, pods: u64) -> anyhow::Result<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if connection.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&received).into_owned();
        received.drain(..end);
        let uri = head.split(' ').nth(1).context("no request")?;
        if uri.contains("watch=true") {
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            while connection.read_buf(&mut received).await? != 0 {}
            return Ok(());
        }
        let body = page(uri, pods).to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(body.as_bytes()).await?;
    }
}

/// A page of a list.
fn page(uri: &str, pods: u64) -> Value {
    let parameter = |name: &str| -> Option<u64> {
        uri.split(['?', '&']).find_map(|part| part.strip_prefix(name)?.parse().ok())
    };
    let (limit, start) = (parameter("limit=").unwrap_or(500), parameter("continue=").unwrap_or(0));
    let all = if uri.starts_with("/api/v1/pods") { pods } else { 0 };
    let end = all.min(start + limit);
    let items: Vec<_> = (start..end).map(pod).collect();
    let next = if end < all { end.to_string() } else { String::new() };
    json!({ "metadata": { "resourceVersion": "1", "continue": next }, "items": items })
}

/// A pod as a cluster has it: about 8 kB.
fn pod(nth: u64) -> Value {
    let time = "2026-11-20T01:46:40Z";
    let variables: Vec<_> = (0..15)
        .map(|n| json!({ "name": format!("VARIABLE_{n}"), "value": format!("a value of a variable {n}") }))
        .collect();
    let owned: Value = (0..40)
        .map(|n| (format!("f:field-number-{n}"), json!({ ".": {}, "f:a": {}, "f:b": {} })))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": time });
    json!({
        "metadata": {
            "name": format!("pay-7d9f8c6b5d-{nth:05}"), "namespace": format!("shop-{}", nth % 50), "uid": format!("8a5b6c7d-0000-4000-8000-{nth:012}"),
            "resourceVersion": nth.to_string(), "creationTimestamp": time,
            "labels": { "app": "pay", "pod-template-hash": "7d9f8c6b5d", "app.kubernetes.io/name": "pay" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "pay-7d9f8c6b5d", "uid": "r", "controller": true }],
            "managedFields": [
                { "manager": "kube-controller-manager", "operation": "Update", "time": time, "fieldsV1": { "f:spec": owned } },
                { "manager": "kubelet", "operation": "Update", "time": time, "subresource": "status", "fieldsV1": { "f:status": owned } },
            ],
        },
        "spec": {
            "nodeName": format!("node-{}", nth % 200), "serviceAccountName": "pay",
            "volumes": [{ "name": "settings", "configMap": { "name": "settings" } }],
            "containers": [{
                "name": "app", "image": "registry.example/pay:1.2.3", "env": variables,
                "ports": [{ "containerPort": 8080, "protocol": "TCP" }],
                "resources": { "limits": { "memory": "512Mi" }, "requests": { "cpu": "100m", "memory": "512Mi" } },
                "volumeMounts": [{ "name": "settings", "mountPath": "/settings" }],
            }],
        },
        "status": {
            "phase": "Running", "startTime": time, "podIPs": [{ "ip": format!("10.{}.{}.{}", nth >> 16 & 255, nth >> 8 & 255, nth & 255) }],
            "conditions": [condition("Ready"), condition("PodScheduled"), condition("Initialized")],
            "containerStatuses": [{
                "name": "app", "image": "registry.example/pay:1.2.3", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": time } },
            }],
        },
    })
}
