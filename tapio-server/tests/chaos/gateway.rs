//! The server as the gateway of the tests.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::role::{self, Role};

/// Starts one, and waits until it listens.
pub(crate) fn start(address: SocketAddr, directory: &Path) -> Role {
    let log = File::options().create(true).append(true).open(directory.join("gateway.log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_tapio-server"))
        .arg(format!("--state-dir={}", directory.join("server").display()))
        .arg(format!("--polku-listen={address}"))
        .arg("--listen=off")
        // By default its port is the same for all of them.
        .env("TAPIO_SERVER_AHTI_API", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let role = Role { child };
    drop(role::until(|| std::net::TcpStream::connect(address), Result::is_ok));
    role
}
