//! Ports that were already listening when the agent started. They show which side opened a connection that is older than
//! the agent.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use aya::maps::{HashMap, MapData};
use tapio_common::network::{Listener, Port};

/// Name of the map. It is filled in every object that has one.
pub(super) const MAP: &str = "LISTENERS";
/// `BPF_NOEXIST`: an entry that a program wrote is newer.
const NO_EXIST: u64 = 1;
/// State of a listening socket in `/proc/PID/net/tcp`, include/net/tcp_states.h.
const TCP_LISTEN: &str = "0A";

/// The map, with a [`Port`] and a [`Listener`] as bytes.
type Listeners = HashMap<MapData, [u8; size_of::<Port>()], [u8; size_of::<Listener>()]>;

/// The listening ports of a host.
#[derive(Debug, Default)]
pub struct Listening {
    /// Each port, and the number of sockets that listen on it.
    pub ports: Vec<(Port, u64)>,
    /// Network namespaces whose ports were read, by inode number.
    pub namespaces: Vec<u32>,
    /// Processes whose network namespace cannot be read, each with the error.
    pub hidden: Vec<(String, io::Error)>,
}

impl Listening {
    /// Says which namespaces are unknown and what is lost. `None` if all are known.
    #[must_use]
    pub fn unknown(&self) -> Option<String> {
        let (first, error) = self.hidden.first()?;
        let others = match self.hidden.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Some(format!(
            "the network namespace of {first}{others} cannot be read ({error}): connections there that are older than the \
             agent have no direction until their server accepts another one"
        ))
    }
}

/// Reads the listening ports of every network namespace that a process under `proc_root` is in.
///
/// # Errors
/// `proc_root` shows no processes.
pub fn listening(proc_root: &Path) -> Result<Listening, String> {
    let entries = fs::read_dir(proc_root)
        .map_err(|error| format!("{} cannot be read: {error}", proc_root.display()))?;
    let mut namespaces = HashSet::new();
    let mut found = Listening::default();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        let process = entry.path();
        let netns = match fs::metadata(process.join("ns/net")) {
            // The kernel numbers namespaces with 32 bits.
            Ok(namespace) => namespace.ino() as u32,
            Err(error) => {
                // The namespace of a kernel thread, or of a process that exits meanwhile, cannot be read: not an error.
                if fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
                    let comm = fs::read(process.join("comm")).unwrap_or_default();
                    let comm = String::from_utf8_lossy(&comm);
                    found.hidden.push((format!("process {pid} ({})", comm.trim_end()), error));
                }
                continue;
            }
        };
        if namespaces.insert(netns)
            && let Some(ports) = ports(&process)
        {
            found.namespaces.push(netns);
            let in_namespace = |(port, sockets)| (Port { netns, port: u32::from(port) }, sockets);
            found.ports.extend(ports.into_iter().map(in_namespace));
        }
    }
    if found.namespaces.is_empty() && found.hidden.is_empty() {
        return Err(format!("{} shows no processes", proc_root.display()));
    }
    Ok(found)
}

/// Fills an object's map with the listening ports, and with the namespaces whose ports are complete. If a port is
/// unknown, connections to it that are older than the agent have no direction until their server accepts another one.
pub(super) fn fill(map: &mut Listeners, proc_root: &Path) {
    let found = match listening(proc_root) {
        Ok(found) => found,
        Err(why) => return tracing::warn!("ports that listen already are not known: {why}"),
    };
    if let Some(unknown) = found.unknown() {
        tracing::debug!("{unknown}");
    }
    let all = found.namespaces.iter().map(|&netns| (Port { netns, port: Port::ALL }, 0));
    for (port, sockets) in found.ports.iter().copied().chain(all) {
        let listener = Listener { sockets, ..Listener::default() };
        let port: [u8; size_of::<Port>()] = bytemuck::cast(port);
        let listener: [u8; size_of::<Listener>()] = bytemuck::cast(listener);
        // It fails if a newer entry exists, or if the map is full: then some ports stay unknown.
        let _ = map.insert(port, listener, NO_EXIST);
    }
}

/// A listening socket of `/proc/PID/net/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListeningSocket {
    /// Its port.
    pub(crate) port: u16,
    /// How many connections wait to be accepted.
    pub(crate) waiting: u32,
}

impl ListeningSocket {
    /// `   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 ...`: number, local and remote address with port, state, and the
    /// queues, of which the second is that of connections to accept.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        if fields.nth(1)? != TCP_LISTEN {
            return None;
        }
        let (_, waiting) = fields.next()?.split_once(':')?;
        Some(Self {
            port: u16::from_str_radix(port, 16).ok()?,
            waiting: u32::from_str_radix(waiting, 16).ok()?,
        })
    }
}

/// Listening ports in the network namespace of a process, with the number of sockets; `None` if they cannot be read.
fn ports(process: &Path) -> Option<BTreeMap<u16, u64>> {
    // A listener on [::] also accepts IPv4, but only the second table lists it. Without IPv6 there is no second table.
    let mut tables = fs::read_to_string(process.join("net/tcp")).ok()?;
    tables.push_str(&fs::read_to_string(process.join("net/tcp6")).unwrap_or_default());
    let mut ports = BTreeMap::new();
    for socket in tables.lines().filter_map(ListeningSocket::parse) {
        *ports.entry(socket.port).or_insert(0) += 1;
    }
    Some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_distinguished_from_others() {
        let ip4 =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 1 1";
        let ip6 =
            "   1: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:0";
        let of = |port, waiting| Some(ListeningSocket { port, waiting });
        assert_eq!((ListeningSocket::parse(ip4), ListeningSocket::parse(ip6)), (of(8080, 5), of(22, 0)));
        let established =
            "   2: 0100007F:1F90 0100007F:D431 01 00000000:00000005 00:00000000 00000000     0 0 2";
        for other in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue",
            established,
            "3: x 0:0 0A 1:1",
            "4: 0:ZZ 0:0 0A 1:1",
            "5: 0:16 0:0 0A 1",
        ] {
            assert_eq!(ListeningSocket::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_hidden_is_named_with_its_reason() {
        let hidden = |name: &str| (name.to_owned(), io::Error::from_raw_os_error(13));
        let one = Listening { hidden: vec![hidden("process 1 (init)")], ..Listening::default() };
        let said = one.unknown().unwrap();
        let expected =
            "the network namespace of process 1 (init) cannot be read (Permission denied (os error 13)): ";
        assert!(said.starts_with(expected), "{said}");
        let two = Listening { hidden: vec![hidden("process 7 (a)"), hidden("process 8 (b)")], ..one };
        assert!(
            two.unknown().unwrap().starts_with("the network namespace of process 7 (a) and 1 more cannot")
        );
        assert_eq!(Listening::default().unknown(), None);
    }
}
