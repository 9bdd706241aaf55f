//! The API server's answers for addresses, and the time for which each is valid.

use std::{collections::HashSet, hash::RandomState, net::IpAddr, num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use tokio::time::Instant;

use super::nodes::Nodes;
use crate::enrich::peer_identity::PeerIdentity;

/// The most addresses remembered. The least recently used one makes room.
const MAX_ADDRESSES: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// The most peer identities remembered per address.
const MAX_PARTIES: usize = 4;
/// How long an address that nobody had is assumed to be free.
const NOBODY_NS: u64 = 60_000_000_000;
/// How far the time of day may step back, or be slowed down, before answers are discarded.
const STEP_NS: u64 = 1_000_000_000;
/// Like [`NOBODY_NS`], for an address that a pod had before: another pod may get it soon.
const VACANT_NS: u64 = 10_000_000_000;

/// Answers by address.
#[derive(Debug)]
pub(super) struct Answers {
    known: LruCache<IpAddr, History, RandomState>,
    asked: HashSet<IpAddr>,
    pub(super) nodes: Nodes,
    /// No queries are sent until then.
    paused: Option<Instant>,
    /// The time of day at boot, as of the last use.
    boot_unix_ns: u64,
}

/// The owner of an address at a time, if known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It belonged to this peer.
    PeerIdentity(Arc<PeerIdentity>),
    /// Nobody known to the cluster had it, or the owner is not certain. Another query would not help.
    Nobody,
    /// A query would help.
    NotYet,
}

#[derive(Debug, Default)]
struct History {
    /// Peers that had the address, the newest last.
    held: Vec<Held>,
    /// When the address was last queried, 1970 UTC.
    asked_unix_ns: u64,
}

/// A peer had the address: certainly from `from_unix_ns` to `seen_unix_ns`, probably for a while longer, but
/// not after `until_unix_ns`.
#[derive(Debug)]
struct Held {
    identity: Arc<PeerIdentity>,
    from_unix_ns: u64,
    seen_unix_ns: u64,
    until_unix_ns: Option<u64>,
}

/// One peer from an answer of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) identity: PeerIdentity,
    pub(super) from_unix_ns: u64,
    pub(super) until_unix_ns: Option<u64>,
}

impl Known {
    /// The peer that has the address.
    #[must_use]
    pub fn identity(self) -> Option<Arc<PeerIdentity>> {
        match self {
            Self::PeerIdentity(identity) => Some(identity),
            Self::Nobody | Self::NotYet => None,
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            known: LruCache::with_hasher(MAX_ADDRESSES, RandomState::new()),
            asked: HashSet::new(),
            nodes: Nodes::default(),
            paused: None,
            boot_unix_ns: 0,
        }
    }
}

impl Answers {
    /// Sets the time of day at boot. If it has stepped back, all answers are discarded, because they would be
    /// believed for longer by that much.
    pub(super) fn at_clock(&mut self, boot_unix_ns: u64) {
        if boot_unix_ns.saturating_add(STEP_NS) < self.boot_unix_ns {
            self.known.clear();
            self.nodes = Nodes::default();
        }
        self.boot_unix_ns = boot_unix_ns;
    }

    /// The peer that had an address at a time.
    pub(super) fn get(&mut self, address: IpAddr, unix_ns: u64) -> Known {
        match self.nodes.at(address, unix_ns) {
            Known::NotYet => {}
            known => return known,
        }
        let Some(history) = self.known.get(&address) else { return Known::NotYet };
        if let Some(held) = history.held.iter().rev().find(|held| held.covers(unix_ns)) {
            return Known::PeerIdentity(Arc::clone(&held.identity));
        }
        let believed_ns = match history.held.last() {
            // A peer had it before, so it is worth asking who had it after that.
            Some(last) if last.until_unix_ns.is_none() => 0,
            Some(_) => VACANT_NS,
            None => NOBODY_NS,
        };
        if unix_ns <= history.asked_unix_ns.saturating_add(believed_ns) {
            Known::Nobody
        } else {
            Known::NotYet
        }
    }

    /// Stores an answer: the query was sent at `asked_unix_ns` and named every peer that has, or had, the
    /// address.
    pub(super) fn put(&mut self, address: IpAddr, asked_unix_ns: u64, found: Vec<Found>) {
        let history = self.known.get_or_insert_mut(address, History::default);
        history.asked_unix_ns = asked_unix_ns;
        for held in &mut history.held {
            // A peer that is not named any more has lost the address at some time after it was last seen.
            if !found.iter().any(|found| found.identity.uid == held.identity.uid) {
                held.until_unix_ns = Some(held.until_unix_ns.unwrap_or(held.seen_unix_ns.saturating_add(1)));
            }
        }
        for Found { identity, from_unix_ns, until_unix_ns } in found {
            history.held.retain(|held| held.identity.uid != identity.uid);
            let identity = Arc::new(identity);
            history.held.push(Held { identity, from_unix_ns, seen_unix_ns: asked_unix_ns, until_unix_ns });
        }
        history.held.sort_by_key(|held| held.from_unix_ns);
        let over = history.held.len().saturating_sub(MAX_PARTIES);
        history.held.drain(..over);
    }

    /// Whether a query for the address is in progress.
    pub(super) fn is_asked(&self, address: IpAddr) -> bool {
        self.asked.contains(&address)
    }

    pub(super) fn begin(&mut self, address: IpAddr) {
        self.asked.insert(address);
    }

