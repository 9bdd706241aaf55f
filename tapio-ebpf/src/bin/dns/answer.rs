//! Answers that this host receives, and ICMP messages in place of one.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tapio_common::{
    baseline::{self, TICK_SHIFT},
    dns::{self, Latency, Resolver, code, kind, program},
};
use tapio_ebpf::{Run, load, now_ns, since};

use crate::{
    OFFSETS, SETTINGS, constant, is_observed, names,
    packet::{Found, ICMP, ICMPV6, Packet, TCP, UDP},
    query::{LOOKUPS, OPEN, TRANSLATED, asked, is_loopback, lookup_key, path, translated},
    work::{Verdict, Work, work},
};

/// Maximum number of resolvers with a baseline.
const MAX_RESOLVERS: u32 = 1_024;
/// The lowest latency of so many answers is a reading: a resolver that answers from its cache, and asks others only now
/// and then, has two levels of latency, of which the lower one is its own.
const ANSWERS_PER_READING: u32 = 4;
/// Maximum number of pairs of a local address and a resolver that are known to exchange answers.
const MAX_PATHS: u32 = 4_096;
/// `BPF_NOEXIST`, include/uapi/linux/bpf.h: what is there stays.
const BPF_NOEXIST: u64 = 1;

/// Latencies by resolver.
#[map]
static RESOLVERS: LruHashMap<Resolver, Latency> = LruHashMap::with_max_entries(MAX_RESOLVERS, 0);

/// Pairs of a local address and a resolver, by [`path`], between which answers were seen: [`SEEN`] or [`UNREADABLE`].
#[map]
pub(crate) static PATHS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(MAX_PATHS, 0);
/// Answers on the path are seen.
pub(crate) const SEEN: u64 = 1;
/// Some answers on the path could not be read, so that a missing one means nothing.
pub(crate) const UNREADABLE: u64 = 2;

/// [`SEEN`] once an answer was seen, [`UNREADABLE`] once there was a packet that is only read behind the hook.
#[map]
static ANSWERS: Array<u64> = Array::with_max_entries(1, 0);

/// Whether answers are seen on this node; 0 as long as there was none.
#[inline(always)]
pub(crate) fn seen() -> u64 {
    // SAFETY: a map value.
    ANSWERS.get_ptr(0).map_or(0, |answers| unsafe { *answers })
}

/// Sets whether answers are seen. Once some are not, none is missing for certain.
#[inline(always)]
fn set_seen(seen: u64) {
    if let Some(answers) = ANSWERS.get_ptr_mut(0) {
        // SAFETY: a map value.
        let answers = unsafe { &mut *answers };
        if *answers != UNREADABLE {
            *answers = seen;
        }
    }
}

/// A packet that was received.
pub(crate) fn received(skb: *const u8) {
    let Some(packet) = Packet::received(skb) else {
        if Packet::is_tagged(skb) {
            set_seen(UNREADABLE);
        }
        return;
    };
    match packet.glance() {
        Some((UDP | TCP, source, _)) if !is_observed(source) => {}
        Some((UDP | TCP | ICMP | ICMPV6, ..)) | None => {
            if is_message(&packet, skb) {
                answer();
            }
        }
        Some(_) => {}
    }
}

/// Whether a packet holds an answer, or an ICMP message in place of one, and whose. In a function of its own, so that
/// other packets pay for no registers.
#[inline(never)]
fn is_message(packet: &Packet, skb: *const u8) -> bool {
    let Some(work) = work() else { return false };
    if !packet.headers(work) {
        return false;
    }
    let is_unreachable = work.headers.unreachable != 0;
    let (local, remote) = if is_unreachable { work.headers.swapped() } else { work.headers.ends() };
    if !is_observed(remote.1) {
        return false;
    }
    match packet.message(work) {
        Found::Message => {}
        Found::Unreadable if !is_unreachable => {
            let _ = PATHS.insert(&path(&local.0, &remote.0), &UNREADABLE, 0);
            return false;
        }
        _ => return false,
    }
    // An ICMP message quotes the question.
    if work.question.is_answer == is_unreachable {
        return false;
    }
    if is_unreachable {
        work.question.code = code::UNREACHABLE + u32::from(work.headers.unreachable) - 1;
    }
    let netns = if is_loopback(&local.0) { netns(skb) } else { 0 };
    work.local = asked(&local.0, netns, local.1, work.question.id);
    if OPEN.get_ptr(&work.local).is_some() {
        let _ = PATHS.insert(&path(&local.0, &remote.0), &SEEN, BPF_NOEXIST);
    } else if let Some(local) = TRANSLATED.get_ptr(&translated(&remote.0, &work.question)) {
        // SAFETY: a map value, copied since its place can be used again.
        work.local = unsafe { *local };
    }
    true
}

