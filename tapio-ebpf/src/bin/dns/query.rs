//! Questions that this host's processes send, and who answers questions itself.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tapio_common::{
    Comm,
    dns::{self, Asked, Client, Question, Resolver, Translated, kind, program},
};
use tapio_ebpf::{Current, Run, is_absent, load, now_ns, since};

use crate::{
    AGENT, OFFSETS, SEED,
    answer::{PATHS, SEEN, UNREADABLE, seen},
    constant, is_observed,
    packet::{self, Found, Packet, TCP, UDP},
    work::{Verdict, Work, work},
};

/// Maximum number of questions that wait for their answers; the least recently used one is evicted.
const MAX_OPEN: u32 = 4_096;
/// Maximum number of look-ups that are not answered.
const MAX_LOOKUPS: u32 = 4_096;
/// Maximum number of processes that are known to answer questions.
const MAX_SERVERS: u32 = 1_024;

/// Questions that wait for their answers.
#[map]
pub(crate) static OPEN: LruHashMap<Asked, Open> = LruHashMap::with_max_entries(MAX_OPEN, 0);

/// The same questions by what their answers have in common with them if addresses are translated: some networks give an
/// answer to a container without a device on the way that has the container's address.
#[map]
pub(crate) static TRANSLATED: LruHashMap<Translated, Asked> = LruHashMap::with_max_entries(MAX_OPEN, 0);

/// Look-ups that are not answered: a client may repeat a question from another port with another id.
#[map]
pub(crate) static LOOKUPS: LruHashMap<LookupKey, Lookup> = LruHashMap::with_max_entries(MAX_LOOKUPS, 0);

