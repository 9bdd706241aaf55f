//! The way to the server: its address, or a port-forward through the API server with the user's own kubeconfig.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, anyhow};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, TE},
    request::Builder,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tapio_ahti::incident::Coverage;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{address::Address, cli::Reach, failure::Failure, identity::Identity, tls};

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer.
const MAX_ANSWER: usize = 256 << 20;
/// The trailer that says how much an answer does not show.
const HIDDEN: &str = "tapio-hidden";
/// The labels of the server's pods.
const LABELS: &str = "app.kubernetes.io/name=tapio-server";

/// A connection to the server.
pub(crate) struct Server {
    sender: http1::SendRequest<Full<Bytes>>,
    /// The namespace of the current context.
    pub(crate) namespace: String,
    /// Where it is, for people.
    pub(crate) place: String,
    /// What requests call it, which counts where a proxy is before it.
    host: HeaderValue,
    identity: Identity,
    /// How much the last answer does not show, as the caller may not read it.
    pub(crate) hidden: u64,
}

/// A value as part of a query.
pub(crate) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Server {
    pub(crate) async fn connect(reach: &Reach) -> Result<Self, Failure> {
        match &reach.server {
            Some(url) => Self::direct(url, reach).await,
            None => Self::forwarded(reach).await,
        }
    }

    async fn direct(url: &str, reach: &Reach) -> Result<Self, Failure> {
        let address = Address::of(url, reach)?;
        let stream = timeout(PATIENCE, TcpStream::connect((address.host.as_str(), address.port))).await;
        let stream = stream
            .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
            .and_then(|stream| stream.map_err(anyhow::Error::new))
            .with_context(|| {
                format!("{url} cannot be reached: is the server running there, with `api` set?")
            })?;
        // That of the kubeconfig is not sent to whatever listens there.
        let identity = match &reach.token_file {
            Some(file) => {
                if !address.is_tls {
                    let peer = stream.peer_addr().context("the connection is gone")?;
                    may_have_token(peer.ip(), url)?;
                }
                Identity::of_file(file)?
            }
            None => Identity::Unknown("with --server give a token by --token-file".to_owned()),
        };
        let namespace = current_namespace(reach).unwrap_or_else(|| "default".to_owned());
        let host =
            HeaderValue::from_str(&address.authority).context("--server cannot be sent in a header")?;
        if !address.is_tls {
            return Self::over(stream, address.authority, host, namespace, identity).await;
        }
        let secured = timeout(PATIENCE, tls::connect(stream, &address, reach.ca_file.as_deref())).await;
        let secured =
            secured.map_err(|_| anyhow!("{url}: no TLS connection within {} s", PATIENCE.as_secs()))??;
        Self::over(secured, address.authority, host, namespace, identity).await
    }

    async fn forwarded(reach: &Reach) -> Result<Self, Failure> {
        let kubeconfig = kubeconfig(reach).context(
            "there is no usable kubeconfig: set KUBECONFIG, or give one by --kubeconfig, or the server's address by \
             --server=https://HOST",
        )?;
        let options = KubeConfigOptions { context: reach.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.context("the kubeconfig is not usable")?;
        let identity = match &reach.token_file {
            Some(file) => Some(Identity::of_file(file)?),
            None => Identity::of_config(&mut config).await?,
        };
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("the kubeconfig is not usable")?;
        let pods = Api::<Pod>::namespaced(client.clone(), &reach.server_namespace);
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
        let identity = match identity {
            Some(identity) => identity,
            None => Identity::of_account(&client, &reach.server_namespace).await?,
        };
        let place = format!("{}/{pod}:{port}", reach.server_namespace);
        Self::over(stream, place, HeaderValue::from_static("tapio-server"), namespace, identity).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        place: String,
        host: HeaderValue,
        namespace: String,
        identity: Identity,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(|| format!("{place} speaks no HTTP"))?;
        tokio::spawn(connection);
        Ok(Self { sender, namespace, place, host, identity, hidden: 0 })
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

    /// Passes a request on, with the token of who asks.
    pub(crate) async fn pass(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        request.headers_mut().insert(HOST, self.host.clone());
        if let Identity::Known(value, _) = &self.identity {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let place = self.place.clone();
        let answered = timeout(PATIENCE, self.sender.send_request(request)).await;
        let answered =
            answered.map_err(|_| anyhow!("{place} does not answer within {} s", PATIENCE.as_secs()))?;
        Ok(answered.with_context(|| format!("{place} does not answer"))?)
    }

    async fn ask(&mut self, request: Builder, body: Full<Bytes>) -> Result<String, Failure> {
        let mut request = request.header(HOST, &self.host).header(TE, "trailers");
        if let Identity::Known(value, _) = &self.identity {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(body);
        let request = request.map_err(|error| Failure::Usage(error.to_string()))?;
        let place = self.place.clone();
        let exchange = async {
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow!("{error}"))?;
            let hidden =
                body.trailers().and_then(|trailers| trailers.get(HIDDEN)?.to_str().ok()?.parse().ok());
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Ok::<_, anyhow::Error>((status, text, hidden.unwrap_or_default()))
        };
        let answered = timeout(PATIENCE, exchange).await;
        let answered =
            answered.map_err(|_| anyhow!("{place} does not answer within {} s", PATIENCE.as_secs()))?;
        let (status, text, hidden) = answered.with_context(|| {
            format!("{place} does not answer: is its role ahti on, and its API on this port? `/status` of the server says so")
        })?;
        self.hidden = hidden;
        let what = || format!("{place}: {}", text.trim_end());
        match status {
            StatusCode::OK => Ok(text),
            StatusCode::NOT_FOUND => Err(Failure::NoData(what())),
            StatusCode::BAD_REQUEST => Err(Failure::Usage(what())),
            StatusCode::UNAUTHORIZED => Err(Failure::Forbidden(match &self.identity {
                Identity::Known(_, whose) => format!("{}\nasked with the token of {whose}", what()),
                Identity::Unknown(why) => format!("{}\n{why}", what()),
            })),
            StatusCode::FORBIDDEN => Err(Failure::Forbidden(what())),
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

/// Over plain HTTP a token is only sent within this host, as others could read it.
fn may_have_token(peer: IpAddr, url: &str) -> Result<(), Failure> {
    if peer.to_canonical().is_loopback() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--server {url}: the token would go over the network as plain text: give https://, forward a port (kubectl port-forward) and give \
         --server=http://127.0.0.1:PORT, or leave --server out"
    )))
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

fn kubeconfig(reach: &Reach) -> Result<Kubeconfig, KubeconfigError> {
    reach.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from)
}

fn current_namespace(reach: &Reach) -> Option<String> {
    let kubeconfig = kubeconfig(reach).ok()?;
    let current = reach.context.clone().or(kubeconfig.current_context)?;
    let context = kubeconfig.contexts.into_iter().find(|context| context.name == current)?;
    context.context?.namespace
}

/// Whether the server can be reached, and facts arrive.
pub(crate) async fn doctor(reach: &Reach) -> Result<String, Failure> {
    let mut server = Server::connect(reach).await?;
    let coverage: Coverage = server.json("/api/v1/coverage").await?;
    let mut lines = vec![format!("ok    server {}", server.place)];
    lines.extend(match &server.identity {
        Identity::Known(_, whose) => Some(format!("ok    asked as {whose}")),
        // It has answered all the same: it lets everybody ask.
        Identity::Unknown(_) => None,
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_leave_this_host_as_plain_text() {
        for (address, is_sent) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(may_have_token(address.parse().unwrap(), "http://x:1").is_ok(), is_sent, "{address}");
        }
    }
}
