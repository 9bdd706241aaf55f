//! Answers that this host receives, and ICMP messages in place of one.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tapio_common::{
    baseline::{Baseline, Verdict},
    dns::{self, DnsEvent, Latency, Resolver, code, kind, program},
};
use tapio_ebpf::{Run, load, now_ns};

use crate::{
    OFFSETS, SETTINGS, constant, is_observed,
    names::{self, Absence},
    packet::{ICMP, ICMPV6, Packet, Read, TCP, UDP},
    query::{LOOKUPS, OPEN, TRANSLATED, asked, is_loopback, lookup_key, path, translated},
    work::Work,
};

/// Maximum number of resolvers with a baseline.
const MAX_RESOLVERS: u32 = 1_024;
/// The lowest latency of so many answers is a reading: a resolver that answers from its cache, and asks others only now
/// and then, has two levels of latency, of which the lower one is its own.
const ANSWERS_PER_READING: u32 = 4;
/// Maximum number of pairs of a local address and a resolver that are known to exchange answers.
const MAX_PATHS: u32 = 16_384;
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

/// 1 once an answer was seen.
#[map]
pub(crate) static ANSWERED: Array<u64> = Array::with_max_entries(1, 0);

/// A packet that was received.
pub(crate) fn received(skb: *const u8) {
    let Some(packet) = Packet::received(skb) else { return };
    match packet.glance() {
        Some((UDP | TCP, source)) if !is_observed(source) => {}
        Some((UDP | TCP | ICMP | ICMPV6, _)) | None => candidate(skb),
        Some(_) => {}
    }
}

