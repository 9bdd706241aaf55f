//! A hook that this kernel lacks: only that hook is lost, with a reason, and the others still count.

use std::{path::Path, thread, time::Duration};

use tapio_agent::{
    kernel::{HookError, Kernel, Loaded},
    observer::{
        Attach, ByHelper, Hook, Object, Observer as _,
        network::{Network, Settings},
    },
};
use tapio_common::network as net;

use crate::support::{Link, Process, needs_a_kernel};

const PROBE: usize = net::program::TCP_PROBE as usize;
const RETRANSMIT: usize = net::program::TCP_RETRANSMIT_SKB as usize;
const RESET: usize = net::program::TCP_RECEIVE_RESET as usize;

/// Loads the network observer's programs with these hooks and fields.
fn load(hooks: &[Hook], fields: &[&'static str]) -> Loaded {
    let settings = Network::kernel_settings(&Settings::default());
    let object = Object {
        hooks: hooks.to_vec().leak(),
        fields: fields.to_vec().leak(),
        by_helper: ByHelper::default(),
        snapshot_maps: &[],
        ..Object::of::<Network>(&settings).unwrap()
    };
    Kernel::open(Path::new("/proc")).unwrap().load(&object).unwrap()
}

fn attached_to(hook: usize, tracepoint: &'static str) -> Loaded {
    let mut hooks = Network::HOOKS.to_vec();
    hooks[hook].attach = Attach::BtfTracepoint(tracepoint);
    load(&hooks, Network::FIELDS)
}

fn without(field: usize, other: &'static str) -> Loaded {
    let mut fields = Network::FIELDS.to_vec();
    fields[field] = other;
    load(Network::HOOKS, &fields)
}

/// Asserts that all hooks but one are attached, and that each attached one counts its events.
#[track_caller]
fn all_but(broken: usize, loaded: &Loaded) -> HookError {
    // Some kernels cannot attach programs to functions.
    let has_fentry = |at: usize| {
        loaded.hooks[at].state.as_ref().err().is_none_or(|error| !error.to_string().contains("fentry"))
    };
    for (at, hook) in loaded.hooks.iter().enumerate().filter(|(at, _)| has_fentry(*at)) {
        assert_eq!(hook.state.is_err(), at == broken, "{hook:?}");
    }
    let before = loaded.counts.read().unwrap();
    something_for_each();
    // Other processes use the network too. After detaching, only runs already in progress still count.
    loaded.detach();
    for (at, (after, before)) in loaded.counts.read().unwrap().iter().zip(before).enumerate() {
        assert_eq!(
            after.seen == before.seen,
            at == broken || !has_fentry(at),
            "{}: {after:?}",
            Network::HOOKS[at].program
        );
        assert_eq!(after.seen, after.accounted(), "{}: {after:?}", Network::HOOKS[at].program);
    }
    loaded.hooks[broken].state.clone().unwrap_err()
}

/// Causes round trips, a lost segment, a reset, and connects without a destination.
fn something_for_each() {
    let link = Link::new();
    let mut server = Process::start_in(&link.server, "server");
    let listener = server.listen(&link.server_at(4701).to_string());
    let mut client = Process::start_in(&link.client, "client");
    let connection = client.connect(link.server_at(4701)).unwrap();
    let accepted = server.accept(listener);
    // A reading consists of samples sent over some milliseconds.
    for _ in 0..50 {
        client.send(connection, 100);
        server.receive(accepted, 100);
        thread::sleep(Duration::from_millis(1));
    }
    let cut = link.cut();
    client.send(connection, 100);
    thread::sleep(Duration::from_millis(300));
    drop(cut);
    server.receive(accepted, 100);
    server.reset(accepted);
    assert_eq!(client.await_end(connection), "ECONNRESET");
    for nowhere in ["203.0.113.9:4701", "[2001:db8::9]:4701"] {
        client.connect(nowhere.parse().unwrap()).unwrap_err();
    }
}

#[test]
fn a_tracepoint_that_does_not_exist_costs_its_hook_only() {
    needs_a_kernel!();
    let error = all_but(RETRANSMIT, &attached_to(RETRANSMIT, "tcp_sends_a_pigeon"));
    assert_eq!(error.to_string(), "unsupported: this kernel does not have the tracepoint");
}

#[test]
fn a_field_that_does_not_exist_costs_its_hook_only() {
    needs_a_kernel!();
    let error = all_but(PROBE, &without(net::MSS, "tcp_sock.pigeons_sent"));
    assert_eq!(error.to_string(), "unsupported: this kernel has no field tcp_sock.pigeons_sent");
}

#[test]
fn a_struct_that_does_not_exist_costs_its_hook_only() {
    needs_a_kernel!();
    let error = all_but(PROBE, &without(net::SEGMENT_ACK, "tcp_pigeon.ack_seq"));
    assert_eq!(error.to_string(), "unsupported: this kernel has no struct tcp_pigeon");
}

/// The hook's first argument is a task, not a socket, and the verifier knows this.
#[test]
fn a_tracepoint_with_other_arguments_costs_its_hook_only() {
    needs_a_kernel!();
    let error = all_but(RESET, &attached_to(RESET, "sched_process_exit"));
    assert!(!error.is_unsupported());
    assert!(error.to_string().starts_with("failed: refused by the verifier"), "{error}");
}
