//! Scrapes a service's metrics, and turns each answer into a record.
//!
//! A task of its own scrapes, so that a slow service delays nothing else. It has at most one record waiting. The answer
//! is read line by line as it arrives: its size, the length of a line, the number of series and the time are limited.

use std::{
    fmt,
    future::pending,
    mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tapio_kube::{Endpoint, Metrics, Problem, Refused, in_pod};
use tapio_service::clock;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    observer::Target,
    source::{Absent, Lack, Part, Ready, Records, Source},
};

/// How often a service that was not given by URL is looked for.
const LOOK: Duration = Duration::from_secs(60);
/// How long the doctor waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Maximum length of a line. The longest of a series is a few hundred bytes; longer ones can only be comments.
const MAX_LINE: usize = 4096;

/// A service that is scraped.
#[derive(Debug)]
pub struct Scraper {
    scrape: Arc<Scrape>,
    task: OnceLock<AbortHandle>,
}

/// What the scraping task and the state of its part share.
#[derive(Debug)]
struct Scrape {
    target: Target,
    endpoint: Endpoint,
    state: Mutex<Result<String, Absent>>,
}

/// Records of scrapes.
struct Scraped {
    records: mpsc::Receiver<Vec<u8>>,
    next: Option<Vec<u8>>,
}

/// The lines of an answer, as far as it has arrived.
#[derive(Default)]
struct Lines {
    bytes: u64,
    series: u32,
    /// The beginning of a line; as long as [`MAX_LINE`] and one more if the line is too long.
    partial: Vec<u8>,
}

impl Scraper {
    /// Prepares scrapes of this target. Nothing is connected before there is a runtime.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let endpoint = Endpoint {
            url: target.url.clone(),
            token: target.token.clone(),
            ca: target.ca.clone(),
            own: target.own.clone(),
            insecure: target.insecure,
        };
        let state = Mutex::new(Ok(format!("at {}", target.url)));
        let scraper = Self { scrape: Arc::new(Scrape { target, endpoint, state }), task: OnceLock::new() };
        scraper.scrape.look();
        scraper
    }
}

impl Source for Scraper {
    fn of(&self) -> &'static str {
        "endpoints"
    }

    fn parts(&self) -> Vec<Part> {
        let state = self.scrape.state().clone();
        vec![Part { name: "metrics", state, gives: self.scrape.target.gives }]
    }

    fn check(&self) {
        if self.scrape.is_absent() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let scraped = match runtime {
            Ok(runtime) => runtime.block_on(self.scrape.once(&mut None, PATIENCE)),
            Err(error) => Err(Problem::answer(error.to_string())),
        };
        self.scrape.set(scraped.map(|(_, series)| series));
    }

    fn records(&mut self) -> anyhow::Result<Box<dyn Records>> {
        let (send, records) = mpsc::channel(1);
        let task = tokio::spawn(Arc::clone(&self.scrape).run(send)).abort_handle();
        anyhow::ensure!(self.task.set(task).is_ok(), "the records were taken before");
        Ok(Box::new(Scraped { records, next: None }))
    }

    fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl Records for Scraped {
    fn ready(&mut self) -> Ready<'_> {
        Box::pin(async {
            if self.next.is_none() {
                self.next = self.records.recv().await;
            }
            // It has been closed.
            if self.next.is_none() { pending().await } else { Ok(()) }
        })
    }

    fn next(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some(record) = self.next.take().or_else(|| self.records.try_recv().ok()) else { return false };
        take(&record);
        true
    }
}

