//! The addresses of the cluster's nodes.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::enrich::party::Party;

/// More nodes than a cluster may have, each with an address of either family.
const MAX_ADDRESSES: usize = 20_000;
/// How long after a list a node is believed to have its address; the list is taken as often, at most.
pub(super) const FRESH_NS: u64 = 60_000_000_000;

/// Who has which address, as the last list said.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: HashMap<IpAddr, (Arc<Party>, u64)>,
    listed_unix_ns: u64,
}

/// An address of a node, which was made at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeAddress {
    pub(super) address: IpAddr,
    pub(super) name: String,
    pub(super) made_unix_ns: u64,
}

impl Nodes {
    /// The node that had an address.
    pub(super) fn at(&self, address: IpAddr, unix_ns: u64) -> Option<Arc<Party>> {
        let (party, made_unix_ns) = self.known.get(&address)?;
        let holds = *made_unix_ns <= unix_ns && unix_ns <= self.listed_unix_ns.saturating_add(FRESH_NS);
        holds.then(|| Arc::clone(party))
    }

    /// These are all that there are.
    pub(super) fn replace(&mut self, nodes: Vec<NodeAddress>, listed_unix_ns: u64) {
        self.listed_unix_ns = listed_unix_ns;
        self.known = nodes
            .into_iter()
            .take(MAX_ADDRESSES)
            .map(|node| (node.address, (Arc::new(Party::of_node(&node.name)), node.made_unix_ns)))
            .collect();
    }

    /// Whether to list them before an anomaly then is judged.
    pub(super) fn is_due(&self, now_unix_ns: u64) -> bool {
        now_unix_ns >= self.listed_unix_ns.saturating_add(FRESH_NS)
    }
}
