//! Network: latency, loss and failures of TCP connections, per destination.
//!
//! Watches `tcp_probe`, `inet_sock_set_state`, `tcp_retransmit_skb`, `tcp_receive_reset`, `tcp_v4_connect` and
//! `tcp_v6_connect`. Reports `network.rtt_spike`, `network.rtt_shift`, `network.connection_refused`,
//! `network.connection_timeout`, `network.connection_unreachable`, `network.connection_reset`,
//! `network.peer_unresponsive`, `network.connect_slow` and `network.retransmit_burst`.
//!
//! The kernel programs judge. This module turns a verdict into an anomaly, and
//! reports a spike that turns out to be a new level only as that level.

mod ends;
mod faults;
mod message;
mod settings;

use std::{
    mem::offset_of,
    net::{IpAddr, Ipv6Addr},
};

use tapio_common::{
    baseline::Baseline,
    network::{self as net, Destination, NetworkEvent, direction, edge, kind},
};
use tapio_occurrence::{Data, Normal, Outcome, Severity, Value};

pub use settings::Settings;

use self::ends::Ends;
use super::{
    Anomaly, Attach, ByHelper, Fault, Hook, Kind, Malformed, Observer, Right, Role, Room, SnapshotMap, gauge,
    with,
};

/// The network observer.
#[derive(Debug, Default)]
pub struct Network {
    ends: Ends,
}

/// The fields that every hook needs.
const SOCKET: [usize; 13] = [
    net::INET_SPORT,
    net::FAMILY,
    net::DADDR,
    net::SADDR,
    net::DADDR6,
    net::SADDR6,
    net::DPORT,
    net::SPORT,
    net::PORTS,
    net::HASH,
    net::STATE,
    net::NET,
    net::NET_INUM,
];

static RTT_SPIKE: Kind =
    Kind::new("network.rtt_spike", Severity::Warning, Outcome::Unknown, message::rtt_spike);
static RTT_SHIFT: Kind =
    Kind::new("network.rtt_shift", Severity::Warning, Outcome::Unknown, message::rtt_shift);
static CONNECTION_REFUSED: Kind =
    Kind::new("network.connection_refused", Severity::Error, Outcome::Failure, message::refused)
        .of_health_checks()
        .not_measured();
static CONNECTION_TIMEOUT: Kind =
    Kind::new("network.connection_timeout", Severity::Error, Outcome::Timeout, message::timeout)
        .of_health_checks();
static CONNECTION_UNREACHABLE: Kind =
    Kind::new("network.connection_unreachable", Severity::Error, Outcome::Failure, message::unreachable)
        .of_health_checks()
        .not_measured();
static CONNECTION_RESET: Kind =
    Kind::new("network.connection_reset", Severity::Error, Outcome::Failure, message::reset)
        .of_health_checks()
        .not_measured();
static CONNECT_SLOW: Kind =
    Kind::new("network.connect_slow", Severity::Warning, Outcome::Success, message::connect_slow);
static RETRANSMIT_BURST: Kind =
    Kind::new("network.retransmit_burst", Severity::Warning, Outcome::Unknown, message::retransmit_burst);
static PEER_UNRESPONSIVE: Kind =
    Kind::new("network.peer_unresponsive", Severity::Error, Outcome::Timeout, message::unresponsive);

