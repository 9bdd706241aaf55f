use tapio_ahti::{
    incident::{Ack, Certainty, Mute},
    visible::Prose,
};

use super::*;

const SEC: u64 = 1_000_000_000;
const ABLE: Able = Able { changes: true, repeats: None, storms: true };

fn incident(nth: usize, since_s: u64) -> Incident {
    serde_json::from_value(serde_json::json!({
        "id": format!("TAP-{nth}"), "fingerprint": format!("v1:rollout:{nth}"), "revision": 1,
        "status": "open", "title": "a", "certainty": "likely", "since_unix_ns": since_s * SEC,
        "has_cause": false, "lines": [], "chain": [], "hits": [], "at_risk": [], "ruled_out": [],
        "missing": [], "advice": [], "considered": [], "seen_before": 0,
    }))
    .unwrap()
}

/// What is told from now on, until there is nothing more to tell.
fn tell(memory: &mut Memory, incidents: &[Incident], able: Able, now_s: u64) -> Vec<(Option<Event>, String)> {
    let mut said = Vec::new();
    memory.note_muted(incidents, now_s * SEC);
    while let Some(step) = memory.next(incidents, |_| true, able, now_s * SEC) {
        assert!(said.len() < 100, "for ever: {step:?}");
        match step {
            Step::One(event, incident) => {
                said.push((Some(event), incident.id.clone()));
                memory.note(&incident, None, false, now_s * SEC);
            }
            Step::Storm(many) => {
                said.push((None, many.len().to_string()));
                many.iter().for_each(|incident| memory.note(incident, None, true, now_s * SEC));
            }
            Step::Digest(digest) => panic!("{digest:?}"),
        }
    }
    said
}

fn one(event: Event, nth: usize) -> Vec<(Option<Event>, String)> {
    vec![(Some(event), format!("TAP-{nth}"))]
}

#[test]
fn each_thing_is_told_once() {
    let mut memory = Memory::default();
    let mut all = [incident(1, 10)];
    assert_eq!(tell(&mut memory, &all, ABLE, 40), one(Event::Opened, 1));
    all[0].revision += 1;
    assert_eq!(tell(&mut memory, &all, ABLE, 100), [], "nothing that people read is another");
    all[0].certainty = Certainty::Confirmed;
    assert_eq!(tell(&mut memory, &all, ABLE, 110), one(Event::Changed, 1));
    all[0].title = Prose::new("b", []);
    assert_eq!(tell(&mut memory, &all, ABLE, 120), [], "not so often");
    assert_eq!(tell(&mut memory, &all, ABLE, 140), one(Event::Changed, 1));
    all[0].status = Status::Resolved;
    assert_eq!(tell(&mut memory, &all, ABLE, 150), one(Event::Resolved, 1));
    assert_eq!(tell(&mut memory, &all, ABLE, 90_000), []);
    let mut memory = Memory::default();
    assert_eq!(tell(&mut memory, &all, ABLE, 150), [], "over before anybody listened");
}

#[test]
fn what_comes_back_is_the_same() {
    let mut memory = Memory::default();
    let mut all = [incident(1, 10)];
    tell(&mut memory, &all, ABLE, 40);
    let key = memory.key(&all[0]);
    all[0].status = Status::Resolved;
    tell(&mut memory, &all, ABLE, 500);
    all[0].status = Status::Regressed;
    assert_eq!(tell(&mut memory, &all, ABLE, 900), one(Event::Regressed, 1));
    assert_eq!(memory.key(&all[0]), key);
}

#[test]
fn a_number_that_is_another_one_after_a_restart() {
    let mut memory = Memory::default();
    tell(&mut memory, &[incident(7, 10)], ABLE, 40);
    let again = Incident { id: "TAP-1".to_owned(), ..incident(7, 10) };
    assert_eq!(tell(&mut memory, std::slice::from_ref(&again), ABLE, 41), []);
    // Another failure may get the number that one had.
    let other = Incident { id: "TAP-7".to_owned(), ..incident(3, 50_000) };
    assert_eq!(tell(&mut memory, &[other, again], ABLE, 50_040), one(Event::Opened, 7));
}