    pub(super) fn end(&mut self, address: IpAddr) {
        self.asked.remove(&address);
    }

    pub(super) fn paused(&self, now: Instant) -> bool {
        self.paused.is_some_and(|until| now < until)
    }

    pub(super) fn pause(&mut self, until: Option<Instant>) {
        self.paused = until;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

impl Held {
    fn covers(&self, unix_ns: u64) -> bool {
        let ends = self.until_unix_ns.unwrap_or(self.seen_unix_ns.saturating_add(self.identity.fresh_ns()));
        self.from_unix_ns <= unix_ns && unix_ns < ends
    }
}

#[cfg(test)]
mod tests {
    use super::{super::nodes::NodeAddress, *};
    use tapio_occurrence::PeerNames;

    const SECOND_NS: u64 = 1_000_000_000;
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 2, 0, 5));

    fn pod(uid: &str, from: u64, until: Option<u64>) -> Found {
        let names = PeerNames { pod: Some(uid.to_owned()), ..PeerNames::default() };
        let identity = PeerIdentity { uid: uid.to_owned(), names: names.into() };
        let until_unix_ns = until.map(|second| second * SECOND_NS);
        Found { identity, from_unix_ns: from * SECOND_NS, until_unix_ns }
    }

    fn at(answers: &mut Answers, second: u64) -> &'static str {
        match answers.get(ADDRESS, second * SECOND_NS) {
            Known::PeerIdentity(identity) if identity.uid == "a" => "a",
            Known::PeerIdentity(_) => "b",
            Known::Nobody => "nobody",
            Known::NotYet => "not yet",
        }
    }

    #[test]
    fn an_answer_holds_for_its_time() {
        let mut answers = Answers::default();
        assert_eq!(at(&mut answers, 100), "not yet");
        answers.put(ADDRESS, 100 * SECOND_NS, vec![pod("a", 50, None)]);
        for (second, expected) in
            [(49, "nobody"), (50, "a"), (100, "a"), (109, "a"), (110, "not yet"), (500, "not yet")]
        {
            assert_eq!(at(&mut answers, second), expected, "{second}");
        }
        // A second query names another pod: it is not known when the first one lost the address.
        answers.put(ADDRESS, 200 * SECOND_NS, vec![pod("b", 150, None)]);
        for (second, expected) in [(100, "a"), (101, "nobody"), (149, "nobody"), (150, "b"), (209, "b")] {
            assert_eq!(at(&mut answers, second), expected, "{second}");
        }
        // Then nobody has it. That is believed for less time than for an address that nobody ever had.
        answers.put(ADDRESS, 300 * SECOND_NS, Vec::new());
        for (second, expected) in [(100, "a"), (200, "b"), (201, "nobody"), (310, "nobody"), (311, "not yet")]
        {
            assert_eq!(at(&mut answers, second), expected, "{second}");
        }
    }

    #[test]
    fn nobody_is_believed_for_a_minute() {
        let mut answers = Answers::default();
        answers.put(ADDRESS, 100 * SECOND_NS, Vec::new());
        for (second, expected) in [(1, "nobody"), (160, "nobody"), (161, "not yet")] {
            assert_eq!(at(&mut answers, second), expected, "{second}");
        }
    }

    #[test]
    fn one_that_has_ended_had_it_until_then() {
        let mut answers = Answers::default();
        answers.put(ADDRESS, 100 * SECOND_NS, vec![pod("b", 70, None), pod("a", 10, Some(20))]);
        for (second, expected) in [(15, "a"), (20, "nobody"), (69, "nobody"), (70, "b")] {
            assert_eq!(at(&mut answers, second), expected, "{second}");
        }
    }

    #[test]
    fn when_the_clock_steps_back_nothing_is_believed() {
        let mut answers = Answers::default();
        let node = NodeAddress { address: [10, 2, 0, 6].into(), name: "n".to_owned(), made_unix_ns: 0 };
        answers.at_clock(60 * SECOND_NS);
        answers.put(ADDRESS, 100 * SECOND_NS, vec![pod("a", 50, None)]);
        answers.nodes.replace(vec![node.clone()], 100 * SECOND_NS);
        answers.begin(ADDRESS);
        // The clock steps forward, and is slowed down by no more than a second.
        for boot_unix_ns in [61 * SECOND_NS, 61 * SECOND_NS, 60 * SECOND_NS] {
            answers.at_clock(boot_unix_ns);
            assert_eq!(at(&mut answers, 100), "a");
            assert_ne!(answers.get(node.address, 100 * SECOND_NS), Known::NotYet);
        }
        answers.at_clock(59 * SECOND_NS - 1);
        assert_eq!(at(&mut answers, 100), "not yet");
        assert_eq!(answers.get(node.address, 100 * SECOND_NS), Known::NotYet);
        assert!(answers.nodes.is_due(100 * SECOND_NS) && answers.is_asked(ADDRESS));
    }

    #[test]
    fn memory_is_bounded() {
        let mut answers = Answers::default();
        for number in 0..3 * MAX_ADDRESSES.get() as u32 {
            answers.put(IpAddr::from(number.to_be_bytes()), SECOND_NS, Vec::new());
        }
        assert_eq!(answers.len(), MAX_ADDRESSES.get());
        for nth in 0..100 {
            answers.put(ADDRESS, nth * SECOND_NS, vec![pod(&nth.to_string(), nth, None)]);
        }
        assert!(answers.known.get(&ADDRESS).is_some_and(|history| history.held.len() <= MAX_PARTIES));
    }
}
