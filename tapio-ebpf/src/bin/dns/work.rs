//! What a run works on: a question, or an answer with its question, and the verdict on it.

use core::ptr::read_volatile;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tapio_common::{
    CooldownKey, Header,
    baseline::Baseline,
    dns::{Asked, Client, DnsEvent, Message, Question, Resolver},
};
use tapio_ebpf::Run;

use crate::{
    SETTINGS, constant,
    packet::{HEADER_WORDS, Headers},
    query::Open,
};

/// In a map, since the stack of a kernel program has no room for it. Both hooks run with softirqs disabled, so that no
/// run interrupts another one on its CPU.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Mask of the names that a cool-down distinguishes.
const FEW: u32 = 7;

#[repr(C)]
pub(crate) struct Work {
    pub(crate) message: Message,
    /// The headers as they are in the packet.
    pub(crate) raw: [u32; HEADER_WORDS],
    pub(crate) headers: Headers,
    pub(crate) question: Question,
    pub(crate) open: Open,
    pub(crate) local: Asked,
    pub(crate) verdict: Verdict,
}

/// What is reported of it.
#[repr(C)]
pub(crate) struct Verdict {
    /// Kind of the event; 0 if nothing is reported.
    pub(crate) kind: u32,
    pub(crate) code: u32,
    /// 1 if the agent waits for it, so that no cool-down suppresses it.
    pub(crate) is_awaited: u32,
    pub(crate) queries: u32,
    pub(crate) answers: u32,
    pub(crate) now_ns: u64,
    pub(crate) value_us: u64,
    pub(crate) since_ns: u64,
    pub(crate) baseline: Baseline,
}

/// The work of this run.
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    // SAFETY: a per-CPU map value, which only this run uses. All zeros are a valid value of each member.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

impl Work {
    /// Ends the run by the verdict. Returns 1 if an event was emitted, else 0. In a function of its own, and by what is in
    /// the map: the verifier walks it once, whatever led to the verdict.
    #[inline(never)]
    pub(crate) fn report(&self, run: Run) -> u32 {
        let Verdict { kind, code, now_ns, .. } = self.verdict;
        // SAFETY: a reference is valid for reads.
        if unsafe { read_volatile(&raw const self.verdict.kind) } == 0 {
            run.normal();
            return 0;
        }
        if self.verdict.is_awaited != 0 {
            return u32::from(run.emit(|event| self.fill(event, 0)));
        }
        let Client { cgroup_id, comm, .. } = self.open.client;
        // A few names are distinguished: one may be answered after all, and another not.
        let key = CooldownKey {
            cgroup_id,
            comm,
            subject: bytemuck::cast(self.open.resolver.address),
            detail: (u32::from(self.open.resolver.port) << 16) | code,
            kind: kind | ((self.question.name as u32 & FEW) << 8),
        };
        let mut emitted = 0;
        run.emit_unless_cooling_down(&key, constant(&SETTINGS.cooldown_ns), now_ns, |event, suppressed| {
            self.fill(event, suppressed);
            emitted = 1;
        });
        emitted
    }

    #[inline(always)]
    fn fill(&self, event: &mut DnsEvent, suppressed: u32) {
        let Client { cgroup_id, pid, comm, .. } = self.open.client;
        let Resolver { address, port, transport, .. } = self.open.resolver;
        let Verdict { kind, code, now_ns, value_us, since_ns, queries, answers, baseline, .. } = self.verdict;
        event.header = Header { time_ns: now_ns, cgroup_id, pid, suppressed, comm };
        (event.kind, event.code) = (kind, code);
        (event.value_us, event.since_ns) = (value_us, since_ns);
        (event.queries, event.answers) = (queries, answers);
        event.baseline = baseline;
        (event.resolver, event.resolver_port, event.transport) = (address, port, transport);
        (event.local, event.local_port) = (self.local.address, self.local.port);
        event.question = self.question.kind;
        event.name_hash = self.question.name;
        event.name_len = u64::from(self.question.name_len);
        self.message.copy_name(&mut event.name);
    }
}

impl Verdict {
    /// Nothing is reported.
    #[inline(always)]
    pub(crate) fn none(now_ns: u64) -> Self {
        Self {
            kind: 0,
            code: 0,
            is_awaited: 0,
            queries: 0,
            answers: 0,
            now_ns,
            value_us: 0,
            since_ns: 0,
            baseline: Baseline::default(),
        }
    }
}
