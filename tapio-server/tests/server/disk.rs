//! A full disk, and a damaged file.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tapio_delivery::State;
use tapio_server::journal::FILE;
use tempfile::tempdir;
use tonic::Code;

use crate::{
    client::{Stream, connect, events},
    sending::{Agent, until},
    support::{PROGRAM, Server, free_address, journaled_ids, wait_until},
};

/// A process that holds a mount namespace with a small tmpfs.
struct Disk {
    holder: Child,
    path: PathBuf,
}

impl Disk {
    /// `None` if this process may not mount.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={size} tapio-test {} && echo mounted && exec sleep 3600",
            path.display()
        );
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut answer = [0; 8];
        let read = holder.stdout.take().unwrap().read_exact(&mut answer);
        let disk = Self { holder, path: path.to_owned() };
        (read.is_ok() && &answer == b"mounted\n").then_some(disk)
    }

    /// The server in the namespace.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg(PROGRAM);
        command
    }

    fn inside(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.path.strip_prefix("/").unwrap()).join(name)
    }

    /// Writes until not a byte more fits.
    fn fill(&self) {
        let mut file = File::create(self.inside("filler")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_senders_and_over_when_there_is_room() {
    let directory = tempdir().unwrap();
    let Some(disk) = Disk::mount(&directory.path().join("state"), "32m") else {
        println!(
            "SKIP a_full_disk_is_said_to_senders_and_over_when_there_is_room: no file system can be mounted"
        );
        return;
    };
    let server = Server::start_as(disk.command(), free_address(), directory.path(), &[]);
    let mut agent = Agent::new(server.address);
    agent.send(500);
    agent.settled().await;
    disk.fill();
    // Some pages of the file are free; then there is an error, and no Ack.
    let mut client = connect(server.address).await;
    let mut stream = Stream::open(&mut client).await.unwrap();
    let mut acknowledged = Vec::new();
    let end = loop {
        stream.send(events(500)).await;
        match stream.ack().await {
            Ok(ack) => acknowledged.extend(ack.event_ids),
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("the journal cannot be written: No space left on device"), "{end:?}");
    agent.send(500);
    until(
        || agent.status().state,
        |state| matches!(state, State::Retrying(why) if why.contains("No space left")),
    )
    .await;
    assert!(server.get("/readyz").contains("journal: No space left on device"), "{}", server.get("/readyz"));
    assert_eq!(server.get("/livez"), "ok\n");
    assert!(server.ledger()["unwritten"].as_u64() >= Some(500), "{}", server.ledger());
    assert!(server.log().contains("the journal cannot be written: free space"), "{}", server.log());

    fs::remove_file(disk.inside("filler")).unwrap();
    // Also if nobody sends, because nobody may while it is not ready.
    wait_until(|| server.get("/readyz"), |answer| answer == "ok\n");
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent), (1_000, 1_000), "{ledger:?}");
    server.stop();
    fs::copy(disk.inside(FILE), {
        let aside = directory.path().join("copy/state").join(FILE);
        fs::create_dir_all(aside.parent().unwrap()).unwrap();
        aside
    })
    .unwrap();
    let found = journaled_ids(&directory.path().join("copy")).await;
    for id in acknowledged.iter().chain(&agent.ids) {
        assert_eq!(found.iter().filter(|one| *one == id).count(), 1, "{id}");
    }
}

#[tokio::test]
async fn a_damaged_journal_is_set_aside_and_said() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &[]);
    let mut agent = Agent::new(server.address);
    agent.send(100);
    agent.settled().await;
    server.stop();
    let file = directory.path().join("state").join(FILE);
    File::options().write(true).open(&file).unwrap().write_all_at(&[0xff; 4096], 0).unwrap();
    let server = Server::start(directory.path(), &[]);
    assert!(server.log().contains("the journal is damaged: it was set aside, and a new one begins"));
    let status: Value = server.status();
    let aside = status["journal"]["quarantined"].as_str().unwrap();
    assert!(Path::new(aside).exists() && aside.contains("facts.redb.damaged-"), "{aside}");
    let mut agent = Agent::new(server.address);
    agent.send(10);
    assert_eq!(agent.settled().await.sent, 10);
    server.stop();
    assert_eq!(journaled_ids(directory.path()).await.len(), 10);
}
