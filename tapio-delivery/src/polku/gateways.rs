//! The gateways, and which of them is used.

use std::sync::Arc;

use super::{
    super::{
        About, Failure,
        connection::{Files, Target, Trouble, Words},
    },
    Endpoint, NAME, Settings, Timings,
    stream::{Lost, Stream},
};

const WORDS: Words = Words {
    what: "events for POLKU",
    endpoint: "--polku=HOST:PORT, key `polku.endpoint`",
    authorities: "--polku-ca=FILE, key `polku.ca`",
    ca: "polku.ca",
    certificate: "polku.cert",
    key: "polku.key",
    http1_only: "take the gateway's port of gRPC (usually 50051), or let the proxy pass HTTP/2",
    http2_only: "take the gateway's port of gRPC (usually 50051)",
    no_access: "give a certificate that it lets in (keys `polku.cert` and `polku.key`) or a token (key \
                `polku.token_file`), or let this node in there",
    no_path: "correct the endpoint (key `polku.endpoint`), or let the proxy pass on /polku.v1.Gateway",
    no_service: "correct the endpoint (key `polku.endpoint`): it is no gateway of POLKU",
    too_large: "let it, and proxies before it, take messages of 1 MiB",
};

/// All gateways, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Gateways {
    all: Vec<Gateway>,
    /// Where to start: at the first, unless the last one that accepted a stream acknowledged nothing on it.
    next: usize,
    timings: Timings,
}

#[derive(Debug)]
struct Gateway {
    target: Arc<Target>,
    /// The last error logged for it, until it accepts a stream.
    said: Option<Trouble>,
}

impl Gateways {
    /// `None` if no endpoint is set.
    pub(super) fn new(settings: &Settings, timings: Timings) -> Option<Self> {
        let targets = settings.endpoint.all().iter().map(|endpoint| target(settings, endpoint, timings));
        let all: Vec<_> = targets.map(|target| Gateway { target: Arc::new(target), said: None }).collect();
        (!all.is_empty()).then_some(Self { all, next: 0, timings })
    }

    /// Checks that the files for TLS can be used now.
    pub(super) fn check(&self) -> Result<(), Trouble> {
        self.all.iter().try_for_each(|gateway| gateway.target.check())
    }

    /// Opens a stream to the first gateway that accepts one. On failure, the reason names each gateway.
    pub(super) async fn open(&mut self) -> Result<Stream, Failure> {
        let mut troubles = Vec::new();
        for at in (self.next..self.all.len()).chain(0..self.next) {
            let Some(gateway) = self.all.get_mut(at) else { continue };
            match Stream::open(&gateway.target, self.timings).await {
                Ok(stream) => {
                    gateway.said = None;
                    for (at, why) in troubles {
                        self.tell(at, why, "gateway passed over");
                    }
                    return Ok(stream);
                }
                Err(why) => troubles.push((at, why)),
            }
        }
        self.next = 0;
        Err(self.all_away(troubles))
    }

    /// A new stream to the same gateway, to replace one opened with older TLS files; `None` if that fails,
    /// which is logged.
    pub(super) async fn renewed(&mut self, stream: &Stream) -> Option<Stream> {
        let at = self.at(stream);
        match Stream::open(&stream.target, self.timings).await {
            Ok(renewed) => {
                let endpoint = stream.target.endpoint.as_str();
                tracing::info!(sink = NAME, endpoint, "connected anew with changed files");
                self.all.get_mut(at)?.said = None;
                Some(renewed)
            }
            Err(why) => {
                self.tell(at, why, "files for TLS changed and do not work; the old connection stays");
                None
            }
        }
    }

    /// Why a stream was lost. If it acknowledged nothing, another gateway is tried first.
    pub(super) async fn lost(&mut self, stream: Stream, lost: Lost) -> Failure {
        self.next = if stream.is_proven() { 0 } else { (self.at(&stream) + 1) % self.all.len() };
        let endpoint = stream.target.endpoint.clone();
        failure(vec![stream.explain(lost).await.of(&endpoint)])
    }

    fn at(&self, stream: &Stream) -> usize {
        self.all.iter().position(|gateway| Arc::ptr_eq(&gateway.target, &stream.target)).unwrap_or_default()
    }

    /// Logs an error, but not the same one twice in a row.
    fn tell(&mut self, at: usize, why: Trouble, what: &str) {
        let Some(gateway) = self.all.get_mut(at) else { return };
        if gateway.said.as_ref() != Some(&why) {
            tracing::warn!(sink = NAME, endpoint = gateway.target.endpoint, %why, "{what}");
            gateway.said = Some(why);
        }
    }

    /// The failure if no gateway is available. The sink's state shows it.
    fn all_away(&mut self, troubles: Vec<(usize, Trouble)>) -> Failure {
        let mut said = Vec::new();
        for (at, why) in troubles {
            let Some(gateway) = self.all.get_mut(at) else { continue };
            said.push(why.clone().of(&gateway.target.endpoint));
            gateway.said.get_or_insert(why);
        }
        failure(said)
    }
}

/// If any of them may come back by itself, the failure is temporary.
fn failure(troubles: Vec<Trouble>) -> Failure {
    let is_configuration = troubles.iter().all(|why| why.about == About::Configuration);
    match <[Trouble; 1]>::try_from(troubles) {
        Ok([one]) if is_configuration => Failure::Hold(one),
        Ok([one]) => Failure::Retry(one.to_string()),
        Err(all) => {
            let what = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
            if is_configuration {
                Failure::Hold(Trouble { what, remedy: None, about: About::Configuration })
            } else {
                Failure::Retry(what)
            }
        }
    }
}

/// The connection target of a gateway.
pub(super) fn target(settings: &Settings, endpoint: &Endpoint, timings: Timings) -> Target {
    let own = settings.cert.file().zip(settings.key.file());
    Target {
        endpoint: endpoint.to_string(),
        host: endpoint.host().to_owned(),
        port: endpoint.port(),
        authority: endpoint.authority(),
        path: "/polku.v1.Gateway".to_owned(),
        tls: settings.is_tls(endpoint).then(|| Files { authorities: settings.ca.file(), own }),
        token: settings.token_file.file(),
        within: timings.connect,
        keep_alive: Some(timings.keep_alive),
        words: &WORDS,
    }
}