/// A packet that may be an answer. In a function of its own, so that other packets pay for no registers.
#[inline(never)]
fn candidate(skb: *const u8) {
    let Some(packet) = Packet::received(skb) else { return };
    let Some((protocol, transport)) = packet.transport() else { return };
    match protocol {
        UDP | TCP => {
            if let Some((source, _)) = packet.ports(transport)
                && is_observed(source)
            {
                message(skb);
            }
        }
        ICMP | ICMPV6 => unreachable(skb),
        _ => {}
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

/// A packet from the port of a resolver.
#[inline(never)]
fn message(skb: *const u8) {
    let Some(packet) = Packet::received(skb) else { return };
    let Some(transport) = packet.transport() else { return };
    let Some(ports) = packet.ports(transport.1) else { return };
    let Some(headers) = packet.headers(transport, ports) else { return };
    match packet.message(&headers) {
        Read::Message(work) if work.question.is_answer => {
            let netns = if is_loopback(&headers.destination) { netns(skb) } else { 0 };
            work.local = asked(&headers.destination, netns, headers.destination_port, work.question.id);
            if OPEN.get_ptr(&work.local).is_some() {
                let _ = PATHS.insert(&path(&headers.destination, &headers.source), &SEEN, BPF_NOEXIST);
                answer(work);
            } else if let Some(local) = TRANSLATED.get_ptr(&translated(&headers.source, &work.question)) {
                // SAFETY: a map value, copied since its place can be used again.
                work.local = unsafe { *local };
                answer(work);
            }
        }
        Read::Unreadable => {
            let _ = PATHS.insert(&path(&headers.destination, &headers.source), &UNREADABLE, 0);
        }
        _ => {}
    }
}

/// An ICMP message, perhaps in place of an answer.
#[inline(never)]
fn unreachable(skb: *const u8) {
    let Some(packet) = Packet::received(skb) else { return };
    let Some(transport) = packet.transport() else { return };
    let Some((reason, headers, id)) = packet.unreachable(transport) else { return };
    if !is_observed(headers.destination_port) {
        return;
    }
    // The message quotes the question.
    let Read::Message(work) = packet.message(&headers) else { return };
    let netns = if is_loopback(&headers.source) { netns(skb) } else { 0 };
    work.local = asked(&headers.source, netns, headers.source_port, id);
    work.question.code = code::UNREACHABLE + reason;
    answer(work);
}

/// An answer, if the question is known.
#[inline(never)]
fn answer(work: &mut Work) {
    let Some(open) = OPEN.get_ptr(&work.local) else { return };
    // SAFETY: a map value, copied since its place can be used again.
    work.open = unsafe { *open };
    if work.open.name != work.question.name {
        return;
    }
    let Some(run) = Run::begin(program::NETIF_RECEIVE_SKB) else { return };
    let _ = OPEN.remove(&work.local);
    if let Some(answered) = ANSWERED.get_ptr_mut(0) {
        // SAFETY: a map value that is only ever set to 1.
        unsafe { *answered = 1 };
    }
    judge(run, work);
}

/// Judges an answer.
#[inline(always)]
fn judge(run: Run, work: &Work) {
    let Work { open, question, .. } = work;
    let now = now_ns();
    let latency_us = now.wrapping_sub(open.sent_ns) / 1_000;
    let key = lookup_key(&open.client, question);
    let (mut total_us, mut queries, mut is_told) = (latency_us, open.queries as u32, false);
    if let Some(lookup) = LOOKUPS.get_ptr_mut(&key) {
        // SAFETY: a map value.
        let lookup = unsafe { &*lookup };
        total_us = now.wrapping_sub(lookup.first_ns) / 1_000;
        queries = lookup.queries;
        is_told = lookup.is_told != 0;
        // The client asks again over TCP.
        if !question.is_truncated {
            let _ = LOOKUPS.remove(&key);
        }
    }
    let shift = if open.queries == 1 && question.code < code::UNREACHABLE {
        learn(&open.resolver, latency_us, now)
    } else {
        None
    };
    let absence = names::answered(open, question, now);
    // The questions of a forwarder are those of its clients, which are judged.
    if open.client.serves != 0 {
        return run.normal();
    }
    let fill = |event: &mut DnsEvent| (event.value_us, event.queries) = (total_us, queries);
    let is_failure = question.code != code::NOERROR && question.code != code::NXDOMAIN;
    if is_told {
        // The agent waits for the outcome.
        let kind = if is_failure { kind::FAILURE } else { kind::SLOW };
        return work.emit_always(run, kind, question.code, now, fill);
    }
    match absence {
        _ if is_failure => {
            work.emit(run, kind::FAILURE, question.code, now, fill);
        }
        Absence::Gone(resolved_ns) => {
            work.emit(run, kind::NAME_GONE, question.code, now, |event| {
                fill(event);
                event.since_ns = resolved_ns;
            });
        }
        Absence::Burst(window) => {
            work.emit(run, kind::NXDOMAIN_BURST, code::NXDOMAIN, now, |event| {
                event.value_us = window.length_ns / 1_000;
                (event.queries, event.answers) = (window.absent, window.answers);
                event.baseline = window.before;
            });
        }
        Absence::Normal if total_us > constant(&SETTINGS.slow_us) => {
            work.emit(run, kind::SLOW, question.code, now, fill);
        }
        Absence::Normal => {
            let Some(Shift { before, since_ns, level_us }) = shift else { return run.normal() };
            work.emit(run, kind::LATENCY_SHIFT, question.code, now, |event| {
                event.value_us = level_us;
                event.since_ns = since_ns;
                event.baseline = before;
            });
        }
    }
}

/// A rise of a resolver's latency.
struct Shift {
    before: Baseline,
    since_ns: u64,
    level_us: u64,
}

/// Adds a latency to the resolver's baseline.
#[inline(never)]
fn learn(resolver: &Resolver, latency_us: u64, now: u64) -> Option<Shift> {
    let latency_us = if latency_us > u64::from(u32::MAX) { u32::MAX } else { latency_us as u32 };
    let Some(latency) = RESOLVERS.get_ptr_mut(resolver) else {
        let first = Latency { lowest_us: latency_us, answers: 1, baseline: Baseline::default() };
        let _ = RESOLVERS.insert(resolver, &first, 0);
        return None;
    };
    // SAFETY: a map value; CPUs that race here can lose a sample.
    let latency = unsafe { &mut *latency };
    if latency.answers == 0 || latency_us < latency.lowest_us {
        latency.lowest_us = latency_us;
    }
    latency.answers += 1;
    if latency.answers < ANSWERS_PER_READING {
        return None;
    }
    latency.answers = 0;
    let limits = constant(&SETTINGS.latency);
    let value = u64::from(latency.lowest_us);
    if latency.baseline.learn_if_normal(value, &limits) {
        return None;
    }
    let before = latency.baseline;
    let verdict = latency.baseline.judge(value, now, &limits);
    let level_us = latency.baseline.mean();
    if verdict != Verdict::Shift || level_us <= before.mean() {
        return None;
    }
    Some(Shift { before, since_ns: latency.baseline.since(), level_us })
}
