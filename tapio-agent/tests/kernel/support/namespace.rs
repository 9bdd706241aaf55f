//! Network namespaces, and links between two of them on which tests cause faults. They are removed on drop.

use std::{
    fmt,
    fs::File,
    net::{IpAddr, SocketAddr},
    os::{
        fd::AsFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{self, UnixDatagram},
    },
    path::Path,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) struct Namespace {
    name: String,
}

/// Two namespaces and a pair of veth devices, one end in each. Faults on the wire affect traffic from the
/// client.
pub(crate) struct Link {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    number: u8,
    /// Nobody else on the machine has this number as long as it is open.
    _reserved: UnixDatagram,
}

/// Name of the device in both namespaces.
const DEVICE: &str = "wire";
/// A MAC address without an owner: frames to it are delivered and ignored.
const NOBODY: &str = "02:00:00:00:00:01";

static NEXT: AtomicU8 = AtomicU8::new(0);
/// Number of the next link, unless another test process has it.
static NEXT_LINK: LazyLock<AtomicU8> = LazyLock::new(|| AtomicU8::new(fastrand::u8(..)));

impl Namespace {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self { name: format!("tapio-test-{}-{number}", std::process::id()) };
        ip(&format!("netns add {}", namespace.name));
        namespace.ip("link set lo up");
        namespace
    }

    /// A command that runs in the namespace, in the same process that is started.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    pub(crate) fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    /// Makes a bridge with this port. The error says why this kernel cannot.
    pub(crate) fn bridge(&self, name: &str, port: &str) -> Result<(), String> {
        run("ip", &format!("-n {} link add {name} type bridge", self.name))?;
        self.ip(&format!("link set {port} master {name}"));
        self.ip(&format!("link set {name} up"));
        Ok(())
    }

    /// Has the connections of the namespace tracked, or returns why they cannot be.
    pub(crate) fn track(&self) -> Result<(), String> {
        let mut command = self.command(Path::new("iptables"));
        command.args(["--append", "INPUT", "--match", "conntrack", "--ctstate", "NEW", "--jump", "ACCEPT"]);
        let output = command.output().map_err(|error| format!("iptables: {error}"))?;
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("iptables tracks nothing: {}", error.trim_end()))
        }
    }

    /// Runs something in the namespace, on a thread of its own.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let work = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            work.join().unwrap()
        })
    }

    fn tc(&self, arguments: &str) {
        run("tc", &format!("-n {} {arguments}", self.name)).unwrap();
    }

    /// Does what [`Link::slow`] does, on the loopback device.
    pub(crate) fn slow_loopback(&self, millis: u32) {
        self.queue("lo", millis);
    }

    fn queue(&self, device: &str, millis: u32) {
        // A message of 1400 bytes takes 1466 with its headers; the bucket holds one.
        let rate = 1466 * 8 * 1000 / millis;
        self.tc(&format!("qdisc replace dev {device} root tbf rate {rate}bit burst 1600 limit 100000"));
    }

    /// Sets a sysctl. Returns false if this kernel lacks it.
    pub(crate) fn sysctl(&self, key: &str, value: impl fmt::Display) -> bool {
        let mut command = self.command(Path::new("sysctl"));
        let output = command.args(["-q", "-w", &format!("{key}={value}")]).output().unwrap();
        output.status.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its devices are removed with it, once the last process there has exited.
        let _ = run("ip", &format!("netns delete {}", self.name));
    }
}

/// A number that no link of the machine has, and a socket whose abstract name reserves it.
fn number() -> (u8, UnixDatagram) {
    let mut numbers = (0..=u8::MAX).map(|_| NEXT_LINK.fetch_add(1, Ordering::Relaxed));
    let reserved = numbers.find_map(|number| {
        let name = net::SocketAddr::from_abstract_name(format!("tapio-test-link-{number}")).unwrap();
        Some((number, UnixDatagram::bind_addr(&name).ok()?))
    });
    reserved.expect("all numbers of links are taken")
}

impl Link {
    pub(crate) fn new() -> Self {
        let (number, reserved) = number();
        let link = Self { client: Namespace::new(), server: Namespace::new(), number, _reserved: reserved };
        let (client, server) = (&link.client.name, &link.server.name);
        ip(&format!("-n {client} link add {DEVICE} type veth peer name {DEVICE} netns {server}"));
        for (namespace, host) in [(&link.client, 1), (&link.server, 2)] {
            namespace.ip(&format!("address add {}/24 dev {DEVICE}", link.v4(host)));
            namespace.ip(&format!("address add {}/64 dev {DEVICE} nodad", link.v6(host)));
            namespace.ip(&format!("link set {DEVICE} up"));
        }
        link
    }

    /// The address of a host on the link: 1 is the client, 2 the server, others do not exist. The range is
    /// reserved for benchmarks (RFC 2544), so nothing else on the machine uses it.
    pub(crate) fn v4(&self, host: u8) -> IpAddr {
        [198, 18, self.number, host].into()
    }

    /// Like [`Self::v4`], from the range for documentation (RFC 3849).
    pub(crate) fn v6(&self, host: u8) -> IpAddr {
        [0x2001, 0xdb8, 0, self.number.into(), 0, 0, 0, host.into()].into()
    }

    pub(crate) fn server_at(&self, port: u16) -> SocketAddr {
        (self.v4(2), port).into()
    }

    pub(crate) fn client_ip(&self) -> IpAddr {
        self.v4(1)
    }

    /// Each message of about 1400 bytes that follows another one waits for `millis`, as in a queue.
    pub(crate) fn slow(&self, millis: u32) {
        // 1466 bytes is such a message with its headers; the bucket holds one.
        let rate = 1466 * 8 * 1000 / millis;
        self.client
            .tc(&format!("qdisc replace dev {DEVICE} root tbf rate {rate}bit burst 1600 limit 100000"));
    }

    /// A queue so short that every packet that cannot be sent at once is lost.
    pub(crate) fn lossy(&self) {
        self.client.tc(&format!("qdisc replace dev {DEVICE} root tbf rate 4mbit burst 10000 limit 10000"));
    }

    /// Emulates a network with netem(8) for traffic to the server. The error says why this kernel cannot.
    pub(crate) fn emulate(&self, network: &str) -> Result<(), String> {
        let tc = format!("-n {} qdisc replace dev {DEVICE} root netem {network}", self.client.name);
        run("tc", &tc).map_err(|error| error.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// Connections opened from now on send the server one packet per segment, so that single segments can be
    /// lost.
    pub(crate) fn without_offload(&self) {
        self.client.ip(&format!("link set dev {DEVICE} gso_max_segs 1"));
    }

    /// Removes all faults.
    pub(crate) fn clear(&self) {
        self.client.tc(&format!("qdisc delete dev {DEVICE} root"));
    }

    /// Drops all traffic to the server, until the result is dropped.
    pub(crate) fn cut(&self) -> Cut<'_> {
        self.neighbour("replace");
        Cut(self)
    }

    /// A neighbour entry for an address that never answers.
    fn neighbour(&self, verb: &str) {
        self.client.ip(&format!("neigh {verb} {} dev {DEVICE} lladdr {NOBODY} nud permanent", self.v4(2)));
    }

    pub(crate) fn sysctl(&self, key: &str, value: impl fmt::Display) -> bool {
        self.client.sysctl(&key.replace("DEVICE", DEVICE), value)
    }
}

/// See [`Link::cut`].
pub(crate) struct Cut<'a>(&'a Link);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        self.0.neighbour("delete");
    }
}

fn ip(arguments: &str) {
    run("ip", arguments).unwrap();
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr)))
}
