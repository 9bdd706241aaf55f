//! The metrics of the real kube-scheduler, which needs no API server to serve them. What it says of pods is in the test
//! of a whole cluster.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tapio_agent::{
    observer::{
        Observer as _,
        scheduler::{
            Scheduler, Settings,
            scrape::{Scrape, UNKNOWN},
        },
    },
    scrape::Scraper,
    source::Source as _,
};
use tapio_service::setting::Node as _;

use crate::support::{programs, until};

const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
users: [{name: none, user: {}}]
"#;

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With a certificate that it makes for itself in this directory. Who may read the metrics it cannot ask anybody.
fn start(directory: &Path, port: u16, allow: &str) -> Result<Running, String> {
    let program = programs(&["kube-scheduler"])?.join("kube-scheduler");
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, KUBECONFIG).unwrap();
    let child = Command::new(program)
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--cert-dir={}", directory.display()))
        .arg(format!("--secure-port={port}"))
        .arg(format!("--authorization-always-allow-paths={allow}"))
        .args(["--bind-address=127.0.0.1", "--leader-elect=false", "--authentication-skip-lookup"])
        .stderr(Stdio::null())
        .spawn();
    Ok(Running(child.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_scheduler_is_scraped() {
    const TEST: &str = "the_real_scheduler_is_scraped";
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let running = match start(directory.path(), port, "/metrics") {
        Ok(running) => running,
        Err(reason) => return println!("SKIP {TEST}: {reason}"),
    };
    let ca = directory.path().join("kube-scheduler.crt");
    let mut settings = Settings::default();
    for (key, value) in [
        ("url", format!("https://127.0.0.1:{port}/metrics")),
        ("ca", ca.display().to_string()),
        ("interval", "1s".to_owned()),
    ] {
        settings.assign(key, &value).unwrap();
    }
    let mut scraper = Scraper::new(Scheduler::scrapes(&settings).unwrap());
    let mut records = scraper.records().unwrap();
    tokio::time::timeout(Duration::from_secs(60), records.ready()).await.unwrap().unwrap();
    let mut record = Vec::new();
    assert!(records.next(&mut |bytes| record = bytes.to_vec()));
    let scrape: Scrape = bytemuck::pod_read_unaligned(&record);
    // It has placed nothing yet, and so has no histogram of it.
    let none = (UNKNOWN, 0, 0);
    assert_eq!((scrape.attempts, scrape.preemptions, scrape.victims), none, "{scrape:?}");
    assert!(scrape.started_ms > 0, "{scrape:?}");
    let mut queues: Vec<_> = scrape.queues.iter().map(|queue| queue.name).collect();
    queues.sort_unstable();
    for queue in ["active", "backoff", "gated", "unschedulable"] {
        assert!(queues.iter().any(|name| name.starts_with(queue.as_bytes())), "{queue}: {scrape:?}");
    }
    let state = scraper.parts().remove(0).state.unwrap();
    assert!(state.ends_with(" series"), "{state}");

    // One that lets nobody read them.
    drop(running);
    let _running = start(directory.path(), port, "/healthz").unwrap();
    let state =
        async || scraper.parts().remove(0).state.err().map_or_else(String::new, |absent| absent.to_string());
    let why = until(state, |why| why.contains("status 403")).await;
    assert!(why.contains(r#"User "system:anonymous" cannot get path "/metrics""#), "{why}");
    scraper.close();
}
