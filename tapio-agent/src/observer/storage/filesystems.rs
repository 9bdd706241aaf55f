//! Judges file systems: which are nearly full, and which stopped taking writes.
//!
//! A threshold and no forecast: a disk fills in bursts (image pulls, builds, logs that are rotated), which forecasts take
//! for a trend. A share alone would report large disks that have room for months, so that an amount limits it.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
};

use serde::{Deserialize, Serialize};
use tapio_common::Header;
use tapio_occurrence::{Data, Severity};

use super::{
    FILESYSTEM_FULL, FILESYSTEM_READONLY,
    filesystem::{Amount, Filesystem, ReadOnly},
    settings,
};
use crate::observer::Anomaly;

/// Of what counts as nearly full, the part that counts as nothing left: of 5 %, a 64th is 0.08 %.
const FULL_PART: u64 = 64;
/// Hysteresis: a file system is nearly full until this many times as much is available.
const AGAIN: u64 = 2;
/// How far apart the samples are by which growth is measured, and how many are kept: the last five minutes.
const MARK_NS: u64 = 60_000_000_000;
const MARKS: usize = 6;
/// Growth over a shorter time is not extrapolated.
const LEAST_NS: u64 = 10_000_000_000;

/// The file systems of the last record, and what was reported of each.
#[derive(Debug, Default)]
pub(super) struct Filesystems {
    all: Vec<(Filesystem, State)>,
    /// What an earlier agent reported, until the first record.
    before: BTreeMap<(String, String), Reported>,
}

#[derive(Debug, Default)]
struct State {
    reported: Reported,
    /// Bytes in use at earlier times, the oldest first.
    marks: VecDeque<(u64, u64)>,
}

/// What was reported of a file system, and what decides whether more is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Reported {
    bytes: Level,
    inodes: Level,
    /// It was read-only when it was first seen, which is what its owner wants.
    is_read_only_by_nature: bool,
    is_read_only: bool,
}

/// How much of a resource is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Level {
    #[default]
    Enough,
    NearlyFull,
    Full,
}

impl Filesystems {
    /// Judges the file systems that are mounted now. Those that are no longer mounted are forgotten.
    pub(super) fn judge(
        &mut self,
        header: &Header,
        mounted: Vec<Filesystem>,
        settings: &settings::Filesystems,
        out: &mut Vec<Anomaly>,
    ) {
        let mut known: BTreeMap<_, State> =
            std::mem::take(&mut self.all).into_iter().map(|(of, state)| (key(&of), state)).collect();
        for filesystem in mounted {
            let restored = |before: Reported| State { reported: before, ..State::default() };
            let state = known.remove(&key(&filesystem));
            let state = state.or_else(|| self.before.remove(&key(&filesystem)).map(restored));
            let mut state = state.unwrap_or_else(|| State::first(&filesystem));
            out.extend(state.judge_read_only(header, &filesystem));
            if filesystem.read_only.is_none() {
                state.judge_space(header, &filesystem, settings, out);
            }
            self.all.push((filesystem, state));
        }
        self.before.clear();
    }

    /// The file system on a disk, if there is only one.
    pub(super) fn on(&self, disk: u64) -> Option<&Filesystem> {
        let mut found = self.all.iter().map(|(of, _)| of).filter(|of| of.disks.contains(&disk));
        found.next().filter(|_| found.next().is_none())
    }

    pub(super) fn snapshot(&self) -> Option<Vec<u8>> {
        let reported: Vec<_> = self.all.iter().map(|(of, state)| (key(of), state.reported)).collect();
        serde_json::to_vec(&reported).ok()
    }

    pub(super) fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        let reported: Vec<_> = serde_json::from_slice(snapshot)?;
        self.before = reported.into_iter().collect();
        Ok(())
    }
}

/// A file system is the same as long as its device and mount point are, over boots, too.
fn key(of: &Filesystem) -> (String, String) {
    (of.device.clone(), of.mount_point.clone())
}

impl State {
    fn first(of: &Filesystem) -> Self {
        let is_read_only_by_nature = of.read_only == Some(ReadOnly::Mounted);
        Self { reported: Reported { is_read_only_by_nature, ..Reported::default() }, ..Self::default() }
    }

    fn judge_read_only(&mut self, header: &Header, of: &Filesystem) -> Option<Anomaly> {
        let reported = &mut self.reported;
        let is_wanted = of.read_only == Some(ReadOnly::Mounted) && reported.is_read_only_by_nature;
        let read_only = of.read_only.filter(|_| !is_wanted);
        let was = std::mem::replace(&mut reported.is_read_only, read_only.is_some());
        let read_only = read_only.filter(|_| !was)?;
        let mut data = place(of);
        data.push("option", read_only.option());
        Some(Anomaly {
            detail: detail(of, 0),
            data,
            volume: of.volume.clone(),
            ..Anomaly::new(&FILESYSTEM_READONLY, header)
        })
    }

