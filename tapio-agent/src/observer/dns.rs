//! DNS: look-ups that fail, are not answered, or take long.
//!
//! Watches `net_dev_queue` and `netif_receive_skb`. Reports `network.dns_failure`, `network.dns_timeout`,
//! `network.dns_slow` and `network.dns_nxdomain_burst`.
//!
//! The kernel programs match answers with questions, and judge. This module joins what belongs to one look-up, and
//! leaves the questions of resolvers to their clients.

mod faults;
mod lookups;
mod message;
mod name;
mod ports;
mod settings;

use std::{
    hash::RandomState,
    mem::offset_of,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
};

use lru::LruCache;
use tapio_common::dns::{self, DnsEvent, Latency, Resolver, code, kind};
use tapio_occurrence::{Data, Normal, Outcome, Severity};

pub use settings::Settings;

use self::{
    lookups::{Lookup, Lookups},
    name::Names,
};
use super::{
    Anomaly, Attach, ByHelper, Fallback, Fault, Hook, Kind, Malformed, Observer, Role, Room, SnapshotMap,
    gauge, with,
};

/// The DNS observer.
#[derive(Debug)]
pub struct Dns {
    names: Names,
    lookups: Lookups,
    /// Processes that answer questions, by cgroup and pid.
    servers: LruCache<(u64, u32), (), RandomState>,
}

/// The most servers that are remembered; the oldest makes room. One that is forgotten is reported by its own look-ups, as
/// if it were a client.
const MAX_SERVERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

// Monitors look up names that fail, such as those of private addresses, as steadily as health checks connect.
static FAILURE: Kind = Kind::new("network.dns_failure", Severity::Error, Outcome::Failure, message::failure)
    .of_health_checks()
    .not_measured();
static TIMEOUT: Kind = Kind::new("network.dns_timeout", Severity::Error, Outcome::Timeout, message::timeout);
static SLOW: Kind = Kind::new("network.dns_slow", Severity::Warning, Outcome::Success, message::slow);
static NXDOMAIN_BURST: Kind =
    Kind::new("network.dns_nxdomain_burst", Severity::Warning, Outcome::Failure, message::nxdomain_burst);

/// The fields that both hooks need.
const PACKET: [usize; 6] = [
    dns::SKB_PROTOCOL,
    dns::SKB_HEAD,
    dns::SKB_DATA,
    dns::SKB_NETWORK_HEADER,
    dns::SKB_LEN,
    dns::SKB_DATA_LEN,
];
const SOCKET: [usize; 8] = [
    dns::SKB_SK,
    dns::SKB_TRANSPORT_HEADER,
    dns::DPORT,
    dns::SPORT,
    dns::STATE,
    dns::PROTOCOL,
    dns::NET,
    dns::NET_INUM,
];
const DEVICE: [usize; 3] = [dns::SKB_DEV, dns::DEV_NET, dns::NET_INUM];
/// Neither hook gives anything without the other.
const GIVES: &str = "network.dns_failure, network.dns_timeout, network.dns_slow, network.dns_nxdomain_burst";
/// How packets are read: by kernel functions, or by a helper, as the current task is.
const BY_FUNCTION: [usize; 3] = [dns::CAST, dns::WORDS, dns::DYNPTR];
const BY_HELPER: [usize; 1] = [dns::LEADER];

impl Observer for Dns {
    const NAME: &'static str = "dns";
    const FIELDS: &'static [&'static str] = dns::FIELDS;
    const BY_HELPER: ByHelper = ByHelper {
        fields: dns::BY_HELPER,
        lost: "a process that asks from a thread other than its main thread is reported under that thread's name",
    };
    // In the order of `tapio_common::dns::program`: the hook of answers is attached before that of questions.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "netif_receive_skb",
            attach: Attach::BtfTracepoint("netif_receive_skb"),
            needs: &with::<_, 3, 12>(with::<_, 3, 9>(PACKET, DEVICE), BY_FUNCTION),
            gives: GIVES,
            or: &[Fallback {
                program: "netif_receive_skb",
                attach: Attach::BtfTracepoint("netif_receive_skb"),
                needs: &with::<_, 1, 10>(with::<_, 3, 9>(PACKET, DEVICE), BY_HELPER),
            }],
        },
        Hook {
            program: "net_dev_queue",
            attach: Attach::BtfTracepoint("net_dev_queue"),
            needs: &with::<_, 3, 17>(with::<_, 8, 14>(PACKET, SOCKET), BY_FUNCTION),
            gives: GIVES,
            or: &[Fallback {
                program: "net_dev_queue",
                attach: Attach::BtfTracepoint("net_dev_queue"),
                needs: &with::<_, 1, 15>(with::<_, 8, 14>(PACKET, SOCKET), BY_HELPER),
            }],
        },
    ];
    const KINDS: &'static [&'static Kind] = &[&FAILURE, &TIMEOUT, &SLOW, &NXDOMAIN_BURST];
    const ROOM: Room = Room { ring_bytes: 256 << 10, cooldowns: 4096 };
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[SnapshotMap {
        map: "RESOLVERS",
        key: Some(size_of::<Resolver>()),
        value: size_of::<Latency>(),
        // The answers since the last reading.
        transient: &[(0, 8)],
        baselines: &[offset_of!(Latency, baseline)],
        used: None,
    }];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    const ROLES: &'static [Role] = faults::ROLES;
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        let servers = LruCache::with_hasher(MAX_SERVERS, RandomState::new());
        Self { names: settings.names, lookups: Lookups::default(), servers }
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let event: DnsEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        if event.kind == kind::SERVES {
            self.servers.put((event.header.cgroup_id, event.header.pid), ());
            return Ok(());
        }
        let kind = kind_of(&event).ok_or(Malformed::Kind(event.kind))?;
        match event.kind {
            kind::LATENCY_SHIFT | kind::NXDOMAIN_BURST => out.push(self.judge(kind, Lookup::new(&event))),
            _ => out.extend(self.lookups.take(&event).map(|lookup| self.judge(kind, lookup))),
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        for lookup in self.lookups.over(now_ns) {
            // Only events of known kinds wait.
            if let Some(kind) = kind_of(&lookup.event) {
                out.push(self.judge(kind, lookup));
            }
        }
    }

    fn wake_at(&self) -> Option<u64> {
        self.lookups.wake_at()
    }

    fn pending(&self) -> u64 {
        self.lookups.pending()
    }
}

