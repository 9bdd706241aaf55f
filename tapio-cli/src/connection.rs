//! The way to the server: its address, or a port-forward through the API server with the user's own kubeconfig.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::{
    Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
    request::Builder,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tapio_ahti::incident::Coverage;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{cli::Reach, failure::Failure};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer.
const MAX_ANSWER: usize = 256 << 20;
/// The labels of the server's pods.
const LABELS: &str = "app.kubernetes.io/name=tapio-server";

/// A connection to the server.
pub(crate) struct Server {
    sender: http1::SendRequest<Full<Bytes>>,
    /// The namespace of the current context.
    pub(crate) namespace: String,
    /// Where it is, for people.
    pub(crate) place: String,
}

/// A value as part of a query.
pub(crate) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Server {
    pub(crate) async fn connect(reach: &Reach) -> Result<Self, Failure> {
        match &reach.server {
            Some(url) => Self::direct(url).await,
            None => Self::forwarded(reach).await,
        }
    }

    async fn direct(url: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Usage(format!("--server {url}: give http://HOST:PORT"));
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let place = rest.trim_end_matches('/');
        if place.contains('/') || !place.contains(':') {
            return Err(wrong());
        }
        let stream = timeout(PATIENCE, TcpStream::connect(place)).await;
        let stream = stream
            .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .and_then(|stream| stream.map_err(anyhow::Error::new))
            .with_context(|| {
                format!("{url} cannot be reached: is the server running there, with `api` set?")
            })?;
        let namespace = current_namespace().unwrap_or_else(|| "default".to_owned());
        Self::over(stream, place.to_owned(), namespace).await
    }

    async fn forwarded(reach: &Reach) -> Result<Self, Failure> {
        let kubeconfig = Kubeconfig::read().context(
            "there is no usable kubeconfig: set KUBECONFIG, or give the server's address by --server=http://HOST:PORT",
        )?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let config = config.context("the kubeconfig is not usable")?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("the kubeconfig is not usable")?;
        let pods = Api::<Pod>::namespaced(client, &reach.server_namespace);
        let listed = timeout(PATIENCE, pods.list(&ListParams::default().labels(LABELS))).await;
        let listed =
            listed.map_err(|_| anyhow!("the API server does not answer within {} s", PATIENCE.as_secs()))?;
        let listed = listed.map_err(|error| refused(&error, "list pods", &reach.server_namespace))?;
        let is_ready = |pod: &&Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions
                .into_iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let Some(pod) = listed.items.iter().find(is_ready).and_then(|pod| pod.metadata.name.clone()) else {
            let what = match listed.items.len() {
                0 => format!("there is no pod with {LABELS} in namespace {}", reach.server_namespace),
                count => {
                    format!("none of the {count} pods of the server in {} is ready", reach.server_namespace)
                }
            };
            return Err(Failure::Other(anyhow!(
                "{what}: install it with deploy/server, or give its place by --server-namespace or --server"
            )));
        };
        let port = reach.server_port;
        let forwarded = timeout(PATIENCE, pods.portforward(&pod, &[port])).await;
        let forwarded =
            forwarded.map_err(|_| anyhow!("no port-forward to {pod} within {} s", PATIENCE.as_secs()))?;
        let mut forwarded =
            forwarded.map_err(|error| refused(&error, "create pods/portforward", &reach.server_namespace))?;
        let stream = forwarded.take_stream(port).ok_or_else(|| anyhow!("no port-forward to {pod}"))?;
        // It has to live as long as its stream.
        tokio::spawn(async move { forwarded.join().await });
        Self::over(stream, format!("{}/{pod}:{port}", reach.server_namespace), namespace).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: String,
        namespace: String,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(|| format!("{place} speaks no HTTP"))?;
        tokio::spawn(connection);
        Ok(Self { sender, namespace, place })
    }

    pub(crate) async fn text(&mut self, path: &str) -> Result<String, Failure> {
        self.ask(Request::get(path), Full::default()).await
    }

    /// Sends JSON.
    pub(crate) async fn post(&mut self, path: &str, body: &impl Serialize) -> Result<String, Failure> {
        let body = serde_json::to_vec(body).context("this cannot be sent")?;
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.ask(request, Full::from(body)).await
    }

    async fn ask(&mut self, request: Builder, body: Full<Bytes>) -> Result<String, Failure> {
        let request = request.header(HOST, "tapio-server").body(body);
        let request = request.map_err(|error| Failure::Usage(error.to_string()))?;
        let place = self.place.clone();
        let exchange = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow!("{error}"))?.to_bytes();
            Ok::<_, anyhow::Error>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let answered = timeout(PATIENCE, exchange).await;
        let answered =
            answered.map_err(|_| anyhow!("{place} does not answer within {} s", PATIENCE.as_secs()))?;
        let (status, text) = answered.with_context(|| {
            format!("{place} does not answer: is its role ahti on, and its API on this port? `/status` of the server says so")
        })?;
        let what = || format!("{place}: {}", text.trim_end());
        match status {
            StatusCode::OK => Ok(text),
            StatusCode::NOT_FOUND => Err(Failure::NoData(what())),
            StatusCode::BAD_REQUEST => Err(Failure::Usage(what())),
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(Failure::Forbidden(what())),
            status => Err(Failure::Other(anyhow!("{place}: {status}: {}", text.trim_end()))),
        }
    }

    pub(crate) async fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let text = self.text(path).await?;
        let read = serde_json::from_str(&text);
        Ok(read.with_context(|| {
            format!("{} is another version of the server: its answer cannot be read", self.place)
        })?)
    }
}

/// What a refusal of the API server means.
fn refused(error: &kube::Error, what: &str, namespace: &str) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            Failure::Forbidden(format!("you may not {what} in namespace {namespace}: {}", status.message))
        }
        error => Failure::Other(anyhow!("the API server: {error}")),
    }
}

fn current_namespace() -> Option<String> {
    let kubeconfig = Kubeconfig::read().ok()?;
    let current = kubeconfig.current_context?;
    let context = kubeconfig.contexts.into_iter().find(|context| context.name == current)?;
    context.context?.namespace
}

/// Whether the server can be reached, and facts arrive.
pub(crate) async fn doctor(reach: &Reach) -> Result<String, Failure> {
    let mut server = Server::connect(reach).await?;
    let coverage: Coverage = server.json("/api/v1/coverage").await?;
    let mut lines = vec![format!("ok    server {}", server.place)];
    lines.push(match (coverage.nodes, coverage.of_nodes) {
        (0, _) => "FAIL  no agent reports: set `polku` of the agents to this server's gateway".to_owned(),
        (nodes, all) if nodes < all => format!("warn  {nodes} of {all} nodes report"),
        (1, _) => "ok    1 node reports".to_owned(),
        (nodes, _) => format!("ok    {nodes} nodes report"),
    });
    lines.push(match coverage.kubernetes_age_s {
        None => "FAIL  Kubernetes is not watched: role portti is off, or may not watch".to_owned(),
        Some(age) => format!("ok    Kubernetes: {age} s old"),
    });
    let others = coverage.silent.iter().chain(&coverage.degraded).chain(&coverage.missing_kinds);
    lines.extend(others.map(|what| format!("warn  {what}")));
    Ok(lines.join("\n") + "\n")
}
