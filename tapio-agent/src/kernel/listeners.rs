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

/// The listening ports of a host.
#[derive(Debug, Default)]
pub struct Listening {
    /// Each port, and how many sockets listen on it.
    pub ports: Vec<(Port, u64)>,
    /// Network namespaces that were looked into.
    pub namespaces: usize,
    /// Processes whose network namespace cannot be told.
    pub hidden: usize,
}

impl Listening {
    /// What is not known, and what that takes away.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        (self.hidden > 0).then(|| {
            format!(
                "the network namespace of {} cannot be read (it takes CAP_SYS_PTRACE): a connection to a listening \
                 port there that is older than the agent may be taken for an outbound one",
                if self.hidden == 1 { "1 process".to_owned() } else { format!("{} processes", self.hidden) }
            )
        })
    }
}

/// Reads the listening ports of every network namespace that a process under `proc_root` is in.
///
/// # Errors
/// There are no processes to be read there.
pub fn listening(proc_root: &Path) -> Result<Listening, String> {
    let processes = procfs::process::all_processes_with_root(proc_root)
        .map_err(|error| format!("{} cannot be read: {error}", proc_root.display()))?;
    let mut namespaces = HashSet::new();
    let mut found = Listening::default();
    for process in processes.flatten() {
        let Some(netns) = namespace(&process) else {
            // Kernel threads have none that can be read; processes that end meanwhile neither.
            found.hidden += usize::from(process.cmdline().is_ok_and(|line| !line.is_empty()));
            continue;
        };
        if namespaces.insert(netns) {
            found.ports.extend(ports(&process, netns));
        }
    }
    found.namespaces = namespaces.len();
    if found.namespaces == 0 && found.hidden == 0 {
        return Err(format!("{} shows no processes", proc_root.display()));
    }
    Ok(found)
}

/// Tells an object's map of the listening ports; says which are missing, if any are.
pub(super) fn fill(map: &mut Listeners, proc_root: &Path) -> Result<(), String> {
    let found = listening(proc_root)?;
    for (port, sockets) in &found.ports {
        let listener = Listener { sockets: *sockets, ..Listener::default() };
        let port: [u8; size_of::<Port>()] = bytemuck::cast(*port);
        let listener: [u8; size_of::<Listener>()] = bytemuck::cast(listener);
        // One that is there is newer; where there is no room, some are not known.
        let _ = map.insert(port, listener, NO_EXIST);
    }
    found.problem().map_or(Ok(()), Err)
}

fn namespace(process: &Process) -> Option<u32> {
    let namespaces = process.namespaces().ok()?;
    u32::try_from(namespaces.0.get(std::ffi::OsStr::new("net"))?.identifier).ok()
}

fn ports(process: &Process, netns: u32) -> impl Iterator<Item = (Port, u64)> {
    // Two tables: a listener on [::] takes IPv4 too, but stands in the second only.
    let entries = [process.tcp(), process.tcp6()].into_iter().flatten().flatten();
    let mut ports = BTreeMap::new();
    for entry in entries.filter(|entry| entry.state == TcpState::Listen) {
        *ports.entry(entry.local_address.port()).or_insert(0) += 1;
    }
    ports.into_iter().map(move |(port, sockets)| (Port { netns, port: u32::from(port) }, sockets))
}
