//! A line that the agent printed, with the assertions that tests make about it.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use serde_json::Value;

use super::{cgroup::Cgroup, disk::Disk, filesystem::Filesystem, process::Process};

#[derive(Clone, Debug)]
pub(crate) struct Occurrence {
    pub(crate) kind: String,
    pub(crate) count: u64,
    json: Value,
}

impl Occurrence {
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
        let kind = json["type"].as_str().ok_or(format!("no type: {line}"))?.to_owned();
        let count = json["count"].as_u64().ok_or(format!("no count: {line}"))?;
        Ok(Self { kind, count, json })
    }

    /// The address of the peer.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        let address: IpAddr = self.json["peer"]["address"].as_str()?.parse().ok()?;
        Some((address, u16::try_from(self.json["peer"]["port"].as_u64()?).ok()?).into())
    }

    /// Whether it is outbound and about this service.
    pub(crate) fn is_to(&self, service: SocketAddr) -> bool {
        self.peer() == Some(service)
    }

    /// Whether it is inbound, from this client to this local port.
    pub(crate) fn is_from(&self, client: IpAddr, local_port: u16) -> bool {
        self.peer().is_some_and(|peer| peer.ip() == client)
            && self.text("direction") == "inbound"
            && self.number("local_port") == u64::from(local_port)
    }

    /// Whether it is about this disk.
    pub(crate) fn is_about(&self, disk: &Disk) -> bool {
        self.text("device") == disk.name()
    }

    /// Whether it is about this file system.
    pub(crate) fn is_on(&self, filesystem: &Filesystem) -> bool {
        Some(self.text("mount_point")) == filesystem.path().to_str()
    }

    /// Its time, in seconds since 1970.
    pub(crate) fn unix_seconds(&self) -> i64 {
        let text = self.json["timestamp"].as_str().unwrap();
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    /// Whether it names a workload at all.
    pub(crate) fn has_workload(&self) -> bool {
        self.json.get("workload").is_some()
    }

    pub(crate) fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }

    /// The name of its process; empty if there is none.
    pub(crate) fn comm(&self) -> &str {
        self.json["process"]["comm"].as_str().unwrap_or_default()
    }

    /// The name of the actor process; empty if there is none.
    pub(crate) fn actor_comm(&self) -> &str {
        self.json["actor"]["process"]["comm"].as_str().unwrap_or_default()
    }

    pub(crate) fn container_id(&self) -> Option<&str> {
        self.json["workload"]["container_id"].as_str()
    }

    pub(crate) fn has_data(&self, key: &str) -> bool {
        self.json["data"].get(key).is_some()
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        self.json["data"][key].as_u64().unwrap_or_else(|| panic!("no number {key} in {}", self.json))
    }

    /// Asserts that this member of `data` is absent.
    #[track_caller]
    pub(crate) fn has_no(&self, key: &str) {
        assert!(self.json["data"].get(key).is_none(), "{}", self.json);
    }

    /// Asserts a range. Be generous with durations: the machine may be busy.
    #[track_caller]
    pub(crate) fn has(&self, key: &str, range: Range<u64>) {
        assert!(range.contains(&self.number(key)), "{key} not in {range:?}: {}", self.json);
    }

    /// A text member of `data`; empty if absent.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.json["data"][key].as_str().unwrap_or_default()
    }

    /// The container named as the likeliest cause.
    pub(crate) fn noisy_neighbour(&self) -> Option<&str> {
        self.json["data"]["noisy_neighbour"]["container_id"].as_str()
    }

    pub(crate) fn baseline(&self, key: &str) -> f64 {
        self.json["baseline"][key].as_f64().unwrap_or_else(|| panic!("no baseline {key} in {}", self.json))
    }

    pub(crate) fn is_of(&self, process: &Process) -> bool {
        self.json["process"]["pid"] == process.pid()
    }

    pub(crate) fn is_of_pid(&self, pid: u32) -> bool {
        self.json["process"]["pid"] == pid
    }

    pub(crate) fn is_in(&self, cgroup: &Cgroup) -> bool {
        self.json["workload"]["container_id"] == *cgroup.container_id
    }

    /// Whether it is about the pod of this container.
    pub(crate) fn is_in_pod(&self, cgroup: &Cgroup) -> bool {
        self.json["workload"]["pod_uid"] == *cgroup.pod_uid()
    }

    #[track_caller]
    pub(crate) fn is(self, kind: &str) -> Self {
        assert_eq!(self.kind, kind, "{}", self.json);
        self
    }

    /// Asserts the actor process.
    #[track_caller]
    pub(crate) fn by(self, process: &Process) -> Self {
        assert_eq!(self.json["actor"]["process"]["pid"], process.pid(), "{}", self.json);
        assert_eq!(self.json["actor"]["process"]["comm"], process.comm(), "{}", self.json);
        self
    }

    /// Asserts the actor's container.
    #[track_caller]
    pub(crate) fn actor_in(self, cgroup: Option<&Cgroup>) -> Self {
        let id = self.json["actor"]["workload"]["container_id"].as_str();
        assert_eq!(id, cgroup.map(|cgroup| cgroup.container_id.as_str()), "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn by_nobody(self) -> Self {
        assert_eq!(self.json.get("actor"), None, "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn of_pid(self, pid: u32) -> Self {
        assert_eq!(self.json["process"]["pid"], pid, "{}", self.json);
        self
    }

    /// A list member of `data`; empty if absent.
    pub(crate) fn list(&self, key: &str) -> &[Value] {
        self.json["data"][key].as_array().map_or(&[], Vec::as_slice)
    }

    #[track_caller]
    pub(crate) fn severe(self, severity: &str) -> Self {
        assert_eq!(self.json["severity"], severity, "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn says(self, key: &str, text: &str) -> Self {
        assert_eq!(self.text(key), text, "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn named(self, kind: &str) -> Self {
        self.of_observer("network", kind)
    }

    #[track_caller]
    pub(crate) fn of_observer(self, observer: &str, kind: &str) -> Self {
        assert_eq!(self.kind, format!("{observer}.{kind}"), "{}", self.json);
        assert_eq!(self.json["source"], "tapio");
        assert!(self.json["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn of(self, process: &Process) -> Self {
        assert_eq!(self.json["process"]["pid"], process.pid(), "{}", self.json);
        assert_eq!(self.json["process"]["comm"], process.comm(), "{}", self.json);
        self
    }

    /// Asserts that no process is named: an unknown process must not be guessed.
    #[track_caller]
    pub(crate) fn of_no_process(self) -> Self {
        assert_eq!(self.json.get("process"), None, "{}", self.json);
        self
    }

    #[track_caller]
    pub(crate) fn in_container(self, cgroup: &Cgroup) -> Self {
        assert_eq!(self.json["workload"]["container_id"], *cgroup.container_id, "{}", self.json);
        self
    }
}
