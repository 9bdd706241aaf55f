//! An occurrence: an anomaly with identity, the only thing that leaves the node.

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer, ser::SerializeMap};
use ulid::Ulid;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// For those who look for it.
    Debug,
    /// Worth knowing, nothing is wrong.
    Info,
    /// Something is worse than it was.
    Warning,
    /// Something failed.
    Error,
    /// Something is down.
    Critical,
}

/// How what was tried ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// No answer came.
    Timeout,
    /// It cannot be told.
    Unknown,
}

/// One value of [`Data`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// A count, a size, a duration; the unit is in the key.
    Number(u64),
    /// A ratio.
    Real(f64),
    /// A name.
    Text(Cow<'static, str>),
}

/// What is particular to a type: documented keys, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Data(pub Vec<(&'static str, Value)>);

/// The workload that is affected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Pod name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Pod UID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Container name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Container id, 64 hexadecimal digits as the runtime gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Container runtime: containerd, cri-o, docker, podman.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<&'static str>,
    /// Image name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Kind of the owner: Deployment, StatefulSet, DaemonSet, Job, CronJob, ReplicaSet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_kind: Option<String>,
    /// Name of the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// systemd unit, outside containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// The process that is affected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Process id in the root pid namespace.
    pub pid: u32,
    /// Command name as the kernel has it, at most 15 bytes.
    pub comm: String,
}

/// The other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its address.
    pub address: IpAddr,
    /// Its port; for inbound connections the local port that it connected to.
    pub port: u16,
    /// Kubernetes namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Service that has the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Pod that has the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Owner of that pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What was normal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Normal {
    /// Smoothed mean.
    pub mean: u64,
    /// Smoothed mean deviation.
    pub deviation: u64,
    /// Unit of both.
    pub unit: &'static str,
    /// How many samples taught it.
    pub samples: u32,
    /// The value over the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

/// What happened, how far from normal, to whom, and who was on the other side.
#[derive(Clone, Debug, Serialize)]
pub struct Occurrence {
    /// Identifies it; receivers drop repeats by it.
    #[serde(serialize_with = "ulid")]
    pub id: Ulid,
    /// When it happened, nanoseconds since 1970 UTC.
    #[serde(rename = "timestamp", serialize_with = "rfc3339")]
    pub time_unix_ns: u64,
    /// Always [`SOURCE`].
    pub source: &'static str,
    /// Dotted type, `network.rtt_spike`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// How what was tried ended.
    pub outcome: Outcome,
    /// One sentence for people.
    pub message: String,
    /// Cluster name, from the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    /// Node name.
    pub node: Arc<str>,
    /// The affected workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Arc<Workload>>,
    /// The affected process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// The other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// What is particular to the type.
    #[serde(skip_serializing_if = "Data::is_empty")]
    pub data: Data,
    /// What was normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Normal>,
    /// How many anomalies it stands for.
    pub count: u64,
}

/// The `source` of every occurrence.
pub const SOURCE: &str = "tapio";

impl Data {
    /// True where a type has no data of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// The value of a key that is a count, a size or a duration.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// The value of a key that is a name.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Occurrence {
    /// Who is affected, for messages: pod, container, unit, else the process.
    pub fn subject(&self) -> impl fmt::Display + '_ {
        struct Subject<'a>(&'a Occurrence);
        impl fmt::Display for Subject<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let named = self.0.workload.as_deref().and_then(|w| {
                    w.pod.as_deref().or(w.unit.as_deref()).or(w.container_id.as_deref().map(short_id))
                });
                match (named, &self.0.process) {
                    (Some(name), Some(p)) if !p.comm.is_empty() => write!(f, "{name} ({})", p.comm),
                    (Some(name), _) => f.write_str(name),
                    (None, Some(p)) => write!(f, "{}[{}]", p.comm, p.pid),
                    (None, None) => f.write_str("unknown process"),
                }
            }
        }
        Subject(self)
    }
}

/// The 12 digits that container tools show.
fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

impl fmt::Display for Peer {
    /// `service.namespace:port`, `pod:port` or `address:port`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.pod, &self.namespace, self.address) {
            (Some(name), _, Some(namespace), _) | (None, Some(name), Some(namespace), _) => {
                write!(f, "{name}.{namespace}:{}", self.port)
            }
            (_, _, _, IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            (_, _, _, IpAddr::V4(v4)) => write!(f, "{v4}:{}", self.port),
        }
    }
}

fn ulid<S: Serializer>(id: &Ulid, serializer: S) -> Result<S::Ok, S::Error> {
    let mut buffer = [0; ulid::ULID_LEN];
    serializer.serialize_str(id.array_to_str(&mut buffer))
}

