//! Real clients: the C libraries and Go. They ask at the same time, each its own resolver.

use super::{GIVEN_UP, Stage};
use crate::support::{
    Occurrence, Process, Tapio, needs_a_kernel,
    resolver::{Client, lookup_by},
};

/// A look-up of a real client.
struct Asked {
    stage: Stage,
    client: &'static str,
    pid: u32,
    comm: &'static str,
}

/// Asks this resolver alone, and gives up soon.
fn resolv_conf(stage: &Stage) -> String {
    format!("nameserver {}\noptions timeout:1 attempts:2\n", stage.resolver.ip())
}

/// Lets every client that is there look up the name, at the same time.
fn ask(tapio: &Tapio, name: &str, kind: &str) {
    let clients = [(Client::Glibc, "glibc"), (Client::Busybox, "busybox"), (Client::Go, "Go")];
    let mut asked: Vec<Asked> = std::thread::scope(|scope| {
        let asking = clients.map(|(client, said)| {
            scope.spawn(move || {
                let mut stage = Stage::new();
                // Go asks again with another id, which is a look-up of its own as long as no answer was seen.
                stage.ask("ok.example").unwrap();
                match lookup_by(client, &stage.link.client, None, &resolv_conf(&stage), name) {
                    Ok(lookup) => Some(Asked { stage, client: said, pid: lookup.pid, comm: lookup.comm }),
                    Err(reason) => {
                        println!("without {said}: {reason}");
                        None
                    }
                }
            })
        });
        let musl = scope.spawn(|| {
            let stage = Stage::new();
            let conf = resolv_conf(&stage);
            let mut client = Process::start_with_resolv_conf(&stage.link.client, "resolves", &conf);
            assert!(client.resolve(name).is_err());
            Asked { stage, client: "musl", pid: client.pid(), comm: "resolves" }
        });
        let asked = asking.into_iter().filter_map(|asking| asking.join().unwrap());
        asked.chain([musl.join().unwrap()]).collect()
    });
    let name = name.trim_end_matches('.');
    for Asked { stage, client, pid, comm } in &mut asked {
        let is_meant = |o: &Occurrence| o.is_to(stage.resolver);
        let reported = tapio.expect_within(GIVEN_UP, is_meant).named(kind).of_pid(*pid);
        assert_eq!((reported.comm(), reported.text("question")), (*comm, name), "{client}");
        tapio.expect_one(is_meant);
    }
}

#[test]
fn each_is_reported_once_if_its_resolver_fails_or_does_not_answer() {
    needs_a_kernel!();
    let tapio = Tapio::start_observer("dns");
    ask(&tapio, "servfail.example.", "dns_failure");
    ask(&tapio, "drop.example.", "dns_timeout");
}
