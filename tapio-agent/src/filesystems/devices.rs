//! Names of block devices as people know them, and the disks below them.

use std::{fs, path::Path};

use rustix::fs::{major, makedev, minor};

/// Device-mapper devices are stacked on each other, but not deeper than that.
const MAX_DEPTH: u32 = 8;

/// Name and disks of the device of a file system. `source` is what was mounted. A name is that of `/sys/block` (`vda1`,
/// `nvme0n1p1`), for a device-mapper device that of `/dev/mapper`; without a block device it is the source (`tmpfs`).
pub(super) fn of(sys: &Path, device: u64, source: &str) -> (String, Vec<u64>) {
    let by_source =
        || source.strip_prefix("/dev/").map_or(source, |name| name.rsplit('/').next().unwrap_or(name));
    // btrfs has a number of its own.
    let device =
        if major(device) == 0 { number(&sys.join("class/block").join(by_source())) } else { Some(device) };
    let Some(device) = device else { return (by_source().to_owned(), Vec::new()) };
    let path = sys.join(format!("dev/block/{}:{}", major(device), minor(device)));
    let mapped = fs::read_to_string(path.join("dm/name")).ok().map(|name| name.trim().to_owned());
    let known = || Some(path.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
    let name = mapped.or_else(known).unwrap_or_else(|| by_source().to_owned());
    let mut disks = Vec::new();
    below(&path, MAX_DEPTH, &mut disks);
    (name, disks)
}

/// Adds the disks below a device: those that have requests of their own.
fn below(path: &Path, depth: u32, disks: &mut Vec<u64>) {
    let Ok(path) = path.canonicalize() else { return };
    if depth == 0 {
        return;
    }
    if path.join("partition").exists() {
        if let Some(whole) = path.parent() {
            below(whole, depth - 1, disks);
        }
        return;
    }
    let slaves: Vec<_> = fs::read_dir(path.join("slaves")).into_iter().flatten().flatten().collect();
    for slave in &slaves {
        below(&slave.path(), depth - 1, disks);
    }
    if slaves.is_empty()
        && let Some(number) = number(&path).filter(|number| !disks.contains(number))
    {
        disks.push(number);
    }
}

/// The number in a device's directory.
fn number(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory like `/sys`, with a disk of two partitions, and a device-mapper device on one of them.
    fn sys() -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (device, number) in [
            ("nvme0n1", "259:0"),
            ("nvme0n1/nvme0n1p1", "259:1"),
            ("nvme0n1/nvme0n1p2", "259:2"),
            ("dm-0", "253:0"),
        ] {
            write(&format!("devices/{device}/dev"), &format!("{number}\n"));
        }
        write("devices/nvme0n1/nvme0n1p1/partition", "1\n");
        write("devices/nvme0n1/nvme0n1p2/partition", "2\n");
        write("devices/dm-0/dm/name", "vg-data\n");
        for folder in ["devices/dm-0/slaves", "dev/block", "class/block"] {
            fs::create_dir_all(sys.path().join(folder)).unwrap();
        }
        let link = |to: &str, at: &str| symlink(sys.path().join(to), sys.path().join(at)).unwrap();
        link("devices/nvme0n1/nvme0n1p2", "devices/dm-0/slaves/nvme0n1p2");
        link("devices/dm-0", "dev/block/253:0");
        link("devices/nvme0n1/nvme0n1p1", "dev/block/259:1");
        link("devices/nvme0n1", "dev/block/259:0");
        link("devices/nvme0n1/nvme0n1p1", "class/block/nvme0n1p1");
        sys
    }

    #[test]
    fn devices_have_the_names_that_people_know_and_the_disks_below_them() {
        let sys = sys();
        let of = |device, source| of(sys.path(), device, source);
        let disk = vec![makedev(259, 0)];
        assert_eq!(of(makedev(259, 0), "/dev/nvme0n1"), ("nvme0n1".to_owned(), disk.clone()));
        assert_eq!(of(makedev(259, 1), "/dev/root"), ("nvme0n1p1".to_owned(), disk.clone()));
        assert_eq!(of(makedev(253, 0), "/dev/mapper/vg-data"), ("vg-data".to_owned(), disk.clone()));
        assert_eq!(of(makedev(0, 30), "/dev/nvme0n1p1"), ("nvme0n1p1".to_owned(), disk), "btrfs");
        assert_eq!(of(makedev(0, 31), "tmpfs"), ("tmpfs".to_owned(), Vec::new()));
        assert_eq!(of(makedev(8, 1), "/dev/sda1"), ("sda1".to_owned(), Vec::new()), "it has just gone");
    }
}
