//! State snapshots: a file that outlives the agent, so that baselines do not have to be learned again after
//! an update, a crash or a kill. It holds the content of the kernel programs' maps, and the [`Contributions`]
//! of the observers and pattern tables outside the kernel.
//!
//! A snapshot is valid for this boot of the machine, for [`MAX_AGE`], and for agents of the same [`LAYOUT`].
//! Otherwise baselines start over.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    io::retry_on_intr,
    rand::{GetRandomFlags, getrandom},
};
use tapio_service::private;

/// The version of everything in a snapshot. Raise it when the meaning or the position of any stored data
/// changes.
pub const LAYOUT: u32 = 5;
/// Older baselines say too little about the present.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The file's name in the state directory.
const FILE: &str = "snapshot";
const MAGIC: &[u8; 8] = b"TAPIO-LN";
/// More than all maps hold when they are full.
const MAX_BYTES: u64 = 64 << 20;

/// The name of the part that a contributor outside the kernel stores.
const CONTRIBUTIONS: &str = "contributions";

/// Learned state, by observer and part. A part is a map of its kernel programs, or its contribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// [`tapio_common::SEED`].
    pub seed: u64,
    parts: BTreeMap<String, Vec<u8>>,
}

/// State learned outside the kernel. Each contributor stores its state from time to time, and finds at the
/// start what an earlier agent stored.
#[derive(Debug)]
pub struct Contributions {
    interval: Duration,
    began: Instant,
    of: Mutex<BTreeMap<&'static str, Contribution>>,
}

#[derive(Debug, Default)]
struct Contribution {
    bytes: Vec<u8>,
    /// When it was stored; `None` if an earlier agent stored it.
    at: Option<Instant>,
}

/// Why a file cannot be used. All reasons but the last are normal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is no file.
    #[error("there is nothing yet")]
    Absent,
    /// The machine was rebooted since, so addresses and cgroup ids now belong to others.
    #[error("it is from before this machine was booted")]
    Boot,
    /// The file is older than [`MAX_AGE`].
    #[error("it is {0:?} old")]
    Age(Duration),
    /// The file has another [`LAYOUT`].
    #[error("another version of tapio wrote it")]
    Layout,
    /// The file cannot be read, or its checksum is wrong.
    #[error("{0}")]
    Damaged(String),
}

/// The snapshot file in the state directory.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    /// Identifies this boot of the machine.
    boot: [u8; 16],
}

impl Snapshot {
    /// An empty snapshot with a new seed. The seed comes from the kernel's random source, because whoever
    /// guesses it can choose addresses that collide in a map.
    ///
    /// # Errors
    /// The kernel provides no random bytes.
    pub fn new() -> io::Result<Self> {
        let mut seed = [0; 8];
        let count = retry_on_intr(|| getrandom(&mut seed, GetRandomFlags::empty()))?;
        if count < seed.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { seed: u64::from_ne_bytes(seed), parts: BTreeMap::new() })
    }

    /// A snapshot with one contribution.
    #[cfg(test)]
    pub(crate) fn of_contribution(name: &str, bytes: Vec<u8>) -> Self {
        Self { seed: 0, parts: BTreeMap::from([(format!("{name}/{CONTRIBUTIONS}"), bytes)]) }
    }

    /// The bytes of one part.
    #[must_use]
    pub fn part(&self, observer: &str, name: &str) -> Option<&[u8]> {
        self.parts.get(&format!("{observer}/{name}")).map(Vec::as_slice)
    }

    /// The size of all parts, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.values().map(Vec::len).sum()
    }

    fn decode(bytes: &[u8], boot: &[u8; 16], boot_ns: u64) -> Result<(Self, Duration), Unusable> {
        let damaged = || Unusable::Damaged("it is damaged".to_owned());
        let (body, sum) = bytes.split_last_chunk().ok_or_else(damaged)?;
        let mut rest = Fields(body);
        if rest.array()? != *MAGIC || crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(damaged());
        }
        if u32::from_le_bytes(rest.array()?) != LAYOUT {
            return Err(Unusable::Layout);
        }
        if rest.array()? != *boot {
            return Err(Unusable::Boot);
        }
        let age = boot_ns.checked_sub(u64::from_le_bytes(rest.array()?)).map(Duration::from_nanos);
        let age = age.ok_or_else(damaged)?;
        if age > MAX_AGE {
            return Err(Unusable::Age(Duration::from_secs(age.as_secs())));
        }
        let seed = u64::from_le_bytes(rest.array()?);
        let mut parts = BTreeMap::<_, Vec<u8>>::new();
        while !rest.0.is_empty() {
            let name = String::from_utf8(rest.field()?.to_vec()).map_err(|_| damaged())?;
            parts.entry(name).or_default().extend_from_slice(rest.field()?);
        }
        Ok((Self { seed, parts }, age))
    }
}

