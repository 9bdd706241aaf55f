//! A proxy before the API server: forwards requests with the agent's own credentials, records them, and
//! imitates failing networks and busy servers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::{Client, Config, client::Body, config::KubeConfigOptions, config::Kubeconfig};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    task::JoinSet,
};

use super::Cluster;

/// The reaction to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// Forwards the server's response.
    Pass,
    /// Forwards the server's response after a delay.
    Slowly(Duration),
    /// Responds with this status instead.
    Status(u16),
    /// Fails a watch with 410 Gone, once the gate is released.
    Gone,
    /// Forwards responses, but never responds to a watch.
    Silence,
}

pub(crate) struct Gate {
    address: SocketAddr,
    state: Arc<State>,
    cluster_file: PathBuf,
    _tasks: JoinSet<()>,
}

struct State {
    client: Client,
    answer: Mutex<Answer>,
    seen: Mutex<Vec<String>>,
    under_way: Mutex<HashMap<String, usize>>,
    most_at_once: AtomicUsize,
    cut: watch::Sender<()>,
    release: Notify,
}

impl Gate {
    pub(crate) async fn before(cluster: &Cluster) -> Self {
        let config = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        config.default_retry = false;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(State {
            client: Client::try_from(config).unwrap(),
            answer: Mutex::new(Answer::Pass),
            seen: Mutex::default(),
            under_way: Mutex::default(),
            most_at_once: AtomicUsize::new(0),
            cut: watch::channel(()).0,
            release: Notify::new(),
        });
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            cluster_file: cluster.file(&format!("gate-{}.kubeconfig", address.port())),
            _tasks: tasks,
        }
    }

    /// A kubeconfig that points to the proxy.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: a, user: {{}}}}]\n",
            self.address,
        );
        std::fs::write(&self.cluster_file, text).unwrap();
        self.cluster_file.clone()
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = answer;
    }

    /// Closes all connections with responses in progress.
    pub(crate) fn cut(&self) {
        self.state.cut.send_replace(());
    }

    /// Lets a watch that waits for its 410 Gone continue.
    pub(crate) fn release(&self) {
        self.state.release.notify_one();
    }

    /// Requests with this text in their path or query.
    pub(crate) fn seen(&self, part: &str) -> Vec<String> {
        self.state.seen.lock().unwrap().iter().filter(|uri| uri.contains(part)).cloned().collect()
    }

    /// The most concurrent requests for the same object.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.most_at_once.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let mut cut = state.cut.subscribe();
            let service = service_fn(|request| pass(Arc::clone(&state), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // The agent may close the connection.
                _ = connection => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn pass(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, kube::Error> {
    let uri = request.uri().to_string();
    state.seen.lock().unwrap().push(uri.clone());
    let answer = state.answer.lock().unwrap().clone();
    match answer {
        Answer::Status(code) => return Ok(refusal(code)),
        Answer::Slowly(wait) => tokio::time::sleep(wait).await,
        Answer::Gone if uri.contains("watch=true") => {
            state.release.notified().await;
            *state.answer.lock().unwrap() = Answer::Pass;
            let event = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version","reason":"Expired","code":410}}"#;
            return Ok(Response::new(Body::from(format!("{event}\n").into_bytes())));
        }
        Answer::Silence if uri.contains("watch=true") => std::future::pending().await,
        Answer::Gone | Answer::Silence | Answer::Pass => {}
    }
    let (head, _) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().as_str().to_owned();
    let mut on = Request::builder().method(head.method).uri(path);
    if let Some(accept) = head.headers.get("accept") {
        on = on.header("accept", accept);
    }
    let now = {
        let mut under_way = state.under_way.lock().unwrap();
        let now = under_way.entry(uri.clone()).or_default();
        *now += 1;
        *now
    };
    state.most_at_once.fetch_max(now, Ordering::SeqCst);
    let response = state.client.send(on.body(Body::empty()).unwrap()).await;
    *state.under_way.lock().unwrap().get_mut(&uri).unwrap() -= 1;
    response
}

fn refusal(code: u16) -> Response<Body> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "not now", "reason": "TooManyRequests", "code": code,
    });
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Body::from(status.to_string().into_bytes())).unwrap()
}