impl Observer for Network {
    const NAME: &'static str = "network";
    const FIELDS: &'static [&'static str] = net::FIELDS;
    const BY_HELPER: ByHelper = ByHelper {
        fields: net::BY_HELPER,
        lost: "a process that connects or listens from a thread other than its main thread is reported under that thread's name",
    };
    // In the order of `tapio_common::network::program`.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "tcp_probe",
            attach: Attach::BtfTracepoint("tcp_probe"),
            needs: &with::<_, 7, 20>(
                SOCKET,
                [
                    net::RACK_MSTAMP,
                    net::RACK_RTT,
                    net::SEGMENT_SEQ,
                    net::SEGMENT_END,
                    net::SEGMENT_ACK,
                    net::MSS,
                    net::SEGS_OUT,
                ],
            ),
            gives: "network.rtt_spike, network.rtt_shift",
            or: &[],
        },
        Hook {
            program: "inet_sock_set_state",
            attach: Attach::BtfTracepoint("inet_sock_set_state"),
            needs: &with::<_, 7, 20>(
                SOCKET,
                [
                    net::ERR,
                    net::PROTOCOL,
                    net::TOTAL_RETRANS,
                    net::RETRANSMITS,
                    net::RCV_TSTAMP,
                    net::BYTES_RECEIVED,
                    net::BYTES_ACKED,
                ],
            ),
            gives: "network.connection_refused, _timeout and _unreachable, network.connect_slow, network.edges, and who connected",
            or: &[],
        },
        Hook {
            program: "tcp_retransmit_skb",
            attach: Attach::BtfTracepoint("tcp_retransmit_skb"),
            needs: &with::<_, 5, 18>(
                SOCKET,
                [net::SEGS_OUT, net::RETRANSMITS, net::RCV_TSTAMP, net::BYTES_RECEIVED, net::BYTES_ACKED],
            ),
            gives: "network.retransmit_burst, network.peer_unresponsive",
            or: &[],
        },
        Hook {
            program: "tcp_receive_reset",
            attach: Attach::BtfTracepoint("tcp_receive_reset"),
            needs: &with::<_, 3, 16>(SOCKET, [net::BYTES_RECEIVED, net::BYTES_ACKED, net::RCV_TSTAMP]),
            gives: "network.connection_reset",
            or: &[],
        },
        Hook {
            program: "tcp_v4_connect",
            attach: Attach::FunctionExit("tcp_v4_connect"),
            // A helper reads it, and the address.
            needs: &with::<_, 1, 14>(SOCKET, [net::LEADER]),
            gives: "network.connection_unreachable of IPv4 without a route",
            or: &[],
        },
        Hook {
            program: "tcp_v6_connect",
            attach: Attach::FunctionExit("tcp_v6_connect"),
            // A helper reads it, and the address.
            needs: &with::<_, 1, 14>(SOCKET, [net::LEADER]),
            gives: "network.connection_unreachable of IPv6 without a route",
            or: &[],
        },
    ];
    const KINDS: &'static [&'static Kind] = &[
        &RTT_SPIKE,
        &RTT_SHIFT,
        &CONNECTION_REFUSED,
        &CONNECTION_TIMEOUT,
        &CONNECTION_UNREACHABLE,
        &CONNECTION_RESET,
        &CONNECT_SLOW,
        &RETRANSMIT_BURST,
        &PEER_UNRESPONSIVE,
    ];
    const ROOM: Room = Room::LARGE;
    const RIGHTS: &'static [Right] = &[Right {
        capability: "CAP_SYS_PTRACE",
        gives: "shows the network namespaces of other users' processes",
        lost: "connections older than the agent have no direction until their server accepts another one",
        is_expected: false,
    }];
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[
        SnapshotMap {
            map: net::PATHS,
            key: None,
            value: size_of::<net::Path>(),
            transient: &[],
            baselines: &[offset_of!(net::Path, rtt)],
            used: Some("USED_PATHS"),
        },
        SnapshotMap {
            map: "HANDSHAKES",
            key: Some(size_of::<Destination>()),
            value: size_of::<Baseline>(),
            transient: &[],
            baselines: &[0],
            used: None,
        },
        edges(edge::MAPS[0]),
        edges(edge::MAPS[1]),
        edges(edge::MAPS[2]),
    ];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    const ROLES: &'static [Role] = faults::ROLES;
    type Settings = Settings;

    fn new(_: &Settings) -> Self {
        Self::default()
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let event: NetworkEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let anomaly = judge(&event)?;
        match event.kind {
            kind::RTT_SPIKE | kind::RTT_SHIFT => self.ends.take(&event, anomaly, out),
            _ => out.push(anomaly),
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        self.ends.tick(now_ns, out);
    }

    fn wake_at(&self) -> Option<u64> {
        self.ends.wake_at()
    }

    fn pending(&self) -> u64 {
        self.ends.pending()
    }
}

const fn edges(map: &'static str) -> SnapshotMap {
    SnapshotMap {
        map,
        key: Some(size_of::<edge::Edge>()),
        value: size_of::<edge::Contacts>(),
        transient: &[],
        baselines: &[],
        used: None,
    }
}

