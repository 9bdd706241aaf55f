//! The mount table, `/proc/PID/mountinfo` (Documentation/filesystems/proc.rst, section 3.5).

use std::collections::BTreeMap;

use rustix::fs::makedev;

use crate::observer::{
    Volume,
    storage::filesystem::{Filesystem, ReadOnly},
};

/// Types of file systems that are on this host's disks or in its memory, so that asking them does not wait for a network
/// or a daemon. Those that are always full or never written are left out (squashfs, iso9660), and those that are as full as
/// what is below them (overlay, the data sets of a ZFS pool).
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3", "reiserfs",
    "tmpfs", "vfat", "xfs",
];
/// Where the kubelet mounts a volume once for all pods of the node.
const OF_KUBELET: &str = "/plugins/kubernetes.io/";

/// One mount of a local file system.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    /// As `dev_t` of user space.
    pub(super) device: u64,
    /// The directory of the file system that is mounted.
    root: String,
    pub(super) point: String,
    kind: String,
    /// What was mounted: `/dev/vda1`.
    pub(super) source: String,
    read_only: Option<ReadOnly>,
}

/// The mounts of local file systems in a table.
pub(super) fn local(table: &str) -> impl Iterator<Item = Mount> {
    table.lines().filter_map(parse)
}

/// The mounts of each file system.
pub(super) fn by_device(mounts: impl Iterator<Item = Mount>) -> BTreeMap<u64, Vec<Mount>> {
    let mut all: BTreeMap<u64, Vec<Mount>> = BTreeMap::new();
    for mount in mounts {
        all.entry(mount.device).or_default().push(mount);
    }
    all
}

/// The file system with these mounts: where people know it, and whose volume it is. `None` if only a part of it is
/// mounted, as in a container, or if it holds objects of the API.
pub(super) fn filesystem(mounts: &[Mount]) -> Option<Filesystem> {
    // Each subvolume of btrfs, and the deployment of an image-based system, is mounted for itself.
    let is_whole = |mount: &&Mount| mount.root == "/" || mount.kind == "btrfs" || mount.point == "/";
    let whole = || mounts.iter().filter(is_whole);
    let of_pods = whole()
        .filter(|mount| mount.root == "/")
        .filter_map(|mount| Some((mount, Volume::of_path(&mount.point)?)));
    let mut of_pods: Vec<_> = of_pods.collect();
    let (mount, volume) = match of_pods.pop() {
        Some((mount, mut volume)) => {
            if of_pods.iter().any(|(_, other)| other.pod_uid != volume.pod_uid) {
                volume.pod_uid = None;
            }
            (mount, Some(volume))
        }
        None => {
            let of_node = whole().filter(|mount| !mount.point.contains(OF_KUBELET));
            (of_node.min_by_key(|mount| mount.point.len()).or_else(|| whole().next())?, None)
        }
    };
    if Volume::is_of_the_api(&mount.point) {
        return None;
    }
    Some(Filesystem {
        kind: mount.kind.clone(),
        mount_point: mount.point.clone(),
        volume,
        read_only: mount.read_only,
        ..Filesystem::default()
    })
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro`
fn parse(line: &str) -> Option<Mount> {
    let (of_mount, of_filesystem) = line.split_once(" - ")?;
    let mut of_filesystem = of_filesystem.split(' ');
    let kind = of_filesystem.next().filter(|kind| LOCAL.contains(kind))?;
    let (source, options) = (of_filesystem.next()?, of_filesystem.next()?);
    let mut of_mount = of_mount.split(' ');
    let (id, device) = (of_mount.next()?, of_mount.nth(1)?);
    let (root, point) = (of_mount.next()?, of_mount.next()?);
    let (major, minor) = device.split_once(':')?;
    Some(Mount {
        id: id.parse().ok()?,
        device: makedev(major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        point: unescape(point),
        kind: kind.to_owned(),
        source: unescape(source),
        read_only: read_only(options),
    })
}

/// The state of the file system, not of the mount: a read-only bind mount says nothing about the others.
fn read_only(options: &str) -> Option<ReadOnly> {
    let has = |option: &ReadOnly| options.split(',').any(|set| set == option.option());
    [ReadOnly::Shutdown, ReadOnly::Emergency, ReadOnly::Mounted].into_iter().find(has)
}

/// Resolves `\040`, as the kernel writes blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..3).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
