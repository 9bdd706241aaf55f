//! Rare answers of a collector: their effect on the counters, and that each is reported once.

use std::{collections::BTreeMap, time::Duration};

use tapio_delivery::{State, otlp::REQUEST_BYTES};
use tapio_occurrence::Occurrence;

use crate::log::Log;
use tonic::Code;
use tracing::Level;

use crate::{
    PROTOCOLS,
    agent::{Agent, spike, until},
    receiver::{Came, Receiver, Reply},
};

fn agent(receiver: &Receiver, protocol: &str, more: &[(&str, &str)]) -> Agent {
    let endpoint = format!("http://{}", receiver.address);
    Agent::new(&[&[("endpoint", endpoint.as_str()), ("protocol", protocol)], more].concat())
}

#[tokio::test]
async fn headers_path_and_compression_are_as_they_were_set() {
    for (protocol, is_grpc) in PROTOCOLS {
        let receiver = Receiver::start(is_grpc, None).await;
        let more = [("headers", "api-key=s%20cret,x-tenant=a"), ("compression", "gzip")];
        let mut agent = agent(&receiver, protocol, &more);
        agent.send(3);
        agent.settled().await;
        let came = receiver.came();
        assert_eq!((came.len(), came[0].records()), (1, 3));
        let headers = &came[0].headers;
        assert_eq!(
            (&headers["api-key"], &headers["x-tenant"]),
            (&"s cret".parse().unwrap(), &"a".parse().unwrap())
        );
        assert!(headers["user-agent"].to_str().unwrap().starts_with("tapio/"), "{headers:?}");
        let export = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
        assert_eq!(came[0].path, if is_grpc { export } else { "/v1/logs" });
        assert_eq!(
            headers["content-type"],
            if is_grpc { "application/grpc" } else { "application/x-protobuf" }
        );
        assert_eq!(headers.contains_key("grpc-timeout"), is_grpc);
    }
}

#[tokio::test]
async fn a_part_that_is_refused_is_counted_and_not_sent_again() {
    for (protocol, is_grpc) in PROTOCOLS {
        let (log, _guard) = Log::start(Level::INFO);
        let receiver = Receiver::start(is_grpc, None).await;
        let partial = Reply::Partial(2, "two too old");
        receiver.replies([partial.clone(), partial, Reply::Partial(0, "sampled soon")]);
        let mut agent = agent(&receiver, protocol, &[]);
        for round in 1..=3 {
            agent.send(5);
            agent.settled().await;
            assert_eq!(receiver.came().len(), round, "nothing is sent twice");
        }
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent, ledger.rejected), (15, 11, 4));
        assert!(agent.metrics().contains(r#"tapio_sink_rejected_total{sink="otlp"} 4"#));
        assert_eq!(
            (log.lines(&["two too old"]), log.lines(&["sampled soon"])),
            (1, 1),
            "each is reported once"
        );
    }
}

#[tokio::test]
async fn what_passes_is_sent_again_and_nothing_is_rejected() {
    let http =
        |status, headers: &[(&'static str, &'static str)]| Reply::Http(status, headers.to_vec(), "busy");
    for (protocol, replies) in [
        (
            "http/protobuf",
            vec![http(429, &[("retry-after", "0")]), http(408, &[]), http(503, &[]), http(504, &[])],
        ),
        (
            "grpc",
            vec![
                Reply::Grpc(Code::Unavailable, None),
                Reply::Grpc(Code::ResourceExhausted, Some(Duration::from_millis(1))),
                // A quota error, without a retry delay.
                Reply::Grpc(Code::ResourceExhausted, None),
                Reply::Http(503, vec![("retry-after", "0")], "<html>busy</html>"),
            ],
        ),
    ] {
        let receiver = Receiver::start(protocol == "grpc", None).await;
        receiver.replies(replies);
        let mut agent = agent(&receiver, protocol, &[]);
        agent.send(7);
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected), (7, 0), "{protocol}");
        let came = receiver.came();
        let first = came.first().unwrap();
        assert_eq!(came.iter().map(Came::records).collect::<Vec<_>>(), [7; 5], "{protocol}");
        assert!(came.iter().all(|came| came.request == first.request), "the same each time");
        assert!(agent.metrics().contains(r#"tapio_sink_retried_total{sink="otlp"} 4"#));
    }
}

