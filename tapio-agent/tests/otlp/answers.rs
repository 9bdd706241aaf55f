//! Answers that a collector seldom gives: what they do to the accounts, and that each is told once.

use std::{collections::BTreeMap, time::Duration};

use tapio_agent::sink::{State, otlp::REQUEST_BYTES};
use tonic::Code;
use tracing::Level;

use crate::{
    PROTOCOLS,
    agent::{Agent, spike, until},
    log::Log,
    receiver::{Receiver, Reply},
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
        assert_eq!((ledger.given, ledger.sent, ledger.rejected), (15, 11, 4));
        assert!(agent.metrics.render().unwrap().contains(r#"tapio_sink_rejected_total{sink="otlp"} 4"#));
        assert_eq!((log.lines(&["two too old"]), log.lines(&["sampled soon"])), (1, 1), "each is told once");
    }
}

#[tokio::test]
async fn what_passes_is_sent_again_and_nothing_is_rejected() {
    let http =
        |status, headers: &[(&'static str, &'static str)]| Reply::Http(status, headers.to_vec(), "busy");
    for (protocol, replies) in [
        (
            "http/protobuf",
            vec![http(429, &[("retry-after", "0")]), http(502, &[]), http(503, &[]), http(504, &[])],
        ),
        (
            "grpc",
            vec![
                Reply::Grpc(Code::Unavailable, None),
                Reply::Grpc(Code::ResourceExhausted, Some(Duration::from_millis(1))),
                Reply::Grpc(Code::Aborted, None),
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
        assert_eq!(came.iter().map(crate::receiver::Came::records).collect::<Vec<_>>(), [7; 5], "{protocol}");
        assert!(came.iter().all(|came| came.request == first.request), "the same each time");
        assert!(agent.metrics.render().unwrap().contains(r#"tapio_sink_retried_total{sink="otlp"} 4"#));
    }
}

#[tokio::test]
async fn what_does_not_pass_is_rejected_and_told_once() {
    let http = |status| Reply::Http(status, Vec::new(), "so it is");
    for (protocol, reply, said) in [
        ("http/protobuf", http(400), "answers with status 400 (so it is)"),
        ("http/protobuf", http(401), "does not let the agent in: status 401 (so it is); correct the headers"),
        ("http/protobuf", http(404), "has nothing at /v1/logs: status 404 (so it is); correct the path"),
        ("http/protobuf", http(500), "answers with status 500"),
        (
            "grpc",
            Reply::Grpc(Code::Unauthenticated, None),
            "does not let the agent in: Unauthenticated (so it is)",
        ),
        ("grpc", Reply::Grpc(Code::Unimplemented, None), "takes no logs by OTLP: Unimplemented (so it is)"),
        ("grpc", Reply::Grpc(Code::InvalidArgument, None), "answers InvalidArgument (so it is)"),
        ("grpc", Reply::Grpc(Code::ResourceExhausted, None), "answers ResourceExhausted (so it is)"),
        ("grpc", http(401), "does not let the agent in: status 401; correct the headers"),
    ] {
        let (log, _guard) = Log::start(Level::INFO);
        let receiver = Receiver::start(protocol == "grpc", None).await;
        receiver.replies([reply.clone(), reply.clone(), reply]);
        let mut agent = agent(&receiver, protocol, &[]);
        for _ in 0..3 {
            agent.send(2);
            agent.settled().await;
        }
        agent.send(1);
        let ledger = agent.settled().await;
        assert_eq!((ledger.sent, ledger.rejected, receiver.came().len()), (1, 6, 4), "{protocol}: {said}");
        assert_eq!((log.lines(&[said]), log.lines(&["WARN"])), (1, 1), "{protocol}: {said}");
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
async fn a_success_that_cannot_be_read_is_one_and_is_told_once() {
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
    assert_eq!((ledger.given, ledger.sent, ledger.rejected), (20, 20, 0));
    let told = |why| log.lines(&["WARN", "taken with a warning", "its answer cannot be read", why]);
    assert_eq!(
        (told("more than 65536 bytes"), told("failed to decode"), log.lines(&["WARN"])),
        (1, 1, 2),
        "{log}"
    );
}

#[tokio::test]
async fn an_occurrence_over_the_limit_is_rejected_alone() {
    let receiver = Receiver::start(true, None).await;
    let mut agent = agent(&receiver, "grpc", &[]);
    let large = |bytes| tapio_agent::occurrence::Occurrence { message: "x".repeat(bytes), ..spike() };
    agent.send(3);
    agent.give(large(REQUEST_BYTES));
    // Three of them are more than a request may have.
    (0..3).for_each(|_| drop(agent.give(large(REQUEST_BYTES / 2 - 4096))));
    agent.send(3);
    let ledger = agent.settled().await;
    assert_eq!((ledger.given, ledger.sent, ledger.rejected), (10, 9, 1));
    assert_eq!(receiver.came().iter().map(crate::receiver::Came::records).sum::<usize>(), 9);
}

#[tokio::test]
async fn a_receiver_that_is_not_there_yet_is_no_error() {
    let (log, _guard) = Log::start(Level::INFO);
    let address = Receiver::start(true, None).await.address;
    let mut agent =
        Agent::new(&[("endpoint", &address.to_string()), ("protocol", "grpc"), ("insecure", "true")]);
    let why = agent.retrying().await;
    assert!(why.contains("cannot be reached") && why.contains("--otlp=URL"), "{why}");
    // Some more attempts.
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

/// A receiver may end a connection that nothing is on at any time: no trouble, and nothing to tell.
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
