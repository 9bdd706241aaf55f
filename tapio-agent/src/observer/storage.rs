//! Storage: block devices that fail, or became slow; file systems that are full, or take no more writes.
//!
//! Watches `block_rq_complete` (tp_btf): its program judges in the kernel. Reports `storage.io_error`, `storage.io_slow` and
//! `storage.queue_saturated`. docs/observers.md has the cost of a run.
//!
//! A device that is slow and one that is given more than it can do look alike to who waits. What tells them apart is
//! whether a request waits with the device, or for the device to take it.
//!
//! Judges the file systems that the host has mounted, one record for each scan. Reports `storage.filesystem_full` and
//! `storage.filesystem_readonly`. The same record says which volume is on a device.

mod faults;
pub mod filesystem;
mod filesystems;
mod message;
mod settings;

use std::mem::offset_of;

pub use settings::Settings;

use tapio_common::{
    ROOT_CGROUP, WHOLE_NODE,
    storage::{self as fields, Latency, Series, StorageEvent, kind, operation},
};
use tapio_occurrence::{Data, Outcome, Severity};

use self::filesystems::Filesystems;
use crate::fault::Fault;

use super::{Anomaly, Attach, Hook, Kind, Malformed, Observer, Reads, SnapshotMap, gauge};

/// The storage observer.
#[derive(Debug)]
pub struct Storage {
    filesystems: Filesystems,
    settings: settings::Filesystems,
}

static IO_ERROR: Kind =
    Kind::new("storage.io_error", Severity::Error, Outcome::Failure, message::failed).not_measured();
static IO_SLOW: Kind = Kind::new("storage.io_slow", Severity::Warning, Outcome::Unknown, message::slow);
static QUEUE_SATURATED: Kind =
    Kind::new("storage.queue_saturated", Severity::Warning, Outcome::Unknown, message::saturated);
static FILESYSTEM_FULL: Kind =
    Kind::new("storage.filesystem_full", Severity::Warning, Outcome::Unknown, message::full).not_measured();
static FILESYSTEM_READONLY: Kind =
    Kind::new("storage.filesystem_readonly", Severity::Error, Outcome::Failure, message::read_only)
        .not_measured();

impl Observer for Storage {
    const NAME: &'static str = "storage";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    // In the order of `tapio_common::storage::program`.
    const HOOKS: &'static [Hook] = &[Hook {
        program: "block_rq_complete",
        attach: Attach::BtfTracepoint("block_rq_complete"),
        needs: &[
            fields::START,
            fields::IO_START,
            fields::FLAGS,
            fields::BYTES,
            fields::SECTOR,
            fields::BIO,
            fields::QUEUE,
            fields::MAJOR,
            fields::MINOR,
            fields::NAME,
        ],
        gives: "storage.io_error, storage.io_slow, storage.queue_saturated",
        or: &[],
    }];
    const KINDS: &'static [&'static Kind] =
        &[&IO_ERROR, &IO_SLOW, &QUEUE_SATURATED, &FILESYSTEM_FULL, &FILESYSTEM_READONLY];
    const SNAPSHOT_MAPS: &'static [SnapshotMap] = &[SnapshotMap {
        map: "LATENCIES",
        key: Some(size_of::<Series>()),
        value: size_of::<Latency>(),
        // The requests since the last reading.
        transient: &[(0, offset_of!(Latency, read_ns))],
        baselines: &[offset_of!(Latency, baseline)],
        used: None,
    }];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { filesystems: Filesystems::default(), settings: settings.filesystems.clone() }
    }

    fn kernel_settings(settings: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&settings.kernel()).to_vec()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads::Filesystems { interval: settings.filesystems.interval.get() })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        if let Some(scan) = filesystem::read(record) {
            let (header, mounted) = scan.map_err(|_| Malformed::Size(record.len()))?;
            self.filesystems.judge(&header, mounted, &self.settings, out);
            return Ok(());
        }
        let event: StorageEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let mut anomaly = judge(&event)?;
        if let Some(filesystem) = self.filesystems.on(event.device) {
            anomaly.data.push("mount_point", filesystem.mount_point.clone());
            if anomaly.data.text("device") != Some(&*filesystem.device) {
                anomaly.data.push("filesystem_device", filesystem.device.clone());
            }
            anomaly.volume.clone_from(&filesystem.volume);
        }
        out.push(anomaly);
        Ok(())
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.filesystems.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.filesystems.restore(snapshot)
    }
}

fn judge(event: &StorageEvent) -> Result<Anomaly, Malformed> {
    let is_error = event.kind == kind::IO_ERROR;
    let kind = match event.kind {
        kind::IO_ERROR => &IO_ERROR,
        kind::IO_SLOW | kind::LATENCY_SHIFT if event.waited_us > event.value_us / 2 => &QUEUE_SATURATED,
        kind::IO_SLOW | kind::LATENCY_SHIFT => &IO_SLOW,
        other => return Err(Malformed::Kind(other)),
    };
    let mut data = Data::default();
    data.push("device", name(event));
    data.push("operation", operation(event.operation));
    if is_error {
        data.push("error", error(event.errno));
        data.push("sector", event.sector);
    } else {
        data.push("latency_us", event.value_us);
        data.push("queued_us", event.waited_us);
    }
    if event.bytes != 0 {
        data.push("request_bytes", event.bytes);
    }
    let is_shift = event.kind == kind::LATENCY_SHIFT;
    if is_shift {
        data.push("since_ms", event.header.time_ns.saturating_sub(event.since_ns) / 1_000_000);
    }
    // Whose errors do not come from many requests.
    let busiest = event.load.busiest().filter(|_| !is_error);
    if let Some((_, percent)) = busiest {
        data.push("noisy_neighbour_percent", percent);
    }
    let mut anomaly = Anomaly {
        // A device with one number and another one with the same number and operation are repeats of each other.
        detail: (event.device ^ (event.device >> 32) << 16) as u32 ^ event.operation << 30,
        data,
        noisy_neighbour: busiest.map(|(cgroup_id, _)| cgroup_id),
        baseline: is_shift.then(|| gauge::normal(&event.baseline, event.value_us, "us")),
        magnitude: event.value_us,
        ..Anomaly::new(kind, &event.header)
    };
    // To the root a file system's own requests are charged, and all where the controller is off.
    if anomaly.cgroup_id <= ROOT_CGROUP {
        anomaly.cgroup_id = WHOLE_NODE;
    }
    Ok(anomaly)
}

/// Name of the device, as in `/sys/block`.
fn name(event: &StorageEvent) -> String {
    let bytes = bytemuck::bytes_of(&event.name);
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// The word for an operation.
const fn operation(operation: u32) -> &'static str {
    match operation {
        operation::READ => "read",
        operation::WRITE => "write",
        _ => "flush",
    }
}

/// Name of an errno that `tapio_common::storage::errno` or an older kernel gives.
const fn error(errno: u32) -> &'static str {
    match errno {
        12 => "ENOMEM",
        16 => "EBUSY",
        19 => "ENODEV",
        28 => "ENOSPC",
        52 => "EBADE",
        61 => "ENODATA",
        67 => "ENOLINK",
        84 => "EILSEQ",
        110 => "ETIMEDOUT",
        121 => "EREMOTEIO",
        _ => "EIO",
    }
}

#[cfg(test)]
mod tests;
