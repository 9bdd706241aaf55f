use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{open::Opener, *};
use crate::{
    config::Config,
    kernel::Kernel,
    observer::{self, Anomaly, Attach, Hook, Malformed, Observer, network},
    pipeline::fold::tests::refused,
};

static RECORDS: AtomicU32 = AtomicU32::new(0);
static OBSERVED: AtomicU32 = AtomicU32::new(0);

/// Keeps its first record pending, judges the second and then crashes on it, and crashes on each tick after that. Its
/// programs emit a record for each received segment.
struct Crashing {
    held: Vec<Anomaly>,
    is_broken: bool,
}

impl Observer for Crashing {
    const KINDS: &'static [&'static observer::Kind] = &[];
    const NAME: &'static str = "bench";
    const HOOKS: &'static [Hook] = &[Hook {
        program: "flood",
        attach: Attach::BtfTracepoint("tcp_probe"),
        needs: &[],
        gives: "",
        or: &[],
    }];
    const FIELDS: &'static [&'static str] = tapio_common::network::FIELDS;
    type Settings = network::Settings;

    fn new(_: &Self::Settings) -> Self {
        Self { held: Vec::new(), is_broken: false }
    }

    fn kernel_settings(settings: &Self::Settings) -> Vec<u8> {
        network::Network::kernel_settings(settings)
    }

    fn observe(&mut self, _: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        match RECORDS.fetch_add(1, Ordering::Relaxed) {
            0 => self.held.push(Anomaly { count: 3, ..refused(1, 1) }),
            1 => {
                out.push(Anomaly { count: 5, ..refused(2, 1) });
                self.is_broken = true;
                panic!("the second record is too much");
            }
            _ => drop(OBSERVED.fetch_add(1, Ordering::Relaxed)),
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        assert!(!self.is_broken, "it is broken");
        if now_ns == u64::MAX {
            out.append(&mut self.held);
        }
    }

    fn pending(&self) -> u64 {
        self.held.iter().map(|anomaly| anomaly.count).sum()
    }
}

/// Two segments each way over loopback.
fn traffic() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for _ in 0..2 {
        client.write_all(b"?").unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_crashes_is_restarted_on_the_same_ring() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP an_observer_that_crashes_is_restarted_on_the_same_ring: loading programs takes root");
        return;
    }
    let config = Config::default();
    let built = Built::new::<Crashing>(&network::Settings::default());
    let kernel = Kernel::open("/proc".as_ref()).unwrap();
    let mut sources = Opener { config: &config, kernel: Ok(&kernel), past: Arc::default() }.open(&built);
    let records = sources.records().unwrap();
    let metrics = Arc::new(Metrics::default());
    let observed = vec![Observed::new(built.name, sources)];
    let shared = Arc::new(Shared::new(
        &config,
        observed,
        Arc::clone(&metrics),
        Sinks::new(Arc::clone(metrics.delivery()), 1),
        None,
        Snapshots::open(&config).unwrap().0,
    ));
    let (stop, stopped) = watch::channel(false);
    let (anomalies, _queue) = mpsc::channel(1);
    let stage = Stage::new(built.name, anomalies, &metrics);
    let supervisor = Supervisor { stage, built, shared: Arc::clone(&shared), at: 0, stopped };
    let task = tokio::spawn(supervisor.run(records, Fold::new(1, 1)));

    traffic();
    let observed = async {
        while OBSERVED.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(RESTART[0] * 10, observed).await.expect("it runs again, on what was in the ring");
    shared.close();
    stop.send_replace(true);
    task.await.unwrap();
    let text = metrics.render().unwrap();
    assert!(text.contains("tapio_restarts_total{observer=\"bench\"} 1"), "{text}");
    assert!(text.contains("tapio_dropped_total{hop=\"record\",reason=\"crash\"} 9"), "{text}");
}

#[test]
fn an_observer_that_ran_well_waits_as_for_the_first_time() {
    let mut pauses = Pauses::default();
    let soon = Duration::from_secs(1);
    let waits: Vec<u64> = (0..8).map(|_| pauses.after(soon).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pauses.after(RAN_WELL), RESTART[0]);
    assert_eq!(pauses.after(soon), RESTART[0] * 2);
}
