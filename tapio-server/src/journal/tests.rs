use std::fs;

use tapio_occurrence::{event::event, samples};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use ulid::Ulid;

use super::{disk::Swept, *};
use crate::facts::Facts as _;

const MIB: u64 = 1 << 20;

struct Fixture {
    directory: TempDir,
    limits: Limits,
}

impl Fixture {
    fn new() -> Self {
        let limits = Limits { max_bytes: 64 * MIB, max_age: Duration::from_secs(3600) };
        Self { directory: tempfile::tempdir().unwrap(), limits }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("state").join(FILE)
    }

    fn open(&self) -> Opened {
        let metrics = Arc::new(Metrics::default());
        let (journal, task) = Journal::open(&self.file(), self.limits, Arc::clone(&metrics)).unwrap();
        Opened { journal: journal.of("test"), metrics, task: tokio::spawn(task.run()) }
    }
}

struct Opened {
    journal: Journal,
    metrics: Arc<Metrics>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Opened {
    async fn close(self) {
        self.journal.close().await;
        self.task.await.unwrap().unwrap();
        let ledger = self.metrics.ledger("test");
        assert!(ledger.balanced() && ledger.waiting == 0, "{ledger:?}");
    }

    async fn all(&self) -> Vec<(u64, Event)> {
        let mut all = Vec::new();
        loop {
            let from = all.last().map_or(0, |(seq, _): &(u64, Event)| *seq + 1);
            let read = self.journal.read(from, 1000).await.unwrap();
            if read.is_empty() {
                return all;
            }
            all.extend(read);
        }
    }
}

fn events(count: usize) -> Vec<Event> {
    let mut made = event(&samples::occurrence());
    (0..count)
        .map(|_| {
            made.id = Ulid::generate().to_string();
            made.clone()
        })
        .collect()
}

fn seqs(outcomes: &[Outcome]) -> Vec<u64> {
    let seq = |outcome: &Outcome| match outcome {
        Outcome::Accepted(seq) => *seq,
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(seq).collect()
}

#[tokio::test]
async fn each_once_in_order_and_after_a_restart() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let newest = opened.journal.watch();
    let given = events(300);
    let first = seqs(&opened.journal.append(&given[..200]).await.unwrap());
    let again = opened.journal.append(&given[100..]).await.unwrap();
    assert!(again[..100].iter().all(|outcome| *outcome == Outcome::Repeated));
    let last = seqs(&again[100..]);
    assert_eq!(*newest.borrow(), last[99]);
    let found = opened.all().await;
    assert!(found.iter().map(|(seq, _)| seq).eq(first.iter().chain(&last)));
    assert!(found.iter().map(|(_, event)| event).eq(&given), "as they were given");
    assert_eq!(opened.journal.status().facts, 300);
    opened.close().await;

    let opened = fixture.open();
    assert_eq!(*opened.journal.watch().borrow(), last[99]);
    assert!(opened.all().await == found);
    assert!(seqs(&opened.journal.append(&events(1)).await.unwrap())[0] > last[99]);
    assert_eq!(opened.journal.append(&given[..1]).await.unwrap(), [Outcome::Repeated]);
    opened.close().await;
}

#[tokio::test]
async fn what_cannot_be_indexed_or_is_too_large_is_refused_and_the_others_are_not() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let mut given = events(5);
    given[0].id = "no ULID".to_owned();
    given[3].payload = vec![0; MAX_FACT_BYTES];
    given[4].id = given[1].id.clone();
    let outcomes = opened.journal.append(&given).await.unwrap();
    assert_eq!([&outcomes[0], &outcomes[3]], [&Outcome::Refused(Unfit::Id), &Outcome::Refused(Unfit::Size)]);
    assert_eq!(outcomes[4], Outcome::Repeated, "in the same transaction");
    assert_eq!(seqs(&outcomes[1..3]).len(), 2);
    let ledger = opened.metrics.ledger("test");
    assert_eq!((ledger.received, ledger.accepted, ledger.repeated), (5, 2, 1));
    opened.close().await;
}

