//! Forwarders: one fault is reported once, at the client nearest to the workload.

use super::{A, Stage};
use crate::support::{Process, Tapio, needs_a_kernel, resolver::Ask};

#[test]
fn a_failure_behind_a_forwarder_is_reported_for_its_client() {
    needs_a_kernel!();
    let mut stage = Stage::new();
    let mut forwarder = Process::start_in(&stage.link.client, "forwarder");
    let at = forwarder.forward_dns("127.0.0.53:53", stage.resolver);
    let tapio = Tapio::start_observer("dns");
    // The first time, it is not known yet that it answers questions itself.
    for name in ["servfail.first.example", "servfail.second.example"] {
        assert_eq!(stage.client.ask(at, name, A, Ask::ONCE), Ok(2));
        std::thread::sleep(std::time::Duration::from_millis(1_200));
    }
    let ended = tapio.end();
    assert!(ended.out_of_scope >= 1, "the forwarder's own look-up is counted");
    let reported = ended.occurrences.into_iter().find(|o| o.is_to(at)).expect("an occurrence");
    let reported = reported.named("dns_failure").of(&stage.client);
    assert_eq!(reported.peer(), Some(at));
}
