//! State snapshots: a file that outlives the agent, so that what is normal does not have to be learned again after an update, a
//! crash or a kill. It has the content of the kernel programs' maps, and the [`Contributions`] of what learns outside of them.
//!
//! Valid for this boot of the machine, for [`MAX_AGE`], and for agents of the same [`LAYOUT`]; otherwise baselines start over.

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

/// Of what the kernel programs and the observers keep. A change of what any of it means, or where it stands, raises it.
pub const LAYOUT: u32 = 3;
/// What was normal longer ago says too little of now.
pub const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// In the state directory.
const FILE: &str = "snapshot";
const MAGIC: &[u8; 8] = b"TAPIO-LN";
/// More than all maps hold when they are full.
const MAX_BYTES: u64 = 64 << 20;

/// The part of one who learns outside of the kernel.
const CONTRIBUTIONS: &str = "contributions";

/// What was learned, by observer and part: a map of its kernel programs, or its contributions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// [`tapio_common::SEED`].
    pub seed: u64,
    parts: BTreeMap<String, Vec<u8>>,
}

/// What is learned outside of the kernel: whatever learns contributes it now and then, and finds there at the start what an
/// agent before this one had contributed.
#[derive(Debug)]
pub struct Contributions {
    interval: Duration,
    began: Instant,
    of: Mutex<BTreeMap<&'static str, Contribution>>,
}

#[derive(Debug, Default)]
struct Contribution {
    bytes: Vec<u8>,
    /// When it was contributed; `None` for one of an agent before this one.
    at: Option<Instant>,
}

/// Why a file is of no use. Each but the last is a matter of course.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There is none.
    #[error("there is nothing yet")]
    Absent,
    /// The machine was booted since: addresses and groups are others'.
    #[error("it is from before this machine was booted")]
    Boot,
    /// [`MAX_AGE`].
    #[error("it is {0:?} old")]
    Age(Duration),
    /// [`LAYOUT`].
    #[error("another version of tapio wrote it")]
    Layout,
    /// It cannot be read, or is not what was written.
    #[error("{0}")]
    Damaged(String),
}

/// The file.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
    /// Tells this boot of the machine from others.
    boot: [u8; 16],
}

impl Snapshot {
    /// Nothing, to be learned with a seed of its own: from the kernel's random source, since whoever guesses it can choose
    /// addresses whose places in a map are the same.
    ///
    /// # Errors
    /// The kernel gives nothing random.
    pub fn new() -> io::Result<Self> {
        let mut seed = [0; 8];
        let count = retry_on_intr(|| getrandom(&mut seed, GetRandomFlags::empty()))?;
        if count < seed.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { seed: u64::from_ne_bytes(seed), parts: BTreeMap::new() })
    }

    /// One contribution.
    #[cfg(test)]
    pub(crate) fn of_contribution(name: &str, bytes: Vec<u8>) -> Self {
        Self { seed: 0, parts: BTreeMap::from([(format!("{name}/{CONTRIBUTIONS}"), bytes)]) }
    }

    /// What a part holds.
    #[must_use]
    pub fn part(&self, observer: &str, name: &str) -> Option<&[u8]> {
        self.parts.get(&format!("{observer}/{name}")).map(Vec::as_slice)
    }

    /// Bytes of all parts.
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
    /// Those that an agent before this one had taken for these, to be renewed as often.
    #[must_use]
    pub fn of(snapshot: &Snapshot, names: &[&'static str], interval: Duration) -> Self {
        let found = names.iter().filter_map(|name| {
            let bytes = snapshot.part(name, CONTRIBUTIONS)?.to_vec();
            Some((*name, Contribution { bytes, at: None }))
        });
        Self { interval, began: Instant::now(), of: Mutex::new(found.collect()) }
    }

    /// What an agent before this one had contributed.
    #[must_use]
    pub fn before(&self, name: &str) -> Option<Vec<u8>> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(name).filter(|note| note.at.is_none()).map(|note| note.bytes.clone())
    }

    /// What is contributed now.
    #[cfg(test)]
    pub(crate) fn now(&self, name: &str) -> Vec<u8> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)[name].bytes.clone()
    }

    /// Whether it is time to contribute again.
    #[must_use]
    pub fn is_due(&self, name: &str) -> bool {
        self.due_at(name) <= Instant::now()
    }

    /// When it is time to contribute again.
    #[must_use]
    pub fn due_at(&self, name: &str) -> Instant {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.get(name).and_then(|note| note.at).unwrap_or(self.began) + self.interval
    }

    /// Contributes what is known now.
    pub fn contribute(&self, name: &'static str, bytes: Vec<u8>) {
        let note = Contribution { bytes, at: Some(Instant::now()) };
        self.of.lock().unwrap_or_else(PoisonError::into_inner).insert(name, note);
    }

    /// Writes all of them.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, to: &mut Writer<impl io::Write>) -> io::Result<()> {
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        of.iter().try_for_each(|(name, note)| to.put(name, CONTRIBUTIONS, &note.bytes))
    }
}

/// Writes what was learned, piece by piece: all of it at once would be as much memory again as the maps have.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    sum: crc32fast::Hasher,
    /// How much was written.
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

    /// Adds a piece of what a part holds, behind those before it.
    ///
    /// # Errors
    /// It cannot be written, or would be more than is read again.
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

/// What is left to read of a file.
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
    /// The file in a state directory; the machine's boot is reported by `proc_root`.
    ///
    /// # Errors
    /// Which boot this is cannot be read.
    pub fn of(state_dir: &Path, proc_root: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(proc_root.join("sys/kernel/random/boot_id"))?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?.to_be_bytes();
        Ok(Self { path: state_dir.join(FILE), boot })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it at `boot_ns` (boot clock), and says how old it is.
    ///
    /// # Errors
    /// It is of no use.
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

    /// Writes it at `boot_ns` (boot clock), all that `parts` puts, and says how many bytes that were. Whoever reads it finds
    /// this or the one before, after a cut of the power, too.
    ///
    /// # Errors
    /// It cannot be written. The one before stays.
    pub fn save(
        &self,
        seed: u64,
        boot_ns: u64,
        parts: impl FnOnce(&mut Writer<BufWriter<File>>) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        private::make_directory(directory)?;
        let new = self.path.with_extension("new");
        // The seed is nobody else's to know.
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