/// An answer, if the question is known. One function after the other: within each other their stacks are too large for the
/// oldest kernels.
#[inline(never)]
fn answer() {
    let Some(work) = work() else { return };
    if is_known(work) {
        learn(work);
        conclude(work);
    }
}

/// Inode number of the network namespace of the receiving device.
#[inline(always)]
fn netns(skb: *const u8) -> u32 {
    // SAFETY: typed pointers and offsets of their fields.
    unsafe {
        let device: *const u8 = load(skb, &OFFSETS[dns::SKB_DEV]);
        let net: *const u8 = load(device, &OFFSETS[dns::DEV_NET]);
        load(net, &OFFSETS[dns::NET_INUM])
    }
}

/// Takes the question that this answers out of those that are open. Returns false if it is not known.
#[inline(never)]
fn is_known(work: &mut Work) -> bool {
    let Some(open) = OPEN.get_ptr(&work.local) else { return false };
    // SAFETY: a map value, copied since its place can be used again.
    work.open = unsafe { *open };
    if work.open.name != work.question.name {
        return false;
    }
    let _ = OPEN.remove(&work.local);
    set_seen(SEEN);
    work.verdict = Verdict { code: work.question.code, ..Verdict::none(now_ns()) };
    true
}

/// Judges a look-up, and reports it.
#[inline(never)]
fn conclude(work: &mut Work) {
    let Some(run) = Run::begin(program::NETIF_RECEIVE_SKB) else { return };
    judge(work);
    work.report(run);
}

/// Judges an answer.
#[inline(always)]
fn judge(work: &mut Work) {
    let now = work.verdict.now_ns;
    let latency_us = since(now, work.open.sent_ns) / 1_000;
    let key = lookup_key(&work.open.client, &work.question);
    let (mut total_us, mut queries, mut is_told) = (latency_us, work.open.queries as u32, false);
    if let Some(lookup) = LOOKUPS.get_ptr_mut(&key) {
        // SAFETY: a map value.
        let lookup = unsafe { &*lookup };
        total_us = since(now, lookup.first_ns) / 1_000;
        queries = lookup.queries;
        is_told = lookup.is_told != 0;
        let _ = LOOKUPS.remove(&key);
    }
    let is_failure = work.question.code != code::NOERROR && work.question.code != code::NXDOMAIN;
    let kind = match () {
        () if is_failure => kind::FAILURE,
        // A question that was asked again is reported by its outcome, and the agent waits for it.
        () if is_told || total_us > constant(&SETTINGS.slow_us) => kind::SLOW,
        () => 0,
    };
    if kind != 0 {
        work.verdict = Verdict {
            kind,
            code: work.question.code,
            is_awaited: u32::from(is_told),
            value_us: total_us,
            queries,
            ..Verdict::none(now)
        };
    }
    names::remember(work, total_us, queries);
    names::count(work);
    // The questions of a forwarder are those of its clients, which are judged.
    if work.open.client.serves != 0 {
        work.verdict.kind = 0;
    }
}

/// Adds a latency to the resolver's baseline, and reports a rise of its level.
#[inline(never)]
fn learn(work: &mut Work) {
    if work.open.queries != 1 || work.question.code >= code::UNREACHABLE {
        return;
    }
    let latency_us = since(work.verdict.now_ns, work.open.sent_ns) / 1_000;
    let latency_us = if latency_us > u64::from(u32::MAX) { u32::MAX } else { latency_us as u32 };
    let Some(latency) = RESOLVERS.get_ptr_mut(&work.open.resolver) else {
        let first = Latency { lowest_us: latency_us, answers: 1, ..Latency::default() };
        let _ = RESOLVERS.insert(&work.open.resolver, &first, 0);
        return;
    };
    // SAFETY: a map value; CPUs that race here can lose a sample.
    let latency = unsafe { &mut *latency };
    // Questions that wait at the same time wait for the same thing: they are one reading.
    if work.open.sent_ns < latency.read_ns {
        return;
    }
    if latency.answers == 0 || latency_us < latency.lowest_us {
        latency.lowest_us = latency_us;
    }
    latency.answers += 1;
    if latency.answers < ANSWERS_PER_READING {
        return;
    }
    let now = work.verdict.now_ns;
    (latency.answers, latency.read_ns) = (0, now);
    let limits = constant(&SETTINGS.latency);
    let value = u64::from(latency.lowest_us);
    if latency.baseline.learn_if_normal(value, &limits) {
        return;
    }
    work.verdict.baseline = latency.baseline;
    let verdict = latency.baseline.judge(value, now >> TICK_SHIFT, &limits);
    let level_us = latency.baseline.mean();
    if verdict == baseline::Verdict::Shift && level_us > work.verdict.baseline.mean() {
        work.verdict.kind = kind::LATENCY_SHIFT;
        work.verdict.code = 0;
        work.verdict.value_us = level_us;
        work.verdict.since_ns = latency.baseline.since(now >> TICK_SHIFT) << TICK_SHIFT;
    }
}
