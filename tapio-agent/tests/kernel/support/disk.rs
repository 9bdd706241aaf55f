//! A disk: a loop device on a file in memory, or on another one. It is removed on drop.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{OFlags, major, minor};

use super::{Process, cgroup, filesystem::Filesystem};

const MIB: u64 = 1 << 20;

/// The device is dropped before what it is on.
pub(crate) struct Disk {
    device: PathBuf,
    on: On,
}

enum On {
    Memory { _is_held: Filesystem },
    Disk(Box<Disk>),
}

impl Disk {
    /// Creates one of so many MiB on memory that may be less, or returns why this is impossible.
    pub(crate) fn new(mib: u64, memory_mib: u64) -> Result<Self, String> {
        let memory = Filesystem::in_memory(memory_mib)?;
        let file = memory.path().join("disk");
        File::create(&file).and_then(|file| file.set_len(mib * MIB)).map_err(|error| error.to_string())?;
        Ok(Self { device: attach(&file)?, on: On::Memory { _is_held: memory } })
    }

    /// Creates one of the same size on top of this one.
    pub(crate) fn above(self) -> Result<Self, String> {
        let device = attach(&self.device)?;
        Ok(Self { device, on: On::Disk(Box::new(self)) })
    }

    /// Its path in `/dev`.
    pub(super) fn device(&self) -> &Path {
        &self.device
    }

    /// Its name, as in `/sys/block`.
    pub(crate) fn name(&self) -> &str {
        self.device.file_name().and_then(|name| name.to_str()).expect("the name of a device")
    }

    /// Reads one block in each of so many MiB, past the page cache.
    pub(crate) fn read(&self, by: &mut Process, mib: std::ops::Range<u64>) -> Result<(), String> {
        by.order(&format!("disk_read {} {} {}", self.device.display(), mib.start, mib.end)).map(drop)
    }

    /// Writes so many MiB, past the page cache.
    pub(crate) fn write(&self, by: &mut Process, mib: std::ops::Range<u64>) -> Result<(), String> {
        by.order(&format!("disk_write {} {} {}", self.device.display(), mib.start, mib.end)).map(drop)
    }

    /// Lets a process read so often a second from the disk below this one.
    pub(crate) fn limit_reads(&self, of: &Process, per_second: u32) -> Result<Limited, String> {
        let On::Disk(below) = &self.on else { panic!("a disk in memory has none below it") };
        let number = fs::metadata(&below.device).map_err(|error| error.to_string())?.rdev();
        let number = format!("{}:{}", major(number), minor(number));
        // As on systems with both versions: the controller is in one of them.
        let (root, file, limit) = [
            ("/sys/fs/cgroup/blkio", "blkio.throttle.read_iops_device", format!("{number} {per_second}")),
            ("/sys/fs/cgroup", "io.max", format!("{number} riops={per_second}")),
        ]
        .into_iter()
        .find(|(root, ..)| Path::new(root).join("cgroup.procs").exists())
        .ok_or("no cgroups with I/O limits are mounted")?;
        let limited = Limited(Path::new(root).join(format!("tapio-test-{}-io", of.pid())));
        let wrong = |error: io::Error| format!("{file} cannot be set: {error}");
        fs::create_dir(&limited.0).map_err(wrong)?;
        fs::write(limited.0.join(file), limit).map_err(wrong)?;
        fs::write(limited.0.join("cgroup.procs"), of.pid().to_string()).map_err(wrong)?;
        Ok(limited)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("losetup", &["-d".as_ref(), self.device.as_path()]);
    }
}

/// A cgroup with a limit. It is removed on drop; its processes go back to the root.
pub(crate) struct Limited(PathBuf);

impl Drop for Limited {
    fn drop(&mut self) {
        let processes = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            let _ = fs::write(self.0.with_file_name("cgroup.procs"), process);
        }
        cgroup::remove(std::slice::from_ref(&self.0));
    }
}

/// Puts a loop device on a file.
fn attach(file: &Path) -> Result<PathBuf, String> {
    let free = run("losetup", &[Path::new("-f")])?;
    let device = PathBuf::from(free.trim());
    run("losetup", &[&device, file])?;
    Ok(device)
}

/// Runs a program. Returns its output, or why it failed.
pub(super) fn run(program: &str, arguments: &[&Path]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As devices want it.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// Carries out [`Disk::read`], in the child.
pub(super) fn read(device: &str, from: u64, to: u64) -> io::Result<()> {
    let file = open(device)?;
    let mut block = Box::new(Block([0; 4096]));
    (from..to).try_for_each(|mib| file.read_exact_at(&mut block.0, mib * MIB))
}

/// Carries out [`Disk::write`], in the child.
pub(super) fn write(device: &str, from: u64, to: u64) -> io::Result<()> {
    let file = open(device)?;
    let block = Box::new(Block([1; 4096]));
    (from * MIB..to * MIB).step_by(4096).try_for_each(|at| file.write_all_at(&block.0, at))
}

fn open(device: &str) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open");
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(device)
}
