//! The server: opens the journal, starts the roles, and finishes what was received when it stops.

mod status;

use std::{future::pending, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tapio_service::admin::Admin;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use self::status::Shared;
use crate::{
    config::Config,
    journal::{self, Journal, Limits},
    metrics::Metrics,
    role::{Context, Role},
};

/// Threads that serve connections. The journal has one more.
const WORKERS: usize = 2;
/// How long the journal may take to close its file at the end.
const CLOSE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT, then finishes what was received.
///
/// # Errors
/// The journal cannot be opened, an address cannot be bound, a file cannot be used, or a required task failed. The error
/// is one sentence with the remedy.
pub fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    let admin = config.listen.0.map(|listen| Admin::bind(listen.0)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("threads cannot be started")?;
    let done = runtime.block_on(serve(Arc::new(config), admin));
    // A hanging disk blocks a thread, but must not block the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

async fn serve(config: Arc<Config>, admin: Option<Admin>) -> anyhow::Result<()> {
    let mut stop_signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let metrics = Arc::new(Metrics::default());
    let limits = Limits { max_bytes: config.journal.max_bytes.get(), max_age: config.journal.max_age.get() };
    let file = config.state_dir.as_path().join(journal::FILE);
    let (journal, writer) = Journal::open(&file, limits, Arc::clone(&metrics))?;
    let opened = journal.status();
    tracing::info!(file = %file.display(), facts = opened.facts, newest = opened.newest, "journal opened");

    // The server cannot work without these tasks.
    let (fatal, mut failures) = mpsc::channel(2);
    let failed = fatal.clone();
    let writing = tokio::spawn(async move {
        if let Err(error) = writer.run().await {
            // It fails if the server is stopping already.
            let _ = failed.try_send(error);
        }
    });
    let (stop, stopped) = watch::channel(false);
    let context =
        Context { config: Arc::clone(&config), journal: journal.clone(), metrics, stopped: stopped.clone() };
    let mut roles = JoinSet::new();
    let mut states = Vec::new();
    for role in Role::of(config.roles.names()) {
        let started = role.start(&context)?;
        states.push((role.name, started.state));
        roles.spawn(async move { (role.name, started.run.await) });
    }
    let shared = Arc::new(Shared::new(&context, states));
    if let Some(admin) = admin {
        let mut stopped = stopped;
        let shutdown = async move {
            // An error means that the sender is gone, which also means stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serve = admin.serve(Arc::clone(&shared), shutdown);
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                let _ = fatal.try_send(error);
            }
        });
    }
    tracing::info!("ready");

    let mut failure = None;
    let [terminate, interrupt] = &mut stop_signals;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        Some(error) = failures.recv() => {
            failure = Some(error);
            "a required task failed"
        }
        Some(ended) = roles.join_next() => {
            failure = Some(early(ended));
            "a role ended"
        }
    };
    tracing::info!(why, "stopping");
    let hurried = second_signal(stop_signals);

    stop.send_replace(true);
    let finished = async { while roles.join_next().await.is_some() {} };
    let finished = tokio::select! {
        finished = timeout(config.drain.get(), finished) => finished.is_ok(),
        () = is_true(hurried.clone()) => false,
    };
    if !finished {
        tracing::warn!("not everything received was acknowledged in time: its senders keep it");
        roles.abort_all();
    }
    let closing = async {
        journal.close().await;
        // Its failure has been reported.
        let _ = writing.await;
    };
    let closed = tokio::select! {
        closed = timeout(CLOSE, closing) => closed.is_ok(),
        () = is_true(hurried) => false,
    };
    if !closed {
        tracing::warn!("the journal could not be closed in time: the disk of `state_dir` hangs");
    }
    shared.log_ledger();
    failure.or_else(|| failures.try_recv().ok()).map_or(Ok(()), Err)
}

/// Each connection takes a file descriptor, and the usual soft limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// The error of a role that ended by itself.
fn early(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("role {name} ended by itself"),
        Ok((name, Err(error))) => error.context(format!("role {name} failed")),
        Err(error) => anyhow::anyhow!("a role crashed: {error}"),
    }
}

/// Returns a flag that becomes true with the next signal: a second signal means to stop without waiting.
fn second_signal([mut terminate, mut interrupt]: [Signal; 2]) -> watch::Receiver<bool> {
    let (hurry, hurried) = watch::channel(false);
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::warn!(signal, "second signal: stopping without waiting");
        hurry.send_replace(true);
        // Keeps the sender alive as long as there are receivers.
        hurry.closed().await;
    });
    hurried
}

/// Completes when the flag is true. Never completes if the sender is gone before.
async fn is_true(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        pending::<()>().await;
    }
}
