//! Map contents in state snapshots: read while programs write to the maps, and restored before the next agent attaches
//! its programs.

use std::{io, mem::offset_of};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData},
};
use tapio_common::{COOLDOWNS, Cooldown, CooldownKey, baseline::Baseline};

use super::take;
use crate::{
    observer::{self, SnapshotMap},
    snapshot::Snapshot,
    source,
};

/// Maximum number of entries read from a map. No map holds more.
const MAX_ENTRIES: usize = 65_536;
/// Maximum number of bytes written at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes of an array's key.
const INDEX_BYTES: usize = size_of::<u32>();
/// The map that every object has in the snapshot.
const COOLDOWN_MAP: SnapshotMap = SnapshotMap {
    map: COOLDOWNS,
    key: Some(size_of::<CooldownKey>()),
    value: size_of::<Cooldown>(),
    // The suppressed anomalies may have been reported since.
    transient: &[(offset_of!(Cooldown, suppressed), size_of::<Cooldown>())],
    baselines: &[],
    used: None,
};

/// The maps of one object.
pub(super) struct Maps(Vec<(&'static SnapshotMap, Box<dyn Content>)>);

impl Maps {
    /// Takes them out of an object and restores their content from the snapshot.
    pub(super) fn take(
        programs: &mut Ebpf,
        observer: &'static str,
        maps_of: &'static [SnapshotMap],
        snapshot: &Snapshot,
    ) -> anyhow::Result<Self> {
        let mut maps = Vec::new();
        // The loader omits a map that no program of the object uses.
        let cooldowns = programs.map(COOLDOWNS).is_some().then_some(&COOLDOWN_MAP);
        for map in maps_of.iter().chain(cooldowns) {
            let mut content = open(programs, map)?;
            if let Some(bytes) = snapshot.part(observer, map.map) {
                // If the map is full or was larger before, the remaining entries are learned again.
                if let Err(error) = content.restore(bytes) {
                    tracing::warn!(observer, map = map.map, %error, "the state snapshot is restored in part");
                }
            }
            maps.push((map, content));
        }
        Ok(Self(maps))
    }

    /// Writes their current content and returns the number of entries of each map.
    ///
    /// # Errors
    /// A map cannot be read, or the file cannot be written.
    pub(super) fn write(&self, put: &mut source::Put<'_>) -> anyhow::Result<Vec<(&'static str, usize)>> {
        let mut entries = Vec::new();
        for (map, content) in &self.0 {
            let mut bytes = 0;
            let mut put = |chunk: &[u8]| {
                bytes += chunk.len();
                put(map.map, chunk)
            };
            content.read(map, &mut put).with_context(|| format!("map {}", map.map))?;
            entries.push((map.map, bytes / (map.key.unwrap_or(INDEX_BYTES) + map.value)));
        }
        Ok(entries)
    }

    /// Passes the current content of the map of this name, if there is one.
    ///
    /// # Errors
    /// The map cannot be read.
    pub(super) fn read(&self, name: &str, take: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        let Some((map, content)) = self.find(name) else { return Ok(()) };
        let mut put = |chunk: &[u8]| {
            take(chunk);
            Ok(())
        };
        content.read(map, &mut put).with_context(|| format!("map {name}"))
    }

    /// An element of the array of this name.
    pub(super) fn element(&self, name: &str, index: u32) -> Option<Vec<u8>> {
        self.find(name)?.1.element(index)
    }

    fn find(&self, name: &str) -> Option<(&'static SnapshotMap, &dyn Content)> {
        self.0.iter().find(|(map, _)| map.map == name).map(|(map, content)| (*map, content.as_ref()))
    }
}

/// A map's content as bytes: alternating keys and values. The key of an array is the index.
trait Content: Send + Sync {
    /// Passes it to `put` in chunks.
    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()>;
    /// The value of an index; `None` if it is no array, or has no such index.
    fn element(&self, _index: u32) -> Option<Vec<u8>> {
        None
    }
    fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
}

/// Takes a chunk of a map's content.
type Put<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Collects entries into chunks.
struct Chunks<'a, 'b> {
    put: &'a mut Put<'b>,
    chunk: Vec<u8>,
}

impl<'a, 'b> Chunks<'a, 'b> {
    fn new(put: &'a mut Put<'b>) -> Self {
        Self { put, chunk: Vec::with_capacity(CHUNK_BYTES) }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        if self.chunk.len() + key.len() + value.len() > CHUNK_BYTES {
            (self.put)(&self.chunk)?;
            self.chunk.clear();
        }
        self.chunk.extend_from_slice(key);
        self.chunk.extend_from_slice(value);
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        Ok((self.put)(&self.chunk)?)
    }
}

/// The key and value sizes of all observers' maps: the loader needs them at compile time. A key of 0 bytes stands for an
/// array.
const SIZES: [(usize, usize); 16] = {
    let mut sizes = [(0, 0); 16];
    let mut known = add(&mut sizes, 0, &COOLDOWN_MAP);
    let mut observer = 0;
    while observer < observer::SNAPSHOT_MAPS.len() {
        let mut map = 0;
        while map < observer::SNAPSHOT_MAPS[observer].len() {
            known = add(&mut sizes, known, &observer::SNAPSHOT_MAPS[observer][map]);
            map += 1;
        }
        observer += 1;
    }
    sizes
};

/// Adds the sizes of a map unless they are present; returns how many there are.
const fn add(sizes: &mut [(usize, usize); 16], known: usize, map: &SnapshotMap) -> usize {
    let (key, value) = key_and_value(map);
    let mut at = 0;
    while at < known {
        if sizes[at].0 == key && sizes[at].1 == value {
            return known;
        }
        at += 1;
    }
    assert!(known < sizes.len(), "more sizes of maps than `SIZES` has room for: extend it, and `open`");
    sizes[known] = (key, value);
    known + 1
}

const fn key_and_value(map: &SnapshotMap) -> (usize, usize) {
    let key = match map.key {
        Some(bytes) => bytes,
        None => 0,
    };
    (key, map.value)
}

fn open(programs: &mut Ebpf, map: &SnapshotMap) -> anyhow::Result<Box<dyn Content>> {
    macro_rules! of_size {
        ($($at:literal)*) => {
            $(if key_and_value(map) == SIZES[$at] {
                return open_as::<{ SIZES[$at].0 }, { SIZES[$at].1 }>(programs, map);
            })*
        };
    }
    of_size!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    bail!("no observer has a map like {}", map.map)
}

fn open_as<const K: usize, const V: usize>(
    programs: &mut Ebpf,
    map: &SnapshotMap,
) -> anyhow::Result<Box<dyn Content>> {
    if map.key.is_some() {
        return Ok(Box::new(HashMap::<_, [u8; K], [u8; V]>::try_from(take(programs, map.map)?)?));
    }
    let used = map.used.map(|used| anyhow::Ok(Array::try_from(take(programs, used)?)?)).transpose()?;
    Ok(Box::new(ArrayContent::<V> { array: Array::try_from(take(programs, map.map)?)?, used }))
}

impl<const K: usize, const V: usize> Content for HashMap<MapData, [u8; K], [u8; V]> {
    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()> {
        let mut chunks = Chunks::new(put);
        // The kernel restarts the iteration if the current key was evicted in the meantime.
        for entry in self.iter().take(MAX_ENTRIES) {
            let (key, mut value) = entry?;
            clear_transient(&mut value, map);
            chunks.add(&key, &value)?;
        }
        chunks.end()
    }

    fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        for entry in entries(bytes, K + V)? {
            if let Some((key, value)) = entry.split_first_chunk::<K>() {
                self.insert(key, <&[u8; V]>::try_from(value)?, 0)?;
            }
        }
        Ok(())
    }
}

/// An array, and the map that marks its parts in use. Without that map, all parts count as in use.
struct ArrayContent<const V: usize> {
    array: Array<MapData, [u8; V]>,
    used: Option<Array<MapData, u32>>,
}

impl<const V: usize> ArrayContent<V> {
    /// Number of elements in a part.
    fn part(&self) -> u32 {
        self.used.as_ref().map_or(1, |used| (self.array.len() / used.len()).max(1))
    }
}

impl<const V: usize> Content for ArrayContent<V> {
    fn element(&self, index: u32) -> Option<Vec<u8>> {
        self.array.get(&index, 0).ok().map(Vec::from)
    }

    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()> {
        let used = self.used.as_ref().map(|used| used.iter().collect::<Result<Vec<u32>, _>>()).transpose()?;
        let part = self.part();
        let is_used = |index: &u32| {
            let used = used.as_ref().and_then(|used| used.get((index / part) as usize));
            used.is_none_or(|used| *used != 0)
        };
        let mut chunks = Chunks::new(put);
        for index in (0..self.array.len()).filter(is_used) {
            let mut value = self.array.get(&index, 0)?;
            clear_transient(&mut value, map);
            if value != [0; V] {
                chunks.add(&index.to_ne_bytes(), &value)?;
            }
        }
        chunks.end()
    }

    fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let part = self.part();
        for entry in entries(bytes, INDEX_BYTES + V)? {
            if let Some((index, value)) = entry.split_first_chunk() {
                let index = u32::from_ne_bytes(*index);
                self.array.set(index, <&[u8; V]>::try_from(value)?, 0)?;
                if let Some(used) = &mut self.used {
                    used.set(index / part, 1, 0)?;
                }
            }
        }
        Ok(())
    }
}

