//! Ports that listened before the agent came: without them an inbound connection looks like an outbound one.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use aya::maps::{HashMap, MapData};
use procfs::{net::TcpState, process::Process};
use tapio_common::network::{Listener, Port};

/// Name of the map; an object that has one gets it filled.
pub(super) const MAP: &str = "LISTENERS";
/// `BPF_NOEXIST`: what a program wrote is newer.
const NO_EXIST: u64 = 1;

/// Bytes of a [`Port`] and a [`Listener`], as the map holds them.
type Listeners = HashMap<MapData, [u8; size_of::<Port>()], [u8; size_of::<Listener>()]>;

/// Reads the listening ports of every network namespace that a process under `proc_root` is in.
/// Returns how many there were, and why namespaces are missing, if they are.
pub(super) fn fill(map: &mut Listeners, proc_root: &Path) -> Result<usize, String> {
    let processes = procfs::process::all_processes_with_root(proc_root)
        .map_err(|error| format!("{} cannot be read: {error}", proc_root.display()))?;
    let mut namespaces = HashSet::new();
    let (mut ports, mut hidden) = (0, 0);
    for process in processes.flatten() {
        let Some(netns) = namespace(&process) else {
            // Kernel threads have none that can be read; processes that end meanwhile neither.
            hidden += usize::from(process.cmdline().is_ok_and(|line| !line.is_empty()));
            continue;
        };
        if namespaces.insert(netns) {
            ports += fill_from(map, &process, netns);
        }
    }
    if hidden > 0 {
        return Err(format!(
            "the network namespaces of {hidden} processes cannot be read (CAP_SYS_PTRACE shows them): \
             a connection to one of their older listening ports may be taken for an outbound one"
        ));
    }
    Ok(ports)
}

fn namespace(process: &Process) -> Option<u32> {
    let namespaces = process.namespaces().ok()?;
    u32::try_from(namespaces.0.get(std::ffi::OsStr::new("net"))?.identifier).ok()
}

fn fill_from(map: &mut Listeners, process: &Process, netns: u32) -> usize {
    // Two tables: a listener on [::] takes IPv4 too, but stands in the second only.
    let entries = [process.tcp(), process.tcp6()].into_iter().flatten().flatten();
    let mut ports = BTreeMap::new();
    for entry in entries.filter(|entry| entry.state == TcpState::Listen) {
        *ports.entry(entry.local_address.port()).or_insert(0) += 1;
    }
    ports
        .into_iter()
        .filter(|(port, sockets)| {
            let port = Port { netns, port: u32::from(*port) };
            let listener = Listener { sockets: *sockets, ..Listener::default() };
            let port: [u8; size_of::<Port>()] = bytemuck::cast(port);
            let listener: [u8; size_of::<Listener>()] = bytemuck::cast(listener);
            map.insert(port, listener, NO_EXIST).is_ok()
        })
        .count()
}
