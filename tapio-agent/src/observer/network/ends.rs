//! If both ends of a flow are on this node, each measures round trips. The client's end reports a rise, with
//! the server as its peer, and the server's end is suppressed. If addresses are rewritten on the way, as for
//! a Kubernetes Service, nothing shows that two ends belong together, and both report.

use std::{collections::HashMap, hash::RandomState, net::IpAddr, num::NonZeroUsize};

use lru::LruCache;
use tapio_common::network::{NetworkEvent, direction};
use tapio_occurrence::Severity;

use super::{RTT_SHIFT, RTT_SPIKE, address, service_port};
use crate::observer::{Anomaly, Kind};

/// How long a spike waits for the samples that show whether the level has changed, and how long an anomaly at
/// the server's end waits for the client's.
const SETTLE_NS: u64 = 2_000_000_000;
/// For this long a report by one end covers anomalies that the other end sees.
const TELLS_NS: u64 = 60 * 1_000_000_000;
/// The most ends that wait at a time. Anomalies of further ends are reported at once.
const MAX_WAITING: usize = 1024;
/// The most flows whose reports are remembered; the oldest makes room.
const MAX_FLOWS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Marks the anomaly of a suppressed end. It is above the port numbers, which `detail` otherwise contains.
const OTHER_END: u32 = 1 << 16;

/// Anomalies of round trips that wait, and recent reports, by end and flow.
#[derive(Debug)]
pub(super) struct Ends {
    waiting: HashMap<End, Anomaly>,
    reported: LruCache<Flow, Reported, RandomState>,
}

/// One end of the flows between two hosts to one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct End {
    flow: Flow,
    /// Which of the two sorted addresses is its own; on loopback, with only one address, whether `port` is
    /// its own port.
    is_second: bool,
    direction: u32,
}

/// The same value at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    addresses: [IpAddr; 2],
    port: u16,
    /// The network namespace on loopback, because each has its own; 0 otherwise.
    netns: u32,
}

#[derive(Clone, Copy, Debug)]
struct Reported {
    by: End,
    time_ns: u64,
    kind: &'static Kind,
    severity: Severity,
}

impl Default for Ends {
    fn default() -> Self {
        Self { waiting: HashMap::new(), reported: LruCache::with_hasher(MAX_FLOWS, RandomState::new()) }
    }
}

impl Ends {
    /// Adds an anomaly seen at one end, and outputs what can be reported now.
    pub(super) fn take(&mut self, event: &NetworkEvent, anomaly: Anomaly, out: &mut Vec<Anomaly>) {
        let end = End::of(event);
        if anomaly.kind == &RTT_SPIKE || end.direction != direction::OUTBOUND {
            return self.wait(end, anomaly, out);
        }
        self.tell(end, anomaly, out);
    }

    /// Delays an anomaly until it is known whether a spike was only a spike, and whether the client's end
    /// reports it. Of several, the highest is kept; a change of level takes precedence over spikes.
    fn wait(&mut self, end: End, anomaly: Anomaly, out: &mut Vec<Anomaly>) {
        if self.waiting.len() >= MAX_WAITING && !self.waiting.contains_key(&end) {
            return self.tell(end, anomaly, out);
        }
        let Some(first) = self.waiting.remove(&end) else {
            self.waiting.insert(end, anomaly);
            return;
        };
        // A level that fell is unrelated to a spike before it.
        if first.severity != anomaly.severity {
            self.tell(end, first, out);
            self.waiting.insert(end, anomaly);
            return;
        }
        let (count, time_ns) = (first.count + anomaly.count, first.time_ns);
        let is_more =
            (anomaly.kind == &RTT_SHIFT, anomaly.magnitude) > (first.kind == &RTT_SHIFT, first.magnitude);
        let kept = if is_more { anomaly } else { first };
        self.waiting.insert(end, Anomaly { count, time_ns, ..kept });
    }

