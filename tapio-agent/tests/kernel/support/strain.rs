//! Uses memory and CPUs on orders.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

const MIB: usize = 1 << 20;
/// Counts the CPU loads: a new one stops those before it.
static BURNING: AtomicUsize = AtomicUsize::new(0);

pub(super) fn grow(kib_per_second: u64, most_bytes: u64) {
    thread::spawn(move || {
        loop {
            let (start, mut held) = (Instant::now(), Vec::new());
            while (held.len() * MIB / 4) < most_bytes as usize {
                let due = start.elapsed().as_millis() as u64 * kib_per_second / 1000;
                while ((held.len() + 1) * 256) as u64 <= due {
                    held.push(vec![1_u8; MIB / 4]);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
    });
}

pub(super) fn grow_to(bytes: u64) {
    std::mem::forget(vec![1_u8; bytes as usize]);
}

/// Uses a file system with droppable pages; pages of an in-memory one cannot be dropped.
pub(super) fn fill_cache(bytes: u64) -> io::Result<()> {
    let mut file = on_disk()?;
    for _ in 0..bytes / MIB as u64 {
        file.write_all(&[1; MIB])?;
    }
    file.sync_all()?;
    let mut buffer = vec![0; MIB];
    for _ in 0..2 {
        file.seek(SeekFrom::Start(0))?;
        while file.read(&mut buffer)? > 0 {}
    }
    // Keep it open, so that its pages stay.
    std::mem::forget(file);
    Ok(())
}

pub(super) fn write_through() -> io::Result<()> {
    let mut file = on_disk()?;
    thread::spawn(move || {
        while file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&[1; MIB])).is_ok() {
            // Sync data only: a wait for a journal that others fill does not count as I/O pressure.
            let _ = file.sync_data();
        }
    });
    Ok(())
}

/// A file that is removed when the process ends.
fn on_disk() -> io::Result<File> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let is_of_disk = mounts.lines().any(|line| {
        let mut words = line.split(' ');
        words.next().is_some_and(|device| device.starts_with("/dev/")) && words.next() == Some("/")
    });
    if !is_of_disk {
        return Err(io::Error::other("no file system on a disk, whose pages could be dropped"));
    }
    let path = std::path::Path::new("/var/tmp").join(format!("tapio-test-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

pub(super) fn burn(threads: usize, work: Duration, rest: Duration) {
    strain(threads, rest, move || {
        let start = Instant::now();
        while start.elapsed() < work {
            std::hint::spin_loop();
        }
    });
}

/// Measures CPU time, however long it has to wait for a CPU.
pub(super) fn slice(threads: usize, work: Duration, rest: Duration) {
    strain(threads, rest, move || while_it_runs(work, std::hint::spin_loop));
}

/// The same, mostly in the kernel.
pub(super) fn call(threads: usize, work: Duration, rest: Duration) {
    strain(threads, rest, move || while_it_runs(work, || drop(fs::metadata("/"))));
}

fn while_it_runs(work: Duration, step: fn()) {
    let used = || {
        let used = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    };
    let end = used() + work;
    while used() < end {
        (0..50).for_each(|_| step());
    }
}

fn strain(threads: usize, rest: Duration, work: impl Fn() + Clone + Send + 'static) {
    let turn = BURNING.fetch_add(1, Ordering::Relaxed) + 1;
    for _ in 0..threads {
        let work = work.clone();
        thread::spawn(move || {
            while BURNING.load(Ordering::Relaxed) == turn {
                work();
                thread::sleep(rest);
            }
        });
    }
}
