//! Reads counters from the files of a network namespace.

use std::{
    fs::File,
    io::Read as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::{
    kernel::ListeningSocket,
    observer::link::{DeviceDrops, Namespace, Reason},
};

/// More than any of these files has, but for tables of sockets, of hundreds of routes or devices, and `nf_conntrack` on hosts with
/// hundreds of CPUs.
const MAX_BYTES: u64 = 64 << 10;

/// Reads files into the same memory.
#[derive(Debug, Default)]
pub(super) struct Counters {
    text: String,
}

impl Counters {
    /// Reads what every namespace counts. `net` is `/proc/PID/net`.
    pub(super) fn read(&mut self, proc_root: &Path, net: &Path, sample: &mut Namespace) {
        if self.open(&net.join("netstat")) {
            put(&mut sample.listen_overflows, named(&self.text, "TcpExt:", "ListenOverflows"));
            put(
                &mut sample.drops[Reason::TcpBacklog as usize],
                named(&self.text, "TcpExt:", "TCPBacklogDrop"),
            );
        }
        if self.open(&net.join("snmp")) {
            let of_four = named(&self.text, "Udp:", "RcvbufErrors");
            // Without IPv6 there is no such file.
            let of_six =
                if self.open(&net.join("snmp6")) { keyed(&self.text, "Udp6RcvbufErrors") } else { None };
            put(
                &mut sample.drops[Reason::UdpReceiveBuffer as usize],
                of_four.map(|four| four.wrapping_add(of_six.unwrap_or(0))),
            );
        }
        if self.open(&net.join("stat/nf_conntrack")) {
            put(&mut sample.untracked, summed(&self.text, "drop"));
            put(&mut sample.evicted, summed(&self.text, "early_drop"));
            // Each line has the same number.
            put(&mut sample.tracked, column(&self.text, "entries").and_then(|mut all| all.next().flatten()));
            // One limit holds in every namespace.
            if self.open(&proc_root.join("sys/net/netfilter/nf_conntrack_max")) {
                put(&mut sample.tracked_limit, self.text.trim_end().parse().ok());
            }
        }
    }

    /// Reads what is counted for the node as a whole.
    pub(super) fn read_node(&mut self, net: &Path, sample: &mut Namespace) {
        if self.open(&net.join("softnet_stat")) {
            put(&mut sample.drops[Reason::CpuBacklog as usize], softnet_dropped(&self.text));
        }
    }

    /// The next hops of routes: of IPv4 those of the main table, and one of a route that has several.
    pub(super) fn next_hops(&mut self, net: &Path) -> Vec<Ipv6Addr> {
        let mut all = Vec::new();
        if self.open(&net.join("route")) {
            all.extend(self.text.lines().filter_map(next_hop));
        }
        if self.open(&net.join("ipv6_route")) {
            all.extend(self.text.lines().filter_map(next_hop_of_six));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What the devices of a namespace dropped.
    pub(super) fn devices(&mut self, net: &Path) -> Vec<DeviceDrops> {
        if !self.open(&net.join("dev")) {
            return Vec::new();
        }
        self.text.lines().filter_map(device).collect()
    }

    fn open(&mut self, path: &Path) -> bool {
        self.text.clear();
        File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut self.text)).is_ok()
    }
}

fn put(to: &mut u64, value: Option<u64>) {
    if let Some(value) = value {
        *to = value;
    }
}

/// A value of a file with a line of names and a line of values, which begin with the same word.
fn named(text: &str, first: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_ascii_whitespace().next() == Some(first));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|known| known == name)?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// A value of a file of lines `key value`.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == key).then(|| words.next()?.parse().ok())?
    })
}

/// The hexadecimal values of a column of a table with a line for each CPU, and their names in the first line.
fn column<'a>(text: &'a str, name: &str) -> Option<impl Iterator<Item = Option<u64>> + use<'a>> {
    let mut lines = text.lines();
    let at = lines.next()?.split_ascii_whitespace().position(|known| known == name)?;
    Some(lines.map(move |line| u64::from_str_radix(line.split_ascii_whitespace().nth(at)?, 16).ok()))
}

/// The sum of such a column.
fn summed(text: &str, name: &str) -> Option<u64> {
    column(text, name)?.try_fold(0_u64, |sum, value| Some(sum.wrapping_add(value?)))
}

/// The sum of the second column of `/proc/net/softnet_stat`, which names none: packets dropped since the queue of a CPU was full
/// (net/core/net-procfs.c, `softnet_seq_show`).
fn softnet_dropped(text: &str) -> Option<u64> {
    text.lines()
        .map(|line| u64::from_str_radix(line.split_ascii_whitespace().nth(1)?, 16).ok())
        .try_fold(0_u64, |sum, value| Some(sum.wrapping_add(value?)))
}

