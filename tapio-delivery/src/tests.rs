use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tapio_occurrence::samples::occurrence as sample;
use tapio_service::metrics::render;
use tokio::sync::Semaphore;

use super::*;

/// Takes one occurrence per permit.
struct Gate {
    permits: Arc<Semaphore>,
    taken: Arc<AtomicU64>,
}

impl Destination for Gate {
    const NAME: &'static str = "gate";

    fn batching(&self) -> Batching {
        Batching { count: 4, age: Duration::ZERO }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.permits.acquire_many(batch.len() as u32).await.unwrap().forget();
        self.taken.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(Receipt::taken(batch.len()))
    }
}

/// Takes everything at once.
struct Open;

impl Destination for Open {
    const NAME: &'static str = "open";

    fn batching(&self) -> Batching {
        Batching { count: 64, age: Duration::ZERO }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        Ok(Receipt::taken(batch.len()))
    }
}

/// Gives the scripted answers, then takes everything.
struct Scripted {
    answers: Vec<Result<Receipt, Failure>>,
    batches: Arc<Mutex<Vec<usize>>>,
    refuses_connections: Arc<AtomicBool>,
}

impl Destination for Scripted {
    const NAME: &'static str = "scripted";

    fn batching(&self) -> Batching {
        Batching { count: 10, age: Duration::from_millis(100) }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        match self.refuses_connections.load(Ordering::Relaxed) {
            true => Err(Failure::Reject("gone".to_owned())),
            false => Ok(()),
        }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.batches.lock().unwrap().push(batch.len());
        self.answers.pop().unwrap_or_else(|| Ok(Receipt::taken(batch.len())))
    }
}

fn scripted(
    mut answers: Vec<Result<Receipt, Failure>>,
) -> (Scripted, Arc<Mutex<Vec<usize>>>, Arc<AtomicBool>) {
    answers.reverse();
    let (batches, refuses_connections) = (Arc::default(), Arc::default());
    let scripted = Scripted {
        answers,
        batches: Arc::clone(&batches),
        refuses_connections: Arc::clone(&refuses_connections),
    };
    (scripted, batches, refuses_connections)
}

/// A destination that stays away for the whole test, and the batch sizes offered to it.
fn away() -> (Scripted, Arc<Mutex<Vec<usize>>>) {
    let (away, batches, _) = scripted((0..1000).map(|_| Err(Failure::Retry("away".to_owned()))).collect());
    (away, batches)
}

fn ledger(sinks: &Sinks, name: &str) -> Ledger {
    let status = sinks.status().into_iter().find(|status| status.sink == name).unwrap();
    assert!(status.ledger.balanced(), "{status:?}");
    status.ledger
}

fn state(sinks: &Sinks, name: &str) -> State {
    sinks.status().into_iter().find(|status| status.sink == name).unwrap().state
}

/// Time stands still in these tests while any task can run, so a bounded wait is a wait for a condition.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

fn send(sinks: &Sinks, count: usize) {
    for _ in 0..count {
        sinks.send(Arc::new(sample()));
    }
}

/// Counts what it takes, and is for people.
struct Read(Arc<AtomicU64>);

impl Destination for Read {
    const NAME: &'static str = "read";
    const FOR_PROGRAMS: bool = false;

    fn batching(&self) -> Batching {
        Batching { count: 64, age: Duration::ZERO }
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(Receipt::taken(batch.len()))
    }
}

