//! What the pages are without a browser: headers, names of files, errors, the stream of events.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    facts::{alive, crashing, recorded},
    site::Site,
};

/// The head and the body of an answer.
fn get(site: &Site, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(site.server.api).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nhost: x\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase(), answer[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_page_has_its_headers_and_few_bytes() {
    let site = Site::of("limit").await;
    for path in site.pages() {
        let (head, body) = get(&site, &path, "");
        assert!(head.starts_with("http/1.0 200"), "{path}: {head}");
        for header in [
            "content-type: text/html; charset=utf-8",
            "content-security-policy: default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; \
             frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path}: {header} is not in {head}");
        }
        let text = String::from_utf8(body).unwrap();
        assert!(
            !text.contains(" style=") && !text.contains("<style") && !text.contains(" onclick"),
            "{path}"
        );
        let (head, small) = get(&site, &path, "accept-encoding: gzip\r\n");
        assert!(head.contains("content-encoding: gzip") && small.len() < text.len() / 2, "{path}: {head}");
        // The script, the style and the picture are kept by browsers, under a name for what is in them.
        let files: Vec<_> = text.split('"').filter(|part| part.starts_with("/assets/")).collect();
        assert_eq!(files.len(), 3);
        for file in files {
            let (head, body) = get(&site, file, "");
            assert!(
                head.contains("200 ok") && head.contains("max-age=31536000, immutable"),
                "{file}: {head}"
            );
            assert!(!body.is_empty());
        }
    }
    assert!(get(&site, "/assets/0000000000000000.css", "").0.contains("404"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_page_says_what_would_be_right() {
    let site = Site::of("limit").await;
    for (path, status, says) in [
        ("/incidents/TAP-99", 404, "TAP-99: there is no such incident"),
        ("/incidents/TAP-99/blast", 404, "TAP-99: there is no such incident"),
        ("/workloads/shop/Deployment/nobody", 404, "no such object is known"),
        ("/?certainty=maybe", 400, "unknown variant `maybe`, expected one of"),
        ("/?page=last", 400, "page"),
        ("/changes?status=resolved", 400, "changes have no status"),
        ("/changes?names=a", 400, "unknown field `names`"),
        ("/api/v1/entity?kind=deploy&namespace=shop&name=nobody", 404, "no such object is known"),
        ("/api/v1/blast?incident=TAP-99", 404, "there is no such incident"),
        ("/api/v1/entity?kind=deploy&namespace=shop&name=payments", 200, "\"incidents\":[{\"id\":\"TAP-1\""),
        ("/api/v1/changes", 200, "\"cause_of\":[\"TAP-1\"]"),
        ("/api/v1/blast?incident=TAP-1", 200, "\"part\":\"cause\""),
        // A page that is not there any more is the last one.
        ("/?page=9", 200, "payments"),
    ] {
        let (head, body) = get(&site, path, "");
        let text = String::from_utf8(body).unwrap().replace("&#34;", "\"");
        assert!(head.contains(&format!(" {status} ")) && text.contains(says), "{path}: {head}\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_json_say_the_same() {
    let site = Site::of("leak").await;
    let (_, json) = site.server.answer("/api/v1/why?kind=deploy&namespace=shop&name=payments");
    let answer: tapio_ahti::answer::Answer = serde_json::from_str(&json).unwrap();
    let incident = answer.incident.as_ref().unwrap();
    let page = String::from_utf8(get(&site, &format!("/incidents/{}", incident.id), "").1).unwrap();
    let plain = |text: &str| {
        text.replace("&#34;", "\"")
            .replace("&#39;", "'")
            .replace("&#60;", "<")
            .replace("&#62;", ">")
            .replace("&#38;", "&")
    };
    let page = plain(&page);
    let story = tapio_ahti::answer::Story::of(incident);
    let mut expected: Vec<String> =
        vec![incident.title.to_string(), tapio_ahti::answer::state(incident).to_owned()];
    expected.extend(story.cause.into_iter().chain(story.then).map(|line| line.text.to_string()));
    expected.extend(incident.ruled_out.iter().chain(&incident.missing).map(ToString::to_string));
    expected.extend(
        incident
            .advice
            .iter()
            .flat_map(|advice| [Some(&advice.text), advice.command.as_ref()])
            .flatten()
            .map(ToString::to_string),
    );
    expected.extend(incident.hits.iter().chain(&incident.at_risk).map(|name| name.name.clone()));
    assert!(expected.len() > 8);
    for text in expected {
        assert!(page.contains(&text), "{text} is not on\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_say_each_revision_and_that_the_server_lives() {
    let site = Site::of("limit").await;
    let open = |headers: &str| {
        let mut stream = TcpStream::connect(site.server.api).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nhost: x\r\n{headers}\r\n").unwrap();
        BufReader::new(stream)
    };
    let line = |stream: &mut BufReader<TcpStream>, start: &str| loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended before {start}");
        if let Some(rest) = line.trim_end().strip_prefix(start) {
            return rest.to_owned();
        }
    };
    let mut stream = open("");
    assert_eq!(line(&mut stream, "content-type: "), "text/event-stream");
    assert_eq!(line(&mut stream, "event: "), "beat");
    let start = Instant::now();
    assert_eq!(line(&mut stream, "event: "), "beat");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let mut facts = crashing("bank", "ledger", 120, "back-off 5m0s");
    facts.extend(alive("worker-1", 0));
    site.take(&facts).await;
    assert_eq!(line(&mut stream, "event: "), "incident");
    let number = line(&mut stream, "id: ");
    let data = line(&mut stream, "data: ");
    assert!(data.contains(r#""status":"open""#) && data.contains(r#""revision":"#), "{data}");
    // Who comes again and has missed something is told how it is.
    let mut again = open("last-event-id: 0\r\n");
    assert_eq!(line(&mut again, "event: "), "beat");
    assert_eq!(line(&mut again, "event: "), "incident");
    // Who has not is not.
    let mut again = open(&format!("last-event-id: {number}\r\n"));
    assert_eq!(line(&mut again, "event: "), "beat");
    assert_eq!(line(&mut again, "event: "), "beat");
    // Open streams do not keep the server from stopping.
    let start = Instant::now();
    site.server.stop();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_journal_is_read_a_page_says_so() {
    let mut facts = recorded("limit", 60);
    for nth in 0..1_000 {
        facts.extend(crashing("team", &format!("service-{nth}"), 30, "back-off 5m0s"));
    }
    let site = Site::with(&facts).await;
    let (head, page) = site.restarted(|site| {
        let (head, body) = get(site, "/", "");
        (head, String::from_utf8(body).unwrap())
    });
    assert!(head.contains(" 503 ") && head.contains("text/html"), "{head}");
    assert!(page.contains("still reading its journal") && page.contains("data-waiting"), "{page}");
    assert!(!page.contains("Nothing is open"));
}
