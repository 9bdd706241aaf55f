//! Reads counters from the files of a network namespace.

use std::{fs::File, io::Read as _, path::Path};

use crate::observer::link::{Namespace, Reason};

/// More than any of these files has, but for the tables of sockets and `nf_conntrack` on hosts with hundreds of CPUs.
const MAX_BYTES: u64 = 64 << 10;
/// State of a listening socket in `/proc/PID/net/tcp`, include/net/tcp_states.h.
const LISTEN: &str = "0A";

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

/// The listening socket with the most connections that wait to be accepted, as port and number; zeros if none waits.
pub(super) fn longest_queue(net: &Path) -> (u32, u32) {
    let mut longest = (0, 0);
    for table in ["tcp", "tcp6"] {
        // Listening sockets come first, so the rest of a long table is not missed.
        let mut text = Vec::new();
        let read = File::open(net.join(table)).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
        if read.is_err() {
            continue;
        }
        let text = String::from_utf8_lossy(&text);
        for (port, waiting) in text.lines().filter_map(queue) {
            if waiting > longest.1 {
                longest = (port, waiting);
            }
        }
    }
    longest
}

/// `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 ...`: number, local and remote address, state, and the queues, of
/// which the second is that of connections to accept.
fn queue(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (_, waiting) = fields.next()?.split_once(':')?;
    Some((u32::from_str_radix(port, 16).ok()?, u32::from_str_radix(waiting, 16).ok()?))
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
    fn a_table_of_cpus_is_summed_by_its_names() {
        // The names of Linux 6.18, with an older one's `searched` before them.
        let text = "entries searched drop\n00000010 00000000 0000000a\n00000010 00000000 00000001\n";
        assert_eq!(summed(text, "drop"), Some(11));
        assert_eq!(column(text, "entries").unwrap().next().flatten(), Some(16));
        assert_eq!(summed(text, "insert_failed"), None);
        assert_eq!(summed("drop\nnonsense\n", "drop"), None);
        assert_eq!(softnet_dropped("0000f0 00000002 0\n0000f1 00000003 0\n"), Some(5));
    }

    #[test]
    fn what_waits_in_a_listening_socket_is_read() {
        let listens = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000";
        assert_eq!(queue(listens), Some((8080, 5)));
        let established = "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000005 00:00000000";
        for other in
            ["  sl  local_address rem_address   st tx_queue rx_queue", established, "", "2: x 0:0 0A 1:1"]
        {
            assert_eq!(queue(other), None, "{other}");
        }
    }
}