#[test]
fn of_what_somebody_takes_care_of_only_the_end_is_told() {
    let mut memory = Memory::default();
    let mut all = [incident(1, 10)];
    tell(&mut memory, &all, ABLE, 40);
    all[0].ack = Some(Ack { by: None, at_unix_ns: 50 * SEC, reason: None });
    all[0].title = Prose::new("b", []);
    assert_eq!(tell(&mut memory, &all, ABLE, 100), []);
    all[0].status = Status::Resolved;
    assert_eq!(tell(&mut memory, &all, ABLE, 200), one(Event::Resolved, 1));
    (all[0].status, all[0].ack) = (Status::Regressed, None);
    assert_eq!(tell(&mut memory, &all, ABLE, 300), one(Event::Regressed, 1));
    all[0] = Incident { ack: Some(Ack { by: None, at_unix_ns: 1, reason: None }), ..incident(2, 10) };
    assert_eq!(tell(&mut Memory::default(), &all, ABLE, 310), [], "somebody knows of it already");
}

#[test]
fn what_is_muted_waits_and_then_it_is_told_once_how_it_stands() {
    let mute = |until_s: u64| {
        Some(Mute { of: None, until_unix_ns: until_s * SEC, by: None, at_unix_ns: 1, reason: None })
    };
    let forgets = Able { repeats: Some(Duration::from_secs(60)), ..ABLE };
    for able in [ABLE, Able { changes: false, ..ABLE }] {
        let mut memory = Memory::default();
        let mut all = [incident(3, 10), incident(2, 10), incident(1, 10)];
        assert_eq!(tell(&mut memory, &all[1..], able, 40).len(), 2);
        all.iter_mut().for_each(|incident| incident.mute = mute(500));
        all[1].title = Prose::new("b", []);
        all[2].status = Status::Resolved;
        assert_eq!(tell(&mut memory, &all, able, 100), []);
        assert_eq!(tell(&mut memory, &all, able, 499), []);
        let after = [(Event::Resolved, 1), (Event::Changed, 2), (Event::Opened, 3)];
        assert_eq!(tell(&mut memory, &all, able, 500), after.map(|(event, nth)| one(event, nth)).concat());
        assert_eq!(tell(&mut memory, &all, able, 600), []);
    }
    // Who forgets hears the same again, and no news.
    let mut memory = Memory::default();
    let mut all = [incident(1, 10)];
    tell(&mut memory, &all, forgets, 40);
    (all[0].mute, all[0].title) = (mute(500), Prose::new("b", []));
    assert_eq!(tell(&mut memory, &all, forgets, 100), one(Event::Changed, 1));
    assert_eq!(&*memory.told[0].incident.title, "a");
}

#[test]
fn what_nobody_knows_any_more_is_over() {
    let mut memory = Memory::default();
    tell(&mut memory, &[incident(1, 10), incident(2, 10)], ABLE, 40);
    assert_eq!(tell(&mut memory, &[incident(2, 10)], ABLE, 50), one(Event::Resolved, 1));
}

#[test]
fn many_at_once_are_one_message() {
    let mut memory = Memory::default();
    let mut all: Vec<Incident> = (1..=9).rev().map(|nth| incident(nth, 10)).collect();
    assert_eq!(tell(&mut memory, &all, ABLE, 40), [(None, "9".to_owned())]);
    assert_eq!(tell(&mut memory, &all, ABLE, 41), []);
    all.iter_mut().for_each(|incident| incident.status = Status::Resolved);
    assert_eq!(tell(&mut memory, &all, ABLE, 500), [], "nobody heard of each");
    let able = Able { storms: false, ..ABLE };
    all.iter_mut().for_each(|incident| incident.status = Status::Open);
    assert_eq!(tell(&mut Memory::default(), &all, able, 40).len(), 9);
}

#[test]
fn who_forgets_is_told_again() {
    let able = Able { changes: true, repeats: Some(Duration::from_secs(60)), storms: false };
    let mut memory = Memory::default();
    let all = [incident(1, 10)];
    assert_eq!(tell(&mut memory, &all, able, 40), one(Event::Opened, 1));
    assert_eq!(tell(&mut memory, &all, able, 99), []);
    assert_eq!(tell(&mut memory, &all, able, 100), one(Event::Changed, 1));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut memory = Memory::default();
    let many: Vec<Incident> = (0..MAX + 10).map(|nth| incident(nth, nth as u64)).collect();
    many.iter().for_each(|incident| memory.note(incident, None, true, SEC));
    assert_eq!(memory.told.len(), MAX);
    memory.note(&incident(MAX + 20, 1), None, false, SEC + KEPT_NS);
    assert_eq!(memory.told.len(), 1, "those of a storm end with the day");
}
