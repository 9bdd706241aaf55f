//! Resource limits of a cgroup.

use std::{fs, path::PathBuf};

use super::cgroup::Cgroup;

impl Cgroup {
    /// Whether memory and CPU time of its processes can be limited, or the reason why not.
    pub(crate) fn is_limitable(&self) -> Result<(), String> {
        ["+memory", "+cpu"].into_iter().for_each(|controller| self.control(controller));
        self.has("memory.max").or_else(|_| self.has("memory.limit_in_bytes"))?;
        self.has("cpu.max").or_else(|_| self.has("cpu.cfs_quota_us"))
    }

    /// Whether the number of its threads can be limited, or the reason why not.
    pub(crate) fn has_threads(&self) -> Result<(), String> {
        self.control("+pids");
        self.has("pids.max")
    }

    /// Whether a task in it has its own cgroup v2 cgroup, or the reason why not.
    pub(crate) fn is_of_two(&self) -> Result<(), String> {
        let is_of_two = self.paths.iter().any(|path| path.join("cgroup.stat").exists());
        is_of_two
            .then_some(())
            .ok_or_else(|| "no cgroup2 file system is mounted, and a task has no other".to_owned())
    }

    /// Whether it has such a file.
    pub(crate) fn has(&self, file: &str) -> Result<(), String> {
        self.file(file).map(|_| ()).ok_or_else(|| format!("a group has no {file} here"))
    }

    /// Has a controller where it is possible: in cgroup v2 it exists in cgroups below one that enables it, from the root down.
    fn control(&self, controller: &str) {
        for path in &self.paths {
            for parent in path.ancestors().skip(1).take(4).collect::<Vec<_>>().into_iter().rev() {
                let control = parent.join("cgroup.subtree_control");
                if control.exists() {
                    let _ = fs::write(&control, controller);
                }
            }
        }
    }

    pub(crate) fn set(&self, file: &str, value: &str) {
        fs::write(self.file(file).unwrap(), value).unwrap();
    }

    pub(crate) fn limit_memory(&self, bytes: u64) {
        let is_two = self.has("memory.max").is_ok();
        self.set(if is_two { "memory.max" } else { "memory.limit_in_bytes" }, &bytes.to_string());
    }

    pub(crate) fn limit_cpu(&self, quota_us: u64, period_us: u64) {
        if self.has("cpu.max").is_ok() {
            return self.set("cpu.max", &format!("{quota_us} {period_us}"));
        }
        self.set("cpu.cfs_period_us", &period_us.to_string());
        self.set("cpu.cfs_quota_us", &quota_us.to_string());
    }

    /// Gives its pod a tenth of the CPU time that another pod gets, and all pods together nearly all of it, if that is
    /// possible here.
    pub(crate) fn weigh_little(&self) {
        for (levels_up, name, weight) in [
            (1, "cpu.weight", "10"),
            (3, "cpu.weight", "10000"),
            (1, "cpu.shares", "102"),
            (3, "cpu.shares", "102400"),
        ] {
            if let Some(file) = self.above(levels_up, name) {
                fs::write(file, weight).unwrap();
            }
        }
    }

    /// Limits the CPU time of its pod.
    pub(crate) fn limit_pod_cpu(&self, quota_us: u64, period_us: u64) {
        if let Some(file) = self.above(1, "cpu.max") {
            return fs::write(file, format!("{quota_us} {period_us}")).unwrap();
        }
        fs::write(self.above(1, "cpu.cfs_period_us").unwrap(), period_us.to_string()).unwrap();
        fs::write(self.above(1, "cpu.cfs_quota_us").unwrap(), quota_us.to_string()).unwrap();
    }

    /// A file of a cgroup above: 1 level up is its pod, 3 levels up all pods.
    fn above(&self, levels_up: usize, name: &str) -> Option<PathBuf> {
        Some(self.file(name)?.ancestors().nth(1 + levels_up)?.join(name))
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.paths.iter().map(|path| path.join(name)).find(|path| path.exists())
    }
}
