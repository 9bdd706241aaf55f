//! Refusals by a gateway: events that are too large or invalid, and agents that it does not admit.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tapio_delivery::{State, polku::BATCH_BYTES};
use tapio_occurrence::Occurrence;

use crate::log;

use crate::{
    ANY,
    agent::{Agent, occurrence, until},
    all_sent,
    server::{Manners, Server, Shared},
};

#[tokio::test]
async fn an_event_over_the_limit_is_rejected_alone() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let big = |bytes: usize| Occurrence { message: "x".repeat(bytes), ..occurrence() };
    agent.send(3);
    let lost = agent.give(big(BATCH_BYTES));
    // Three of them exceed the maximum of one batch.
    let whole: Vec<_> = (0..3).map(|_| agent.give(big(BATCH_BYTES / 2 - 4096))).collect();
    agent.send(3);
    let ledger = agent.settled().await;
    assert_eq!((ledger.received, ledger.sent, ledger.rejected), (10, 9, 1));
    let seen = shared.seen();
    assert!(!seen.events.contains_key(&lost));
    assert!(whole.iter().all(|id| seen.times[id] == 1));
}

#[tokio::test]
async fn of_batches_that_end_the_stream_as_invalid_only_the_invalid_events_are_rejected() {
    // A gateway that acknowledges late rejects a later batch as invalid before it has acknowledged any
    // earlier one.
    for late in [0, 30] {
        let (log, _guard) = log::Log::start(tracing::Level::INFO);
        let shared = Shared::with(Manners { late: Duration::from_millis(late), ..Manners::default() });
        let server = Server::start(ANY, &shared);
        let mut agent = Agent::new(server.address);
        let invalid = [occurrence(), occurrence(), occurrence()];
        let ids: BTreeSet<_> = invalid.iter().map(|one| one.id.to_string()).collect();
        shared.manners().invalid = ids.clone();
        for one in invalid {
            agent.send(700);
            agent.give(one);
        }
        agent.send(300);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent, ledger.rejected), (2403, 2400, 3), "{log}");
        let expected: BTreeSet<_> = agent.ids.difference(&ids).cloned().collect();
        let acknowledged = shared.seen().acknowledged.clone();
        assert!(acknowledged == expected, "{} acknowledged", acknowledged.len());
        let reported = log.lines(&["WARN", "event refused for good", "one of them makes no sense"]);
        assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{log}");
        let streams = shared.seen().streams;
        assert!(streams <= 3 * 12, "{streams}");
        agent.sinks.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn a_gateway_that_calls_everything_invalid_gets_each_event_alone() {
    let shared = Shared::default();
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    let all: Vec<_> = (0..20).map(|_| occurrence()).collect();
    shared.manners().invalid = all.iter().map(|one| one.id.to_string()).collect();
    all.into_iter().for_each(|one| drop(agent.give(one)));
    let ledger = agent.settled().await;
    assert_eq!((ledger.sent, ledger.rejected), (0, 20));
    let streams = shared.seen().streams;
    assert!((20..30).contains(&streams), "{streams}");
    // Valid events that follow are accepted.
    agent.send(500);
    let ledger = agent.settled().await;
    assert_eq!((ledger.sent, ledger.rejected), (500, 20));
}

#[tokio::test]
async fn a_limit_on_the_size_of_messages_is_kept_to_and_costs_only_what_alone_is_larger() {
    const LIMIT: usize = 30_000;
    let go = "grpc: received message larger than max (65536 vs. 30000)";
    for manners in [
        Manners { decodes: Some(LIMIT), ..Manners::default() },
        Manners { limit: Some((LIMIT, tonic::Code::ResourceExhausted, go)), ..Manners::default() },
        Manners {
            limit: Some((LIMIT, tonic::Code::ResourceExhausted, go)),
            late: Duration::from_millis(20),
            ..Manners::default()
        },
    ] {
        let (log, _guard) = log::Log::start(tracing::Level::INFO);
        let shared = Shared::with(manners);
        let server = Server::start(ANY, &shared);
        let mut agent = Agent::new(server.address);
        agent.send(1500);
        let large = agent.give(Occurrence { message: "x".repeat(LIMIT), ..occurrence() });
        agent.send(500);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent, ledger.rejected), (2001, 2000, 1), "{log}");
        let mut expected = agent.ids.clone();
        expected.remove(&large);
        assert!(shared.seen().acknowledged == expected, "{log}");
        let reported = log.lines(&["WARN", "event refused for good", "too large", "1 MiB", &large]);
        assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{log}");
        // The sink remembers the limit, and the window is whole again: no further stream ends.
        let streams = shared.seen().streams;
        agent.send(1000);
        agent.settled().await;
        assert_eq!(shared.seen().streams, streams, "{log}");
        assert_eq!(agent.status().state, State::Ok);
        agent.sinks.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn what_an_operator_has_to_correct_is_held_said_once_and_sent_when_it_is_right() {
    for (code, said) in [
        (
            tonic::Code::Unauthenticated,
            "does not let the agent in: Unauthenticated (as asked); give a certificate",
        ),
        (
            tonic::Code::PermissionDenied,
            "does not let the agent in: PermissionDenied (as asked); give a certificate",
        ),
        (
            tonic::Code::Unimplemented,
            "takes no events for POLKU: Unimplemented (as asked); correct the endpoint",
        ),
    ] {
        // Fails at once, or for the first batch.
        for manners in [
            Manners { closed: Some(code), ..Manners::default() },
            Manners { ends_with: Some((usize::MAX, code)), ..Manners::default() },
        ] {
            let (log, _guard) = log::Log::start(tracing::Level::INFO);
            let shared = Shared::with(manners);
            let server = Server::start(ANY, &shared);
            let mut agent = Agent::new(server.address);
            agent.send(7);
            let held =
                until(|| agent.status(), |status| matches!(status.state, State::Misconfigured(_))).await;
            let state = held.state.to_string();
            assert!(state.starts_with("misconfigured(127.0.0.1:") && state.contains(said), "{state}");
            // Time for one more attempt.
            tokio::time::sleep(Duration::from_millis(800)).await;
            let held = agent.status().ledger;
            assert_eq!((held.queued, held.rejected, held.dropped), (7, 0, BTreeMap::new()));
            let reported = log.lines(&["WARN", "until its configuration is corrected", said]);
            assert_eq!((reported, log.lines(&["WARN"])), (1, 1), "{log}");
            *shared.manners() = Manners::default();
            let ledger = agent.settled().await;
            all_sent(&agent, &shared, &ledger);
            assert_eq!(ledger.rejected, 0);
            agent.sinks.drain(Duration::from_secs(5)).await;
        }
    }
}

#[tokio::test]
async fn a_status_that_passes_rejects_nothing() {
    let ends_with = Some((2, tonic::Code::ResourceExhausted));
    let shared = Shared::with(Manners { ends_with, ..Manners::default() });
    let server = Server::start(ANY, &shared);
    let mut agent = Agent::new(server.address);
    agent.send(500);
    let ledger = agent.settled().await;
    all_sent(&agent, &shared, &ledger);
    assert_eq!(ledger.rejected, 0);
}
