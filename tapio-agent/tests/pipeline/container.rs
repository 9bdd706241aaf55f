//! Deaths as records of the ring buffer, and their reports.

use bytemuck::Zeroable as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::container::Container;
use tapio_common::container::{Actor, ContainerEvent, Memory, OomCgroup, UNKNOWN, flag, kind, origin};
use tapio_occurrence::printable::is_active;

use crate::{
    SECOND, conforms,
    line::{Line, count},
    record::TIME_NS,
};

const MIB: u64 = 1 << 20;
const SIZE: usize = size_of::<ContainerEvent>();

fn comm(name: &[u8]) -> tapio_common::Comm {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name);
    padded.into()
}

/// The first process of a container, two minutes old, with nothing else known.
fn death(kind: u32, cgroup_id: u64) -> ContainerEvent {
    let mut event = ContainerEvent::zeroed();
    event.header.time_ns = TIME_NS;
    (event.header.cgroup_id, event.header.pid, event.header.comm) = (cgroup_id, 4242, comm(b"checkout"));
    (event.kind, event.flags) = (kind, flag::INIT | flag::IN_NAMESPACE);
    event.started_ns = TIME_NS - 120 * SECOND;
    event.address = UNKNOWN;
    event.memory =
        Memory { anon_bytes: UNKNOWN, file_bytes: UNKNOWN, shmem_bytes: UNKNOWN, page_tables_bytes: UNKNOWN };
    event.oom_cgroup =
        OomCgroup { cgroup_id: UNKNOWN, usage_bytes: UNKNOWN, limit_bytes: UNKNOWN, levels_up: UNKNOWN };
    event
}

fn signalled(signal: u32, origin: u32, cgroup_id: u64) -> ContainerEvent {
    ContainerEvent { signal, origin, ..death(kind::SIGNALLED, cgroup_id) }
}

/// Another process of the host.
fn runc() -> Actor {
    Actor { cgroup_id: 1, pid: 77, entered: 0, comm: comm(b"runc") }
}

fn oom_kill(cgroup_id: u64) -> ContainerEvent {
    ContainerEvent {
        signal: 9,
        origin: origin::KERNEL,
        oom_score_adj: -997_i32 as u32,
        actor: Actor { cgroup_id, pid: 4250, entered: 0, comm: comm(b"worker") },
        memory: Memory { anon_bytes: 500 * MIB, file_bytes: 3 * MIB, shmem_bytes: 0, page_tables_bytes: MIB },
        oom_cgroup: OomCgroup { cgroup_id: 99, usage_bytes: 512 * MIB, limit_bytes: 512 * MIB, levels_up: 1 },
        ..death(kind::OOM_KILL, cgroup_id)
    }
}

async fn all_reported(line: &mut Line, event: &ContainerEvent) -> Vec<Value> {
    line.record(bytemuck::bytes_of(event));
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    reported
}

async fn reported(event: impl Fn(u64) -> ContainerEvent) -> Value {
    let mut line = Line::of::<Container>();
    let event = event(line.cgroup_id);
    let [occurrence] = all_reported(&mut line, &event).await.try_into().unwrap();
    occurrence
}

