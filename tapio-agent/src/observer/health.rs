//! Health: system calls that fail since something is used up: disk space, open files, memory, threads.
//!
//! Watches `sys_exit` (tp_btf) in slices of time: as long as a program is attached there, each system call of the machine takes
//! longer (docs/decisions/0032-slices.md). Its program counts calls that fail, by cgroup and error; they are judged here, slice
//! by slice ([`Failed`]). Reports `health.resource_exhausted`.
//!
//! A call that a program makes in vain all day is normal for it.

mod call;
mod failed;
mod faults;
mod message;
mod settings;

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    call::Resource,
    failed::{Failed, UNKNOWN},
    settings::{Plan, Settings},
};

use self::settings::Limits;
use tapio_common::health as fields;
use tapio_occurrence::{Data, Outcome, Severity};

use crate::fault::{Fault, Role};

use super::{
    Anomaly, Attach, ByHelper, Fallback, Hook, Kind, Malformed, Observer, Only, Reads,
    gauge::{self, Gauge},
};

static RESOURCE_EXHAUSTED: Kind =
    Kind::new("health.resource_exhausted", Severity::Error, Outcome::Failure, message::exhausted);

/// What has not failed for this long is forgotten: it counts as what never failed.
const FORGET_NS: u64 = 24 * 60 * MINUTE_NS;
const MINUTE_NS: u64 = 60_000_000_000;
/// The most series at a time.
const MAX_TRACKS: usize = 4096;

/// The health observer.
#[derive(Debug)]
pub struct Health {
    limits: Arc<Limits>,
    state: State,
}

/// What a later agent takes over.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Number of slices that were judged. More than it takes to learn are not counted.
    slices: u32,
    #[serde(with = "tracks")]
    tracks: HashMap<Key, Track>,
}

/// What is judged apart: a cgroup, and what is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Key {
    cgroup_id: u64,
    resource: Resource,
}

#[derive(Debug, Serialize, Deserialize)]
struct Track {
    /// Failures a minute.
    gauge: Gauge,
    /// When it last failed, boot clock.
    failed_ns: u64,
    /// Number of failures in this slice.
    #[serde(skip)]
    count: u64,
    /// What failed most in this slice.
    #[serde(skip)]
    most: Option<Failed>,
    /// Since when they are abnormal.
    #[serde(skip)]
    abnormal: Option<Abnormal>,
}

#[derive(Clone, Copy, Debug)]
struct Abnormal {
    /// When the first such slice began, boot clock.
    since_ns: u64,
    /// Failures since then.
    count: u64,
    is_reported: bool,
}

/// A map whose keys are no text, as a list.
mod tracks {
    use super::{HashMap, Key, Track};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(tracks: &HashMap<Key, Track>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(tracks)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HashMap<Key, Track>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

impl Observer for Health {
    const NAME: &'static str = "health";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    const BY_HELPER: ByHelper = ByHelper {
        fields: fields::BY_HELPER,
        lost: "a process whose call failed in a thread other than its main thread is reported under that thread's name",
    };
    // In the order of `tapio_common::health::program`.
    const HOOKS: &'static [Hook] = &[Hook {
        program: "sys_exit",
        attach: Attach::Slices("sys_exit"),
        needs: &[fields::ORIG_AX, fields::CS],
        gives: "health.resource_exhausted",
        or: &[Fallback {
            program: "sys_exit",
            attach: Attach::Slices("sys_exit"),
            needs: &[fields::SYSCALLNO, fields::PSTATE],
        }],
    }];
    const KINDS: &'static [&'static Kind] = &[&RESOURCE_EXHAUSTED];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    const ROLES: &'static [Role] = faults::ROLES;
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { limits: Arc::new(settings.limits()), state: State::default() }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        bytemuck::bytes_of(&fields::Settings { calls: call::bits() }).to_vec()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads::Slices(settings.plan()))
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let failed: Failed =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        if failed.ends_slice() {
            self.judge(&failed, out);
            return Ok(());
        }
        let resource = Resource::of(failed.number, failed.errno).ok_or(Malformed::Kind(failed.errno))?;
        self.add(Key { cgroup_id: failed.header.cgroup_id, resource }, &failed);
        Ok(())
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        // Serialising it cannot fail.
        serde_json::to_vec(&self.state).ok()
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.state = serde_json::from_slice(snapshot)?;
        Ok(())
    }
}