#[tokio::test]
async fn what_an_operator_has_to_correct_is_held_said_once_and_sent_when_it_is_right() {
    let http = |status| Reply::Http(status, Vec::new(), "so it is");
    for (protocol, reply, said) in [
        ("http/protobuf", http(401), "does not let the agent in: status 401 (so it is); correct the headers"),
        ("http/protobuf", http(403), "does not let the agent in: status 403 (so it is); correct the headers"),
        ("http/protobuf", http(404), "has nothing at /v1/logs: status 404 (so it is); correct the path"),
        ("http/protobuf", http(421), "answers with status 421 (so it is)"),
        (
            "grpc",
            Reply::Grpc(Code::Unauthenticated, None),
            "does not let the agent in: Unauthenticated (so it is); correct the headers",
        ),
        (
            "grpc",
            Reply::Grpc(Code::PermissionDenied, None),
            "does not let the agent in: PermissionDenied (so it is); correct the headers",
        ),
        (
            "grpc",
            Reply::Grpc(Code::Unimplemented, None),
            "takes no logs by OTLP: Unimplemented (so it is); correct the endpoint",
        ),
        ("grpc", http(401), "does not let the agent in: status 401; correct the headers"),
    ] {
        let (log, _guard) = Log::start(Level::INFO);
        let receiver = Receiver::start(protocol == "grpc", None).await;
        receiver.rule(Some(Box::new(move |_| Some(reply.clone()))));
        let mut agent = agent(&receiver, protocol, &[]);
        agent.send(7);
        let held = until(|| agent.status(), |status| matches!(status.state, State::Misconfigured(_))).await;
        let state = held.state.to_string();
        assert!(state.starts_with("misconfigured(http") && state.contains(said), "{state}");
        until(|| receiver.came().len(), |came| *came >= 3).await;
        let held = agent.status().ledger;
        assert_eq!((held.queued, held.sent, held.rejected), (7, 0, 0), "{protocol}: {said}");
        assert_eq!(held.dropped, BTreeMap::new());
        let reported = log.lines(&["WARN", "until its configuration is corrected", said]);
        assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{protocol}: {said}: {log}");

        receiver.rule(None);
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected), (7, 0), "{protocol}: {said}");
        until(|| agent.status().state, |state| *state == State::Ok).await;
        assert_eq!(log.lines(&["INFO", "sink delivers"]), 2, "at first, and again: {log}");
    }
}

#[tokio::test]
async fn another_thing_to_correct_is_said_too() {
    let (log, _guard) = Log::start(Level::INFO);
    let receiver = Receiver::start(false, None).await;
    let http = |status| Reply::Http(status, Vec::new(), "");
    receiver.replies([http(401), http(401), http(404)]);
    let mut agent = agent(&receiver, "http/protobuf", &[]);
    agent.send(1);
    assert_eq!(agent.settled().await.sent, 1);
    let reported = |status| log.lines(&["WARN", "until its configuration is corrected", status]);
    assert_eq!((reported("status 401"), reported("status 404"), log.lines(&["WARN"])), (1, 1, 2), "{log}");
}

#[tokio::test]
async fn of_a_batch_only_what_is_invalid_is_rejected_and_reported_once() {
    let http = |status| Reply::Http(status, Vec::new(), "so it is");
    for (protocol, reply, said) in [
        ("http/protobuf", http(400), "answers with status 400 (so it is)"),
        ("http/protobuf", http(500), "answers with status 500"),
        ("grpc", Reply::Grpc(Code::InvalidArgument, None), "answers InvalidArgument (so it is)"),
        ("grpc", Reply::Grpc(Code::Internal, None), "answers Internal (so it is)"),
    ] {
        let (log, _guard) = Log::start(Level::INFO);
        let receiver = Receiver::start(protocol == "grpc", None).await;
        let mut agent = agent(&receiver, protocol, &[]);
        let (invalid, second) = (spike(), spike());
        let ids = [invalid.id.to_string(), second.id.to_string()];
        let refuses = ids.clone();
        receiver.rule(Some(Box::new(move |came: &Came| {
            came.ids().iter().any(|id| refuses.contains(id)).then(|| reply.clone())
        })));
        agent.send(300);
        agent.give(invalid);
        agent.send(400);
        agent.give(second);
        agent.send(100);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent, ledger.rejected), (802, 800, 2), "{protocol}: {said}");
        let taken = receiver.taken();
        let expected: Vec<_> = agent.given.iter().filter(|id| !ids.contains(id)).cloned().collect();
        assert!(taken == expected, "each of the others once and in order: {} came", taken.len());
        let requests = receiver.came().len();
        assert!(requests < 60, "{requests}");
        let reported = log.lines(&["WARN", "refused for good", said, &ids[0]]);
        assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{protocol}: {said}: {log}");
        assert_eq!(agent.status().state, State::Ok);
    }
}

