//! The self-test's own network namespaces, with a link between them. Dropping a namespace removes it with everything in
//! it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{NotCaused, package::Package, role::NAMESPACES};

const IPROUTE2: Package = Package("iproute2");
/// Prefix of the names of all namespaces. The pid of the self-test follows.
const PREFIX: &str = "tapio-selftest-";
/// The link's device, by the same name in both namespaces.
const DEVICE: &str = "veth0";
/// A locally administered MAC address that no device has: the other end drops packets to it.
const ABSENT_MAC: &str = "02:00:00:00:00:01";
/// Bytes of a request. It fills one segment, so a queue delays it once.
pub const REQUEST_BYTES: usize = 1400;
/// Ethernet, IPv4 and TCP with timestamps.
const HEADER_BYTES: usize = 14 + 20 + 32;
/// Milliseconds that a request waits behind another one.
const QUEUE_MS: usize = 50;

/// Two linked namespaces: one stands for the client's host, one for the server's.
#[derive(Debug)]
pub struct Link {
    asking: Namespace,
    answering: Namespace,
    /// Third byte of the addresses, random per run: baselines are per address, so runs do not share one.
    number: u8,
}

/// The name of a namespace, which may not exist yet or only partly.
#[derive(Debug)]
struct Namespace(String);

impl Link {
    pub(super) fn new() -> Result<Self, NotCaused> {
        let link =
            Self { asking: Namespace::new("a")?, answering: Namespace::new("b")?, number: fastrand::u8(..) };
        let (asking, answering) = (&link.asking.0, &link.answering.0);
        ip(&[
            "-n", asking, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", answering,
        ])?;
        for (namespace, host) in [(asking, ASKING), (answering, ANSWERING)] {
            let address = format!("{}/24", link.address(host));
            ip(&["-n", namespace, "address", "add", &address, "dev", DEVICE])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "up"])?;
        }
        let absent = link.address(ABSENT).to_string();
        ip(&[
            "-n",
            asking,
            "neigh",
            "replace",
            &absent,
            "lladdr",
            ABSENT_MAC,
            "dev",
            DEVICE,
            "nud",
            "permanent",
        ])?;
        Ok(link)
    }

    /// The name of the client's namespace.
    #[must_use]
    pub fn asking(&self) -> String {
        self.asking.0.clone()
    }

    /// The name of the server's namespace.
    #[must_use]
    pub fn answering(&self) -> String {
        self.answering.0.clone()
    }

    /// An address in the server's namespace to listen on.
    #[must_use]
    pub fn service(&self) -> SocketAddr {
        (self.address(ANSWERING), 9).into()
    }

    /// An address from which nothing answers, not even an ICMP error.
    #[must_use]
    pub fn black_hole(&self) -> SocketAddr {
        (self.address(ABSENT), 9).into()
    }

    /// Delays every request that follows another one from now on.
    ///
    /// # Errors
    /// The kernel does not have the queueing discipline `tbf`.
    pub fn slow_down(&self) -> Result<(), NotCaused> {
        let rate = format!("{}bit", (REQUEST_BYTES + HEADER_BYTES) * 8 * 1000 / QUEUE_MS);
        let (namespace, burst) = (self.asking.0.as_str(), "1600");
        IPROUTE2.run(
            "tc",
            &[
                "-n", namespace, "qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", &rate, "burst",
                burst, "limit", "100000",
            ],
            "load the kernel module sch_tbf, as root",
        )
    }

    /// An address of the range for benchmarks (RFC 2544).
    fn address(&self, host: u8) -> IpAddr {
        [198, 18, self.number, host].into()
    }
}

const ASKING: u8 = 1;
const ANSWERING: u8 = 2;
const ABSENT: u8 = 9;

impl Namespace {
    fn new(which: &str) -> Result<Self, NotCaused> {
        // The value exists before the namespace: an interrupted command may have created it, and drop then removes it.
        let namespace = Self(format!("{PREFIX}{}-{which}", std::process::id()));
        ip(&["netns", "add", &namespace.0])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes the namespaces of self-tests that were killed, and returns their names.
pub(super) fn remove_stale() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_stale(name, |pid| Path::new("/proc").join(pid).exists()) && remove(name)).collect()
}

fn is_stale(name: &str, is_alive: impl Fn(&str) -> bool) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !is_alive(pid))
}

/// Removes a namespace with its devices. A namespace that does not exist is not an error.
fn remove(name: &str) -> bool {
    ip(&["netns", "delete", name]).is_ok()
}

fn ip(arguments: &[&str]) -> Result<(), NotCaused> {
    IPROUTE2.run(
        "ip",
        arguments,
        "run as root on the host: network namespaces take CAP_SYS_ADMIN and CAP_NET_ADMIN",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_runs_left_is_stale() {
        let alive = |pid: &str| pid == "17";
        for (name, stale) in [
            ("tapio-selftest-16-a", true),
            ("tapio-selftest-17-b", false),
            ("tapio-selftest-x-a", false),
            ("tapio-selftest--a", false),
            ("tapio-selftest-16", false),
            ("tapio-test-16-a", false),
            ("mine", false),
        ] {
            assert_eq!(is_stale(name, alive), stale, "{name}");
        }
    }
}
