//! Signing in on the server itself: the page, the cookie, and what it is good for.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use axum::{Json, Router, routing::post};
use fantoccini::Locator;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::net::TcpListener;

use crate::{
    browser::{DESK, PHONE, View, browser},
    facts::recorded,
    site::{SOON, Site},
    support::PROGRAM,
};

const TOKEN: &str = "the.good.token";

/// An API server that knows one token, whose user may read everything.
async fn apiserver() -> SocketAddr {
    async fn review(Json(mut review): Json<Value>) -> Json<Value> {
        review["status"] = match review["spec"]["token"] == TOKEN {
            true => json!({ "authenticated": true, "user": { "username": "alice" } }),
            false => json!({ "authenticated": false }),
        };
        Json(review)
    }
    async fn allow(Json(mut review): Json<Value>) -> Json<Value> {
        review["status"] = json!({ "allowed": true });
        Json(review)
    }
    let routes = Router::new()
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(allow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

/// A server that asks it.
async fn site() -> (Site, TempDir) {
    let directory = tempdir().unwrap();
    let kubeconfig = directory.path().join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{ "name": "u", "user": {} }],
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{}", apiserver().await) } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.env("KUBECONFIG", kubeconfig);
    let site = Site::started(command, &["--ahti-auth=kubernetes"]);
    site.take(&recorded("limit", 1)).await;
    (site, directory)
}

/// The head and the body of an answer.
fn ask(site: &Site, method: &str, path: &str, headers: &[&str], body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(site.server.api).unwrap();
    let length = format!("content-length: {}", body.len());
    let headers = [&[length.as_str()], headers].concat().join("\r\n");
    write!(stream, "{method} {path} HTTP/1.0\r\n{headers}\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";
const PAGE: &str = "accept: text/html";
const OWN: &str = "sec-fetch-site: same-origin";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_given_back_as_a_cookie() {
    let (site, _directory) = site().await;
    let here = format!("host: {}", site.server.api);
    let sent = format!("token={TOKEN}&back=%2Fchanges");

    // To programs a refusal is text, as before; to people a page, whatever they asked for.
    let (head, body) = ask(&site, "GET", "/", &[&here], "");
    assert!(head.contains(" 401 ") && head.contains("www-authenticate: bearer"), "{head}");
    assert!(!body.contains('<') && body.contains("kubectl create token"), "{body}");
    for path in ["/", "/changes?since=1h", "/nothing", "/api/v1/coverage", "/assets/x.css"] {
        let (head, body) = ask(&site, "GET", path, &[&here, PAGE], "");
        assert!(head.contains(" 401 ") && head.contains("www-authenticate: bearer"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        assert!(body.contains("name=\"token\"") && body.contains(&format!("value=\"{path}\"")), "{body}");
        assert!(!body.contains("role=\"alert\"") && !body.contains("payments"), "{body}");
    }

    // Where others could read it, none is asked for, and none is taken.
    for (host, is_asked) in
        [("host: tapio.example", false), ("host: tapio.example\r\nx-forwarded-proto: https", true)]
    {
        let (_, body) = ask(&site, "GET", "/", &[host, PAGE], "");
        assert_eq!(body.contains("name=\"token\""), is_asked, "{body}");
        let (head, body) = ask(&site, "POST", "/login", &[host, FORM, OWN], &sent);
        assert!(head.contains(if is_asked { " 303 " } else { " 403 " }), "{head}: {body}");
        assert_eq!(head.contains("samesite=lax; secure"), is_asked, "{head}");
    }

    // What is wrong.
    for (headers, sent, status, says) in [
        ([FORM, OWN], "token=bad&back=%2F", "401", "does not accept this token"),
        ([FORM, OWN], "token=+&back=%2F", "401", "there is no token"),
        ([FORM, OWN], "tok=a", "401", "there is no token"),
        ([FORM, "sec-fetch-site: same-site"], sent.as_str(), "403", "only a page of this server itself"),
        ([FORM, "origin: http://evil.example"], sent.as_str(), "403", "only a page of this server itself"),
        ([FORM, PAGE], sent.as_str(), "403", "only a page of this server itself"),
    ] {
        let (head, body) = ask(&site, "POST", "/login", &[&[&*here, PAGE], &headers[..]].concat(), sent);
        assert!(head.contains(&format!(" {status} ")) && body.contains(says), "{head}: {body}");
        assert!(!head.contains("set-cookie"), "{head}");
    }

    let (head, _) = ask(&site, "POST", "/login", &[&here, FORM, OWN], &sent);
    assert!(head.contains(" 303 ") && head.contains("location: /changes"), "{head}");
    let mut stream = TcpStream::connect(site.server.api).unwrap();
    let length = sent.len();
    write!(
        stream,
        "POST /login HTTP/1.0\r\n{here}\r\n{FORM}\r\n{OWN}\r\ncontent-length: {length}\r\n\r\n{sent}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax") && !cookie.contains(TOKEN), "{cookie}");
    let cookie = format!("cookie: {}", cookie.split(';').next().unwrap());

    // It is as good as the token, for pages and for what they load.
    for (path, says) in [("/", "payments"), ("/api/v1/incidents", "payments"), ("/login", "")] {
        let (head, body) = ask(&site, "GET", path, &[&here, &cookie], "");
        assert!(
            head.contains(if path == "/login" { " 303 " } else { " 200 " }) && body.contains(says),
            "{head}"
        );
    }
    let (_, body) = ask(&site, "GET", "/", &[&here, &format!("authorization: Bearer {TOKEN}")], "");
    assert!(
        !body.contains("Sign out") && body.contains("payments"),
        "a token that a program sends is not a cookie"
    );
    // But not for what other pages send.
    let theme = "theme=dark&keys=on&back=%2F";
    for (header, status) in [(OWN, " 303 "), ("sec-fetch-site: same-site", " 403 "), (PAGE, " 403 ")] {
        let (head, body) = ask(&site, "POST", "/preferences", &[&here, &cookie, FORM, header], theme);
        assert!(head.contains(status), "{header}: {head}: {body}");
    }
    let mute = r#"{"namespace": "shop", "for": "1h"}"#;
    let json = "content-type: application/json";
    let (head, _) = ask(&site, "POST", "/api/v1/mutes", &[&here, &cookie, json], mute);
    assert!(head.contains(" 403 "), "{head}");
    let (head, _) = ask(&site, "POST", "/logout", &[&here, &cookie, OWN], "");
    assert!(head.contains(" 303 ") && head.contains("tapio-token=; path=/; max-age=0"), "{head}");
    assert!(!site.server.log().contains(TOKEN));

    // Another process does not know it.
    let (another, _directory) = self::site().await;
    let (head, body) = ask(&another, "GET", "/", &[&here, &cookie, PAGE], "");
    assert!(head.contains(" 401 ") && body.contains("started anew since you signed in"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_in_and_out_in_a_browser() {
    let browser = browser!("somebody_signs_in_and_out_in_a_browser");
    let (site, _directory) = site().await;
    let id = "TAP-1";
    let path = format!("/incidents/{id}");
    for (view, is_dark) in [(PHONE, false), (PHONE, true), (DESK, false), (DESK, true)] {
        browser.view(View { is_dark, ..view }).await;
        browser.go(&site.url(&path)).await;
        let found = browser.violations().await;
        assert!(found.is_empty(), "{} {is_dark}: {}", view.width, found.join("\n"));
        let wide = browser.value("document.documentElement.scrollWidth").await;
        assert!(wide.as_u64().unwrap() <= u64::from(view.width), "{wide}");
    }
    // Its style is its own, and the policy lets nothing else in.
    assert_ne!(
        browser.text("getComputedStyle(document.querySelector('input[type=password]')).maxWidth").await,
        "none"
    );
    let said = browser.complaints().await;
    assert!(said.iter().all(|said| said.contains("401")), "{said:?}");

    let client = &browser.client;
    let enter = async |token: &str| {
        client.find(Locator::Id("token")).await.unwrap().send_keys(token).await.unwrap();
        client.find(Locator::Css(".login button")).await.unwrap().click().await.unwrap();
    };
    enter("a.bad.token").await;
    browser
        .until(
            "document.querySelector('[role=alert]')?.textContent.includes('does not accept this token')",
            SOON,
        )
        .await;
    assert_eq!(browser.violations().await, [] as [String; 0]);
    // From there one still gets to the page that was asked for.
    enter(TOKEN).await;
    browser.until("document.querySelector('h1')?.textContent.includes('payments')", SOON).await;
    assert_eq!(client.current_url().await.unwrap().path(), path);
    let cookie = client.get_named_cookie("tapio-token").await.unwrap();
    let same_site = cookie.same_site().map(|of| of.to_string());
    assert_eq!((cookie.http_only(), same_site.as_deref()), (Some(true), Some("Lax")));
    assert!(!cookie.value().contains(TOKEN));
    assert_eq!(browser.text("document.cookie").await, "");
    assert_eq!(browser.violations().await, [] as [String; 0]);
    // The stream of events has it, too.
    browser.until("document.querySelector('#stale').hidden", SOON).await;
    let streams =
        "fetch('/api/v1/coverage').then((answer) => { window.answered = String(answer.status) }), true";
    browser.until(streams, SOON).await;
    browser.until("window.answered === '200'", SOON).await;

    // Once it is gone the page asks again, at the same place.
    client.delete_cookie("tapio-token").await.unwrap();
    browser.go(&site.url(&path)).await;
    enter(TOKEN).await;
    browser.until("document.querySelector('h1')?.textContent.includes('payments')", SOON).await;
    client.find(Locator::Css("footer form[action='/logout'] button")).await.unwrap().click().await.unwrap();
    browser.until("document.title.startsWith('Sign in')", SOON).await;
    browser.close().await;
}