#[tokio::test]
async fn a_limit_on_the_size_of_requests_is_kept_to_and_costs_only_what_alone_is_larger() {
    const LIMIT: usize = 20_000;
    let http = Reply::Http(413, Vec::new(), "<html>too large</html>");
    for (protocol, reply, said) in [
        ("http/protobuf", http.clone(), "finds the request too large: status 413"),
        (
            "grpc",
            Reply::Says(Code::ResourceExhausted, "grpc: received message larger than max (30000 vs. 20000)"),
            "finds the message too large: ResourceExhausted",
        ),
        ("grpc", http, "finds the request too large: status 413"),
    ] {
        let (log, _guard) = Log::start(Level::INFO);
        let receiver = Receiver::start(protocol == "grpc", None).await;
        receiver.rule(Some(Box::new(move |came: &Came| (came.bytes > LIMIT).then(|| reply.clone()))));
        let mut agent = agent(&receiver, protocol, &[]);
        agent.send(200);
        let large = Occurrence { message: "x".repeat(LIMIT), ..spike() };
        let large = agent.give(large);
        agent.send(200);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent, ledger.rejected), (401, 400, 1), "{protocol}: {said}");
        let expected: Vec<_> = agent.given.iter().filter(|id| **id != large).cloned().collect();
        assert!(receiver.taken() == expected, "each of the others once and in order");
        let reported = log.lines(&["WARN", "refused for good", said, "1 MiB", &large]);
        assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{protocol}: {said}: {log}");
        // The sink remembers the limit: no further request is refused.
        let requests = receiver.came().len();
        agent.send(20);
        assert_eq!(agent.settled().await.sent, 420);
        let came = receiver.came();
        assert!(came[requests..].iter().all(|came| came.bytes <= LIMIT), "{protocol}");
    }
}

#[tokio::test]
async fn what_something_else_answers_is_not_taken_for_success() {
    let receiver = Receiver::start(false, None).await;
    receiver.replies([Reply::Http(200, vec![("content-type", "text/html")], "<html>welcome</html>")]);
    let mut agent = agent(&receiver, "http/protobuf", &[]);
    let why = agent.retrying().await;
    assert!(why.contains("not as OTLP does") && why.contains("text/html"), "{why}");
    assert_eq!(agent.settled().await.sent, 1);
}

#[tokio::test]
async fn a_success_that_cannot_be_read_is_one_and_is_reported_once() {
    let (log, _guard) = Log::start(Level::INFO);
    let receiver = Receiver::start(false, None).await;
    let long = Reply::Partial(0, "x".repeat(65 << 10).leak());
    let strange = Reply::Http(200, vec![("content-type", "application/x-protobuf")], "<html>welcome</html>");
    receiver.replies([long.clone(), long, strange.clone(), strange]);
    let mut agent = agent(&receiver, "http/protobuf", &[]);
    for round in 1..=4 {
        agent.send(5);
        agent.settled().await;
        assert_eq!(receiver.came().len(), round, "nothing is sent twice");
    }
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent, ledger.rejected), (20, 20, 0));
    let reported = |why| log.lines(&["WARN", "taken with a warning", "its answer cannot be read", why]);
    assert_eq!(
        (reported("more than 65536 bytes"), reported("failed to decode"), log.lines(&["WARN"])),
        (1, 1, 2),
        "{log}"
    );
}

#[tokio::test]
async fn an_occurrence_over_the_limit_is_rejected_alone() {
    let receiver = Receiver::start(true, None).await;
    let mut agent = agent(&receiver, "grpc", &[]);
    let large = |bytes| Occurrence { message: "x".repeat(bytes), ..spike() };
    agent.send(3);
    agent.give(large(REQUEST_BYTES));
    // Three of them exceed the maximum of one request.
    (0..3).for_each(|_| drop(agent.give(large(REQUEST_BYTES / 2 - 4096))));
    agent.send(3);
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent, ledger.rejected), (10, 9, 1));
    assert_eq!(receiver.came().iter().map(Came::records).sum::<usize>(), 9);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_yet_is_no_error() {
    let (log, _guard) = Log::start(Level::INFO);
    let address = Receiver::start(true, None).await.address;
    let mut agent =
        Agent::new(&[("endpoint", &address.to_string()), ("protocol", "grpc"), ("insecure", "true")]);
    let why = agent.retrying().await;
    assert!(why.contains("cannot be reached") && why.contains("--otlp=URL"), "{why}");
    // Wait for some more attempts.
    let retried = |text: String| text.contains("retrying");
    for _ in 0..3 {
        agent.send(1);
        until(|| agent.status().state.to_string(), |state| retried(state.clone())).await;
    }
    assert_eq!(log.lines(&["WARN"]), 1, "said once");
    assert_eq!(agent.sinks.clone().drain(Duration::from_millis(300)).await, 4);
    assert_eq!(agent.status().ledger.dropped, BTreeMap::from([("shutdown", 4)]));
    assert!(!matches!(agent.status().state, State::Closed(_)));
}

/// A receiver may close an idle connection at any time: this is no error, and is not reported.
#[tokio::test]
async fn a_connection_that_ended_while_idle_is_made_again_silently() {
    let (log, _guard) = Log::start(Level::INFO);
    let receiver = Receiver::start(false, None).await;
    receiver.replies([Reply::Http(200, vec![("connection", "close")], "")]);
    let mut agent = agent(&receiver, "http/protobuf", &[]);
    for sent in 1..=3 {
        agent.send(1);
        assert_eq!(agent.settled().await.sent, sent);
    }
    assert_eq!((log.lines(&["WARN"]), receiver.came().len()), (0, 3));
}
