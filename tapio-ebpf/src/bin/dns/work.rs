//! What a run works on: a question, or an answer with its question, and the events about it.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use tapio_common::{
    CooldownKey, Header,
    dns::{Asked, Client, DnsEvent, Message, Question, Resolver},
};
use tapio_ebpf::Run;

use crate::{SETTINGS, constant, query::Open};

/// In a map, since the stack of a kernel program has no room for it. Both hooks run with softirqs disabled, so that no
/// run interrupts another one on its CPU.
#[map]
static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Mask of the names that a cool-down tells apart.
const FEW: u32 = 7;

#[repr(C)]
pub(crate) struct Work {
    pub(crate) message: Message,
    pub(crate) question: Question,
    pub(crate) open: Open,
    pub(crate) local: Asked,
}

/// The work of this run.
#[inline(always)]
pub(crate) fn work() -> Option<&'static mut Work> {
    // SAFETY: a per-CPU map value, which only this run uses. All zeros are a valid value of each member.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

impl Work {
    /// Emits an event of this kind, unless the cool-down of the client, the resolver and the kind suppresses it. Returns
    /// whether it was emitted. Of names, a few are told apart: one may be answered after all, and another not.
    #[inline(always)]
    pub(crate) fn emit(
        &self,
        run: Run,
        kind: u32,
        code: u32,
        now: u64,
        fill: impl FnOnce(&mut DnsEvent),
    ) -> bool {
        let Client { cgroup_id, comm, .. } = self.open.client;
        let key = CooldownKey {
            cgroup_id,
            comm,
            subject: bytemuck::cast(self.open.resolver.address),
            detail: (u32::from(self.open.resolver.port) << 16) | code,
            kind: kind | ((self.question.name as u32 & FEW) << 8),
        };
        let mut emitted = false;
        run.emit_unless_cooling_down(
            &key,
            constant(&SETTINGS.cooldown_ns),
            now,
            |event: &mut DnsEvent, suppressed| {
                self.fill(event, kind, code, now);
                event.header.suppressed = suppressed;
                fill(event);
                emitted = true;
            },
        );
        emitted
    }

    /// Emits an event of this kind in any case.
    #[inline(always)]
    pub(crate) fn emit_always(
        &self,
        run: Run,
        kind: u32,
        code: u32,
        now: u64,
        fill: impl FnOnce(&mut DnsEvent),
    ) {
        run.emit(|event: &mut DnsEvent| {
            self.fill(event, kind, code, now);
            fill(event);
        });
    }

    #[inline(always)]
    fn fill(&self, event: &mut DnsEvent, kind: u32, code: u32, now: u64) {
        let Client { cgroup_id, pid, comm, .. } = self.open.client;
        let Resolver { address, port, transport, .. } = self.open.resolver;
        event.header = Header { time_ns: now, cgroup_id, pid, suppressed: 0, comm };
        (event.kind, event.code) = (kind, code);
        (event.resolver, event.resolver_port, event.transport) = (address, port, transport);
        (event.local, event.local_port) = (self.local.address, self.local.port);
        event.question = self.question.kind;
        event.name_hash = self.question.name;
        event.name_len = u64::from(self.question.name_len);
        self.message.copy_name(&mut event.name);
    }
}