impl Health {
    fn add(&mut self, key: Key, failed: &Failed) {
        let State { tracks, slices } = &mut self.state;
        if tracks.len() >= MAX_TRACKS && !tracks.contains_key(&key) {
            let oldest = tracks.iter().min_by_key(|(_, track)| track.failed_ns).map(|(key, _)| *key);
            oldest.and_then(|key| tracks.remove(&key));
        }
        let track = tracks.entry(key).or_insert_with(|| Track::quiet(*slices, &self.limits));
        track.failed_ns = failed.header.time_ns;
        track.count = track.count.saturating_add(failed.count);
        if track.most.is_none_or(|most| most.count < failed.count) {
            track.most = Some(*failed);
        }
    }

    /// Judges what failed in the slice that has ended, and what did not.
    fn judge(&mut self, slice: &Failed, out: &mut Vec<Anomaly>) {
        let now_ns = slice.header.time_ns;
        let State { tracks, slices } = &mut self.state;
        for (key, track) in tracks.iter_mut() {
            out.extend(track.judge(key.resource, slice, &self.limits));
        }
        tracks.retain(|_, track| now_ns.saturating_sub(track.failed_ns) < FORGET_NS);
        *slices = slices.saturating_add(1).min(self.limits.failures.limits.min_samples);
    }
}

impl Track {
    /// One that has not failed in so many slices.
    fn quiet(slices: u32, limits: &Limits) -> Self {
        let mut gauge = Gauge::default();
        for _ in 0..slices {
            gauge.judge(0, 0, &limits.failures);
        }
        Self { gauge, failed_ns: 0, count: 0, most: None, abnormal: None }
    }

    fn judge(&mut self, resource: Resource, slice: &Failed, limits: &Limits) -> Option<Anomaly> {
        let now_ns = slice.header.time_ns;
        let (count, most) = (std::mem::take(&mut self.count), self.most.take());
        let per_minute = u128::from(count) * u128::from(MINUTE_NS) / u128::from(slice.slice_ns.max(1));
        let per_minute = u64::try_from(per_minute).unwrap_or(u64::MAX);
        let Some(judged) = self.gauge.judge(per_minute, now_ns, &limits.failures) else {
            self.abnormal = None;
            return None;
        };
        let began_ns = now_ns.saturating_sub(slice.slice_ns);
        let abnormal =
            self.abnormal.get_or_insert(Abnormal { since_ns: began_ns, count: 0, is_reported: false });
        abnormal.count = abnormal.count.saturating_add(count);
        let (before, failed) = (judged?, most?);
        // Once, however long it lasts.
        if std::mem::replace(&mut abnormal.is_reported, true) {
            return None;
        }
        let Abnormal { since_ns, count: failures, .. } = *abnormal;
        let mut data = Data::from([
            ("error", call::error_name(failed.errno).into()),
            ("system_call", call::name(failed.number).unwrap_or_default().into()),
            ("resource", resource.name().into()),
            ("rate_failures", per_minute.into()),
            ("failures", failures.into()),
            ("since_ms", (now_ns.saturating_sub(since_ns) / 1_000_000).into()),
        ]);
        for (key, number) in resource.keys().into_iter().zip([failed.used, failed.limit]) {
            if let Some(key) = key.filter(|_| number != UNKNOWN) {
                data.push(key, number);
            }
        }
        Some(Anomaly {
            data,
            detail: resource as u32,
            baseline: Some(gauge::normal(&before, per_minute, "failures")),
            magnitude: per_minute,
            only: Only { expected_window_ns: Some(limits.expected_window_ns), ..Only::ALL },
            ..Anomaly::new(&RESOURCE_EXHAUSTED, &failed.header)
        })
    }
}

#[cfg(test)]
mod tests;
