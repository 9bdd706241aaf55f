//! PORTTI: watches a Kubernetes cluster, and says what it holds, what changed in it, by whom, and what its objects'
//! status says.
//!
//! A task a kind watches it, and reduces each object as it arrives to a small form (`form`). One more task compares the
//! forms with those that were reported last (`reporter`), writes them down together with the facts that come of it
//! (`store`), and sends these. While the facts are not accepted, nothing more is read from the API server.

mod aspect;
mod diff;
mod elected;
mod endpoints;
mod event;
mod fact;
mod flat;
mod form;
mod gateway;
mod kinds;
mod lease;
mod metrics;
mod origin;
mod read;
mod relations;
mod reporter;
mod role;
mod salt;
mod sentence;
mod sets;
mod states;
mod status;
mod store;
mod watch;

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use tapio_delivery::polku;
use tapio_kube::{Access, Mode, RETRY};
use tapio_occurrence::Occurrence;
use tapio_service::{
    clock,
    setting::{Name, Wrong, choices, settings},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::sleep,
};

pub(crate) use role::start;
pub use status::{Election, KindStatus, Status, Watch};

use self::{
    kinds::{KINDS, Kind, SECRET},
    reporter::Reporter,
    store::Store,
    watch::{Item, watch},
};
use crate::facts::Facts;

/// The resource of a kind that is watched.
pub(crate) fn resource(kind: &str) -> Option<kube::api::ApiResource> {
    kinds::kind(kind).map(Kind::api)
}

/// Objects that wait to be compared. Each has its `managedFields` until then, some kilobytes.
const WAITING: usize = 64;
/// Objects that are compared and reported together.
const TOGETHER: usize = 128;
/// The longest time without a look at what is due.
const LOOK: Duration = Duration::from_secs(3600);

/// Why Secrets are not watched.
const NOT_ASKED_FOR: &str = "not watched: `secrets` is off; set it to `hashes`";

choices! {
    /// What is watched of Secrets.
    pub enum Secrets {
        /// Nothing.
        Off = "off",
        /// Which keys they have, and a salted hash of each value.
        Hashes = "hashes",
    }
}

settings! {
    /// What is watched in Kubernetes.
    pub struct Settings {
        /// Whether Kubernetes is watched: `auto` does where the server runs in a pod with a service account, or KUBECONFIG
        /// is set; with `on` it is an error where neither is so.
        pub kubernetes: Mode = Mode::Auto,
        /// What is watched of Secrets. With `hashes` it is known which key of a Secret changed, and when; values are
        /// never sent. It takes the permission to list and watch Secrets.
        pub secrets: Secrets = Secrets::Off,
        /// The gateway that facts are sent to, for a process that has this role alone. `off`: they go into the journal of
        /// this process.
        pub polku: polku::Settings = polku::Settings::default(),
        /// Name of the Lease, in the namespace of the pod, that says which of several replicas reports; the others stand by
        /// and take over. It takes `polku.endpoint`, so that all of them send to the same journal. Empty: there is only one.
        pub lease: Name = Name::default(),
    }
}

impl Settings {
    /// Checks combinations of keys. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// Two keys contradict each other, or one needs another.
    pub fn check(&self) -> Result<(), (String, Wrong)> {
        self.polku.check("portti.polku").map_err(|(key, wrong)| (format!("polku.{key}"), wrong))?;
        if self.lease.get().is_some() && self.polku.endpoint.all().is_empty() {
            let what =
                "needs portti.polku.endpoint: replicas with a journal each would each know a part only";
            return Err(("lease".to_owned(), Wrong(what.to_owned())));
        }
        Ok(())
    }
}

/// Where PORTTI runs, and for whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// Holds what was reported, so that a later run goes on from there.
    pub directory: PathBuf,
    /// The name of the cluster.
    pub cluster: Option<Arc<str>>,
    /// How long whoever receives the facts retains them. What exists is said again in half of this time.
    pub retained: Duration,
}

