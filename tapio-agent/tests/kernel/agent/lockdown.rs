//! A kernel in lockdown, as with secure boot: all observers still work.

use std::process::Command;

use crate::{
    network::connect::closed_port,
    support::{AGENT, Process, Report, Tapio, lockdown, needs_a_kernel, skip},
};

#[test]
fn a_kernel_that_is_locked_down_is_observed() {
    needs_a_kernel!();
    let Some(mode) = lockdown::mode() else { skip!("no lockdown") };
    let to = closed_port("127.0.0.1");
    let tapio = Tapio::start();
    let mut client = Process::start("refused-client");
    assert_eq!(client.connect(to).unwrap_err(), "ECONNREFUSED");
    tapio.expect_one(|o| o.is_to(to)).named("connection_refused").of(&client);

    let report = Report::of(Command::new(AGENT));
    report.says("ok", "lockdown", &mode);
    report.is_whole();
}
