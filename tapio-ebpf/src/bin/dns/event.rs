//! Events about a question: who asked, which resolver, what.

use tapio_common::{
    CooldownKey, Header,
    dns::{self, Client, DnsEvent, Message, Question, Resolver},
};
use tapio_ebpf::Run;

use crate::{SETTINGS, constant, query::Open};

/// Mask of the names that are told apart.
const FEW: u32 = 7;

/// A question with its message, for an event about it.
pub(crate) struct About<'a> {
    pub(crate) open: &'a Open,
    pub(crate) local: &'a dns::Asked,
    pub(crate) message: &'a Message,
    pub(crate) question: &'a Question,
}

impl About<'_> {
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
