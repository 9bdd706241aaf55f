//! What the server answers: the same as a replay of the same facts, before and after it was killed.

use std::fs;

use tapio_ahti::{Engine, Limits, Rules, answer::Answer, incident::Incident};
use tapio_occurrence::{Occurrence, event::event, feedback::Verdict};
use tempfile::tempdir;

use crate::{
    client::{Stream, connect},
    support::{Server, wait_until},
};

/// Facts of a failure as they were recorded on a cluster.
pub(crate) fn recorded() -> Vec<Occurrence> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tapio-ahti/tests/recorded/limit.jsonl");
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| Occurrence::read_json(line.as_bytes()).unwrap()).collect()
}

const WHY: &str = "/api/v1/why?kind=deploy&namespace=shop&name=payments";

/// The answer once the engine has taken everything.
fn why(server: &Server) -> String {
    wait_until(
        || server.status()["roles"]["ahti"].clone(),
        |ahti| ahti["behind"]["facts"] == 0 && ahti["restored"] == true,
    );
    let (status, body) = server.answer(WHY);
    assert_eq!(status, "HTTP/1.0 200 OK");
    body
}

pub(crate) async fn send(server: &Server, facts: &[Occurrence]) {
    let mut stream = Stream::open(&mut connect(server.address).await).await.unwrap();
    stream.send(facts.iter().map(event).collect()).await;
    let ack = stream.ack().await.unwrap();
    assert_eq!((ack.event_ids.len(), ack.errors.len()), (facts.len(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_is_that_of_a_replay_also_after_a_kill() {
    let facts = recorded();
    let mut engine = Engine::new(Rules::embedded().unwrap(), Limits::default());
    for fact in &facts {
        engine.take(fact).unwrap();
    }
    let expected = serde_json::to_string(&engine.why(Some("deploy"), Some("shop"), "payments")).unwrap();

    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    let (first, second) = facts.split_at(facts.len() / 2);
    send(&server, first).await;
    let halfway = why(&server);
    server.kill();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    assert_eq!(why(&server), halfway);
    // What was acknowledged comes again, as from an agent that did not hear of it.
    send(&server, &facts[facts.len() / 4..]).await;
    assert_eq!(why(&server), expected);
    server.kill();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    assert_eq!(why(&server), expected);
    let answer: Answer = serde_json::from_str(&expected).unwrap();
    assert_eq!(answer.incident.as_ref().unwrap().root.as_ref().unwrap().name, "payments");
    assert!(!second.is_empty());

    // One incident has the same bytes, whatever it is part of.
    let incident = serde_json::to_string(answer.incident.as_ref().unwrap()).unwrap();
    let id = &answer.incident.as_ref().unwrap().id;
    assert_eq!(server.answer(&format!("/api/v1/incidents/{id}")).1, incident);
    for path in [format!("/api/v1/why?incident={id}"), "/api/v1/incidents".to_owned()] {
        assert!(server.answer(&path).1.contains(&incident), "{path}");
    }

    // What is exported is what was sent.
    let (_, exported) = server.answer("/api/v1/export");
    let lines: Vec<_> =
        exported.lines().map(|line| Occurrence::read_json(line.as_bytes()).unwrap()).collect();
    assert_eq!(lines, facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_refused_with_what_would_be_right() {
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    wait_until(|| server.answer("/api/v1/coverage").0, |line| line.contains("200"));
    for (path, status, says) in [
        ("/api/v1/why", 400, "give name"),
        ("/api/v1/why?name=a&kind=deplo", 400, "there is no deplo"),
        ("/api/v1/why?name=a&names=b", 400, "unknown field `names`"),
        ("/api/v1/why?incident=TAP-1", 404, "there is no such incident"),
        ("/api/v1/incidents/TAP-1", 404, "there is no such incident"),
        ("/api/v1/export?incident=TAP-1", 404, "there is no such incident"),
        ("/api/v1/correlate", 400, "missing field `trace_id`"),
        ("/api/v1/correlate?trace_id=xyz", 400, "32 hexadecimal digits"),
        ("/api/v1/correlate?trace_id=0af7651916cd43dd8448eb211c80319c", 200, "no signal kept this trace id"),
        ("/api/v1/why?name=a", 200, r#""state":"empty""#),
        ("/api/v1/incidents", 200, r#""incidents":[]"#),
        ("/api/v1/findings", 200, r#""findings":[]"#),
        ("/api/v1/coverage", 200, r#""nodes":0"#),
        ("/api/v1/export", 200, ""),
        ("/nothing", 404, ""),
    ] {
        let (line, body) = server.answer(path);
        assert!(line.contains(&status.to_string()) && body.contains(says), "{path}: {line}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_say_of_an_answer_is_kept_and_counts() {
    const FEEDBACK: &str = "/api/v1/feedback";
    let directory = tempdir().unwrap();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    send(&server, &recorded()).await;
    let incident = |text: &str| serde_json::from_str::<Answer>(text).unwrap().incident.unwrap();
    let before = incident(&why(&server));
    assert_eq!(before.feedback, None);
    let id = &before.id;
    for (body, status, says) in [
        (format!(r#"{{"incident":"{id}","verdict":"maybe"}}"#), 400, "unknown variant `maybe`"),
        (format!(r#"{{"incident":"{id}"}}"#), 400, "missing field `verdict`"),
        (r#"{"incident":"TAP-99","verdict":"right"}"#.to_owned(), 404, "TAP-99: there is no such incident"),
        (
            format!(r#"{{"incident":"{id}","verdict":"right","note":"{}"}}"#, "a".repeat(513)),
            400,
            "note: longer than 512",
        ),
        (format!(r#"{{"incident":"{id}","verdict":"wrong","note":"it was the cache"}}"#), 200, r#""id":""#),
    ] {
        let (line, answer) = server.post(FEEDBACK, &body);
        assert!(line.contains(&status.to_string()) && answer.contains(says), "{body}: {line}: {answer}");
    }
    assert!(server.answer(FEEDBACK).0.contains("405"));
    let after = incident(&why(&server));
    assert_eq!(after.feedback, Some(Verdict::Wrong));
    let score = |incident: &Incident| incident.considered[0].score;
    let judged = |incident: &Incident| incident.lead.unwrap().chance.judged;
    assert_eq!((judged(&before), judged(&after)), (0, 1));
    assert!(score(&after) < score(&before) - 0.2, "{} {}", score(&after), score(&before));
    server.kill();
    let server = Server::start(directory.path(), &["--roles=polku,ahti"]);
    assert_eq!(incident(&why(&server)), after);
    let (_, exported) = server.answer("/api/v1/export");
    assert!(exported.lines().any(|line| line.contains("it was the cache")), "{exported}");
}