fn rfc3339<S: Serializer>(unix_ns: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Timestamp::new(*unix_ns).as_str())
}

/// A time as `2026-11-20T02:18:18.123456789Z`, always with nine digits. By hand, since a general formatter takes
/// longer than the rest of an occurrence.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp([u8; 30]);

impl Timestamp {
    /// Of nanoseconds since 1970 UTC; every `u64` is before the year 2555.
    #[must_use]
    pub fn new(unix_ns: u64) -> Self {
        let (seconds, nanos) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        let fields = [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, second / 3600),
            (14..16, second / 60 % 60),
            (17..19, second % 60),
            (20..29, nanos),
        ];
        for (place, mut number) in fields {
            for digit in text[place].iter_mut().rev() {
                // A digit of a decimal number fits in a byte.
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        Self(text)
    }

    /// The whole of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The time of day, UTC, to the millisecond: `02:18:18.123`.
    #[must_use]
    pub fn time_of_day(&self) -> &str {
        self.as_str().get(11..23).unwrap_or_default()
    }
}

/// Year, month and day of a day since 1970, in the Gregorian calendar (Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + (month <= 2) as u64, month, day)
}

/// One with everything, for tests.
#[cfg(test)]
pub(crate) fn sample() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::from_parts(1_795_141_098_123, 7),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE,
        kind: "network.rtt_spike",
        severity: Severity::Warning,
        outcome: Outcome::Failure,
        message: "checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms".to_owned(),
        cluster: Some("prod".into()),
        node: "node-a".into(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f-x2x"),
            pod_uid: some("4c2e6c0e-5b0e-4f1c-9f55-0c6f1d7e8a90"),
            container: some("app"),
            container_id: some("8f14e45fceea167a5a36dedd4bea2543b1d5781111d84f7b3fe45a0852e59758"),
            runtime: Some("containerd"),
            image: some("registry.example/checkout:1.2"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            unit: None,
        })),
        process: Some(Process { pid: 4242, comm: "checkout".to_owned() }),
        peer: Some(Peer {
            address: IpAddr::from([10, 0, 3, 7]),
            port: 6379,
            namespace: some("default"),
            service: some("redis"),
            pod: some("redis-0"),
            owner: some("redis"),
        }),
        data: Data(vec![
            ("rtt_us", Value::Number(41_000)),
            ("direction", Value::Text("outbound".into())),
            ("local_address", Value::Text("10.0.1.2".into())),
            ("local_port", Value::Number(40_312)),
        ]),
        baseline: Some(Normal { mean: 5000, deviation: 400, unit: "us", samples: 18_211, ratio: Some(8.2) }),
        count: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_what_a_calendar_library_says() {
        let mut rng = fastrand::Rng::with_seed(3);
        let edges =
            [0, 951_782_399_999_999_999, 951_782_400_000_000_000, 4_107_542_399_000_000_001, u64::MAX];
        for unix_ns in edges.into_iter().chain((0..20_000).map(|_| rng.u64(..))) {
            let at = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap();
            assert_eq!(Timestamp::new(unix_ns).as_str(), format!("{at:.9}"));
        }
        assert_eq!(Timestamp::new(1_790_000_000_123_999_999).time_of_day(), "14:13:20.123");
    }

    #[test]
    fn json_has_stable_names_in_order() {
        let expected = r#"{"id":"01MHYXZA8B0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","cluster":"prod","node":"node-a","workload":{"namespace":"shop","pod":"checkout-7d9f-x2x","pod_uid":"4c2e6c0e-5b0e-4f1c-9f55-0c6f1d7e8a90","container":"app","container_id":"8f14e45fceea167a5a36dedd4bea2543b1d5781111d84f7b3fe45a0852e59758","runtime":"containerd","image":"registry.example/checkout:1.2","owner_kind":"Deployment","owner":"checkout"},"process":{"pid":4242,"comm":"checkout"},"peer":{"address":"10.0.3.7","port":6379,"namespace":"default","service":"redis","pod":"redis-0","owner":"redis"},"data":{"rtt_us":41000,"direction":"outbound","local_address":"10.0.1.2","local_port":40312},"baseline":{"mean":5000,"deviation":400,"unit":"us","samples":18211,"ratio":8.2},"count":1}"#;
        assert_eq!(serde_json::to_string(&sample()).unwrap(), expected);
    }

    #[test]
    fn what_is_not_known_is_absent_from_json() {
        let bare = Occurrence {
            cluster: None,
            workload: None,
            process: None,
            peer: None,
            data: Data::default(),
            baseline: None,
            ..sample()
        };
        let expected = r#"{"id":"01MHYXZA8B0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","node":"node-a","count":1}"#;
        assert_eq!(serde_json::to_string(&bare).unwrap(), expected);
    }
}
