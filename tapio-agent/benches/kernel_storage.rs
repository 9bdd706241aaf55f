//! Measures the storage observer: a run of its program against an empty one on the same hook in the same run, and the time
//! of an application's reads with the observer and without.
//!
//! The times of programs are the kernel's (`bpf_stats`, including its two clock reads), the least of five windows. The load
//! reads 4 KiB at random places of a file, past the page cache, one at a time; it needs a file system on a disk. Last, the
//! CPU time of a scan of this host's file systems, the least of a hundred.

mod support;

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::fs::OFlags;
use support::{
    compare::{self, SLICE},
    slices::{self, Slices},
};
use tapio_agent::{
    filesystems::Filesystems,
    kernel::Kernel,
    observer::{Attach, Built, Hook, Object, storage::Storage},
};
use tapio_service::clock;

const SCANS: usize = 100;
const LOAD: &str = "slices";
const FILE_BYTES: u64 = 64 << 20;
const BLOCK: u64 = 4096;

const EMPTY: &[Hook] = &[Hook {
    program: "empty_done",
    attach: Attach::BtfTracepoint("block_rq_complete"),
    needs: &[],
    gives: "",
    or: &[],
}];

fn main() -> anyhow::Result<()> {
    if env::args().any(|argument| argument == LOAD) {
        return load();
    }
    let kernel = Kernel::open("/proc".as_ref())?;
    let storage = Built::new::<Storage>(&Default::default());
    let storage = storage.object()?;
    let settings = support::settings();
    let empty = Object { hooks: EMPTY, ..support::bench_object(&settings)? };
    program(&kernel, &storage, &empty)?;
    compare::print_paired("storage_read_ratio", &kernel, &storage, start()?)?;
    // What the hook costs by itself.
    compare::print_paired("storage_read_empty_ratio", &kernel, &empty, start()?)?;
    compare::print_paired_all("storage_read_all_ratio", &kernel, start()?)?;
    scan()
}

fn scan() -> anyhow::Result<()> {
    let filesystems = Filesystems::open("/proc".as_ref(), Duration::MAX);
    let mut best = Duration::MAX;
    for _ in 0..SCANS {
        let start = clock::thread_cpu();
        filesystems.scan().context("/proc/1/mountinfo cannot be read")?;
        best = best.min(clock::thread_cpu().saturating_sub(start));
    }
    println!("storage_scan_us {:.1} us", best.as_secs_f64() * 1e6);
    Ok(())
}

/// The time of a run.
fn program(kernel: &Kernel, storage: &Object<'_>, empty: &Object<'_>) -> anyhow::Result<()> {
    let (storage, empty) = (kernel.load(storage)?, kernel.load(empty)?);
    support::all_attached([&storage, &empty])?;
    let least = compare::least(&[&storage, &empty], &mut start()?)?;
    let (ns, empty_ns) = (least[0][0], least[1][0]);
    println!("storage_program_ratio {:.2} x", ns / empty_ns);
    println!("storage_program_net_ns {:.1} ns", ns - empty_ns);
    Ok(())
}

fn start() -> anyhow::Result<Slices> {
    Slices::on_one_cpu(&[LOAD])
}

/// As devices want it.
#[repr(align(4096))]
struct Block([u8; BLOCK as usize]);

/// Runs in the load process: nanoseconds per read.
fn load() -> anyhow::Result<()> {
    let file = on_disk()?;
    let mut block = Box::new(Block([0; BLOCK as usize]));
    slices::each(|| {
        let start = Instant::now();
        let mut reads = 0;
        while start.elapsed() < SLICE {
            file.read_exact_at(&mut block.0, fastrand::u64(..FILE_BYTES / BLOCK) * BLOCK)?;
            reads += 1;
        }
        Ok(start.elapsed().as_nanos() as f64 / f64::from(reads))
    })
}

/// A file that is removed when the process ends.
fn on_disk() -> anyhow::Result<File> {
    let path = env::current_exe()?.with_extension(format!("read-{}", std::process::id()));
    let mut written = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    for _ in 0..FILE_BYTES / (1 << 20) {
        written.write_all(&[1; 1 << 20])?;
    }
    written.sync_all()?;
    let direct = i32::try_from(OFlags::DIRECT.bits())?;
    let file = OpenOptions::new().read(true).custom_flags(direct).open(&path);
    std::fs::remove_file(&path)?;
    file.context("the file system has no direct I/O")
}
