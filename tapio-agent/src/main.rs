//! temporary
use std::sync::Arc;
use tapio_agent::observer::{Observer, network::Network};
use tapio_agent::*;

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::DEBUG).init();
    let kernel = kernel::Kernel::open("/proc".as_ref()).unwrap();
    let settings = Default::default();
    let ks = Network::kernel_settings(&settings);
    let mut loaded = kernel.load(&observer::object::<Network>(&ks).unwrap()).unwrap();
    for h in &loaded.hooks {
        eprintln!("{} {:?}", h.hook.program, h.state);
    }
    eprintln!("{:?}", loaded.degraded);
    eprintln!("ready");
    let (tx, mut rx) = tokio::sync::mpsc::channel(1000);
    let stage = pipeline::Stage {
        observer: "network",
        anomalies: tx,
        metrics: Arc::new(metrics::Metrics::default()),
    };
    let mut judge = Network::new(&settings);
    let mut fold = pipeline::fold::Fold::new(30_000_000_000, 600_000_000_000);
    let node: Arc<str> = "n".into();
    tokio::spawn(async move {
        while let Some(a) = rx.recv().await {
            let m = a.message;
            let mut o = pipeline::occurrence(a, None, &node);
            o.message = m(&o);
            println!("{}", serde_json::to_string(&o).unwrap());
        }
    });
    stage
        .run(&mut loaded.events().unwrap(), &mut judge, &mut fold, async {
            tokio::signal::ctrl_c().await.unwrap()
        })
        .await;
    for (h, c) in loaded.hooks.iter().zip(loaded.counts.read().unwrap()) {
        eprintln!("{} {:?}", h.hook.program, c);
    }
}