#[tokio::test]
async fn what_only_programs_read_goes_to_programs_and_is_in_their_accounts() {
    let mut sinks = Sinks::new(Arc::default(), 8);
    let read = Arc::new(AtomicU64::new(0));
    sinks.add(Read(Arc::clone(&read)));
    assert!(!sinks.reach_programs());
    sinks.add(Open);
    assert!(sinks.reach_programs());
    sinks.send_to_programs(&Arc::new(sample()));
    sinks.send(Arc::new(sample()));
    sinks.clone().drain(Duration::from_secs(10)).await;
    let received: Vec<_> = sinks.status().iter().map(|status| status.ledger.received).collect();
    assert_eq!((received, read.load(Ordering::Relaxed)), (vec![1, 2], 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_counts() {
    let (registry, metrics) = Metrics::alone();
    let permits = Arc::new(Semaphore::new(0));
    let mut sinks = Sinks::new(Arc::clone(&metrics), 8);
    sinks.add(Gate { permits: Arc::clone(&permits), taken: Arc::default() });
    send(&sinks, 20);
    let full = ledger(&sinks, "gate");
    assert_eq!((full.received, full.sent, full.queued), (20, 0, 8));
    assert_eq!(full.dropped, BTreeMap::from([("queue_full", 12)]));

    permits.add_permits(8);
    until("all that was queued is sent", || ledger(&sinks, "gate").sent == 8).await;
    send(&sinks, 3);
    permits.add_permits(3);
    let counts = sinks.clone();
    assert_eq!(sinks.drain(Duration::from_secs(5)).await, 0);
    let end = ledger(&counts, "gate");
    assert_eq!((end.received, end.sent, end.queued), (23, 11, 0));
    let text = render(&registry).unwrap();
    assert!(text.contains(r#"tapio_dropped_total{hop="gate",reason="queue_full"} 12"#), "{text}");
    assert!(text.contains(r#"tapio_sink_sent_total{sink="gate"} 11"#), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_sink_holds_up_no_other() {
    let taken = Arc::new(AtomicU64::new(0));
    let mut sinks = Sinks::new(Arc::default(), 16);
    sinks.add(Gate { permits: Arc::new(Semaphore::new(0)), taken: Arc::clone(&taken) });
    sinks.add(Open);
    for round in 1..=10 {
        send(&sinks, 10);
        until("the fast sink has all", || ledger(&sinks, "open").sent == 10 * round).await;
    }
    assert_eq!(ledger(&sinks, "open").dropped, BTreeMap::new());
    assert_eq!(ledger(&sinks, "gate").dropped, BTreeMap::from([("queue_full", 84)]));
    assert_eq!(taken.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_shutdown_is_counted() {
    let mut sinks = Sinks::new(Arc::default(), 16);
    sinks.add(Gate { permits: Arc::new(Semaphore::new(4)), taken: Arc::default() });
    send(&sinks, 10);
    let counts = sinks.clone();
    assert_eq!(sinks.drain(Duration::from_secs(1)).await, 6);
    let end = ledger(&counts, "gate");
    assert_eq!((end.sent, end.queued), (4, 0));
    assert_eq!(end.dropped, BTreeMap::from([("shutdown", 6)]));
    // Occurrences sent after that are counted too.
    send(&counts, 1);
    assert_eq!(ledger(&counts, "gate").dropped, BTreeMap::from([("shutdown", 7)]));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_disk_holds_up_no_end() {
    let state_dir = tempfile::tempdir().unwrap();
    let mut sinks = Sinks::new(Arc::default(), 16).spooling(state_dir.path(), 8 << 20);
    sinks.add(away().0);
    send(&sinks, 4);
    until("it is away", || matches!(state(&sinks, "scripted"), State::Retrying(_))).await;
    let (counts, start) = (sinks.clone(), Instant::now());
    assert_eq!(sinks.drain(Duration::from_secs(5)).await, 0);
    let end = ledger(&counts, "scripted");
    assert_eq!((end.sent, end.spooled, end.dropped), (0, 4, BTreeMap::new()));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_disk_takes_up_no_room() {
    let state_dir = tempfile::tempdir().unwrap();
    let mut sinks = Sinks::new(Arc::default(), 4).spooling(state_dir.path(), 8 << 20);
    sinks.add(away().0);
    for round in 1..=3 {
        send(&sinks, 4);
        until("all is on disk", || ledger(&sinks, "scripted").spooled == 4 * round).await;
    }
    assert_eq!(ledger(&sinks, "scripted").dropped, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn one_that_is_away_is_asked_ever_more_rarely_whatever_is_written_meanwhile() {
    let state_dir = tempfile::tempdir().unwrap();
    let mut sinks = Sinks::new(Arc::default(), 64).spooling(state_dir.path(), 8 << 20);
    let (away, batches) = away();
    sinks.add(away);
    for _ in 0..120 {
        send(&sinks, 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until("all but the last is on disk", || ledger(&sinks, "scripted").spooled >= 119).await;
    // Waits of 0.25 s to 30 s: seven until they reach the maximum, then one per 15 s at least.
    let attempts = batches.lock().unwrap().len();
    assert!(attempts <= 7 + 120 / 15, "{attempts}");
}

#[test]
fn who_writes_gives_way_while_ever_more_comes() {
    let state_dir = tempfile::tempdir().unwrap();
    let spool = spool::Place::new(state_dir.path(), 64 << 20).of("steady");
    let queue = Queue::new("steady", 4096, Arc::default(), Some(spool));
    let (occurrence, is_done) = (Arc::new(sample()), AtomicBool::new(false));
    queue.push(Arc::clone(&occurrence));
    let gave_way = std::thread::scope(|scope| {
        let source = scope.spawn(|| {
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while std::time::Instant::now() < end && !is_done.load(Ordering::Relaxed) {
                queue.push(Arc::clone(&occurrence));
            }
            is_done.load(Ordering::Relaxed)
        });
        assert!(queue.write_out());
        is_done.store(true, Ordering::Relaxed);
        source.join().unwrap()
    });
    assert!(gave_way, "it wrote until there was nothing more");
}

/// Panics on every delivery.
struct Broken;

impl Destination for Broken {
    const NAME: &'static str = "broken";

    fn batching(&self) -> Batching {
        Open.batching()
    }

    async fn deliver(&mut self, _: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        panic!("what it is given is too much")
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_crashes_is_closed_reported_and_counted() {
    let mut sinks = Sinks::new(Arc::default(), 16);
    sinks.add(Broken);
    send(&sinks, 3);
    assert_eq!(sinks.ended().await, "it crashed: what it is given is too much");
    send(&sinks, 1);
    assert_eq!(ledger(&sinks, "broken").dropped, BTreeMap::from([("closed", 4)]));
    assert_eq!(state(&sinks, "broken").label(), "closed");
}

#[tokio::test(start_paused = true)]
async fn batches_by_count_and_age() {
    let (destination, batches, _) = scripted(Vec::new());
    let mut sinks = Sinks::new(Arc::default(), 64);
    sinks.add(destination);
    let start = Instant::now();
    send(&sinks, 25);
    until("all are sent", || ledger(&sinks, "scripted").sent == 25).await;
    assert_eq!(*batches.lock().unwrap(), [10, 10, 5]);
    assert!(start.elapsed() >= Duration::from_millis(100), "the last waited for company");
}

#[tokio::test(start_paused = true)]
async fn retry_keeps_the_batch_and_reject_does_not() {
    let answers = vec![
        Err(Failure::Retry("away".to_owned())),
        Err(Failure::Retry("still away".to_owned())),
        Err(Failure::Reject("nonsense".to_owned())),
    ];
    let (destination, batches, _) = scripted(answers);
    let mut sinks = Sinks::new(Arc::default(), 64);
    sinks.add(destination);
    let start = Instant::now();
    send(&sinks, 13);
    until("it says why", || state(&sinks, "scripted") == State::Retrying("away".to_owned())).await;
    assert_eq!(ledger(&sinks, "scripted").queued, 13);
    until("the second batch is sent", || ledger(&sinks, "scripted").sent == 3).await;
    assert_eq!(*batches.lock().unwrap(), [10, 10, 10, 3]);
    assert_eq!(ledger(&sinks, "scripted").rejected, 10);
    assert_eq!(state(&sinks, "scripted"), State::Ok);
    assert!(start.elapsed() >= Duration::from_millis(750), "two waits");
}

#[tokio::test(start_paused = true)]
async fn a_receipt_settles_the_beginning_only() {
    use Verdict::{Refused, Taken, Unanswered};
    let receipt = |verdicts: &[Verdict]| Ok(Receipt { verdicts: verdicts.to_vec(), slow: false });
    let answers = vec![
        receipt(&[Taken, Unanswered, Refused]),
        receipt(&[Unanswered, Taken]),
        receipt(&[Unanswered]),
        receipt(&[Taken, Taken]),
    ];
    let (destination, batches, _) = scripted(answers);
    let mut sinks = Sinks::new(Arc::default(), 64);
    sinks.add(destination);
    send(&sinks, 6);
    until("all are settled", || ledger(&sinks, "scripted").queued == 0).await;
    let end = ledger(&sinks, "scripted");
    assert_eq!((end.sent, end.rejected), (4, 1));
    assert_eq!(end.dropped, BTreeMap::from([("unacknowledged", 1)]), "after three times");
    assert_eq!(*batches.lock().unwrap(), [6, 4, 3, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_nearly_full_destination_is_sent_less() {
    let slow = || Ok(Receipt { verdicts: vec![Verdict::Taken; 10], slow: true });
    let (destination, _, _) = scripted(vec![slow(), slow(), slow()]);
    let mut sinks = Sinks::new(Arc::default(), 64);
    sinks.add(destination);
    let start = Instant::now();
    send(&sinks, 40);
    until("it says so", || state(&sinks, "scripted") == State::Slowed).await;
    until("all are sent", || ledger(&sinks, "scripted").sent == 40).await;
    assert!(start.elapsed() >= Duration::from_millis(250 + 500 + 1000));
    until("it is well again", || state(&sinks, "scripted") == State::Ok).await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_ends_is_reported_and_counted() {
    let (destination, _, refuses_connections) = scripted(vec![Err(Failure::Reject("pipe".to_owned()))]);
    let mut sinks = Sinks::new(Arc::default(), 64);
    sinks.add(destination);
    until("connected", || state(&sinks, "scripted") == State::Ok).await;
    refuses_connections.store(true, Ordering::Relaxed);
    send(&sinks, 13);
    assert_eq!(sinks.ended().await, "gone");
    send(&sinks, 1);
    let end = ledger(&sinks, "scripted");
    assert_eq!((end.rejected, end.queued), (10, 0));
    assert_eq!(end.dropped, BTreeMap::from([("closed", 4)]));
    assert_eq!(state(&sinks, "scripted").to_string(), "closed(gone)");
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_leaves_the_others() {
    let (registry, metrics) = Metrics::alone();
    let (destination, _, refuses_connections) = scripted(Vec::new());
    refuses_connections.store(true, Ordering::Relaxed);
    let mut sinks = Sinks::new(Arc::clone(&metrics), 64);
    sinks.add(destination);
    sinks.add(Open);
    until("one has ended", || state(&sinks, "scripted") == State::Closed("gone".to_owned())).await;
    send(&sinks, 5);
    until("the other has all", || ledger(&sinks, "open").sent == 5).await;
    assert_eq!(ledger(&sinks, "scripted").dropped, BTreeMap::from([("closed", 5)]));
    let text = render(&registry).unwrap();
    assert!(text.contains(r#"tapio_dropped_total{hop="scripted",reason="closed"} 5"#), "{text}");
    let all = timeout(Duration::from_secs(60), sinks.ended()).await;
    assert!(all.is_err(), "one is left: {all:?}");
}

#[tokio::test]
async fn status_as_json() {
    let mut sinks = Sinks::new(Arc::default(), 1);
    sinks.add(Gate { permits: Arc::new(Semaphore::new(0)), taken: Arc::default() });
    send(&sinks, 2);
    let json = serde_json::to_value(sinks.status()).unwrap();
    let expected = serde_json::json!([{
        "sink": "gate", "state": "connecting",
        "received": 2, "recovered": 0, "sent": 0, "rejected": 0, "dropped": {"queue_full": 1}, "queued": 1,
        "spooled": 0, "in_flight": 0,
    }]);
    assert_eq!(json, expected);
}

/// New occurrences wait for those that may be in the spool, which go first; but not once waiting would drop
/// some.
#[tokio::test]
async fn what_is_new_waits_for_a_spool_that_is_being_opened() {
    let state_dir = tempfile::tempdir().unwrap();
    let spool = spool::Place::new(state_dir.path(), 8 << 20).of("opening");
    let queue = Arc::new(Queue::new("opening", 8, Arc::default(), Some(spool)));
    let batching = Batching { count: 4, age: Duration::ZERO };
    let next = async |queue: &Queue| {
        let mut batch = Vec::new();
        timeout(Duration::from_millis(50), queue.next(batching, &mut batch))
            .await
            .map(|next| (next, batch.len()))
    };
    (0..3).for_each(|_| queue.push(Arc::new(sample())));
    assert_eq!(queue.status().spool.unwrap().state, "opening");
    assert!(next(&queue).await.is_err());
    // Half of the capacity is used.
    queue.push(Arc::new(sample()));
    assert_eq!(next(&queue).await, Ok((queue::Next::Deliver, 4)));
    queue.settle(&[Verdict::Taken; 4]);
    queue.push(Arc::new(sample()));
    assert!(next(&queue).await.is_err());
    let keep = tokio::spawn(queue::keep(Arc::clone(&queue)));
    let mut batch = Vec::new();
    assert_eq!(queue.next(batching, &mut batch).await, queue::Next::Deliver);
    assert_eq!((batch.len(), queue.status().spool.unwrap().state.as_str()), (1, "ok"));
    queue.settle(&[Verdict::Taken]);
    queue.drain(Instant::now());
    keep.await.unwrap();
    assert!(queue.status().ledger.balanced());
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_want_to_wait_loses_nothing_that_can_be_spooled() {
    let state_dir = tempfile::tempdir().unwrap();
    for (spools, dropped, spooled) in [(false, 3, 0), (true, 0, 3)] {
        let mut sinks = Sinks::new(Arc::default(), 64);
        if spools {
            sinks = sinks.spooling(state_dir.path(), 8 << 20);
        }
        sinks.add(Gate { permits: Arc::new(Semaphore::new(0)), taken: Arc::default() });
        send(&sinks, 3);
        until("on the way", || ledger(&sinks, "gate").in_flight == 3).await;
        let (counts, start) = (sinks.clone(), Instant::now());
        let hurry = tokio::time::sleep(Duration::from_millis(100));
        assert_eq!(sinks.drain_until(Duration::from_secs(600), hurry).await, dropped);
        assert!(start.elapsed() <= Duration::from_millis(100) + HURRY, "{:?}", start.elapsed());
        let end = ledger(&counts, "gate");
        assert_eq!((end.queued, end.spooled), (0, spooled), "{end:?}");
        assert_eq!(end.dropped.get("shutdown").copied().unwrap_or_default(), dropped);
    }
}
