//! `open`: the pages in a browser, with the token of who asks, which the browser never has.
//!
//! A browser talks to this program on this host, and this program to the server. Who else is on this host, and other pages in the
//! browser, cannot: the address that is opened has a code that is good once, for a cookie.

use std::{
    cell::RefCell,
    convert::Infallible,
    net::Ipv4Addr,
    process::{Command, Stdio},
    rc::Rc,
};

use anyhow::{Context as _, anyhow};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{self, HeaderName},
};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::{LocalSet, spawn_local},
};

use crate::{
    cli::{Open, Reach, object},
    connection::{Server, quoted},
    failure::Failure,
};

const COOKIE: &str = "tapio_open";
/// What a page sends is small.
const MAX_SENT: usize = 64 << 10;
/// Headers of a request that the server needs. Without `Accept` it refuses in text: its page to sign in is not for those who have a
/// token already.
const PASSED: [HeaderName; 5] = [
    header::ACCEPT_ENCODING,
    header::CONTENT_TYPE,
    header::COOKIE,
    HeaderName::from_static("last-event-id"),
    header::ORIGIN,
];

type Body = BoxBody<Bytes, hyper::Error>;

/// Who is let in.
struct Door {
    /// This program, as a browser names it.
    hosts: [String; 2],
    /// Good once.
    code: RefCell<Option<String>>,
    cookie: String,
}

/// Serves until it is interrupted.
pub(crate) async fn open(reach: &Reach, asked: &Open) -> Result<String, Failure> {
    // What is wrong with the way to the server is said here, not in a browser.
    let mut server = Server::connect(reach).await?;
    server.text("/api/v1/coverage").await?;
    let path = path(asked, &server.namespace)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, asked.port)).await;
    let listener = listener.with_context(|| format!("--port={}: this port cannot be used", asked.port))?;
    let port = listener.local_addr().context("the port is gone")?.port();
    let code = random()?;
    let url = format!("http://127.0.0.1:{port}{path}?code={code}");
    let door = Rc::new(Door {
        hosts: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
        code: RefCell::new(Some(code)),
        cookie: random()?,
    });
    println!("{url}\nopens once; Ctrl-C ends it");
    if !asked.no_browser {
        browse(&url);
    }
    let mut known = Some(server);
    let connections = async {
        loop {
            let (stream, _) = listener.accept().await.context("connections cannot be accepted")?;
            spawn_local(serve(stream, Rc::clone(&door), reach.clone(), known.take()));
        }
    };
    LocalSet::new().run_until(connections).await
}

/// The page of what is asked for.
fn path(asked: &Open, namespace: &str) -> Result<String, Failure> {
    let Some(text) = &asked.object else { return Ok("/".to_owned()) };
    if text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("tap-")) {
        return Ok(format!("/incidents/{}", quoted(&text.to_ascii_uppercase())));
    }
    let (kind, name) = object(text).map_err(Failure::Usage)?;
    let Some(kind) = kind else {
        return Err(Failure::Usage(format!("{text}: give KIND/NAME, such as deploy/{text}, or TAP-n")));
    };
    let namespace = match tapio_ahti::answer::is_of_cluster(kind) {
        true => "-",
        false => asked.namespace.as_deref().unwrap_or(namespace),
    };
    Ok(format!("/workloads/{}/{kind}/{}", quoted(namespace), quoted(name)))
}

fn random() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Failure::Other(anyhow!("the system has no random numbers")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Asks the desktop for its browser. Where there is none, the address was printed.
fn browse(url: &str) {
    for program in ["xdg-open", "open", "wslview"] {
        let mut command = Command::new(program);
        let command = command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.spawn().is_ok() {
            return;
        }
    }
}

/// Serves a connection of a browser by one to the server.
async fn serve(stream: TcpStream, door: Rc<Door>, reach: Reach, server: Option<Server>) {
    let server = Rc::new(Mutex::new(server));
    let service = service_fn(move |request| {
        let (door, reach, server) = (Rc::clone(&door), reach.clone(), Rc::clone(&server));
        async move {
            Ok::<_, Infallible>(match door.admits(&request) {
                Some(answer) => answer,
                None => match pass(request, &reach, &mut *server.lock().await).await {
                    Ok(answer) => answer,
                    Err(failure) => said(StatusCode::BAD_GATEWAY, &failure.to_string()),
                },
            })
        }
    });
    // A browser that goes is no failure.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Passes a request on.
async fn pass(
    request: Request<Incoming>,
    reach: &Reach,
    known: &mut Option<Server>,
) -> Result<Response<Body>, Failure> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_SENT).collect().await;
    let body =
        body.map_err(|error| Failure::Usage(format!("what was sent is too much: {error}")))?.to_bytes();
    let mut passed = Request::builder().method(head.method).uri(head.uri).body(Full::new(body.clone()));
    let passed = passed.as_mut().map_err(|error| Failure::Usage(error.to_string()))?;
    for name in PASSED {
        if let Some(value) = head.headers.get(&name) {
            passed.headers_mut().insert(name, value.clone());
        }
    }
    // A connection that was not used for long may be gone.
    let answer = match known {
        Some(server) => server.pass(passed.clone()).await.ok(),
        None => None,
    };
    let answer = match answer {
        Some(answer) => answer,
        None => known.insert(Server::connect(reach).await?).pass(passed.clone()).await?,
    };
    let (mut head, body) = answer.into_parts();
    head.headers.remove(header::CONNECTION);
    head.headers.remove(header::TRANSFER_ENCODING);
    Ok(Response::from_parts(head, body.boxed()))
}

impl Door {
    /// What is answered instead of passing it on.
    fn admits(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let host = text(request.headers(), &header::HOST);
        // A page elsewhere whose name leads here, too, has another name.
        if !self.hosts.iter().any(|own| host == Some(own)) {
            return Some(said(StatusCode::FORBIDDEN, "this is 127.0.0.1, for kubectl tapio open"));
        }
        let origin = text(request.headers(), &header::ORIGIN);
        let is_own = |origin: &str| self.hosts.iter().any(|own| origin == format!("http://{own}"));
        if *request.method() != Method::GET && !origin.is_some_and(is_own) {
            return Some(said(StatusCode::FORBIDDEN, "only these pages themselves may send something"));
        }
        let cookies = text(request.headers(), &header::COOKIE).unwrap_or_default();
        let own = format!("{COOKIE}={}", self.cookie);
        if cookies.split("; ").any(|cookie| cookie == own) {
            return None;
        }
        let query = request.uri().query().unwrap_or_default();
        let code = query.split('&').find_map(|part| part.strip_prefix("code="));
        let mut good = self.code.borrow_mut();
        if code.is_none() || code != good.as_deref() {
            let what = "this address opens once: run kubectl tapio open again";
            return Some(said(StatusCode::FORBIDDEN, what));
        }
        *good = None;
        let mut answer = said(StatusCode::SEE_OTHER, "");
        let cookie = format!("{own}; HttpOnly; SameSite=Strict; Path=/");
        let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, request.uri().path().to_owned())];
        for (name, value) in headers {
            answer.headers_mut().insert(name, HeaderValue::from_str(&value).ok()?);
        }
        Some(answer)
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn said(status: StatusCode, what: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{what}\n"))).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}
