//! The content of maps that outlives the agent: read while programs write to it, and put back before the next are attached.

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

/// Entries that are read of a map; none holds more.
const MOST: usize = 65_536;
/// Bytes that are written at a time, at most.
const PIECE: usize = 64 << 10;
/// The key of an array.
const PLACE_BYTES: usize = size_of::<u32>();
/// What every object keeps.
const OF_EACH: SnapshotMap = SnapshotMap {
    map: COOLDOWNS,
    key: Some(size_of::<CooldownKey>()),
    value: size_of::<Cooldown>(),
    // What was suppressed may have been reported since.
    moment: &[(offset_of!(Cooldown, suppressed), size_of::<Cooldown>())],
    baselines: &[],
    used: None,
};

/// The maps of one object.
pub(super) struct Maps(Vec<(&'static SnapshotMap, Box<dyn Content>)>);

impl Maps {
    /// Takes them out of an object, and puts back into them what was learned.
    pub(super) fn take(
        programs: &mut Ebpf,
        observer: &'static str,
        maps_of: &'static [SnapshotMap],
        snapshot: &Snapshot,
    ) -> anyhow::Result<Self> {
        let mut maps = Vec::new();
        // The loader leaves out what no program of the object uses.
        let of_each = programs.map(COOLDOWNS).is_some().then_some(&OF_EACH);
        for map in maps_of.iter().chain(of_each) {
            let mut content = open(programs, map)?;
            if let Some(bytes) = snapshot.part(observer, map.map) {
                // One that is full, or was larger, leaves some to be learned anew.
                if let Err(error) = content.restore(bytes) {
                    tracing::warn!(observer, map = map.map, %error, "the state snapshot is restored in part");
                }
            }
            maps.push((map, content));
        }
        Ok(Self(maps))
    }

    /// Writes what they hold now; says of each map how many entries that are.
    ///
    /// # Errors
    /// A map cannot be read, or the file not be written.
    pub(super) fn write(&self, put: &mut source::Put<'_>) -> anyhow::Result<Vec<(&'static str, usize)>> {
        let mut entries = Vec::new();
        for (map, content) in &self.0 {
            let mut bytes = 0;
            let mut put = |piece: &[u8]| {
                bytes += piece.len();
                put(map.map, piece)
            };
            content.read(map, &mut put).with_context(|| format!("map {}", map.map))?;
            entries.push((map.map, bytes / (map.key.unwrap_or(PLACE_BYTES) + map.value)));
        }
        Ok(entries)
    }
}

/// A map's content as bytes: each key, for an array the place, and value one after the other.
trait Content: Send + Sync {
    /// Gives it in pieces.
    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()>;
    fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()>;
}

/// Takes a piece of a map's content.
type Put<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// Makes pieces of entries.
struct Pieces<'a, 'b> {
    put: &'a mut Put<'b>,
    piece: Vec<u8>,
}

impl<'a, 'b> Pieces<'a, 'b> {
    fn new(put: &'a mut Put<'b>) -> Self {
        Self { put, piece: Vec::with_capacity(PIECE) }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        if self.piece.len() + key.len() + value.len() > PIECE {
            (self.put)(&self.piece)?;
            self.piece.clear();
        }
        self.piece.extend_from_slice(key);
        self.piece.extend_from_slice(value);
        Ok(())
    }

    fn end(self) -> anyhow::Result<()> {
        Ok((self.put)(&self.piece)?)
    }
}

/// The loader wants to know the sizes of keys and values when it is compiled: these are all that the observers have. A key
/// of 0 bytes stands for an array.
const SIZES: [(usize, usize); 16] = {
    let mut sizes = [(0, 0); 16];
    let mut known = add(&mut sizes, 0, &OF_EACH);
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

/// Adds the sizes of a map unless they are there; says how many there are.
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
    Ok(Box::new(Places::<V> { places: Array::try_from(take(programs, map.map)?)?, used }))
}

impl<const K: usize, const V: usize> Content for HashMap<MapData, [u8; K], [u8; V]> {
    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()> {
        let mut pieces = Pieces::new(put);
        // The kernel begins again where the key that it stood at has made room since.
        for entry in self.iter().take(MOST) {
            let (key, mut value) = entry?;
            forget(&mut value, map);
            pieces.add(&key, &value)?;
        }
        pieces.end()
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

/// An array, and which of its parts have been used; all, where that is not noted.
struct Places<const V: usize> {
    places: Array<MapData, [u8; V]>,
    used: Option<Array<MapData, u32>>,
}

impl<const V: usize> Places<V> {
    /// Places of a part.
    fn part(&self) -> u32 {
        self.used.as_ref().map_or(1, |used| (self.places.len() / used.len()).max(1))
    }
}

impl<const V: usize> Content for Places<V> {
    fn read(&self, map: &SnapshotMap, put: &mut Put<'_>) -> anyhow::Result<()> {
        let used = self.used.as_ref().map(|used| used.iter().collect::<Result<Vec<u32>, _>>()).transpose()?;
        let part = self.part();
        let is_used = |place: &u32| {
            let used = used.as_ref().and_then(|used| used.get((place / part) as usize));
            used.is_none_or(|used| *used != 0)
        };
        let mut pieces = Pieces::new(put);
        for place in (0..self.places.len()).filter(is_used) {
            let mut value = self.places.get(&place, 0)?;
            forget(&mut value, map);
            if value != [0; V] {
                pieces.add(&place.to_ne_bytes(), &value)?;
            }
        }
        pieces.end()
    }

    fn restore(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let part = self.part();
        for entry in entries(bytes, PLACE_BYTES + V)? {
            if let Some((place, value)) = entry.split_first_chunk() {
                let place = u32::from_ne_bytes(*place);
                self.places.set(place, <&[u8; V]>::try_from(value)?, 0)?;
                if let Some(used) = &mut self.used {
                    used.set(place / part, 1, 0)?;
                }
            }
        }
        Ok(())
    }
}

/// Takes out of a value what is of the moment: an agent that comes later does not know how it went on.
fn forget(value: &mut [u8], map: &SnapshotMap) {
    for (from, to) in map.moment {
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
    fn what_is_of_the_moment_is_forgotten_and_what_was_learned_is_not() {
        let mut track =
            Track { began_ns: 1, since_ns: 2, outlier_windows: 3, other_load_windows: 4, ..Track::default() };
        for now in 0..30 {
            track.cpi.observe(1000, now, &Limits::DEFAULT);
        }
        // Nearly a shift: what comes between this and the next agent is not known.
        for now in 30..34 {
            track.cpi.observe(5000, now, &Limits::DEFAULT);
        }
        let mut bytes = bytemuck::bytes_of(&track).to_vec();
        forget(&mut bytes, &Node::SNAPSHOT_MAPS[0]);
        let mut kept: Track = bytemuck::pod_read_unaligned(&bytes);
        assert_eq!(
            (kept.began_ns, kept.since_ns, kept.outlier_windows, kept.other_load_windows),
            (0, 0, 0, 0)
        );
        assert_eq!((kept.cpi.mean(), kept.cpi.samples()), (track.cpi.mean(), track.cpi.samples()));
        assert_eq!(track.cpi.observe(5000, 40, &Limits::DEFAULT), Verdict::Shift);
        assert_eq!(kept.cpi.observe(5000, 40, &Limits::DEFAULT), Verdict::Spike, "a run of one");

        let cooldown = Cooldown { emitted_ns: 5, suppressed: 6 };
        let mut bytes = bytemuck::bytes_of(&cooldown).to_vec();
        forget(&mut bytes, &OF_EACH);
        let kept: Cooldown = bytemuck::pod_read_unaligned(&bytes);
        assert_eq!((kept.emitted_ns, kept.suppressed), (5, 0));
    }
}
