//! Resource limits of a cgroup.

use std::{fs, path::PathBuf};

use super::cgroup::Cgroup;

impl Cgroup {
    /// Whether memory and CPU time of its processes can be limited, or the reason why not.
    pub(crate) fn is_limitable(&self) -> Result<(), String> {
        for path in &self.paths {
            // In cgroup v2 a controller exists in cgroups below one that enables it, from the root down.
            let above: Vec<_> = path.ancestors().skip(1).take(4).collect();
            for parent in above.into_iter().rev() {
                let control = parent.join("cgroup.subtree_control");
                for controller in ["+memory", "+cpu"].iter().filter(|_| control.exists()) {
                    let _ = fs::write(&control, controller);
                }
            }
        }
        self.has("memory.max").or_else(|_| self.has("memory.limit_in_bytes"))?;
        self.has("cpu.max").or_else(|_| self.has("cpu.cfs_quota_us"))
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

    /// Limits the CPU time of its pod.
    pub(crate) fn limit_pod_cpu(&self, quota_us: u64, period_us: u64) {
        let in_pod = |name: &str| self.file(name).and_then(|file| Some(file.parent()?.parent()?.join(name)));
        if let Some(file) = in_pod("cpu.max") {
            return fs::write(file, format!("{quota_us} {period_us}")).unwrap();
        }
        fs::write(in_pod("cpu.cfs_period_us").unwrap(), period_us.to_string()).unwrap();
        fs::write(in_pod("cpu.cfs_quota_us").unwrap(), quota_us.to_string()).unwrap();
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.paths.iter().map(|path| path.join(name)).find(|path| path.exists())
    }
}
