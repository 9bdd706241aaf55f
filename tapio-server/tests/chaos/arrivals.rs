//! What arrived is what is in the journal.

#[path = "../../../tapio-delivery/tests/chaos/arrivals.rs"]
#[allow(dead_code, reason = "a part is used")]
mod compare;

use std::{fs, path::Path, sync::Arc, time::Duration};

use tapio_server::journal::{FILE, Journal, Limits};
use tempfile::tempdir;
use ulid::Ulid;

pub(crate) use compare::{missing, out_of_order, repeats};

/// The ids in the journal, in order. The server may be running, so that a copy is read.
pub(crate) fn arrivals(directory: &Path) -> Vec<Ulid> {
    let copy = tempdir().unwrap();
    let file = copy.path().join("facts.redb");
    if fs::copy(directory.join("server").join(FILE), &file).is_err() {
        return Vec::new();
    }
    let limits = Limits { max_bytes: 1 << 40, max_age: Duration::from_secs(86_400) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (journal, task) = Journal::open(&file, limits, Arc::default()).unwrap();
        assert_eq!(journal.status().quarantined, None);
        let task = tokio::spawn(task.run());
        let (mut ids, mut from) = (Vec::new(), 0);
        loop {
            let read = journal.read(from, 5_000).await.unwrap();
            let Some((last, _)) = read.last() else { break };
            from = last + 1;
            ids.extend(read.iter().map(|(_, event)| Ulid::from_string(&event.id).unwrap()));
        }
        journal.close().await;
        task.await.unwrap().unwrap();
        assert_eq!(repeats(&ids), 0, "a fact is there twice");
        ids
    })
}
