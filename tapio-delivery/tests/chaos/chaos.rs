//! Combines all faults, from a seed: `TAPIO_CHAOS_SEED` repeats a run, `TAPIO_CHAOS_SECONDS` (30) makes it
//! longer.

use std::{
    collections::HashSet,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::tempdir;
use ulid::Ulid;

use crate::{
    agent::{Agent, Order, run_of},
    arrivals::{arrivals, missing, out_of_order, repeats},
    full::Disk,
    gateway,
    outage::{ON_THE_WAY, free_address, has_delivered_all},
    proxy::{Proxy, Toxic},
    role::{self, Role, until},
};

/// Maximum occurrences per second: far more than a node produces.
const RATE: u64 = 2000;
/// Maximum per run: the spool has room for these, even if none is delivered until the end.
const GIVEN: u64 = 150_000;
const CAP_BYTES: u64 = 64 << 20;

struct Stage<'a> {
    directory: &'a Path,
    address: std::net::SocketAddr,
    disk: Option<Disk>,
    order: Order,
    agent: Option<Agent>,
    gateway: Option<Role>,
    accepted: Vec<Ulid>,
    kills: usize,
    /// Connections that ended with batches in flight.
    breaks: usize,
    /// Runs while the disk was full. If the spool cannot even be read then, what is in memory goes first.
    without_disk: HashSet<u64>,
    rss_kb: u64,
    disk_bytes: u64,
}

impl Stage<'_> {
    fn start_agent(&mut self) {
        self.order.run += 1;
        let command = self.disk.as_ref().map_or_else(role::here, Disk::command);
        self.agent = Some(Agent::start_as(command, &self.order, &self.directory.join("agent.log")));
    }

    fn start_gateway(&mut self) {
        self.gateway = Some(gateway::start(self.address, self.directory));
    }

    fn kill_agent(&mut self) {
        self.look();
        if let Some(agent) = self.agent.take() {
            self.accepted.extend(agent.kill());
            self.kills += 1;
        }
    }

    /// Records its current memory and disk usage.
    fn look(&mut self) {
        let said = self.agent.as_ref().map(Agent::said).unwrap_or_default();
        self.rss_kb = self.rss_kb.max(said.rss_kb);
        assert_eq!(said.status["dropped"]["spool_full"].as_u64(), None, "the cap was to be enough");
        let spool = self.disk.as_ref().map_or_else(|| self.order.state_dir.clone(), |disk| disk.inside("."));
        let mut du = Command::new("du");
        let out = du.args(["-s", "--block-size=1"]).arg(spool.join("spool")).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        let bytes = text.split_whitespace().next().and_then(|bytes| bytes.parse().ok());
        self.disk_bytes = self.disk_bytes.max(bytes.unwrap_or_default());
    }
}

#[test]
fn whatever_happens_what_was_accepted_arrives() {
    let number = |name: &str, or| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let seed = number("TAPIO_CHAOS_SEED", fastrand::u64(..));
    let length = Duration::from_secs(number("TAPIO_CHAOS_SECONDS", 30));
    let rate = RATE.min(GIVEN / length.as_secs().max(1));
    println!("TAPIO_CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let directory = tempdir().unwrap();
    let state_dir = directory.path().join("state");
    let disk = Disk::mount(&state_dir, "96m");
    if disk.is_none() {
        println!("SKIP a full disk within it: no file system can be mounted");
    }
    let address = free_address();
    let proxy = Proxy::start(address);
    let order = Order { state_dir, gateway: proxy.address, cap_bytes: CAP_BYTES, rate, run: 0 };
    let mut stage = Stage {
        directory: directory.path(),
        address,
        disk,
        order,
        agent: None,
        gateway: None,
        accepted: Vec::new(),
        kills: 0,
        breaks: 0,
        without_disk: HashSet::new(),
        rss_kb: 0,
        disk_bytes: 0,
    };
    stage.start_gateway();
    stage.start_agent();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let while_it_lasts = Duration::from_millis(rng.u64(300..3000));
        let act = rng.u8(..10);
        match act {
            0..5 => {
                let toxic = match rng.u8(..6) {
                    0 => Toxic::Latency(Duration::from_millis(rng.u64(10..500))),
                    1 => Toxic::HalfOpen,
                    2 => Toxic::Cut(rng.usize(1000..200_000)),
                    3 => Toxic::Drip(rng.usize(1..2000)),
                    4 => Toxic::BlackHole,
                    _ => Toxic::Refuse,
                };
                proxy.turn(toxic);
                std::thread::sleep(while_it_lasts);
                proxy.turn(Toxic::None);
                // One break for each reconnection during the fault.
                stage.breaks += 1 + while_it_lasts.as_millis() as usize / 250;
            }
            5 => {
                stage.gateway.take().unwrap().kill();
                std::thread::sleep(while_it_lasts);
                stage.start_gateway();
                stage.breaks += 1;
            }
            6 => {
                let gateway = stage.gateway.as_ref().unwrap();
                gateway.signal(Signal::STOP);
                std::thread::sleep(while_it_lasts);
                gateway.signal(Signal::CONT);
                stage.breaks += 1 + while_it_lasts.as_secs() as usize;
            }
            7 if let Some(disk) = &stage.disk => {
                stage.without_disk.insert(stage.order.run);
                disk.fill();
                std::thread::sleep(while_it_lasts);
                disk.free();
            }
            _ => {
                stage.kill_agent();
                stage.start_agent();
            }
        }
        stage.look();
        // Some of the time nothing is wrong.
        std::thread::sleep(Duration::from_millis(rng.u64(..1000)));
    }
    stage.kill_agent();
    stage.order.rate = 0;
    stage.start_agent();
    let agent = stage.agent.take().unwrap();
    until(|| agent.said().status, has_delivered_all);
    agent.stop();

    let arrived = arrivals(stage.directory);
    let (accepted, kills, repeats) = (stage.accepted.len(), stage.kills, repeats(&arrived));
    let breaks = stage.breaks;
    println!(
        "{rate} a second: accepted {accepted}, arrived {}, repeats {repeats} ({kills} kills, at most {breaks} breaks), agent at most {} \
         kB, spool at most {} bytes",
        arrived.len(),
        stage.rss_kb,
        stage.disk_bytes,
    );
    assert!(accepted > 1000, "{accepted}");
    assert_eq!(missing(&stage.accepted, &arrived), 0, "of {accepted}");
    let ordered: Vec<_> =
        arrived.into_iter().filter(|id| !stage.without_disk.contains(&run_of(*id))).collect();
    assert_eq!(out_of_order(&ordered), None, "disk full in runs {:?}", stage.without_disk);
    assert!(repeats <= (kills + breaks) * ON_THE_WAY);
    // 0 means that `du` could not measure it.
    assert!((1..=CAP_BYTES).contains(&stage.disk_bytes), "{} bytes", stage.disk_bytes);
}
