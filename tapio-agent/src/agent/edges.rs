//! Edges: which workload talks to which addresses, as structure and not as traffic. The kernel programs count connections
//! where they open and fail; now and then, those that are new or last go out in digests, one for each workload.
//!
//! Peers are addresses: whoever knows the whole cluster resolves them as of the digest's time.

mod reported;

use std::{collections::HashMap, net::Ipv6Addr, sync::Arc, time::Duration};

use tapio_common::network::{
    Destination, PATHS, Path, WAYS, direction,
    edge::{self, Contacts, Edge, OTHER_PORTS},
};
use tapio_delivery::Sinks;
use tapio_occurrence::{Data, Occurrence, Outcome, SOURCE, Severity, Value, Workload, printable::printable};
use tapio_service::clock;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use ulid::Ulid;

use self::reported::{Choice, Due, Reported};
use super::status::Shared;
use crate::enrich::Identity;

/// The type of a digest.
const KIND: &str = "network.edges";
/// The name by which state snapshots hold when each edge was reported.
pub(super) const NAME: &str = "edges";
/// When the first digest is due, unless the interval is shorter: soon, but not amid the start.
const FIRST: Duration = Duration::from_secs(5);

/// Edges of one workload.
struct Digest {
    workload: Option<Arc<Workload>>,
    edges: Vec<Due>,
    /// How many others wait for a later digest.
    more: u64,
}

/// Sends digests again and again, until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut identity: Identity, sinks: Sinks, interval: Duration) {
    let contributions = &shared.snapshots.contributions;
    let mut reported = Reported::restored(&contributions.before(NAME).unwrap_or_default());
    let mut tick = interval_at(Instant::now() + FIRST.min(interval), interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now_ns = clock::boot_ns();
        // With very many edges, this takes some milliseconds.
        let choice = tokio::task::block_in_place(|| {
            reported.choose(seen(&shared), now_ns, |destination| path_of(&shared, destination))
        });
        if choice.due.is_empty() {
            continue;
        }
        for digest in digests(choice, &mut identity).await {
            sinks.send_to_programs(&Arc::new(occurrence(&digest, &identity, now_ns)));
        }
        contributions.contribute(NAME, reported.bytes());
    }
}

/// All edges that the kernel programs hold.
fn seen(shared: &Shared) -> HashMap<Edge, Contacts> {
    let mut all = HashMap::new();
    let mut take = |entries: &[u8]| {
        for entry in entries.chunks_exact(size_of::<Edge>() + size_of::<Contacts>()) {
            let (edge, contacts) = entry.split_at(size_of::<Edge>());
            all.insert(bytemuck::pod_read_unaligned(edge), bytemuck::pod_read_unaligned(contacts));
        }
    };
    for source in shared.sources() {
        for map in edge::MAPS {
            if let Err(error) = source.read(map, &mut take) {
                tracing::warn!("the edges cannot be read: {error:#}");
            }
        }
    }
    all
}

/// Round trips of a destination, from where the kernel programs keep them.
fn path_of(shared: &Shared, destination: &Destination) -> Option<Path> {
    let (first, tag) = destination.place(shared.snapshots.seed);
    (first..first + WAYS).find_map(|index| {
        let bytes = shared.sources().find_map(|source| source.element(PATHS, index))?;
        let path: Path = bytemuck::try_pod_read_unaligned(&bytes).ok()?;
        (path.tag == tag && path.key == *destination).then_some(path)
    })
}

/// Groups edges by their workload. Those whose workload is not known have one digest.
async fn digests(choice: Choice, identity: &mut Identity) -> Vec<Digest> {
    let Choice { due, mut waiting } = choice;
    let mut digests: Vec<Digest> = Vec::new();
    for due in due {
        let (cgroup_id, last_ns) = (due.edge.cgroup_id, due.contacts.last_ns);
        identity.find(cgroup_id, last_ns).await;
        let workload = identity.owner(cgroup_id, 0, last_ns).workload();
        // Counted once, with the first edge of the cgroup.
        let more = waiting.remove(&cgroup_id).unwrap_or_default();
        match digests.iter_mut().find(|digest| digest.workload == workload) {
            Some(digest) => {
                digest.edges.push(due);
                digest.more += more;
            }
            None => digests.push(Digest { workload, edges: vec![due], more }),
        }
    }
    digests
}

fn occurrence(digest: &Digest, identity: &Identity, now_ns: u64) -> Occurrence {
    let time_unix_ns = clock::unix_ns(now_ns);
    let Digest { workload, edges, more } = digest;
    let named = workload.as_deref().and_then(Workload::name).unwrap_or("unknown workload");
    let follow = if *more > 0 { format!("; {more} more follow") } else { String::new() };
    let (count, plural) = (edges.len(), if edges.len() == 1 { "" } else { "s" });
    let message = format!("{named}: {count} edge{plural}{follow}");
    let edges = edges.iter().map(|due| of_edge(due, now_ns)).collect();
    let data = Data::from([("edges", Value::List(edges)), ("more", (*more).into())]);
    Occurrence {
        id: Ulid::from_parts(time_unix_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns,
        source: SOURCE.into(),
        kind: KIND.into(),
        severity: Severity::Debug,
        outcome: Outcome::Success,
        message: printable(&message).into_owned(),
        cluster: identity.cluster(),
        node: identity.node(),
        workload: workload.clone(),
        process: None,
        actor: None,
        peer: None,
        data,
        baseline: None,
        count: 1,
    }
}

fn of_edge(due: &Due, now_ns: u64) -> Data {
    let Due { edge: Edge { destination, .. }, contacts, path } = due;
    let ms_ago = |time_ns: u64| now_ns.saturating_sub(time_ns) / 1_000_000;
    let is_inbound = u32::from(destination.direction) == direction::INBOUND;
    let mut data = Data::from([
        ("direction", if is_inbound { "inbound" } else { "outbound" }.into()),
        ("address", Ipv6Addr::from(destination.address).to_canonical().to_string().into()),
    ]);
    if destination.port != OTHER_PORTS {
        data.push("port", u64::from(destination.port));
    }
    data.push("since_ms", ms_ago(contacts.first_ns));
    data.push("last_ms", ms_ago(contacts.last_ns));
    data.push("connections", u64::from(contacts.connections));
    data.push("failures", u64::from(contacts.failures));
    if let Some(path) = path.as_ref().filter(|path| path.rtt.samples() > 0) {
        data.push("rtt_us", path.rtt.mean());
        data.push("rtt_deviation_us", path.rtt.deviation());
    }
    data
}

#[cfg(test)]
mod tests;