impl Contributions {
    /// Takes over what an earlier agent stored under these names. Each is due again after `interval`.
    #[must_use]
    pub fn of(snapshot: &Snapshot, names: &[&'static str], interval: Duration) -> Self {
        let found = names.iter().filter_map(|name| {
            let bytes = snapshot.part(name, CONTRIBUTIONS)?.to_vec();
            Some((*name, Contribution { bytes, at: None }))
        });
        Self { interval, began: Instant::now(), of: Mutex::new(found.collect()) }
    }

    /// The state that an earlier agent stored under this name; `None` once this agent has stored its own.
    #[must_use]
    pub fn before(&self, name: &str) -> Option<Vec<u8>> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(name)
            .filter(|contribution| contribution.at.is_none())
            .map(|contribution| contribution.bytes.clone())
    }

    /// The bytes stored now.
    #[cfg(test)]
    pub(crate) fn now(&self, name: &str) -> Vec<u8> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)[name].bytes.clone()
    }

    /// Whether `interval` has passed since this contributor last stored its state.
    #[must_use]
    pub fn is_due(&self, name: &str) -> bool {
        self.due_at(name).is_some_and(|at| at <= Instant::now())
    }

    /// When it is time to contribute again; `None` if the interval has no end.
    #[must_use]
    pub fn due_at(&self, name: &str) -> Option<Instant> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(name).and_then(|contribution| contribution.at).unwrap_or(self.began).checked_add(self.interval)
    }

    /// Stores a contributor's current state.
    pub fn contribute(&self, name: &'static str, bytes: Vec<u8>) {
        let contribution = Contribution { bytes, at: Some(Instant::now()) };
        self.of.lock().unwrap_or_else(PoisonError::into_inner).insert(name, contribution);
    }

    /// Writes every contribution.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, to: &mut Writer<impl io::Write>) -> io::Result<()> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.iter().try_for_each(|(name, contribution)| to.put(name, CONTRIBUTIONS, &contribution.bytes))
    }
}

/// Writes a snapshot piece by piece. Writing it all at once would need as much memory again as the maps have.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    sum: crc32fast::Hasher,
    /// Bytes written so far.
    bytes: u64,
}

impl<W: io::Write> Writer<W> {
    fn begin(out: W, seed: u64, boot: &[u8; 16], boot_ns: u64) -> io::Result<Self> {
        let mut writer = Self { out, sum: crc32fast::Hasher::new(), bytes: 0 };
        let of_seed = seed.to_le_bytes();
        for field in [&MAGIC[..], &LAYOUT.to_le_bytes(), boot, &boot_ns.to_le_bytes(), &of_seed] {
            writer.write(field)?;
        }
        Ok(writer)
    }

    /// Appends bytes to a part.
    ///
    /// # Errors
    /// The bytes cannot be written, or the file would exceed the limit for reading.
    pub fn put(&mut self, observer: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        for field in [format!("{observer}/{name}").as_bytes(), bytes] {
            self.write(&(field.len() as u64).to_le_bytes())?;
            self.write(field)?;
        }
        if self.bytes > MAX_BYTES {
            return Err(io::Error::other(format!("more than {MAX_BYTES} bytes, which are not read again")));
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn end(mut self) -> io::Result<(W, u64)> {
        self.out.write_all(&self.sum.finalize().to_le_bytes())?;
        Ok((self.out, self.bytes))
    }
}

/// The part of a file that is not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusable> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*array)
    }

    fn field(&mut self) -> Result<&'a [u8], Unusable> {
        let length = u64::from_le_bytes(self.array()?);
        let length = usize::try_from(length).ok();
        let (field, rest) = length.and_then(|length| self.0.split_at_checked(length)).ok_or_else(cut)?;
        self.0 = rest;
        Ok(field)
    }
}

fn cut() -> Unusable {
    Unusable::Damaged("it ends too early".to_owned())
}

impl Store {
    /// The file in a state directory. The id of this boot comes from `proc_root`.
    ///
    /// # Errors
    /// The id of this boot cannot be read.
    pub fn of(state_dir: &Path, proc_root: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(proc_root.join("sys/kernel/random/boot_id"))?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?.to_be_bytes();
        Ok(Self { path: state_dir.join(FILE), boot })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file at `boot_ns` (boot clock), and returns its age.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn load(&self, boot_ns: u64) -> Result<(Snapshot, Duration), Unusable> {
        let read = || {
            let mut file = private::open(&self.path)?;
            let size = file.metadata()?.len();
            if size > MAX_BYTES {
                return Err(io::Error::other(format!("it has {size} bytes, more than there can be")));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
            file.by_ref().take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Snapshot::decode(&bytes, &self.boot, boot_ns),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Unusable::Absent),
            Err(error) => Err(Unusable::Damaged(error.to_string())),
        }
    }

    /// Writes everything that `parts` adds at `boot_ns` (boot clock), and returns the size in bytes. A reader
    /// finds either this file or the previous one, even after a power failure.
    ///
    /// # Errors
    /// The file cannot be written; the previous one stays.
    pub fn save(
        &self,
        seed: u64,
        boot_ns: u64,
        parts: impl FnOnce(&mut Writer<BufWriter<File>>) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        private::make_directory(directory)?;
        let new = self.path.with_extension("new");
        // Nobody else may learn the seed.
        let file = private::create_anew(&new)?;
        let mut writer = Writer::begin(BufWriter::new(file), seed, &self.boot, boot_ns)?;
        parts(&mut writer)?;
        let (file, bytes) = writer.end()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
