//! Measures the cost of scanning a thousand cgroups: real ones where the benchmark may create them, otherwise
//! plain files that imitate them.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tapio_agent::{
    cgroupfs::Files,
    observer::{Built, node::Node},
};
use tapio_common::WHOLE_NODE;

const GROUPS: usize = 1_000;
const PASSES: u32 = 10;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(measure())
}

/// Cgroups of units. They are removed on drop.
struct Groups {
    parents: Vec<PathBuf>,
}

impl Groups {
    fn make(hierarchies: &[PathBuf]) -> anyhow::Result<Self> {
        let name = format!("tapio-bench-{}.slice", std::process::id());
        let mut groups = Self { parents: Vec::new() };
        for hierarchy in hierarchies {
            let parent = hierarchy.join(&name);
            fs::create_dir(&parent)?;
            groups.parents.push(parent.clone());
            for controller in
                ["+memory", "+cpu"].iter().filter(|_| parent.join("cgroup.subtree_control").exists())
            {
                let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
            }
            for at in 0..GROUPS {
                let group = parent.join(format!("s{at}.service"));
                fs::create_dir(&group)?;
                // Set limits, because cgroups with limits are the expensive ones.
                for (file, limit) in [
                    ("memory.max", "1G"),
                    ("memory.limit_in_bytes", "1G"),
                    ("cpu.max", "50000 100000"),
                    ("cpu.cfs_quota_us", "50000"),
                ] {
                    let path = group.join(file);
                    if path.exists() {
                        fs::write(path, limit)?;
                    }
                }
            }
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for parent in &self.parents {
            for at in 0..GROUPS {
                let _ = fs::remove_dir(parent.join(format!("s{at}.service")));
            }
            let _ = fs::remove_dir(parent);
        }
    }
}

async fn measure() -> anyhow::Result<()> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let one = ["memory", "cpu", "unified"].map(|name| root.join(name));
    let hierarchies: Vec<_> = if one[0].is_dir() {
        one.into_iter().filter(|path| path.is_dir()).collect()
    } else {
        vec![root.clone()]
    };
    let groups = match Groups::make(&hierarchies) {
        Ok(groups) => groups,
        Err(error) => {
            println!("SKIP cgroups: {error}");
            return Ok(());
        }
    };
    let interval = Duration::from_secs(5);
    let mut reader = Files::open(&root, "/proc".as_ref(), interval, Arc::default()).reader();
    let mut judge = Built::new::<Node>(&Default::default()).judge();
    let mut out = Vec::new();
    let (mut looks, mut best) = (0, f64::MAX);
    let start = cpu_s();
    for _ in 0..=PASSES {
        let pass = cpu_s();
        loop {
            reader.scan().await;
            let mut is_over = false;
            while let Some(record) = reader.next() {
                looks += 1;
                judge.observe(record, &mut out)?;
                is_over = record[8..16] == WHOLE_NODE.to_ne_bytes();
            }
            if is_over {
                break;
            }
        }
        best = best.min(cpu_s() - pass);
    }
    let mean = (cpu_s() - start) / f64::from(PASSES + 1);
    drop(groups);
    // The node itself counts as one more sample, and the scan includes the other cgroups of this machine.
    let groups = looks / u64::from(PASSES + 1) - 1;
    println!("cgroup_pass_groups {groups} groups");
    println!("cgroup_pass_ms {:.2} ms", best * 1e3);
    println!("cgroup_pass_us_per_group {:.1} us", best * 1e6 / groups as f64);
    // The observer lengthens its interval rather than use more CPU.
    let apart = interval.as_secs_f64().max(mean * 200.0);
    println!("cgroup_reading_percent {:.3} %", 100.0 * mean / apart);
    println!("cgroup_interval_seconds {apart:.1} s");
    Ok(())
}

/// CPU time of this process.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