#[tokio::test]
async fn a_follower_reads_each_once_in_order_while_more_come() {
    const COUNT: usize = 2_000;
    let fixture = Fixture::new();
    let opened = fixture.open();
    let journal = opened.journal.clone();
    let follower = tokio::spawn(async move {
        let (mut newest, mut next, mut seen) = (journal.watch(), 0, Vec::new());
        while seen.len() < COUNT {
            newest.wait_for(|newest| *newest >= next).await.unwrap();
            let read = journal.read(next, 64).await.unwrap();
            next = read.last().map_or(next, |(seq, _)| seq + 1);
            seen.extend(read.into_iter().map(|(_, event)| event.id));
        }
        seen
    });
    let mut given = Vec::new();
    for _ in 0..COUNT / 40 {
        let events = events(40);
        opened.journal.append(&events).await.unwrap();
        given.extend(events.into_iter().map(|event| event.id));
    }
    let seen = tokio::time::timeout(Duration::from_secs(60), follower).await.unwrap().unwrap();
    assert_eq!(seen, given);
    opened.close().await;
}

#[tokio::test]
async fn many_that_wait_are_one_transaction() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let mut pending = Vec::new();
    for _ in 0..200 {
        pending.push(opened.journal.submit(&events(1), None).await.unwrap());
    }
    let mut seen = Vec::new();
    for one in pending {
        seen.extend(seqs(&one.outcomes().await.unwrap()));
    }
    assert!(seen.is_sorted() && seen.len() == 200);
    let text = opened.metrics.render().unwrap();
    let commits = text.lines().find_map(|line| line.strip_prefix("tapio_journal_commits_total "));
    let commits: u32 = commits.unwrap().parse().unwrap();
    assert!(commits < 150, "{commits} commits");
    opened.close().await;
}

#[tokio::test]
async fn a_role_of_this_process_hands_over_occurrences() {
    let fixture = Fixture::new();
    let mut opened = fixture.open();
    let given = samples::occurrence();
    opened.journal.accept(vec![given.clone(), given.clone()]).await.unwrap();
    let found = opened.all().await;
    let [(_, one)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(tapio_occurrence::event::occurrence(one).unwrap().id, given.id);
    opened.close().await;
}

#[tokio::test]
async fn after_the_end_nothing_is_taken_and_the_ledger_says_so() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let journal = opened.journal.clone();
    let metrics = Arc::clone(&opened.metrics);
    opened.close().await;
    assert_eq!(journal.append(&events(3)).await, Err(Trouble::Closed));
    let ledger = metrics.ledger("test");
    assert_eq!((ledger.received, ledger.unwritten, ledger.waiting), (3, 3, 0));
}

#[tokio::test]
async fn the_oldest_make_room_and_the_file_keeps_to_its_limit() {
    use std::os::unix::fs::MetadataExt as _;
    let fixture = Fixture::new();
    let opened = fixture.open();
    let mut first = None;
    let mut given = 0;
    // Three times the limit.
    while given < 192 * MIB {
        let mut events = events(512);
        events.iter_mut().for_each(|event| event.payload = vec![7; 6000]);
        given += events.iter().map(|event| event.encoded_len() as u64).sum::<u64>();
        let outcomes = opened.journal.append(&events).await.unwrap();
        first.get_or_insert_with(|| events[0].clone());
        assert_eq!(seqs(&outcomes).len(), 512);
        let blocks = fs::metadata(fixture.file()).unwrap().blocks() * 512;
        assert!(blocks <= 64 * MIB, "{blocks} bytes on disk");
    }
    let status = opened.journal.status();
    assert!(status.bytes > 32 * MIB && status.facts > 3000, "{status:?}");
    let found = opened.all().await;
    assert_eq!(found.len() as u64, status.facts);
    assert!(opened.metrics.render().unwrap().contains("tapio_journal_expired_total{limit=\"bytes\"} "));
    // Its id has left the index, too.
    let first = first.unwrap();
    seqs(&opened.journal.append(&[first]).await.unwrap());
    opened.close().await;
}

