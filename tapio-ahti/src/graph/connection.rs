//! Who connects to whom: workloads and the addresses that they connected to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::EntityId;

/// An address with a port; 0 stands for further ports.
pub(crate) type Destination = (IpAddr, u16);

/// When a connection was first and last seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    first_ns: u64,
    last_ns: u64,
}

/// Connections of workloads.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    of_client: BTreeMap<EntityId, BTreeMap<Destination, Seen>>,
    clients: BTreeMap<IpAddr, BTreeSet<EntityId>>,
    count: usize,
    /// Connections that were let go as they were last seen a day ago.
    pub(crate) expired: u64,
    /// Connections that were not taken since there are too many.
    pub(crate) refused: u64,
}

/// Maximum number of connections that are known.
const MAX_CONNECTIONS: usize = 1_000_000;

impl Connections {
    /// Records that a client connected to a destination, or tried to.
    pub(crate) fn add(&mut self, client: EntityId, to: Destination, first_ns: u64, last_ns: u64) {
        let to = (to.0.to_canonical(), to.1);
        let known = self.of_client.entry(client).or_default();
        match known.get_mut(&to) {
            Some(seen) => {
                *seen = Seen { first_ns: seen.first_ns.min(first_ns), last_ns: seen.last_ns.max(last_ns) };
            }
            None if self.count >= MAX_CONNECTIONS => self.refused += 1,
            None => {
                known.insert(to, Seen { first_ns, last_ns });
                self.clients.entry(to.0).or_default().insert(client);
                self.count += 1;
            }
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// The destinations of a client up to a time.
    pub(crate) fn of(&self, client: EntityId, at_ns: u64) -> impl Iterator<Item = Destination> {
        let known = self.of_client.get(&client).into_iter().flatten();
        known.filter(move |(_, seen)| seen.first_ns <= at_ns).map(|(to, _)| *to)
    }

    /// The clients of an address up to a time.
    pub(crate) fn clients_of(&self, address: IpAddr, at_ns: u64) -> impl Iterator<Item = EntityId> {
        let address = address.to_canonical();
        let clients = self.clients.get(&address).into_iter().flatten().copied();
        let ports = (address, 0)..=(address, u16::MAX);
        clients.filter(move |client| {
            let known = self.of_client.get(client).map(|known| known.range(ports.clone()));
            known.into_iter().flatten().any(|(_, seen)| seen.first_ns <= at_ns)
        })
    }

    /// Lets go of connections that were last seen before a time.
    pub(crate) fn expire(&mut self, limit_ns: u64) {
        self.of_client.retain(|_, known| {
            known.retain(|_, seen| seen.last_ns >= limit_ns);
            !known.is_empty()
        });
        let left = self.of_client.values().map(BTreeMap::len).sum();
        self.expired += (self.count - left) as u64;
        self.count = left;
        let of_client = &self.of_client;
        self.clients.retain(|address, clients| {
            let connects = |client: &EntityId| {
                of_client
                    .get(client)
                    .is_some_and(|known| known.range((*address, 0)..=(*address, u16::MAX)).next().is_some())
            };
            clients.retain(connects);
            !clients.is_empty()
        });
    }
}
