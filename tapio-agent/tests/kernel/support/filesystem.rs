//! A file system of a test's own. It is unmounted on drop.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::disk::{Disk, run};

/// What those in memory have in place of a device.
const IN_MEMORY: &str = "tapio-test";

/// The disk is dropped after it was unmounted.
pub(crate) struct Filesystem {
    point: TempDir,
    disk: Option<Box<Disk>>,
}

impl Filesystem {
    /// Mounts one of so many MiB in memory, or returns why this is impossible.
    pub(crate) fn in_memory(mib: u64) -> Result<Self, String> {
        let size = format!("-osize={mib}m");
        Self::mount(&["-ttmpfs".as_ref(), size.as_ref(), IN_MEMORY.as_ref()], None)
    }

    /// Makes one of ext4 on a disk, which takes no more writes after an error, or returns why this is impossible.
    pub(crate) fn on(disk: Disk) -> Result<Self, String> {
        run("mkfs.ext4", &["-q".as_ref(), disk.device()])?;
        let device = disk.device().to_owned();
        Self::mount(&["-text4".as_ref(), "-oerrors=remount-ro".as_ref(), &device], Some(Box::new(disk)))
    }

    fn mount(arguments: &[&Path], disk: Option<Box<Disk>>) -> Result<Self, String> {
        let point = tempfile::tempdir().map_err(|error| error.to_string())?;
        run("mount", &[arguments, &[point.path()]].concat())?;
        Ok(Self { point, disk })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        self.point.path()
    }

    /// Mounts it at a second place, too, until the guard is dropped.
    pub(crate) fn bind(&self) -> Result<Self, String> {
        Self::mount(&["-obind".as_ref(), self.path()], None)
    }

    /// Writes another file of so many MiB, or until there is no room.
    pub(crate) fn fill(&self, mib: usize) {
        let _ = fs::write(self.path().join(format!("fill-{mib}")), vec![1; mib << 20]);
    }

    /// Mounts one in memory again with this option: `ro`.
    pub(crate) fn remount(&self, option: &str) {
        let options = format!("-oremount,{option}");
        run("mount", &["-ttmpfs".as_ref(), options.as_ref(), IN_MEMORY.as_ref(), self.path()])
            .expect("it can be mounted again");
    }

    /// Makes ext4 find an error in it.
    pub(crate) fn damage(&self) {
        let disk = self.disk.as_ref().expect("it is on a disk");
        let trigger = PathBuf::from("/sys/fs/ext4").join(disk.name()).join("trigger_fs_error");
        fs::write(&trigger, "a test").expect("ext4 has a trigger for errors");
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        let _ = run("umount", &[self.path()]);
    }
}