    /// Reports anomalies that have waited long enough.
    pub(super) fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let is_over = |_: &End, waits: &mut Anomaly| now_ns.saturating_sub(waits.time_ns) >= SETTLE_NS;
        let mut over: Vec<_> = self.waiting.extract_if(is_over).collect();
        // The client's ends come first.
        over.sort_by_key(|(end, waits)| (end.direction != direction::OUTBOUND, waits.time_ns));
        for (end, waits) in over {
            self.tell(end, waits, out);
        }
    }

    /// When the first of what waits has waited long enough.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.waiting.values().map(|waits| waits.time_ns.saturating_add(SETTLE_NS)).min()
    }

    /// Reports an anomaly unless the other end does. A spike waiting at this end is merged into it; one
    /// waiting at the other end is the same rise.
    fn tell(&mut self, end: End, mut anomaly: Anomaly, out: &mut Vec<Anomaly>) {
        if end.direction != direction::OUTBOUND && self.other_end_tells(end, &anomaly) {
            anomaly.only.by_other_end = true;
            // The anomaly must not be folded as a repeat of the reported one.
            anomaly.detail |= OTHER_END;
            return out.push(anomaly);
        }
        if anomaly.kind == &RTT_SHIFT
            && self.waiting.get(&end).is_some_and(|spike| spike.severity == anomaly.severity)
            && let Some(spike) = self.waiting.remove(&end)
        {
            anomaly.count += spike.count;
        }
        let Anomaly { time_ns, kind, severity, .. } = anomaly;
        self.reported.put(end.flow, Reported { by: end, time_ns, kind, severity });
        out.push(anomaly);
    }

    /// Whether the other end has reported the rise, or will: an anomaly waiting at the client's end is going
    /// to be reported.
    fn other_end_tells(&mut self, end: End, anomaly: &Anomaly) -> bool {
        let client = End { is_second: !end.is_second, direction: direction::OUTBOUND, ..end };
        if self.waiting.get(&client).is_some_and(|waits| stands_for((waits.kind, waits.severity), anomaly)) {
            return true;
        }
        self.reported.get(&end.flow).is_some_and(|reported| {
            reported.by.is_second != end.is_second
                && anomaly.time_ns.saturating_sub(reported.time_ns) < TELLS_NS
                && stands_for((reported.kind, reported.severity), anomaly)
        })
    }

    /// The number of waiting anomalies.
    pub(super) fn pending(&self) -> u64 {
        self.waiting.values().map(|waits| waits.count).sum()
    }
}