/// Converts an event into an anomaly.
fn judge(event: &NetworkEvent) -> Result<Anomaly, Malformed> {
    let (kind, message) = match event.kind {
        kind::RTT_SPIKE => (&RTT_SPIKE, None),
        kind::RTT_SHIFT => (&RTT_SHIFT, None),
        kind::CONNECTION_REFUSED => (&CONNECTION_REFUSED, None),
        kind::CONNECTION_TIMEOUT => {
            let gave_up = event.errno == 0;
            (&CONNECTION_TIMEOUT, gave_up.then_some(message::gave_up as message::Message))
        }
        kind::CONNECTION_UNREACHABLE => (&CONNECTION_UNREACHABLE, None),
        kind::CONNECTION_RESET => (&CONNECTION_RESET, None),
        kind::CONNECT_SLOW => (&CONNECT_SLOW, None),
        kind::RETRANSMIT_BURST => (&RETRANSMIT_BURST, None),
        kind::PEER_UNRESPONSIVE => (&PEER_UNRESPONSIVE, None),
        other => return Err(Malformed::Kind(other)),
    };
    let fell = event.kind == kind::RTT_SHIFT && event.value_us < event.baseline.mean();
    Ok(Anomaly {
        severity: if fell { Severity::Info } else { kind.severity },
        peer: Some((address(event.remote), event.remote_port)),
        detail: u32::from(service_port(event)),
        data: data(event),
        baseline: normal(event),
        magnitude: match event.kind {
            kind::RETRANSMIT_BURST => u64::from(event.retransmits),
            // A reset has no duration: the more the connection had carried, the more was lost.
            kind::CONNECTION_RESET => event.bytes_received.saturating_add(event.bytes_acked),
            kind::PEER_UNRESPONSIVE => u64::from(event.idle_ms),
            _ => event.value_us,
        },
        message: message.unwrap_or(kind.message),
        ..Anomaly::new(kind, &event.header)
    })
}

fn service_port(event: &NetworkEvent) -> u16 {
    net::service_port(event.direction, event.local_port, event.remote_port)
}

fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn data(event: &NetworkEvent) -> Data {
    let mut data = Data::default();
    let mut put = |key: &'static str, value: Value| data.push(key, value);
    match event.kind {
        kind::RTT_SPIKE => {
            put("rtt_us", event.value_us.into());
            put("certain_us", event.certain_us.into());
        }
        kind::RTT_SHIFT => {
            put("rtt_us", event.value_us.into());
            put("certain_us", event.certain_us.into());
            put("since_ms", (event.header.time_ns.saturating_sub(event.since_ns) / 1_000_000).into());
        }
        kind::CONNECT_SLOW => put("handshake_us", event.value_us.into()),
        kind::CONNECTION_RESET | kind::PEER_UNRESPONSIVE => {
            put("bytes_received", event.bytes_received.into());
            put("bytes_acked", event.bytes_acked.into());
            put("idle_ms", u64::from(event.idle_ms).into());
            if event.kind == kind::PEER_UNRESPONSIVE {
                put("retransmits", u64::from(event.retransmits).into());
            }
        }
        kind::RETRANSMIT_BURST => {
            put("retransmits", u64::from(event.retransmits).into());
            put("segments", u64::from(event.segments).into());
            put("window_us", event.value_us.into());
        }
        _ => put("elapsed_us", event.value_us.into()),
    }
    // Without a local port or a route, no SYN was sent.
    let sent =
        event.errno != EADDRNOTAVAIL && (event.kind != kind::CONNECTION_UNREACHABLE || event.local_port != 0);
    if sent
        && matches!(event.kind, kind::CONNECTION_TIMEOUT | kind::CONNECTION_UNREACHABLE | kind::CONNECT_SLOW)
    {
        put("syns", (u64::from(event.retransmits) + 1).into());
    }
    if event.kind == kind::CONNECTION_TIMEOUT && event.segments != 0 {
        put("given_up", u64::from(event.segments).into());
    }
    if let Some(error) = errno(event.errno) {
        put("error", error.into());
    }
    let local = address(event.local);
    if !local.is_unspecified() {
        put("local_address", local.into());
    }
    if event.local_port != 0 {
        put("local_port", u64::from(event.local_port).into());
    }
    match event.direction {
        direction::OUTBOUND => put("direction", "outbound".into()),
        direction::INBOUND => put("direction", "inbound".into()),
        _ => {}
    }
    data
}

/// All local ports for the destination are in use.
const EADDRNOTAVAIL: u32 = 99;

/// Names the errors of a failed connect, `include/uapi/asm-generic/errno.h`.
fn errno(errno: u32) -> Option<&'static str> {
    Some(match errno {
        13 => "EACCES",
        EADDRNOTAVAIL => "EADDRNOTAVAIL",
        101 => "ENETUNREACH",
        104 => "ECONNRESET",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        113 => "EHOSTUNREACH",
        _ => return None,
    })
}

fn normal(event: &NetworkEvent) -> Option<Normal> {
    let (value, unit) = match event.kind {
        kind::RTT_SPIKE | kind::RTT_SHIFT | kind::CONNECT_SLOW => (event.value_us, "us"),
        kind::RETRANSMIT_BURST => {
            let share = u64::from(event.retransmits) * 1024 / u64::from(event.segments.max(1));
            (share.min(1024), "1/1024")
        }
        _ => return None,
    };
    Some(gauge::normal(&event.baseline, value, unit))
}