    fn judge_space(
        &mut self,
        header: &Header,
        of: &Filesystem,
        settings: &settings::Filesystems,
        out: &mut Vec<Anomaly>,
    ) {
        let Some(space) = of.space else { return };
        let growth = self.grown(header.time_ns, space.bytes.used);
        let Reported { bytes, inodes, .. } = &mut self.reported;
        let bytes_before = *bytes;
        *bytes = bytes.next(space.bytes, settings.near(space.bytes, settings.free_bytes.get()));
        if *bytes > bytes_before {
            let mut anomaly = full(header, of, *bytes, "bytes");
            anomaly.data.push("used_bytes", space.bytes.used);
            anomaly.data.push("available_bytes", space.bytes.available);
            if let Some(per_minute) = growth {
                anomaly.data.push("growth_bytes_per_minute", per_minute);
                anomaly.data.push("left_seconds", left_seconds(space.bytes.available, per_minute));
            }
            out.push(anomaly);
        }
        let Some(left) = space.inodes else { return };
        let inodes_before = *inodes;
        *inodes = inodes.next(left, settings.near(left, u64::MAX));
        // XFS makes inodes from free bytes: without bytes it has no inodes either, and that is one fault.
        if *inodes > inodes_before && *bytes == Level::Enough {
            let mut anomaly = full(header, of, *inodes, "inodes");
            anomaly.data.push("used_inodes", left.used);
            anomaly.data.push("available_inodes", left.available);
            out.push(anomaly);
        }
    }

    /// By how much it grew per minute, lately. `None` if it did not, or that is not known yet.
    fn grown(&mut self, now_ns: u64, used: u64) -> Option<u64> {
        if self.marks.back().is_some_and(|(_, before)| used < *before) {
            self.marks.clear();
        }
        let oldest = self.marks.front().copied();
        if self.marks.back().is_none_or(|(then_ns, _)| now_ns.saturating_sub(*then_ns) >= MARK_NS) {
            self.marks.push_back((now_ns, used));
            let over = self.marks.len().saturating_sub(MARKS);
            self.marks.drain(..over);
        }
        let (since_ns, before) = oldest?;
        let (over_ns, grown) = (now_ns.saturating_sub(since_ns), used.saturating_sub(before));
        let per_minute = u128::from(grown) * u128::from(MARK_NS) / u128::from(over_ns.max(1));
        u64::try_from(per_minute).ok().filter(|per_minute| *per_minute > 0 && over_ns >= LEAST_NS)
    }
}

impl settings::Filesystems {
    /// Less than this available is nearly full.
    fn near(&self, of: Amount, most: u64) -> u64 {
        let share = u128::from(of.total()) * u128::from(self.free.of_1024()) / 1024;
        u64::try_from(share).unwrap_or(u64::MAX).min(most)
    }
}

impl Level {
    /// The level after a sample. Less than `near` available is nearly full, until well more is.
    fn next(self, of: Amount, near: u64) -> Self {
        let now = match of.available {
            _ if of.total() == 0 => Self::Enough,
            available if available <= near / FULL_PART => Self::Full,
            available if available <= near => Self::NearlyFull,
            _ => Self::Enough,
        };
        match (self, now) {
            (Self::NearlyFull | Self::Full, Self::Enough) if of.available <= near.saturating_mul(AGAIN) => {
                Self::NearlyFull
            }
            // Writers at the limit come and go.
            (Self::Full, Self::NearlyFull) => Self::Full,
            _ => now,
        }
    }
}

fn full(header: &Header, of: &Filesystem, level: Level, resource: &'static str) -> Anomaly {
    let is_full = level == Level::Full;
    let mut data = place(of);
    data.push("state", if is_full { "full" } else { "nearly_full" });
    data.push("resource", resource);
    Anomaly {
        severity: if is_full { Severity::Error } else { Severity::Warning },
        detail: detail(of, 1 + u32::from(is_full) * 2 + u32::from(resource == "inodes")),
        data,
        volume: of.volume.clone(),
        ..Anomaly::new(&FILESYSTEM_FULL, header)
    }
}

fn left_seconds(available: u64, per_minute: u64) -> u64 {
    available.saturating_mul(60) / per_minute.max(1)
}

fn place(of: &Filesystem) -> Data {
    let mut data = Data::default();
    data.push("mount_point", of.mount_point.clone());
    data.push("device", of.device.clone());
    data.push("filesystem", of.kind.clone());
    data
}

/// Distinguishes file systems of one owner, and what happens to one of them.
fn detail(of: &Filesystem, what: u32) -> u32 {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    (hasher.hash_one(key(of)) as u32) << 3 | what
}

#[cfg(test)]
mod tests;
