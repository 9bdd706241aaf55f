//! Traces of the last seconds: which spans have a parent of another entity, and where a trace passed through.

use std::collections::{HashMap, VecDeque};

use super::{Key, entity::Id, series::Call};

/// How long a trace is waited for.
const KEPT_NS: u64 = 20_000_000_000;
/// Most traces at once, and spans of all of them.
const MAX_TRACES: usize = 65_536;
const MAX_SPANS: usize = 200_000;
/// Spans of a trace that are known.
const MAX_OF_TRACE: usize = 64;
/// Entities of a trace that are known.
const MAX_PASSED: usize = 16;

pub(super) type TraceId = [u8; 16];
pub(super) type SpanId = [u8; 8];

/// A client's call whose other end is not known yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// With the name or address that is called as its peer, if there is one.
    pub(super) key: Key,
    pub(super) call: Call,
}

/// A span that may be a parent.
#[derive(Debug)]
struct Parent {
    span: SpanId,
    of: Id,
    pending: Option<Box<Pending>>,
}

#[derive(Debug, Default)]
struct Trace {
    passed: Vec<Id>,
    parents: Vec<Parent>,
    /// Called entities, by the parent that has not come yet.
    children: Vec<(SpanId, Id)>,
}

/// The traces.
#[derive(Debug, Default)]
pub(super) struct Traces {
    all: HashMap<TraceId, Trace>,
    order: VecDeque<(u64, TraceId)>,
    spans: usize,
    /// Traces that were let go early, since there were too many; spans that were not kept.
    pub(super) evicted: u64,
}

/// What is known of the caller when a called entity says so.
#[derive(Debug, Default)]
pub(super) struct Joined {
    pub(super) caller: Option<Id>,
    /// The caller's call, which waited for this.
    pub(super) pending: Option<Box<Pending>>,
}

impl Traces {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// A span that was called; its parent may be of another entity.
    pub(super) fn server(
        &mut self,
        trace: TraceId,
        span: SpanId,
        parent: SpanId,
        of: Id,
        now_ns: u64,
    ) -> Joined {
        let has_parent = parent != SpanId::default();
        let kept = self.trace(trace, of, now_ns);
        let known = kept.parents.iter_mut().find(|known| has_parent && known.span == parent);
        let is_known = known.is_some();
        let joined = known.map(|known| Joined { caller: Some(known.of), pending: known.pending.take() });
        let before = kept.parents.len() + kept.children.len();
        if before < MAX_OF_TRACE {
            kept.parents.push(Parent { span, of, pending: None });
            if has_parent && !is_known {
                kept.children.push((parent, of));
            }
        }
        self.spans += kept.parents.len() + kept.children.len() - before;
        joined.unwrap_or_default()
    }

    /// The entity that a client's span called, if that has come already.
    pub(super) fn client(&mut self, trace: TraceId, span: SpanId, of: Id, now_ns: u64) -> Option<Id> {
        let kept = self.trace(trace, of, now_ns);
        let at = kept.children.iter().position(|(parent, _)| *parent == span);
        let called = at.map(|at| kept.children.swap_remove(at).1);
        self.spans -= usize::from(called.is_some());
        called
    }

    /// Keeps a client's span. Returns its call if there is no room for it.
    pub(super) fn keep(
        &mut self,
        trace: TraceId,
        span: SpanId,
        of: Id,
        pending: Option<Box<Pending>>,
    ) -> Option<Box<Pending>> {
        let Some(kept) = self.all.get_mut(&trace) else { return pending };
        if kept.parents.len() + kept.children.len() >= MAX_OF_TRACE {
            self.evicted += 1;
            return pending;
        }
        kept.parents.push(Parent { span, of, pending });
        self.spans += 1;
        None
    }

    /// The entities that a trace passed through, as far as they are known now.
    pub(super) fn passed(&self, trace: &TraceId) -> &[Id] {
        self.all.get(trace).map(|kept| kept.passed.as_slice()).unwrap_or_default()
    }

    /// All entities that are referred to.
    pub(super) fn used(&self) -> impl Iterator<Item = Id> {
        self.all.values().flat_map(|kept| {
            let pending = kept.parents.iter().filter_map(|parent| parent.pending.as_ref()?.key.peer);
            kept.passed.iter().copied().chain(pending)
        })
    }

    /// Lets go of old traces, and of the oldest ones while there are too many. Returns the calls that waited.
    pub(super) fn expire(&mut self, now_ns: u64) -> Vec<Pending> {
        let mut waited = Vec::new();
        while let Some((at_ns, trace)) = self.order.front().copied() {
            let is_old = at_ns.saturating_add(KEPT_NS) <= now_ns;
            let is_full = self.all.len() > MAX_TRACES || self.spans > MAX_SPANS;
            if !is_old && !is_full {
                break;
            }
            self.evicted += u64::from(!is_old);
            self.order.pop_front();
            let Some(kept) = self.all.remove(&trace) else { continue };
            self.spans -= kept.parents.len() + kept.children.len();
            waited
                .extend(kept.parents.into_iter().filter_map(|parent| parent.pending).map(|pending| *pending));
        }
        waited
    }

    /// Whether some have to be let go now.
    pub(super) fn is_full(&self) -> bool {
        self.all.len() > MAX_TRACES || self.spans > MAX_SPANS
    }

    fn trace(&mut self, trace: TraceId, of: Id, now_ns: u64) -> &mut Trace {
        let Self { all, order, .. } = self;
        let kept = all.entry(trace).or_insert_with(|| {
            order.push_back((now_ns, trace));
            Trace::default()
        });
        if kept.passed.len() < MAX_PASSED && !kept.passed.contains(&of) {
            kept.passed.push(of);
        }
        kept
    }
}
