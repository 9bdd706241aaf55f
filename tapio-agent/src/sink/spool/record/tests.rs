use proptest::prelude::*;

use super::*;
use crate::occurrence::sample;

/// One with every kind of value and both workloads.
fn full() -> Occurrence {
    let workload = sample().workload;
    let inner = Data(vec![("pid", Value::Signed(-7)), ("ratio", Value::Real(0.25))]);
    Occurrence {
        actor: Some(Actor { process: sample().process.unwrap(), workload: workload.clone() }),
        data: Data(vec![
            ("rtt_us", Value::Number(u64::MAX)),
            ("local_address", Value::Address("fd00::7".parse().unwrap())),
            ("processes", Value::List(vec![inner.clone(), inner])),
            ("antagonist", Value::Workload(workload.unwrap())),
            ("direction", Value::Text("outbound".into())),
        ]),
        ..sample()
    }
}

/// Labels are not in the JSON.
fn shown(occurrence: &Occurrence) -> String {
    format!("{occurrence:?}")
}

#[test]
fn what_is_read_is_what_was_written() {
    let mut names = Names::default();
    let bare = Occurrence {
        cluster: None,
        workload: None,
        process: None,
        peer: None,
        data: Data::default(),
        baseline: None,
        ..sample()
    };
    for written in [sample(), full(), bare] {
        let read = decode(&encode(&written), &mut names).unwrap();
        assert_eq!(shown(&read), shown(&written));
    }
    for severity in SEVERITIES.0 {
        for outcome in OUTCOMES.0 {
            let written = Occurrence { severity: *severity, outcome: *outcome, ..sample() };
            let read = decode(&encode(&written), &mut names).unwrap();
            assert_eq!((read.severity, read.outcome), (*severity, *outcome));
        }
    }
}

#[test]
fn names_are_bounded() {
    let mut names = Names::default();
    for n in 0..Names::MOST {
        names.get(&n.to_string()).unwrap();
    }
    assert_eq!(names.get("one more"), Err(Malformed::Names));
    assert_eq!(names.get("7"), Ok("7"));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(at in 0_usize..2000, byte: u8, bytes: Vec<u8>) {
        let mut names = Names::default();
        let _ = decode(&bytes, &mut names);
        let mut damaged = encode(&full());
        if let Some(there) = damaged.get_mut(at) {
            *there = byte;
        }
        let _ = decode(&damaged, &mut names);
        damaged.truncate(at);
        let _ = decode(&damaged, &mut names);
    }
}