impl Scrape {
    fn state(&self) -> MutexGuard<'_, Result<String, Absent>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_absent(&self) -> bool {
        self.state().as_ref().is_err_and(|absent| absent.lack == Lack::Inapplicable)
    }

    /// Looks whether anything listens where the service would be on this host. Where nothing does, that is known at
    /// once, without waiting for the first scrape.
    fn look(&self) {
        let address = self.target.url.authority().and_then(|authority| authority.as_str().parse().ok());
        let Some(address) = address.filter(|_| !self.target.is_given) else { return };
        if let Err(error) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            self.set(Err(Problem { why: error.to_string(), refused: Refused::Connection }));
        }
    }

    /// Scrapes until the receiver is gone.
    async fn run(self: Arc<Self>, send: mpsc::Sender<Vec<u8>>) {
        let mut metrics = None;
        loop {
            let began = Instant::now();
            let scraped = self.once(&mut metrics, self.target.timeout).await;
            let works = scraped.is_ok();
            let (record, series) = scraped
                .map_or_else(|problem| (None, Err(problem)), |(record, series)| (Some(record), Ok(series)));
            self.set(series);
            // Files that were renewed are read again.
            metrics = metrics.filter(|_| works);
            if let Some(record) = record
                && send.send(record).await.is_err()
            {
                return;
            }
            let pause = if works || self.target.is_given { self.target.interval } else { LOOK };
            tokio::select! {
                () = sleep_until(began + pause) => {}
                () = send.closed() => return,
            }
        }
    }

    /// Scrapes once. Returns the record, and the number of series in the answer.
    async fn once(&self, metrics: &mut Option<Metrics>, within: Duration) -> Result<(Vec<u8>, u32), Problem> {
        let metrics = match metrics {
            Some(metrics) => metrics,
            None => metrics.insert(self.endpoint.open()?),
        };
        let (mut lines, mut reader) = (Lines::default(), (self.target.reader)());
        let mut line = |line: &str| reader.line(line).map_err(Problem::answer);
        let scrape = metrics.scrape(|chunk| lines.take(chunk, &self.target, &mut line));
        timeout(within, scrape)
            .await
            .unwrap_or_else(|_| Err(Problem::answer(format!("no complete answer within {within:?}"))))?;
        lines.end(&self.target, &mut line)?;
        let record = reader.record(clock::boot_ns()).map_err(Problem::answer)?;
        Ok((record, lines.series))
    }

    /// Sets the state of the part: the number of series, or why there are none. Logs a change.
    fn set(&self, scraped: Result<u32, Problem>) {
        let Target { what, url, is_given, .. } = &self.target;
        let new = match scraped {
            Ok(series) => Ok(format!("at {url}, {series} series")),
            Err(Problem { refused: Refused::Connection, .. }) if !is_given => Err(Absent {
                why: format!(
                    "no {what} on this host: nothing listens at {}{}",
                    url.authority().map_or_else(String::new, ToString::to_string),
                    if in_pod() { " of this pod" } else { "" }
                ),
                lack: Lack::Inapplicable,
                remedy: None,
            }),
            Err(Problem { why, refused }) => Err(Absent {
                why: format!("{url} cannot be scraped: {why}"),
                lack: if *is_given { Lack::Failed } else { Lack::Missing },
                remedy: Some(remedy(refused)),
            }),
        };
        let mut state = self.state();
        let old = mem::replace(&mut *state, new);
        match (&old, &*state) {
            (Err(old), Err(new)) if old == new => {}
            (Ok(_), Ok(_)) => {}
            (Err(_), Ok(now)) => tracing::info!(service = what, "scraped {now}"),
            (_, Err(Absent { why, lack: Lack::Inapplicable, .. })) => {
                tracing::debug!(service = what, "{why}")
            }
            (_, Err(Absent { why, remedy, .. })) => {
                tracing::warn!(service = what, remedy = remedy.unwrap_or_default(), "{why}");
            }
        }
    }
}

/// What an operator can do. The keys are those of the observer's settings.
const fn remedy(refused: Refused) -> &'static str {
    match refused {
        Refused::Connection => {
            "correct `url`, or let it listen at an address that this node reaches (--bind-address)"
        }
        Refused::Certificate => {
            "give the certificate of the authority that signed its own (key `ca`); or, since it is self-signed by default, \
             set `insecure_skip_verify: true`"
        }
        Refused::OwnCertificate => {
            "give a certificate of an authority that it trusts (keys `cert` and `key`)"
        }
        Refused::Authentication => {
            "give a bearer token of its cluster (key `token_file`), or a certificate (keys `cert` and `key`)"
        }
        Refused::Authorization => {
            "bind a ClusterRole with the rule {nonResourceURLs: [/metrics], verbs: [get]} to the agent's service account \
             (chart: `schedulerMetrics: true`)"
        }
        Refused::File => "it has to be a PEM file, or a token, that the agent may read",
        Refused::Answer => "correct `url`, and look at its log",
    }
}

impl Lines {
    /// Takes the next bytes of the answer, and passes each line with a sample on.
    fn take(
        &mut self,
        mut chunk: &[u8],
        limits: &Target,
        line: &mut impl FnMut(&str) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        self.bytes += chunk.len() as u64;
        if self.bytes > limits.max_bytes {
            return Err(Problem::answer(format!(
                "the answer is larger than {} bytes (key `max_body`)",
                limits.max_bytes
            )));
        }
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.extend(&chunk[..end]);
            self.end(limits, line)?;
            chunk = &chunk[end + 1..];
        }
        self.extend(chunk);
        Ok(())
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = (MAX_LINE + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Ends a line.
    fn end(
        &mut self,
        limits: &Target,
        line: &mut impl FnMut(&str) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let whole = mem::take(&mut self.partial);
        if matches!(whole.first(), None | Some(b'#' | b'\r')) {
            return Ok(());
        }
        if whole.len() > MAX_LINE {
            return Err(Problem::answer(format!("a line is longer than {MAX_LINE} bytes")));
        }
        self.series += 1;
        if self.series > limits.max_series {
            return Err(Problem::answer(format!(
                "there are more than {} series (key `max_series`)",
                limits.max_series
            )));
        }
        let text = str::from_utf8(&whole).map_err(|_| Problem::answer("the answer is not text"))?;
        line(text)
    }
}

impl fmt::Debug for Scraped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraped").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
