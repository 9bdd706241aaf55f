//! Takes spans: calls, each with its other end, which may come before or after it.

use std::collections::HashMap;

use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use tapio_occurrence::signal::Side;

use super::{
    Behind, Key, MAX_BEHIND, OUTSIDE, Origin, Signals, Taken,
    entity::{Called, Id, Sender, Unfit},
    series::Call,
    spans::{self, Not, SpanCall},
    traces::Pending,
};

impl Signals {
    /// Takes spans.
    pub(in crate::polku) fn spans(&mut self, all: &[ResourceSpans], now_ns: u64, taken: &mut Taken) {
        for part in all {
            let spans = || part.scope_spans.iter().flat_map(|scope| &scope.spans);
            let Some(sender) = self.sender(part.resource.as_ref(), spans().count() as u64, now_ns, taken)
            else {
                continue;
            };
            let mut called = HashMap::new();
            for span in spans() {
                if let Err(reason) = self.span(&sender, span, &mut called, now_ns, taken) {
                    taken.refuse(reason, 1);
                }
            }
        }
    }

    fn span<'a>(
        &mut self,
        sender: &Sender,
        span: &'a Span,
        called: &mut HashMap<Called<'a>, Result<Id, Unfit>>,
        now_ns: u64,
        taken: &mut Taken,
    ) -> Result<(), &'static str> {
        let found = match spans::call(span, now_ns) {
            Ok(found) => found,
            Err(Not::Used) => {
                taken.leave("internal", 1);
                return Ok(());
            }
            Err(Not::Id) => return Err("id"),
            Err(Not::Time) => return Err("time"),
        };
        let SpanCall { side, trace, span, parent, end_ns, duration_us, failed, said } = found;
        let call = Call {
            end_ns,
            duration_us,
            failed,
            count: 1,
            pod: sender.pod.clone(),
            trace: Some((trace, span)),
        };
        let key =
            Key { entity: sender.id, peer: None, side, operation: said.operation, origin: Origin::Spans };
        match side {
            Side::Server => {
                let joined = self.traces.server(trace, span, parent, sender.id, now_ns);
                if let Some(caller) = joined.caller.filter(|caller| *caller != sender.id) {
                    self.edge(caller, sender.id, said.operation, end_ns);
                    if let Some(pending) = joined.pending {
                        self.meet(*pending, sender.id, now_ns);
                    }
                } else if let Some(pending) = joined.pending {
                    self.alone(*pending, now_ns);
                }
                self.add(key, &call, now_ns)?;
            }
            Side::Client => {
                let host = said.called.map(|name| {
                    let namespace = sender.namespace.as_deref();
                    *called.entry(name).or_insert_with(|| self.entities.called(name, namespace, now_ns))
                });
                let peer = host.transpose().map_err(Unfit::reason)?;
                let key = Key { peer, ..key };
                let pending = Pending { key, call };
                match self.traces.client(trace, span, sender.id, now_ns) {
                    Some(other) if other != sender.id => {
                        self.edge(sender.id, other, said.operation, end_ns);
                        self.meet(pending, other, now_ns);
                        self.traces.keep(trace, span, sender.id, None);
                    }
                    _ => match peer
                        .and_then(|peer| self.behind.get(&(sender.id, peer)))
                        .and_then(|behind| behind.who)
                    {
                        Some(who) => {
                            self.edge(sender.id, who, said.operation, end_ns);
                            self.add(Key { peer: Some(who), ..key }, &pending.call, now_ns)?;
                            self.traces.keep(trace, span, sender.id, None);
                        }
                        None => {
                            let left = self.traces.keep(trace, span, sender.id, Some(Box::new(pending)));
                            if let Some(pending) = left {
                                self.alone(*pending, now_ns);
                            }
                        }
                    },
                }
            }
        }
        if self.traces.is_full() {
            self.expire_traces(now_ns);
        }
        Ok(())
    }

    /// The other end of a call is known.
    fn meet(&mut self, pending: Pending, who: Id, now_ns: u64) {
        let Pending { key, call } = pending;
        if let Some(peer) = key.peer {
            let place = (key.entity, peer);
            if self.behind.len() < MAX_BEHIND || self.behind.contains_key(&place) {
                self.behind.insert(place, Behind { who: Some(who), alone: 0, last_ns: now_ns });
            } else {
                self.evicted += 1;
            }
        }
        if self.add(Key { peer: Some(who), ..key }, &call, now_ns).is_err() {
            self.evicted += 1;
        }
    }

    /// Nobody says that he was called: it is somebody outside, or who sends no spans.
    fn alone(&mut self, pending: Pending, now_ns: u64) {
        let Pending { key, call } = pending;
        if let Some(peer) = key.peer {
            let place = (key.entity, peer);
            if self.behind.len() < MAX_BEHIND || self.behind.contains_key(&place) {
                let known =
                    self.behind.entry(place).or_insert(Behind { who: None, alone: 0, last_ns: now_ns });
                known.last_ns = now_ns;
                known.alone += 1;
                if known.alone >= OUTSIDE {
                    known.who = known.who.or(Some(peer));
                }
            }
            self.edge(key.entity, peer, key.operation, call.end_ns);
        }
        if self.add(key, &call, now_ns).is_err() {
            self.evicted += 1;
        }
    }

    pub(super) fn expire_traces(&mut self, now_ns: u64) {
        for pending in self.traces.expire(now_ns) {
            self.alone(pending, now_ns);
        }
    }
}