/// Watches until `stop` is ready.
///
/// # Errors
/// The state cannot be opened, read or written.
pub async fn run(
    access: Access,
    settings: &Settings,
    place: Place,
    facts: &mut impl Facts,
    status: Arc<Status>,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let for_reporter = Arc::clone(&status);
    let for_delivery = Arc::clone(&status);
    let left_out: Vec<_> = KINDS.iter().filter(|kind| !is_watched(kind, settings)).collect();
    KINDS.iter().for_each(|kind| status.starting(kind.name, kind.lost));
    let open = move || {
        let store = Store::open(&place.directory)?;
        let interval_ns = u64::try_from(place.retained.as_nanos()).unwrap_or(u64::MAX) / 2;
        let mut reporter = Reporter::new(store, place.cluster, for_reporter)?.telling_again(interval_ns);
        left_out.into_iter().for_each(|kind| reporter.leave_out(kind, NOT_ASKED_FOR));
        let salt = reporter.salt()?;
        anyhow::Ok((reporter, salt))
    };
    let (reporter, salt) = spawn_blocking(open).await.context("the state was not opened")??;
    let (send, receive) = mpsc::channel(WAITING);
    let mut watches = JoinSet::new();
    for kind in KINDS.iter().filter(|kind| is_watched(kind, settings)) {
        watches.spawn(watch(access.clone(), kind, salt.clone(), send.clone()));
    }
    // The watches have the only senders.
    drop(send);
    deliver(reporter, receive, facts, &for_delivery, stop).await
}

fn is_watched(kind: &Kind, settings: &Settings) -> bool {
    kind.name != SECRET || settings.secrets == Secrets::Hashes
}

/// Compares and reports what arrives, until `stop`. It may end at any time: facts that were not yet known to have arrived are
/// sent again by the next run.
async fn deliver(
    mut reporter: Reporter,
    mut items: mpsc::Receiver<Item>,
    sink: &mut impl Facts,
    status: &Status,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let mut stop = pin!(stop);
    let mut batch = Vec::with_capacity(TOGETHER);
    let mut facts = reporter.undelivered()?;
    loop {
        if !facts.is_empty() {
            tokio::select! {
                () = &mut stop => return Ok(()),
                () = accepted(sink, &facts, status) => reporter.delivered(),
            }
        }
        status.caught_up(now_unix_ns());
        let due = reporter.due_unix_ns();
        let wait = due.map_or(LOOK, |due| Duration::from_nanos(due.saturating_sub(now_unix_ns())));
        tokio::select! {
            () = &mut stop => {
                on_disk(reporter, Reporter::close).await?;
                return Ok(());
            }
            received = items.recv_many(&mut batch, TOGETHER) => if received == 0 {
                anyhow::bail!("the watches have ended");
            },
            () = sink.begins() => reporter.tell_all(),
            () = sleep(wait) => {}
        }
        let arrived = std::mem::take(&mut batch);
        (reporter, facts) = on_disk(reporter, |reporter| reporter.compare(arrived, now_unix_ns())).await?;
    }
}

/// Sends facts until they are durable. Meanwhile nothing more is taken from the watches.
async fn accepted(sink: &mut impl Facts, facts: &[Occurrence], status: &Status) {
    let mut retry = RETRY;
    while let Err(error) = sink.accept(facts.to_vec()).await {
        status.failed();
        tracing::warn!(error = format!("{error:#}"), facts = facts.len(), "portti: facts were not accepted");
        sleep(retry.wait()).await;
    }
    status.delivered(facts);
}

/// Runs work that reads and writes the store.
async fn on_disk<T: Send + 'static>(
    mut reporter: Reporter,
    work: impl FnOnce(&mut Reporter) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<(Reporter, T)> {
    let done = spawn_blocking(move || work(&mut reporter).map(|done| (reporter, done)));
    done.await.context("the comparison was cut short")?
}

fn now_unix_ns() -> u64 {
    clock::unix_ns(clock::boot_ns())
}
