//! Ports that listened before the agent came: without them an inbound connection looks like an outbound one.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use aya::maps::{HashMap, MapData};
use procfs::{net::TcpState, process::Process};
use tapio_common::network::{Listener, Port};

/// Name of the map; an object that has one gets it filled.
pub(super) const MAP: &str = "LISTENERS";
/// `BPF_NOEXIST`: what a program wrote is newer.
const NO_EXIST: u64 = 1;
/// Bit of `CapEff`, include/uapi/linux/capability.h.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// Bytes of a [`Port`] and a [`Listener`], as the map holds them.
type Listeners = HashMap<MapData, [u8; size_of::<Port>()], [u8; size_of::<Listener>()]>;

/// The listening ports of a host.
#[derive(Debug, Default)]
pub struct Listening {
    /// Each port, and how many sockets listen on it.
    pub ports: Vec<(Port, u64)>,
    /// Network namespaces that were looked into.
    pub namespaces: usize,
    /// Processes whose network namespace cannot be told, and why.
    pub hidden: Vec<(String, io::Error)>,
    /// This process has the right that it takes as a rule, CAP_SYS_PTRACE.
    pub may_trace: bool,
}

impl Listening {
    /// What is not known, and what that takes away.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let (first, error) = self.hidden.first()?;
        let others = match self.hidden.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let right = if self.may_trace { "" } else { ", as this takes CAP_SYS_PTRACE" };
        Some(format!(
            "the network namespace of {first}{others} cannot be read ({error}{right}): a connection to a listening port \
             there that is older than the agent may be taken for an outbound one"
        ))
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
    let mut found = Listening { may_trace: may_trace(), ..Listening::default() };
    for process in processes.flatten() {
        let netns = match fs::metadata(proc_root.join(process.pid.to_string()).join("ns/net")) {
            // The kernel numbers namespaces with 32 bits.
            Ok(namespace) => namespace.ino() as u32,
            Err(error) => {
                // Kernel threads have none that can be read; processes that end meanwhile neither.
                if process.cmdline().is_ok_and(|line| !line.is_empty()) {
                    let comm = process.stat().map(|stat| stat.comm).unwrap_or_default();
                    found.hidden.push((format!("process {} ({comm})", process.pid), error));
                }
                continue;
            }
        };
        if namespaces.insert(netns) {
            found.ports.extend(ports(&process, netns));
        }
    }
    found.namespaces = namespaces.len();
    if found.namespaces == 0 && found.hidden.is_empty() {
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

fn may_trace() -> bool {
    let status = Process::myself().and_then(|process| process.status());
    status.is_ok_and(|status| status.capeff & CAP_SYS_PTRACE != 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_named_with_its_reason() {
        let hidden = |name: &str| (name.to_owned(), io::Error::from_raw_os_error(13));
        let one =
            Listening { hidden: vec![hidden("process 1 (init)")], may_trace: true, ..Listening::default() };
        let said = one.problem().unwrap();
        let expected =
            "the network namespace of process 1 (init) cannot be read (Permission denied (os error 13)): ";
        assert!(said.starts_with(expected), "{said}");
        let two = Listening { hidden: vec![hidden("process 7 (a)"), hidden("process 8 (b)")], ..one };
        let said = Listening { may_trace: false, ..two }.problem().unwrap();
        let expected = "the network namespace of process 7 (a) and 1 more cannot be read (Permission denied (os error 13), \
                        as this takes CAP_SYS_PTRACE): ";
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(Listening::default().problem(), None);
    }
}
