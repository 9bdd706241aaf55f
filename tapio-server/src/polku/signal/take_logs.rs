//! Takes log records: how many there are, and how many of them are errors.

use opentelemetry_proto::tonic::{
    logs::v1::{LogRecord, ResourceLogs, SeverityNumber},
    resource::v1::Resource,
};

use super::{
    MAX_SERIES, Signals, Taken,
    series::Call,
    spans,
    traces::{SpanId, TraceId},
};

impl Signals {
    /// Takes log records.
    pub(in crate::polku) fn logs<'a>(
        &mut self,
        resource: Option<&Resource>,
        all: impl Iterator<Item = &'a LogRecord> + Clone,
        now_ns: u64,
        taken: &mut Taken,
    ) {
        let Some(sender) = self.sender(resource, all.clone().count() as u64, now_ns, taken) else { return };
        for record in all {
            let at_ns = match record.time_unix_nano {
                0 => record.observed_time_unix_nano,
                at_ns => at_ns,
            };
            if !spans::is_now(at_ns, now_ns) {
                taken.refuse("time", 1);
                continue;
            }
            let trace = TraceId::try_from(&*record.trace_id).ok().filter(|id| *id != TraceId::default());
            let trace = trace.map(|trace| (trace, SpanId::try_from(&*record.span_id).unwrap_or_default()));
            let failed = record.severity_number >= SeverityNumber::Error as i32;
            let pod = sender.pod.clone();
            let call = Call { end_ns: at_ns, duration_us: 0, failed, count: 1, pod, trace };
            let is_full = self.series.len() + self.records.len() >= MAX_SERIES;
            match self.records.get_mut(&sender.id) {
                Some(records) => records.add(&call, now_ns),
                None if is_full => taken.refuse("series", 1),
                None => self.records.entry(sender.id).or_default().add(&call, now_ns),
            }
        }
    }
}

/// The records of a part of a request.
pub(in crate::polku) fn records(part: &ResourceLogs) -> impl Iterator<Item = &LogRecord> + Clone {
    part.scope_logs.iter().flat_map(|scope| &scope.log_records)
}
