//! Helpers of the kernel tests.

pub(crate) mod cgroup;
mod collector;
pub(crate) mod counted;
pub(crate) mod disk;
mod exhaust;
pub(crate) mod filesystem;
pub(crate) mod guest;
mod limit;
pub(crate) mod limited;
pub(crate) mod lockdown;
pub(crate) mod namespace;
mod nested;
pub(crate) mod occurrence;
mod pair;
pub(crate) mod process;
mod program;
pub(crate) mod resolver;
mod stage;
mod strain;
pub(crate) mod tapio;

pub(crate) use self::{
    cgroup::{Cgroup, Version},
    collector::{Collector, Record},
    counted::Counted,
    lockdown::is_confidential,
    namespace::{Link, Namespace},
    occurrence::Occurrence,
    pair::Pair,
    process::{Process, Service},
    program::Program,
    tapio::{AGENT, Report, Tapio},
};

/// Begins a test: ends it with one line if this machine cannot run it.
macro_rules! needs_a_kernel {
    () => {
        if let Some(reason) = crate::support::tapio::hindrance() {
            crate::support::skip!("{reason}");
        }
    };
}

/// Like [`needs_a_kernel`], for tests that change the whole machine: they run only in a guest.
macro_rules! needs_a_guest {
    () => {
        crate::support::needs_a_kernel!();
        if !crate::support::guest::is_one() {
            crate::support::skip!("only in a guest of `cargo xtask kernel-test`, which is thrown away");
        }
    };
}

/// Ends a test that cannot run here.
macro_rules! skip {
    ($($reason:tt)*) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        println!("SKIP {}: {}", name.trim_start_matches("kernel::"), format_args!($($reason)*));
        return;
    }};
}

pub(crate) use {needs_a_guest, needs_a_kernel, skip};

/// Also the entry point of the child processes; see [`stage`].
#[test]
fn a_process_does_what_it_is_told() {
    if let Ok(comm) = std::env::var(stage::VARIABLE) {
        return stage::play(&comm);
    }
    let mut server = Process::start("a-server");
    let listener = server.listen("127.0.0.1:0");
    let mut client = Process::start("a-client");
    let connection = client.connect(([127, 0, 0, 1], listener.port).into()).unwrap();
    let accepted = server.accept(listener);
    assert_eq!(accepted.client_port, connection.client_port);
    client.close(connection);
    assert_eq!(server.await_end(accepted), "closed");
}
