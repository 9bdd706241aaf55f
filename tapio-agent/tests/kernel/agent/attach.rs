//! Each way to attach a program: the program counts its events, or the agent says why this kernel lacks the
//! hook.

use std::{net::TcpListener, path::Path, thread, time::Duration};

use tapio_agent::{
    kernel::{Kernel, Loaded},
    observer::{
        Attach, ByHelper, Direction, Fallback, Hook, Object, Observer as _,
        network::{Network, Settings},
        programs,
    },
};

use crate::support::{Process, needs_a_kernel};

const NOWHERE: Attach = Attach::BtfTracepoint("no_such_tracepoint");

/// Hooks in the order of their numbers in `tapio-ebpf/src/bin/bench.rs`, each with a word that the reason
/// contains if the kernel lacks it.
const HOOKS: &[(Hook, &str)] = &[
    (hook("by_tracepoint", Attach::Tracepoint("sched", "sched_process_fork")), "tracefs"),
    (hook("by_function", Attach::FunctionEntry("tcp_v4_connect")), "fentry"),
    (hook("by_cgroup", Attach::CgroupSkb(Direction::Egress)), "cgroup2"),
    (hook("by_clock", Attach::CpuClock(100)), "never"),
    (hook("by_iterator", Attach::Iterator("task")), "never"),
    (Hook { or: IN_ITS_PLACE, ..hook("flood", NOWHERE) }, "never"),
];

const IN_ITS_PLACE: &[Fallback] = &[
    Fallback { program: "by_function", attach: Attach::FunctionEntry("no_such_function"), needs: &[] },
    Fallback { program: "in_its_place", attach: Attach::BtfTracepoint("sched_switch"), needs: &[] },
];

const fn hook(program: &'static str, attach: Attach) -> Hook {
    Hook { program, attach, needs: &[], gives: "", or: &[] }
}

fn load(hooks: Vec<Hook>) -> Loaded {
    let settings = Network::kernel_settings(&Settings::default());
    let object = Object {
        name: "bench",
        bytes: programs("bench").unwrap(),
        hooks: hooks.leak(),
        by_helper: ByHelper::default(),
        snapshot_maps: &[],
        ..Object::of::<Network>(&settings).unwrap()
    };
    Kernel::open(Path::new("/proc")).unwrap().load(&object).unwrap()
}

#[test]
fn each_way_counts_what_it_is_for() {
    needs_a_kernel!();
    let loaded = load(HOOKS.iter().map(|(hook, _)| *hook).collect());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Process::start("client");
    client.connect(listener.local_addr().unwrap()).unwrap();
    thread::sleep(Duration::from_millis(200));
    loaded.detach();
    let counts = loaded.counts.read().unwrap();
    for ((found, (_, reason)), counts) in loaded.hooks.iter().zip(HOOKS).zip(counts) {
        match &found.state {
            Ok(()) => assert!(counts.seen > 0, "{found:?} {counts:?}"),
            Err(error) => {
                assert!(error.is_unsupported() && error.to_string().contains(reason), "{found:?}");
                println!("{}: {error}", found.hook.program);
            }
        }
        assert_eq!(counts.seen, counts.accounted());
    }
    assert_eq!(loaded.hooks[5].by.program, "in_its_place");
}

#[test]
fn where_nothing_is_supported_each_reason_is_said() {
    needs_a_kernel!();
    let nowhere = Hook { or: &IN_ITS_PLACE[..1], ..hook("flood", NOWHERE) };
    let loaded = load(vec![nowhere]);
    let error = loaded.hooks[0].state.clone().unwrap_err();
    assert!(error.is_unsupported());
    let expected =
        "this kernel does not have the tracepoint; this kernel does not have the function no_such_function";
    assert!(error.to_string().ends_with(expected), "{error}");
}