/// Processes that answer questions: resolvers and forwarders. The value is unused.
#[map]
static SERVERS: LruHashMap<ServerKey, u64> = LruHashMap::with_max_entries(MAX_SERVERS, 0);

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Open {
    pub(crate) client: Client,
    pub(crate) resolver: Resolver,
    /// When the first query with this id was sent.
    pub(crate) sent_ns: u64,
    /// Hash of the name.
    pub(crate) name: u64,
    /// Hash of its first label.
    pub(crate) stem: u64,
    /// Number of queries with this id.
    pub(crate) queries: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LookupKey {
    pub(crate) cgroup_id: u64,
    /// Hash of the name.
    pub(crate) name: u64,
    pub(crate) pid: u32,
    /// Type of the records.
    pub(crate) kind: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Lookup {
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    /// Number of queries, not counting those that were sent at about the same time as another one.
    pub(crate) queries: u32,
    /// Id of the last query.
    id: u16,
    /// 1 if an event reported that the question was asked again, so that the agent waits for the outcome.
    pub(crate) is_told: u16,
}

impl Lookup {
    const fn first(now: u64, id: u16) -> Self {
        Self { first_ns: now, last_ns: now, queries: 1, id, is_told: 0 }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ServerKey {
    cgroup_id: u64,
    pid: u64,
}

/// A question that is asked again after this time was not answered. Before, another thread may have asked it. The fastest
/// resolvers of C libraries repeat after half a second (musl, with `timeout:1 attempts:2`).
const AGAIN_NS: u64 = 500_000_000;
/// Nobody waits for an answer that long: a question that is asked again after it is a new look-up.
const FORGOTTEN_NS: u64 = 60_000_000_000;

// include/net/tcp_states.h: sockets in these states are no full sockets.
const TIME_WAIT: u8 = 6;
const NEW_SYN_RECV: u8 = 12;

/// A packet that is sent.
pub(crate) fn sent(skb: *const u8) {
    // SAFETY: a typed pointer and an offset of its fields.
    let sk: *const u8 = unsafe { load(skb, &OFFSETS[dns::SKB_SK]) };
    if sk.is_null() {
        return;
    }
    // SAFETY: as above; all kinds of sockets have these fields.
    let (remote, local): (u16, u16) =
        unsafe { (load(sk, &OFFSETS[dns::DPORT]), load(sk, &OFFSETS[dns::SPORT])) };
    // A socket that is not connected can send to any port.
    if remote == 0 || is_observed(remote) || is_observed(local.to_be()) {
        candidate(skb, sk, remote);
    }
}

/// A packet of a socket that may send DNS messages. In a function of its own, so that other packets pay for no registers.
#[inline(never)]
fn candidate(skb: *const u8, sk: *const u8, remote: u16) {
    // SAFETY: typed pointers and offsets of their fields.
    let state: u8 = unsafe { load(sk, &OFFSETS[dns::STATE]) };
    if state == TIME_WAIT || state == NEW_SYN_RECV {
        return;
    }
    // SAFETY: as above.
    let protocol: u16 = unsafe { load(sk, &OFFSETS[dns::PROTOCOL]) };
    if protocol != u16::from(UDP) && (remote == 0 || protocol != u16::from(TCP)) {
        return;
    }
    // Most datagrams of a socket that is not connected go elsewhere.
    if remote == 0
        && let Some((source, destination)) = packet::ports(skb)
        && !is_observed(source)
        && !is_observed(destination)
    {
        return;
    }
    let Some(packet) = Packet::sent(skb) else { return };
    message(&packet, sk);
}

/// A packet that may hold a DNS message.
#[inline(never)]
fn message(packet: &Packet, sk: *const u8) {
    let Some(work) = work() else { return };
    if !packet.headers(work) || packet.message(work) != Found::Message {
        return;
    }
    let Work { headers, question, .. } = work;
    let is_question = is_observed(headers.destination_port);
    if question.is_answer == is_question || !(is_question || is_observed(headers.source_port)) {
        return;
    }
    let Some(client) = client(sk) else { return };
    let (address, port) = if is_question {
        (headers.destination, headers.destination_port)
    } else {
        (headers.source, headers.source_port)
    };
    let netns = if is_loopback(&address) { netns(sk) } else { 0 };
    work.open = Open {
        client,
        resolver: Resolver { address, netns, port, transport: headers.protocol },
        sent_ns: now_ns(),
        name: question.name,
        stem: question.stem,
        queries: 1,
    };
    work.local = asked(&headers.source, netns, headers.source_port, question.id);
    if is_question {
        ask(work);
    } else {
        serve(work);
    }
}

/// The key of a question by its local side.
#[inline(always)]
pub(crate) fn asked(address: &[u32; 4], netns: u32, port: u16, id: u16) -> Asked {
    Asked { address: *address, netns: if is_loopback(address) { netns } else { 0 }, port, id }
}

/// Whether it is a loopback address, of which each network namespace has its own.
#[inline(always)]
pub(crate) fn is_loopback(address: &[u32; 4]) -> bool {
    let [a, b, c, d] = *address;
    if a | b != 0 {
        return false;
    }
    // ::ffff:127.0.0.0/104 and ::1, network order.
    (c == 0xffff_u32.to_be() && d as u8 == 127) || (c == 0 && d == 1_u32.to_be())
}

#[inline(always)]
fn netns(sk: *const u8) -> u32 {
    // SAFETY: typed pointers and offsets of their fields.
    unsafe {
        let net: *const u8 = load(sk, &OFFSETS[dns::NET]);
        load(net, &OFFSETS[dns::NET_INUM])
    }
}

/// Who sends from a socket: the current task if it is in the socket's cgroup. `None` for the agent.
#[inline(always)]
fn client(sk: *const u8) -> Option<Client> {
    let current = Current::get(&constant(&AGENT), &OFFSETS[dns::LEADER], &OFFSETS[dns::COMM]);
    if current.is_agent {
        return None;
    }
    let cgroup_id = match cgroup(sk) {
        0 => current.cgroup_id,
        id => id,
    };
    if cgroup_id != current.cgroup_id {
        return Some(Client { cgroup_id, pid: 0, serves: 0, comm: Comm::default() });
    }
    let key = ServerKey { cgroup_id, pid: u64::from(current.pid) };
    let serves = u32::from(SERVERS.get_ptr(&key).is_some());
    Some(Client { cgroup_id, pid: current.pid, serves, comm: current.comm })
}

/// Id of the cgroup in which the socket was created; 0 before kernel 5.15 and its backports.
#[inline(always)]
fn cgroup(sk: *const u8) -> u64 {
    if is_absent(&OFFSETS[dns::CGROUP]) {
        return 0;
    }
    // SAFETY: typed pointers and offsets of their fields. Fields behind a null pointer read as zero.
    unsafe {
        let cgroup: *const u8 = load(sk, &OFFSETS[dns::CGROUP]);
        let node: *const u8 = load(cgroup, &OFFSETS[dns::CGROUP_KN]);
        load(node, &OFFSETS[dns::KN_ID])
    }
}

/// A question is sent.
#[inline(never)]
fn ask(work: &mut Work) {
    let Some(run) = Run::begin(program::NET_DEV_QUEUE) else { return };
    let (now, id) = (work.open.sent_ns, work.local.id);
    if let Some(open) = OPEN.get_ptr_mut(&work.local) {
        // SAFETY: a map value.
        let open = unsafe { &mut *open };
        if open.name == work.question.name {
            open.queries += 1;
        } else {
            *open = work.open;
        }
    } else {
        // If the map is full, the least recently used entry is evicted.
        let _ = OPEN.insert(&work.local, &work.open, 0);
    }
    let path = path(&work.local.address, &work.open.resolver.address);
    // SAFETY: a map value.
    let path = PATHS.get_ptr(&path).map_or(0, |path| unsafe { *path });
    if path != SEEN {
        let _ = TRANSLATED.insert(&translated(&work.open.resolver.address, &work.question), &work.local, 0);
    }
    let key = lookup_key(&work.open.client, &work.question);
    let Some(lookup) = LOOKUPS.get_ptr_mut(&key) else {
        let _ = LOOKUPS.insert(&key, &Lookup::first(now, id), 0);
        return run.normal();
    };
    // SAFETY: a map value.
    let lookup = unsafe { &mut *lookup };
    let ago_ns = since(now, lookup.last_ns);
    if ago_ns >= FORGOTTEN_NS {
        *lookup = Lookup::first(now, id);
        return run.normal();
    }
    let is_same = lookup.id == id;
    (lookup.last_ns, lookup.id) = (now, id);
    if ago_ns < AGAIN_NS || work.open.client.serves != 0 {
        return run.normal();
    }
    // Where answers may be missed, a missing one means nothing: in a TCP segment only the first message is read. A client
    // that repeats an id has no answer; with another id it may be a look-up of its own, unless answers are seen here.
    let seen = seen();
    let may_miss = work.open.resolver.transport == u16::from(TCP) || path == UNREADABLE || seen == UNREADABLE;
    if may_miss || !(is_same || seen == SEEN) {
        *lookup = Lookup::first(now, id);
        return run.normal();
    }
    lookup.queries += 1;
    work.verdict = Verdict {
        kind: kind::ASKED_AGAIN,
        is_awaited: u32::from(lookup.is_told),
        value_us: since(now, lookup.first_ns) / 1_000,
        queries: lookup.queries,
        ..Verdict::none(now)
    };
    if work.report(run) != 0 {
        lookup.is_told = 1;
    }
}

#[inline(always)]
pub(crate) fn translated(resolver: &[u32; 4], question: &Question) -> Translated {
    Translated {
        resolver: *resolver,
        name: question.name,
        id: u32::from(question.id),
        kind: u32::from(question.kind),
    }
}

/// Key of a local address and a resolver.
#[inline(always)]
pub(crate) fn path(local: &[u32; 4], resolver: &[u32; 4]) -> u64 {
    let [a, b]: [u64; 2] = bytemuck::cast(*local);
    let [c, d]: [u64; 2] = bytemuck::cast(*resolver);
    let first = (a ^ b.rotate_left(23) ^ constant(&SEED)).wrapping_mul(0xa076_1d64_78bd_642f);
    (first ^ (first >> 32) ^ c ^ d.rotate_left(23)).wrapping_mul(0xe703_7ed1_a0b4_28db)
}

#[inline(always)]
pub(crate) fn lookup_key(client: &Client, question: &Question) -> LookupKey {
    LookupKey {
        cgroup_id: client.cgroup_id,
        name: question.name,
        pid: client.pid,
        kind: u32::from(question.kind),
    }
}

/// An answer is sent: its sender is a resolver or a forwarder, whose own questions are those of its clients.
#[inline(never)]
fn serve(work: &mut Work) {
    let client = &work.open.client;
    if client.serves != 0 || client.pid == 0 {
        return;
    }
    let key = ServerKey { cgroup_id: client.cgroup_id, pid: u64::from(client.pid) };
    let _ = SERVERS.insert(&key, &1, 0);
    let Some(run) = Run::begin(program::NET_DEV_QUEUE) else { return };
    work.verdict = Verdict { kind: kind::SERVES, is_awaited: 1, ..Verdict::none(work.open.sent_ns) };
    work.report(run);
}