/// `eth0 00000000 0100A8C0 0003 ...`: device, destination, next hop, and flags that are not needed: zeros are none. The numbers
/// are as in the kernel's memory.
fn next_hop(line: &str) -> Option<Ipv6Addr> {
    let next_hop = u32::from_str_radix(line.split_ascii_whitespace().nth(2)?, 16).ok()?;
    (next_hop != 0).then(|| Ipv4Addr::from(next_hop.to_ne_bytes()).to_ipv6_mapped())
}

/// Destination, source and next hop, the first two each with the length of its prefix: 32 digits each. Zeros are none.
fn next_hop_of_six(line: &str) -> Option<Ipv6Addr> {
    let next_hop = u128::from_str_radix(line.split_ascii_whitespace().nth(4)?, 16).ok()?;
    (next_hop != 0).then(|| next_hop.into())
}

/// `  eth0: 1 2 3 4 5 ...`: name, and what was received: bytes, packets, errors, dropped, for lack of room; three more, and the
/// same of what was sent (net/core/net-procfs.c, `dev_seq_printf_stats`).
fn device(line: &str) -> Option<DeviceDrops> {
    let (name, counters) = line.rsplit_once(':')?;
    let counters: Vec<u64> = counters.split_ascii_whitespace().flat_map(str::parse).collect();
    let dropped = |from: usize| Some(counters.get(from)?.wrapping_add(*counters.get(from + 1)?));
    let mut device = DeviceDrops { name: [0; 16], drops: [dropped(3)?, dropped(11)?] };
    device.name.iter_mut().zip(name.trim_start().bytes()).for_each(|(to, byte)| *to = byte);
    Some(device)
}

/// The listening socket with the most connections that wait to be accepted, as port and number; zeros if none waits.
pub(super) fn longest_queue(net: &Path) -> (u16, u32) {
    let mut longest = (0, 0);
    for table in ["tcp", "tcp6"] {
        // Listening sockets come first, so the rest of a long table is not missed.
        let mut text = Vec::new();
        let read = File::open(net.join(table)).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
        if read.is_err() {
            continue;
        }
        let text = String::from_utf8_lossy(&text);
        for socket in text.lines().filter_map(ListeningSocket::parse) {
            if socket.waiting > longest.1 {
                longest = (socket.port, socket.waiting);
            }
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text =
            "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 7 12\nIpExt: ListenOverflows\nIpExt: 99\n";
        assert_eq!(named(text, "TcpExt:", "ListenOverflows"), Some(12));
        assert_eq!(named(text, "IpExt:", "ListenOverflows"), Some(99));
        assert_eq!((named(text, "TcpExt:", "Other"), named(text, "Udp:", "ListenOverflows")), (None, None));
        assert_eq!(named("TcpExt: A B\nTcpExt: 1\n", "TcpExt:", "B"), None);
        assert_eq!(keyed("Udp6InErrors \t 3\nUdp6RcvbufErrors \t 4\n", "Udp6RcvbufErrors"), Some(4));
    }

    #[test]
    fn next_hops_are_those_of_routes_that_have_one() {
        let addresses =
            |all: &[&str]| -> Vec<Ipv6Addr> { all.iter().map(|one| one.parse().unwrap()).collect() };
        let four = "Iface\tDestination\tGateway \tFlags\neth0\t00000000\t0100A8C0\t0003\neth0\t0000A8C0\t00000000\t0001\n";
        let found: Vec<_> = four.lines().filter_map(next_hop).collect();
        assert_eq!(found, addresses(&["::ffff:192.168.0.1"]));
        let none = "00000000000000000000000000000000";
        let six = |next_hop: &str| next_hop_of_six(&format!("{none} 00 {none} 00 {next_hop} 00000400 eth0"));
        assert_eq!(six("fe800000000000000000000000000001").as_slice(), addresses(&["fe80::1"]));
        assert_eq!((six(none), six("x"), next_hop_of_six("")), (None, None, None));
    }

    #[test]
    fn what_devices_dropped_is_read() {
        let line = " eth0:12: 1 2 3 40 5 6 7 8 9 10 11 120 13 14 15 16";
        let name = *b"eth0:12\0\0\0\0\0\0\0\0\0";
        assert_eq!(device(line), Some(DeviceDrops { name, drops: [45, 133] }));
        for other in ["", " face |bytes packets|bytes", "lo: 1 2 3 4 5 6 7 8 9 10 11 12", "lo: x"] {
            assert_eq!(device(other), None, "{other}");
        }
    }

    #[test]
    fn a_table_of_cpus_is_summed_by_its_names() {
        // The names of Linux 6.18, with an older one's `searched` before them.
        let text = "entries searched drop\n00000010 00000000 0000000a\n00000010 00000000 00000001\n";
        assert_eq!(summed(text, "drop"), Some(11));
        assert_eq!(column(text, "entries").unwrap().next().flatten(), Some(16));
        assert_eq!(summed(text, "insert_failed"), None);
        assert_eq!(summed("drop\nnonsense\n", "drop"), None);
        assert_eq!(softnet_dropped("0000f0 00000002 0\n0000f1 00000003 0\n"), Some(5));
    }
}