/// The occurrence type of an event.
fn kind_of(event: &DnsEvent) -> Option<&'static Kind> {
    Some(match event.kind {
        kind::FAILURE | kind::NAME_GONE => &FAILURE,
        kind::ASKED_AGAIN => &TIMEOUT,
        kind::SLOW | kind::LATENCY_SHIFT => &SLOW,
        kind::NXDOMAIN_BURST => &NXDOMAIN_BURST,
        _ => return None,
    })
}

impl Dns {
    fn judge(&self, kind: &'static Kind, lookup: Lookup) -> Anomaly {
        let event = &lookup.event;
        let mut anomaly = Anomaly {
            time_ns: lookup.first_ns,
            peer: Some((address(event.resolver), event.resolver_port.to_be())),
            detail: event.code,
            data: self.data(kind, event, &lookup.types),
            baseline: normal(event),
            magnitude: match event.kind {
                kind::NXDOMAIN_BURST => event.queries.into(),
                _ => event.value_us,
            },
            count: lookup.count,
            ..Anomaly::new(kind, &event.header)
        };
        // What a resolver asks, it asks for a client, whose look-up fails as well.
        anomaly.only.by_other_end = self.servers.contains(&(anomaly.cgroup_id, anomaly.pid));
        anomaly
    }

    fn data(&self, kind: &'static Kind, event: &DnsEvent, types: &[u16]) -> Data {
        let mut data = Data::default();
        let since_ms = event.header.time_ns.saturating_sub(event.since_ns) / 1_000_000;
        match event.kind {
            kind::LATENCY_SHIFT => {
                data.push("latency_us", event.value_us);
                data.push("since_ms", since_ms);
            }
            kind::NXDOMAIN_BURST => {
                data.push("absent", u64::from(event.queries));
                data.push("answers", u64::from(event.answers));
                data.push("window_us", event.value_us);
            }
            _ => {
                data.push("elapsed_us", event.value_us);
                data.push("queries", u64::from(event.queries));
            }
        }
        if event.kind == kind::NAME_GONE {
            data.push("resolved_ms", since_ms);
        }
        let name = bytemuck::bytes_of(&event.name);
        let len = usize::try_from(event.name_len).unwrap_or(usize::MAX).min(name.len());
        data.push("question", self.names.show(&name[..len], event.name_hash));
        let types: Vec<_> = types.iter().map(|kind| name::kind(*kind)).collect();
        data.push("question_type", types.join(", "));
        if kind == &FAILURE {
            data.push("error", error(event.code));
        }
        data.push("transport", if event.transport == TCP { "tcp" } else { "udp" });
        data.push("local_address", address(event.local));
        data.push("local_port", u64::from(event.local_port.to_be()));
        data.push("direction", "outbound");
        data
    }
}

/// `IPPROTO_TCP`, include/uapi/linux/in.h.
const TCP: u16 = 6;

fn address(words: [u32; 4]) -> IpAddr {
    Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(words)).to_canonical()
}

/// Name of a response code (<https://www.iana.org/assignments/dns-parameters>), or of the error that a socket gets for an
/// ICMP message (`icmp_err_convert`, net/ipv4/icmp.c), whose codes for a closed port are 3 in ICMP and 4 in ICMPv6.
fn error(code: u32) -> &'static str {
    match code {
        code::FORMERR => "FORMERR",
        code::SERVFAIL => "SERVFAIL",
        code::NXDOMAIN => "NXDOMAIN",
        code::NOTIMP => "NOTIMP",
        code::REFUSED => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        _ if code < code::UNREACHABLE => "RESERVED",
        _ => match code - code::UNREACHABLE {
            3 | 4 => "ECONNREFUSED",
            0 | 6 | 9 => "ENETUNREACH",
            _ => "EHOSTUNREACH",
        },
    }
}

fn normal(event: &DnsEvent) -> Option<Normal> {
    let (value, unit) = match event.kind {
        kind::LATENCY_SHIFT => (event.value_us, "us"),
        kind::NXDOMAIN_BURST if event.baseline.samples() > 0 => (event.queries.into(), "answers"),
        _ => return None,
    };
    Some(gauge::normal(&event.baseline, value, unit))
}
