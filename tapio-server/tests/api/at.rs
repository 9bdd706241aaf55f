//! Answers as of a time.

use tapio_ahti::{Engine, Limits, Rules};
use tapio_occurrence::{Occurrence, timestamp};

use crate::{facts::recorded, site::Site};

/// The answer of an engine that has taken nothing later.
fn replayed(facts: &[Occurrence], until_ns: u64) -> Engine {
    let mut engine = Engine::new(Rules::embedded().unwrap(), Limits::default());
    for fact in facts.iter().filter(|fact| fact.time_unix_ns <= until_ns) {
        engine.take(fact).unwrap();
    }
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_as_of_a_time_is_that_of_a_replay_up_to_then() {
    const ASKED: &str = "kind=deploy&namespace=shop&name=payments";
    let facts = recorded("limit", 60);
    let site = Site::with(&facts).await;
    let (first_ns, last_ns) = facts
        .iter()
        .map(|fact| fact.time_unix_ns)
        .fold((u64::MAX, 0), |(first, last), time| (first.min(time), last.max(time)));
    let mut states = Vec::new();
    let ago = |seconds: u64| last_ns - seconds * 1_000_000_000;
    for until_ns in [first_ns, ago(120), ago(80), ago(40), last_ns] {
        let at = timestamp(until_ns);
        let answer = replayed(&facts, until_ns).why(Some("deploy"), Some("shop"), "payments");
        let expected = serde_json::to_string(&answer).unwrap();
        assert_eq!(site.server.answer(&format!("/api/v1/why?{ASKED}&at={at}")).1, expected, "{at}");
        states.push(answer.state);
    }
    states.dedup();
    assert!(states.len() > 1, "{states:?}");
    let entity = |query: &str| site.server.answer(&format!("/api/v1/entity?{ASKED}{query}"));
    let now = entity("");
    assert_eq!(entity(&format!("&at={}", timestamp(last_ns))), now);
    // Before its limit was changed.
    let (status, then) = entity(&format!("&at={}", timestamp(ago(80))));
    assert!(
        status.contains("200") && !then.contains("memory limit") && now.1.contains("memory limit"),
        "{status}: {then}"
    );

    let before = timestamp(first_ns - 1_000_000_000);
    let kept = format!("the first fact that is kept is of {}", timestamp(first_ns));
    for (query, status, says) in [
        (format!("/api/v1/why?{ASKED}&at=yesterday"), "400", "at: yesterday is no time: give one such as"),
        (format!("/api/v1/why?{ASKED}&at=2999-01-01T00:00:00Z"), "400", "is in the future"),
        (format!("/api/v1/why?{ASKED}&at={before}"), "404", kept.as_str()),
        (format!("/api/v1/entity?{ASKED}&at={before}"), "404", kept.as_str()),
        (format!("/api/v1/why?incident=TAP-1&at={before}"), "400", "an incident is known as it is now only"),
    ] {
        let (line, body) = site.server.answer(&query);
        assert!(line.contains(status) && body.contains(says), "{query}: {line}: {body}");
    }
    let (line, body) = Site::empty().server.answer(&format!("/api/v1/why?{ASKED}&at={before}"));
    assert!(line.contains("404") && body.contains("there are no facts"), "{line}: {body}");
}