/// Clears the transient bytes of a value: a later agent cannot know how they developed.
fn clear_transient(value: &mut [u8], map: &SnapshotMap) {
    for (from, to) in map.transient {
        value.get_mut(*from..*to).unwrap_or_default().fill(0);
    }
    for at in map.baselines {
        if let Some(bytes) = value.get_mut(*at..at + size_of::<Baseline>()) {
            let baseline: Baseline = bytemuck::pod_read_unaligned(bytes);
            bytes.copy_from_slice(bytemuck::bytes_of(&baseline.without_run()));
        }
    }
}

fn entries(bytes: &[u8], size: usize) -> anyhow::Result<std::slice::ChunksExact<'_, u8>> {
    let entries = bytes.chunks_exact(size);
    anyhow::ensure!(entries.remainder().is_empty(), "{} bytes are no entries of {size}", bytes.len());
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use tapio_common::{
        baseline::{Limits, Verdict},
        node::cycles::Track,
    };

    use super::*;
    use crate::observer::{Observer as _, node::Node};

    #[test]
    fn transient_bytes_are_cleared_and_learned_state_is_kept() {
        let mut track =
            Track { began_ns: 1, since_ns: 2, outlier_windows: 3, other_load_windows: 4, ..Track::default() };
        for now in 0..30 {
            track.cpi.observe(1000, now, &Limits::DEFAULT);
        }
        // Nearly a shift: nobody observes the time between two agents.
        for now in 30..34 {
            track.cpi.observe(5000, now, &Limits::DEFAULT);
        }
        let mut bytes = bytemuck::bytes_of(&track).to_vec();
        clear_transient(&mut bytes, &Node::SNAPSHOT_MAPS[0]);
        let mut restored: Track = bytemuck::pod_read_unaligned(&bytes);
        assert_eq!(
            (restored.began_ns, restored.since_ns, restored.outlier_windows, restored.other_load_windows),
            (0, 0, 0, 0)
        );
        assert_eq!((restored.cpi.mean(), restored.cpi.samples()), (track.cpi.mean(), track.cpi.samples()));
        assert_eq!(track.cpi.observe(5000, 40, &Limits::DEFAULT), Verdict::Shift);
        assert_eq!(restored.cpi.observe(5000, 40, &Limits::DEFAULT), Verdict::Spike, "a run of one");

        let cooldown = Cooldown { emitted_ns: 5, suppressed: 6 };
        let mut bytes = bytemuck::bytes_of(&cooldown).to_vec();
        clear_transient(&mut bytes, &COOLDOWN_MAP);
        let restored: Cooldown = bytemuck::pod_read_unaligned(&bytes);
        assert_eq!((restored.emitted_ns, restored.suppressed), (5, 0));
    }
}