/// Whether a report covers an anomaly. A change of level also covers its first samples.
fn stands_for((kind, severity): (&'static Kind, Severity), anomaly: &Anomaly) -> bool {
    severity == anomaly.severity && (kind == &RTT_SHIFT || kind == anomaly.kind)
}

impl End {
    fn of(event: &NetworkEvent) -> Self {
        let (local, remote, port) = (address(event.local), address(event.remote), service_port(event));
        let is_second = if local == remote { event.local_port == port } else { local > remote };
        let addresses = if local > remote { [remote, local] } else { [local, remote] };
        let netns = if remote.is_loopback() { event.netns } else { 0 };
        Self { flow: Flow { addresses, port, netns }, is_second, direction: event.direction }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use bytemuck::Zeroable as _;
    use tapio_common::{Header, network::kind};

    use super::{super::judge, *};

    const SPIKE: &str = RTT_SPIKE.name;
    const SHIFT: &str = RTT_SHIFT.name;

    const SECOND: u64 = 1_000_000_000;
    const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
    const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 443);

    #[derive(Default)]
    struct Line {
        ends: Ends,
        out: Vec<Anomaly>,
    }

    impl Line {
        /// Feeds an anomaly seen at an end: `CLIENT`, which connects, or `SERVER`.
        fn see(&mut self, kind: u32, end: ([u8; 4], u16), at_s: u64) {
            let (peer, direction) =
                if end == CLIENT { (SERVER, direction::OUTBOUND) } else { (CLIENT, direction::INBOUND) };
            self.see_between(kind, [end, peer], direction, at_s);
        }

        fn see_between(&mut self, kind: u32, ends: [([u8; 4], u16); 2], direction: u32, at_s: u64) {
            let [(local, local_port), (remote, remote_port)] =
                ends.map(|(address, port)| (IpAddr::from(address), port));
            let mapped = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.octets(),
            };
            let event = NetworkEvent {
                header: Header { time_ns: at_s * SECOND, ..Header::zeroed() },
                kind,
                direction,
                local: mapped(local),
                remote: mapped(remote),
                local_port,
                remote_port,
                value_us: 100_000,
                ..NetworkEvent::zeroed()
            };
            self.ends.take(&event, judge(&event).unwrap(), &mut self.out);
        }

        /// The anomalies reported, including those that the other end reports.
        fn counted(&self) -> u64 {
            self.out.iter().map(|anomaly| anomaly.count).sum()
        }

        fn reported(&mut self, now_s: u64) -> Vec<(&'static str, Option<&str>, u64)> {
            self.out.clear();
            self.ends.tick(now_s * SECOND, &mut self.out);
            said(&self.out)
        }
    }

    fn said(out: &[Anomaly]) -> Vec<(&'static str, Option<&str>, u64)> {
        let reported = out.iter().filter(|anomaly| !anomaly.only.by_other_end);
        reported
            .map(|reported| (reported.kind.name, reported.data.text("direction"), reported.count))
            .collect()
    }

    #[test]
    fn of_one_flow_the_clients_end_tells() {
        let mut line = Line::default();
        line.see(kind::RTT_SPIKE, SERVER, 1);
        line.see(kind::RTT_SPIKE, CLIENT, 1);
        assert_eq!(line.reported(3), [(SPIKE, Some("outbound"), 1)]);
        // The server's anomaly comes one second earlier.
        line.see(kind::RTT_SPIKE, SERVER, 201);
        line.see(kind::RTT_SPIKE, CLIENT, 202);
        assert_eq!(line.reported(203), []);
        assert_eq!(line.reported(204), [(SPIKE, Some("outbound"), 1)]);
        // The server's anomaly comes later.
        line.see(kind::RTT_SPIKE, SERVER, 205);
        assert_eq!(line.reported(207), []);
        line.see(kind::RTT_SHIFT, CLIENT, 208);
        assert_eq!(said(&line.out), [(SHIFT, Some("outbound"), 1)], "at once");
        line.see(kind::RTT_SHIFT, SERVER, 209);
        line.see(kind::RTT_SPIKE, SERVER, 210);
        assert_eq!(line.reported(212), []);
        assert_eq!(line.counted(), 2, "none is lost");
    }

    #[test]
    fn what_the_client_does_not_tell_the_server_does() {
        let mut line = Line::default();
        line.see(kind::RTT_SHIFT, SERVER, 1);
        assert_eq!(line.reported(2), [], "the client may");
        assert_eq!(line.reported(3), [(SHIFT, Some("inbound"), 1)]);
        line.out.clear();
        line.see(kind::RTT_SHIFT, CLIENT, 4);
        assert_eq!(said(&line.out), [(SHIFT, Some("outbound"), 1)], "the better evidence is reported, too");
        // A spike does not cover a change of level.
        let mut line = Line::default();
        line.see(kind::RTT_SPIKE, CLIENT, 1);
        line.see(kind::RTT_SHIFT, SERVER, 1);
        assert_eq!(line.reported(3), [(SPIKE, Some("outbound"), 1), (SHIFT, Some("inbound"), 1)]);
        // An old report does not cover a new anomaly.
        line.see(kind::RTT_SPIKE, SERVER, 100);
        assert_eq!(line.reported(103), [(SPIKE, Some("inbound"), 1)]);
    }

    #[test]
    fn where_neither_is_known_to_be_the_client_the_first_tells() {
        let mut line = Line::default();
        line.see_between(kind::RTT_SHIFT, [SERVER, CLIENT], direction::UNKNOWN, 1);
        line.see_between(kind::RTT_SHIFT, [CLIENT, SERVER], direction::UNKNOWN, 2);
        assert_eq!(line.reported(5), [(SHIFT, None, 1)]);
        // On loopback the ports tell the ends apart.
        let (client, server) = (([127, 0, 0, 1], 40_000), ([127, 0, 0, 1], 80));
        line.see_between(kind::RTT_SPIKE, [client, server], direction::OUTBOUND, 10);
        line.see_between(kind::RTT_SPIKE, [server, client], direction::INBOUND, 10);
        assert_eq!(line.reported(13), [(SPIKE, Some("outbound"), 1)]);
    }

    #[test]
    fn a_spike_is_part_of_the_level_that_follows_and_memory_is_bounded() {
        let mut line = Line::default();
        for at_s in [1, 1, 2] {
            line.see(kind::RTT_SPIKE, CLIENT, at_s);
        }
        line.see(kind::RTT_SHIFT, CLIENT, 2);
        assert_eq!(said(&line.out), [(SHIFT, Some("outbound"), 4)]);
        assert_eq!(line.reported(9), []);
        line.see(kind::RTT_SPIKE, SERVER, 100);
        line.see(kind::RTT_SHIFT, SERVER, 101);
        assert_eq!(line.reported(103), [(SHIFT, Some("inbound"), 2)]);

        for port in 1..=5_000 {
            line.see_between(kind::RTT_SPIKE, [CLIENT, (SERVER.0, port)], direction::OUTBOUND, 200);
        }
        assert_eq!(line.ends.pending(), MAX_WAITING as u64);
        assert!(line.ends.reported.len() <= MAX_FLOWS.get());
    }
}