#[tokio::test(flavor = "multi_thread")]
async fn each_death_has_one_type_and_says_it() {
    type Make<'a> = &'a dyn Fn(u64) -> ContainerEvent;
    let cases: [(Make<'_>, &str, &str, &str); 15] = [
        (
            &oom_kill,
            "container.oom_kill",
            "error",
            "9b2c8089b3b0 (checkout): the main process was OOM-killed holding 500 MiB: a parent cgroup used 512 MiB of 512 MiB; worker[4250] asked for more",
        ),
        (
            &|id| ContainerEvent { status: 127, ..death(kind::EXIT_ERROR, id) },
            "container.exit_error",
            "error",
            "9b2c8089b3b0 (checkout): the main process ended with status 127 (the command was not found) after 2 min",
        ),
        (
            &|id| ContainerEvent {
                status: 1,
                asked_signal: 15,
                asked_ns: TIME_NS - 3 * SECOND,
                origin: origin::PROCESS,
                actor: runc(),
                ..death(kind::EXIT_ERROR, id)
            },
            "container.exit_error",
            "error",
            "9b2c8089b3b0 (checkout): the main process ended with status 1 after 2 min, 3.0 s after SIGTERM",
        ),
        (
            &|id| ContainerEvent { code: 1, address: 0x40, ..signalled(11, origin::ITSELF, id) },
            "container.crash",
            "error",
            "9b2c8089b3b0 (checkout): the main process crashed with SIGSEGV (SEGV_MAPERR) at 0x40 after 2 min",
        ),
        (
            &|id| ContainerEvent { code: -6_i32 as u32, flags: 0, ..signalled(6, origin::ITSELF, id) },
            "container.crash",
            "error",
            "9b2c8089b3b0 (checkout): a process crashed with SIGABRT after 2 min",
        ),
        (
            &|id| ContainerEvent {
                code: 0x80,
                address: 0,
                aborted_ns: TIME_NS - 1000,
                ..signalled(11, origin::ITSELF, id)
            },
            "container.crash",
            "error",
            "9b2c8089b3b0 (checkout): the main process aborted (SIGABRT) after 2 min; the kernel ignores SIGABRT for PID 1, so it ended with SIGSEGV",
        ),
        (
            &|id| ContainerEvent { status: 127, aborted_ns: TIME_NS - SECOND, ..death(kind::EXIT_ERROR, id) },
            "container.crash",
            "error",
            "9b2c8089b3b0 (checkout): the main process aborted (SIGABRT) after 2 min; the kernel ignores SIGABRT for PID 1, so it ended with status 127",
        ),
        (
            &|id| ContainerEvent { actor: runc(), ..signalled(9, origin::PROCESS, id) },
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): runc[77] killed the main process with SIGKILL after 2 min",
        ),
        (
            &|id| ContainerEvent { actor: runc(), ..signalled(11, origin::PROCESS, id) },
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): runc[77] killed the main process with SIGSEGV after 2 min",
        ),
        (
            &|id| ContainerEvent {
                actor: runc(),
                asked_signal: 15,
                asked_ns: TIME_NS - 30 * SECOND,
                ..signalled(9, origin::PROCESS, id)
            },
            "container.killed",
            "warning",
            "9b2c8089b3b0 (checkout): runc[77] killed the main process with SIGKILL, 30.0 s after SIGTERM",
        ),
        (
            &|id| ContainerEvent {
                flags: flag::INIT | flag::CPU_LIMITED,
                ..signalled(24, origin::KERNEL, id)
            },
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): the kernel killed the main process with SIGXCPU after 2 min: it reached its CPU time limit (RLIMIT_CPU)",
        ),
        (
            &|id| signalled(25, origin::KERNEL, id),
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): the kernel killed the main process with SIGXFSZ after 2 min: it reached its file size limit (RLIMIT_FSIZE)",
        ),
        (
            &|id| ContainerEvent { actor: runc(), ..signalled(25, origin::PROCESS, id) },
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): runc[77] killed the main process with SIGXFSZ after 2 min",
        ),
        (
            &|id| signalled(24, origin::KERNEL, id),
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): the kernel killed the main process with SIGXCPU after 2 min",
        ),
        (
            &|id| signalled(9, origin::UNKNOWN, id),
            "container.killed",
            "error",
            "9b2c8089b3b0 (checkout): an unknown process killed the main process with SIGKILL after 2 min",
        ),
    ];
    for (event, kind, severity, message) in cases {
        let reported = reported(event).await;
        assert_eq!((&reported["type"], &reported["severity"]), (&json!(kind), &json!(severity)));
        assert_eq!(reported["message"], message);
        assert!(reported["workload"]["container_id"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_never_executed_is_reported_as_that() {
    const FORKED: u32 = flag::INIT | flag::IN_NAMESPACE | flag::NOT_EXECUTED;
    let never =
        "9b2c8089b3b0 (runc:[2:INIT]): the command was never executed: the process that was to run it";
    let hint = "; check the image's architecture, and the command's path, permissions and interpreter line";
    for (name, flags, signal, status, message) in [
        ("runc:[2:INIT]", FORKED, 0, 1, Some(format!("{never} ended with status 1 after 2 min{hint}"))),
        ("runc:[2:INIT]", FORKED, 0, 127, Some(format!("{never} ended with status 127 after 2 min{hint}"))),
        (
            "runc:[2:INIT]",
            FORKED,
            9,
            0,
            Some(
                "9b2c8089b3b0 (runc:[2:INIT]): the command was never executed: runc[77] killed the process that was to run it with SIGKILL after 2 min"
                    .to_owned(),
            ),
        ),
        ("youki:[2:INIT]", FORKED, 0, 1, Some(format!("{never} ended with status 1 after 2 min{hint}"))),
        ("crun", FORKED, 0, 1, Some(format!("{never} ended with status 1 after 2 min{hint}"))),
        // It executed a program, or is not the runtime's, or is not a container's first process.
        ("runc:[2:INIT]", FORKED & !flag::NOT_EXECUTED, 0, 1, None),
        ("runc:[2:INIT]", FORKED & !flag::NOT_EXECUTED, 9, 0, None),
        ("crunch", FORKED, 0, 1, None),
        ("bwrap", FORKED, 0, 1, None),
        (
            "(nginx)",
            flag::SESSION_OF_HOST,
            0,
            203,
            Some(format!(
                "{never} ended with status 203 (systemd: EXEC, the command cannot be executed) after 2 min"
            )),
        ),
        ("(nginx)", flag::SESSION_OF_HOST, 0, 1, None),
        ("nginx", flag::SESSION_OF_HOST, 0, 203, None),
        ("(nginx)", flag::INIT | flag::IN_NAMESPACE, 0, 203, None),
    ] {
        let reported = reported(|id| {
            let kind = if signal == 0 { kind::EXIT_ERROR } else { kind::SIGNALLED };
            let (origin, actor) = (origin::PROCESS, runc());
            let mut event = ContainerEvent { flags, signal, status, origin, actor, ..death(kind, id) };
            event.header.comm = comm(name.as_bytes());
            event
        })
        .await;
        let expected = message.map(|message| message.replace("runc:[2:INIT]", name));
        assert_eq!(reported["data"].get("executed").is_some(), expected.is_some(), "{reported}");
        if let Some(message) = expected {
            assert_eq!(reported["message"], message);
        }
    }
}

/// A process that handles SIGABRT and continues, one that is not PID 1, and faults unrelated to `abort`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_abort_is_reported_as_what_it_is() {
    let aborted_ns = TIME_NS - 1000;
    let fault =
        |id| ContainerEvent { code: 0x80, address: 0, aborted_ns, ..signalled(11, origin::ITSELF, id) };
    let exit = |status, id| ContainerEvent { status, aborted_ns, ..death(kind::EXIT_ERROR, id) };
    for (event, kind, key, value) in [
        (&fault as &dyn Fn(u64) -> ContainerEvent, "container.crash", "signal", json!("SIGABRT")),
        (
            &|id| ContainerEvent { code: 1, address: 0x40, ..fault(id) },
            "container.crash",
            "signal",
            json!("SIGSEGV"),
        ),
        (&|id| ContainerEvent { aborted_ns: 0, ..fault(id) }, "container.crash", "signal", json!("SIGSEGV")),
        (
            &|id| ContainerEvent { aborted_ns: TIME_NS - 11 * SECOND, ..fault(id) },
            "container.crash",
            "signal",
            json!("SIGSEGV"),
        ),
        (
            &|id| ContainerEvent { flags: flag::IN_NAMESPACE, ..fault(id) },
            "container.crash",
            "signal",
            json!("SIGSEGV"),
        ),
        (
            &|id| ContainerEvent { actor: runc(), origin: origin::PROCESS, ..fault(id) },
            "container.killed",
            "signal",
            json!("SIGSEGV"),
        ),
        (&|id| exit(3, id), "container.exit_error", "status", json!(3)),
        (
            &|id| ContainerEvent { aborted_ns: 0, ..exit(127, id) },
            "container.exit_error",
            "status",
            json!(127),
        ),
    ] {
        let reported = reported(event).await;
        assert_eq!((&reported["type"], &reported["data"][key]), (&json!(kind), &value), "{reported}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_absent() {
    let reported =
        reported(|id| ContainerEvent { actor: Actor::default(), ..death(kind::OOM_KILL, id) }).await;
    assert_eq!(reported["data"], json!({"oom_score_adj": 0, "process_role": "main", "ran_ms": 120_000}));
    assert_eq!(reported.get("actor"), None);
    let node = self::reported(|id| {
        let oom_cgroup = OomCgroup { cgroup_id: 0, ..death(kind::OOM_KILL, id).oom_cgroup };
        ContainerEvent { oom_cgroup, ..death(kind::OOM_KILL, id) }
    });
    assert_eq!(node.await["data"]["constraint"], "node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_kills_its_own_and_who_is_in_none_are_not_reported() {
    let mut line = Line::of::<Container>();
    let id = line.cgroup_id;
    let own = Actor { cgroup_id: id, ..runc() };
    let inside = ContainerEvent { actor: own, ..signalled(9, origin::PROCESS, id) };
    assert_eq!(all_reported(&mut line, &inside).await, [Value::Null; 0]);
    // The root of the hierarchy is known, and belongs to no owner.
    let root = line.root_id();
    let outside = ContainerEvent { code: 1, address: 8, ..signalled(11, origin::ITSELF, root) };
    assert_eq!(all_reported(&mut line, &outside).await, [Value::Null; 0]);
    assert_eq!(line.metric("tapio_out_of_scope_total", &[]), 2);
    assert_eq!(line.metric("tapio_dropped_total", &[]), 0, "nothing is lost");
    // A cgroup that has vanished may have had any owner.
    let vanished = ContainerEvent { code: 1, address: 8, ..signalled(11, origin::ITSELF, u64::MAX / 4) };
    let [reported] = all_reported(&mut line, &vanished).await.try_into().unwrap();
    assert_eq!(reported.get("workload"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_sandbox_is_no_ones() {
    // Replaces the cgroup of the line.
    let id = 7;
    let killed = |name: &[u8], oom_score_adj: i32, cgroup_id| {
        let mut event = ContainerEvent {
            actor: runc(),
            oom_score_adj: oom_score_adj as u32,
            ..signalled(9, origin::PROCESS, cgroup_id)
        };
        event.header.comm = comm(name);
        event
    };
    let vanished = u64::MAX / 4;
    let asked =
        |event: ContainerEvent| ContainerEvent { asked_signal: 15, asked_ns: TIME_NS - SECOND, ..event };
    let by_kernel = |event: ContainerEvent| ContainerEvent { origin: origin::KERNEL, ..event };
    for (event, reported) in [
        (killed(b"pause", 0, id), false),
        (killed(b"pause", 0, vanished), false),
        (killed(b"pause\0[2:INIT]", 0, id), false),
        (killed(b"sleep", -998, id), false),
        (asked(killed(b"sleep", -998, id)), false),
        (killed(b"sleep", -998, vanished), false),
        (ContainerEvent { flags: 0, ..killed(b"sleep", -998, id) }, false),
        (killed(b"sleep", -997, id), true),
        (killed(b"sleep", 0, id), true),
        (killed(b"sleep", 0, vanished), true),
        (killed(b"pausing", 0, id), true),
        (asked(killed(b"pause", 0, id)), true),
        (ContainerEvent { flags: flag::IN_NAMESPACE, ..killed(b"pause", 0, id) }, true),
        (ContainerEvent { code: 1, origin: origin::ITSELF, signal: 11, ..killed(b"pause", -998, id) }, true),
        (by_kernel(ContainerEvent { kind: kind::OOM_KILL, ..killed(b"pause", -998, id) }), true),
    ] {
        let (name, mut event) = (format!("{event:?}"), event);
        let mut line = Line::of::<Container>();
        if event.header.cgroup_id == id {
            event.header.cgroup_id = line.cgroup_id;
        }
        assert_eq!(all_reported(&mut line, &event).await.len(), usize::from(reported), "{name}");
        assert_eq!(line.metric("tapio_out_of_scope_total", &[]), u64::from(!reported), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_oom_kills_folds_and_adds_up() {
    let mut line = Line::of::<Container>();
    for _ in 0..20 {
        let event = oom_kill(line.cgroup_id);
        line.record(bytemuck::bytes_of(&event));
    }
    line.finish();
    let reported = line.occurrences().await;
    assert_eq!((reported.len(), count(&reported)), (3, 20));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_reported_or_refused(
        records in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), SIZE), 0_u32..5).prop_map(|(mut bytes, kind)| {
                bytes[40..44].copy_from_slice(&kind.to_ne_bytes());
                bytes
            }),
            1..20,
        ),
    ) {
        let mut line = Line::of::<Container>();
        for record in &records {
            line.record(record);
        }
        line.finish();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let reported = runtime.block_on(line.occurrences());
        let known = records.iter().filter(|record| (1..4).contains(&record[40])).count() as u64;
        prop_assert_eq!(line.events(), records.len() as u64);
        prop_assert_eq!(line.malformed(), records.len() as u64 - known);
        let out_of_scope = line.metric("tapio_out_of_scope_total", &[]);
        prop_assert_eq!(count(&reported) + out_of_scope, line.anomalies());
        for occurrence in &reported {
            let message = occurrence["message"].as_str().unwrap_or_default();
            prop_assert!(!message.is_empty() && !message.contains(is_active), "{message:?}");
        }
    }
}