#[tokio::test]
async fn the_old_ones_are_removed_also_if_nothing_new_comes() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let given = events(10_000);
    opened.journal.append(&given).await.unwrap();
    let newest = *opened.journal.watch().borrow();
    opened.close().await;
    let open = |age| Disk::open(fixture.file(), 64 * MIB, Duration::from_secs(age)).unwrap();
    let mut disk = open(3600);
    let now = clock::unix_s();
    assert_eq!(disk.sweep(now + 100).unwrap(), Swept::default(), "this marks the end");
    assert_eq!(disk.sweep(now + 3600).unwrap(), Swept::default());
    let mut removed = 0;
    loop {
        let swept = disk.sweep(now + 100 + 3600).unwrap();
        removed += swept.expired;
        if swept.is_all() {
            break;
        }
    }
    assert_eq!((removed, disk.stock().facts, disk.stock().bytes), (10_000, 0, 0));
    assert_eq!(disk.stock().next, newest + 1, "numbers go on");
    let fact = Fact::of(&given[0]).unwrap();
    assert_eq!(disk.append([fact].iter()).unwrap().outcomes, [Outcome::Accepted(newest + 1)]);
}

#[tokio::test]
async fn a_lower_limit_is_kept_to_without_anything_new() {
    let mut fixture = Fixture::new();
    fixture.limits.max_bytes = 256 * MIB;
    let opened = fixture.open();
    for _ in 0..12 {
        let mut events = events(1000);
        events.iter_mut().for_each(|event| event.payload = vec![7; 6000]);
        opened.journal.append(&events).await.unwrap();
    }
    assert_eq!(opened.journal.status().facts, 12_000);
    opened.close().await;
    fixture.limits.max_bytes = 64 * MIB;
    let opened = fixture.open();
    let mut newest = opened.journal.watch();
    let below = async {
        while opened.journal.status().bytes > 48 * MIB {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), below).await.unwrap();
    let left = opened.journal.status().facts;
    assert!(left > 4_000 && left == opened.all().await.len() as u64, "{left}");
    assert!(!newest.has_changed().unwrap_or(true) && *newest.borrow_and_update() > 0);
    opened.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_numbers_go_on() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    opened.journal.append(&events(100)).await.unwrap();
    let newest = *opened.journal.watch().borrow();
    opened.close().await;
    for damage in [&b"no database at all"[..], &[0; 8192]] {
        fs::write(fixture.file(), damage).unwrap();
        let opened = fixture.open();
        let status = opened.journal.status();
        let aside = status.quarantined.unwrap();
        assert_eq!(fs::read(&aside).unwrap(), damage);
        assert_eq!((status.state.as_str(), status.facts), ("ok", 0));
        assert!(seqs(&opened.journal.append(&events(1)).await.unwrap())[0] > newest);
        opened.close().await;
        let damaged = fs::read_dir(fixture.file().parent().unwrap()).unwrap();
        let damaged =
            damaged.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
        assert_eq!(damaged.count(), 1, "only the latest is retained");
    }
}

/// Pages are overwritten while the journal is open, and in a file that opens without a look at them.
#[tokio::test]
async fn damage_that_is_found_later_never_panics_and_the_journal_goes_on() {
    use std::os::unix::fs::FileExt as _;
    for seed in 0..8 {
        let fixture = Fixture::new();
        let opened = fixture.open();
        for _ in 0..20 {
            opened.journal.append(&events(50)).await.unwrap();
        }
        opened.close().await;
        let file = fs::File::options().write(true).open(fixture.file()).unwrap();
        let length = file.metadata().unwrap().len();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..40 {
            let noise: Vec<u8> = (0..512).map(|_| rng.u8(..)).collect();
            file.write_all_at(&noise, rng.u64(4096..length - 512)).unwrap();
        }
        let opened = fixture.open();
        let mut went_on = false;
        for _ in 0..20 {
            let _ = opened.journal.read(0, 5000).await;
            went_on = opened.journal.append(&events(10)).await.is_ok();
        }
        assert!(went_on, "seed {seed}: {:?}", opened.journal.status());
        opened.close().await;
    }
}

#[tokio::test]
async fn two_processes_cannot_have_it_and_the_error_says_so() {
    let fixture = Fixture::new();
    let opened = fixture.open();
    let error = Journal::open(&fixture.file(), fixture.limits, Arc::default()).unwrap_err();
    assert!(format!("{error:#}").ends_with("cannot be opened: another process has it open"), "{error:#}");
    opened.close().await;
}
