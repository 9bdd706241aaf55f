//! The addresses of the cluster's nodes.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::Known;
use crate::enrich::peer_identity::PeerIdentity;

/// More than a cluster has: each node may have an address of either family.
const MAX_ADDRESSES: usize = 20_000;
/// How long after a list a node is assumed to have its address. Nodes are listed at most this often.
const FRESH_NS: u64 = 60_000_000_000;

/// Node by address, according to the last list.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// The node and its creation time; `None` for an address that several nodes have.
    known: HashMap<IpAddr, Option<(Arc<PeerIdentity>, u64)>>,
    listed_unix_ns: u64,
}

/// An address of a node, with the node's creation time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) address: IpAddr,
    pub(super) name: String,
    pub(super) made_unix_ns: u64,
}

impl Nodes {
    /// The node that had an address; `Nobody` if two nodes claim it, because neither is certain.
    pub(super) fn at(&self, address: IpAddr, unix_ns: u64) -> Known {
        let Some(node) = self.known.get(&address) else { return Known::NotYet };
        if unix_ns > self.listed_unix_ns.saturating_add(FRESH_NS) {
            return Known::NotYet;
        }
        match node {
            Some((identity, made_unix_ns)) if *made_unix_ns <= unix_ns => {
                Known::PeerIdentity(Arc::clone(identity))
            }
            Some(_) => Known::NotYet,
            None => Known::Nobody,
        }
    }

    /// Replaces all addresses with those of a new list.
    pub(super) fn replace(&mut self, nodes: Vec<NodeAddress>, listed_unix_ns: u64) {
        self.listed_unix_ns = listed_unix_ns;
        self.known.clear();
        for NodeAddress { address, name, made_unix_ns } in nodes.into_iter().take(MAX_ADDRESSES) {
            let node = self
                .known
                .entry(address)
                .or_insert_with(|| Some((Arc::new(PeerIdentity::of_node(&name)), made_unix_ns)));
            if node.as_ref().is_some_and(|(other, _)| other.uid != name) {
                *node = None;
            }
        }
    }

    /// Whether the nodes should be listed before an anomaly at that time is judged.
    pub(super) fn is_due(&self, now_unix_ns: u64) -> bool {
        now_unix_ns >= self.listed_unix_ns.saturating_add(FRESH_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_two_nodes_have_is_nobodys() {
        let (shared, own) = (IpAddr::from([192, 168, 0, 1]), IpAddr::from([192, 168, 0, 2]));
        let node =
            |address, name: &str| NodeAddress { address, name: name.to_owned(), made_unix_ns: FRESH_NS };
        let mut nodes = Nodes::default();
        for others in [&["a", "b"][..], &["b", "a"], &["a", "b", "a"]] {
            let shared = others.iter().map(|name| node(shared, name));
            // A node that has the same address as internal and external is still one node.
            let all = shared.chain([node(own, "a"), node(own, "a")]).collect();
            nodes.replace(all, 2 * FRESH_NS);
            assert_eq!(
                nodes.at(own, 2 * FRESH_NS),
                Known::PeerIdentity(Arc::new(PeerIdentity::of_node("a")))
            );
        }
        assert_eq!(nodes.at(shared, 2 * FRESH_NS), Known::Nobody);
        assert_eq!(nodes.at(shared, 3 * FRESH_NS + 1), Known::NotYet, "the list is old");
        assert_eq!(nodes.at(own, FRESH_NS - 1), Known::NotYet, "it was not made yet");
    }
}
