//! A disk that is full for a while: a small tmpfs in a separate mount namespace, which ends with the test.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::tempdir;

use crate::{
    agent::{Agent, Order},
    arrivals::{arrivals, missing, out_of_order},
    gateway,
    outage::{free_address, has_delivered_all},
    role::{Role, until},
};

/// A process that holds the namespace, with a tmpfs at `path`.
pub(crate) struct Disk {
    holder: Role,
    path: PathBuf,
}

impl Disk {
    /// Returns `None` if this process may not mount.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={size} tapio-test {} && echo mounted && exec sleep 3600",
            path.display()
        );
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut answer = [0; 8];
        let read = child.stdout.take().unwrap().read_exact(&mut answer);
        let holder = Role { child };
        (read.is_ok() && &answer == b"mounted\n").then(|| Self { holder, path: path.to_owned() })
    }

    /// Runs this test binary in the namespace.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.child.id()));
        command.arg(std::env::current_exe().unwrap());
        command
    }

    pub(crate) fn inside(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.child.id()));
        root.join(self.path.strip_prefix("/").unwrap()).join(name)
    }

    /// Writes until not a byte more fits.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.inside("filler")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.inside("filler")).unwrap();
    }
}

#[test]
fn a_full_disk_is_said_and_counted_and_over_when_there_is_room() {
    let directory = tempdir().unwrap();
    let (path, address) = (directory.path(), free_address());
    let state_dir = path.join("disk");
    let Some(disk) = Disk::mount(&state_dir, "24m") else {
        eprintln!(
            "SKIP a_full_disk_is_said_and_counted_and_over_when_there_is_room: no file system can be mounted"
        );
        return;
    };
    let order = Order { state_dir, gateway: address, cap_bytes: 16 << 20, rate: 2000, run: 1 };
    let agent = Agent::start_as(disk.command(), &order, &path.join("agent.log"));
    until(|| agent.said().status["spooled"].clone(), |spooled| spooled.as_u64() > Some(4000));
    disk.fill();
    // The sink continues in memory until that is full too, and then counts drops.
    until(
        || agent.said().status,
        |status| status["spool"]["state"].as_str().unwrap_or_default().starts_with("memory only"),
    );
    until(|| agent.said().dropped.len(), |dropped| *dropped > 100);
    // Existing records remain readable.
    let gateway = gateway::start(address, path);
    until(|| agent.said().status["sent"].clone(), |sent| sent.as_u64() > Some(4000));
    gateway.kill();
    disk.free();
    let before = until(|| agent.said().status, |status| status["spool"]["state"] == "ok");
    until(
        || agent.said().status["spooled"].clone(),
        |spooled| spooled.as_u64() > before["spooled"].as_u64().map(|n| n + 1000),
    );
    let gateway = gateway::start(address, path);
    until(|| agent.said().status, |status| status["sent"].as_u64() > Some(12_000) && status["state"] == "ok");
    let (accepted, said) = agent.stop();
    assert_eq!(
        said.status["dropped"]["queue_full"].as_u64(),
        Some(said.dropped.len() as u64),
        "{:?}",
        said.status
    );
    drop(gateway);
    let gateway = gateway::start(address, path);
    let rest = Agent::start_as(disk.command(), &Order { rate: 0, run: 2, ..order }, &path.join("agent.log"));
    until(|| rest.said().status, has_delivered_all);
    rest.stop();
    let arrived = arrivals(path);
    assert_eq!(missing(&accepted, &arrived), 0, "of {}", accepted.len());
    assert_eq!(out_of_order(&arrived), None);
    drop(gateway);
}
