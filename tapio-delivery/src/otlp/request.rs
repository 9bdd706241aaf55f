//! Packs a batch into one request, with one ResourceLogs per workload.

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::InstrumentationScope,
    logs::v1::{ResourceLogs, ScopeLogs},
};
use prost::Message as _;
use tapio_occurrence::{Occurrence, SOURCE};

use super::{record::record, resource::ResourceContext};

/// The most bytes of a request before compression. Collectors refuse more than 4 MiB.
pub const REQUEST_BYTES: usize = 1 << 20;

/// Builds a request of at most this many bytes (more only if the first occurrence alone has more), and
/// returns how many of the first occurrences it contains. Returns no request if the first occurrence exceeds
/// [`REQUEST_BYTES`].
pub(super) fn pack(
    occurrences: &[Arc<Occurrence>],
    resource_context: &ResourceContext,
    event_name: bool,
    most_bytes: usize,
) -> (ExportLogsServiceRequest, usize) {
    let mut groups: Vec<(&Occurrence, ResourceLogs)> = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    for occurrence in occurrences {
        let record = record(occurrence, event_name);
        bytes += framed(record.encoded_len());
        let group = match groups.iter().rposition(|(of, _)| is_of_one(of, occurrence)) {
            Some(group) => group,
            None => {
                let resource = resource_context.resource(occurrence);
                let (name, version) = (SOURCE.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
                let scope = InstrumentationScope { name, version, ..InstrumentationScope::default() };
                let scope_logs = vec![ScopeLogs { scope: Some(scope), ..ScopeLogs::default() }];
                let group = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
                bytes += framed(group.encoded_len());
                groups.push((occurrence, group));
                groups.len() - 1
            }
        };
        if bytes > if count == 0 { REQUEST_BYTES } else { most_bytes } {
            break;
        }
        if let Some((_, ResourceLogs { scope_logs, .. })) = groups.get_mut(group)
            && let [ScopeLogs { log_records, .. }] = scope_logs.as_mut_slice()
        {
            log_records.push(record);
        }
        count += 1;
    }
    let has_records = |logs: &ResourceLogs| logs.scope_logs.iter().any(|scope| !scope.log_records.is_empty());
    let resource_logs = groups.into_iter().map(|(_, logs)| logs).filter(has_records).collect();
    (ExportLogsServiceRequest { resource_logs }, count)
}

/// Whether two occurrences share a Resource. Cluster and node may have been renamed while occurrences waited.
fn is_of_one(one: &Occurrence, other: &Occurrence) -> bool {
    one.workload == other.workload && one.cluster == other.cluster && one.node == other.node
}

/// The encoded size including tag and length.
const fn framed(bytes: usize) -> usize {
    bytes + 8
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, *};
    use tapio_occurrence::{Workload, samples::occurrence as sample};

    fn of(pod: Option<&str>, message_bytes: usize) -> Arc<Occurrence> {
        let workload = pod.map(|pod| Arc::new(Workload { pod: Some(pod.to_owned()), ..Workload::default() }));
        Arc::new(Occurrence { workload, message: "x".repeat(message_bytes), ..sample() })
    }

    fn packed(occurrences: &[Arc<Occurrence>]) -> (ExportLogsServiceRequest, usize) {
        packed_into(occurrences, REQUEST_BYTES)
    }

    fn packed_into(occurrences: &[Arc<Occurrence>], most_bytes: usize) -> (ExportLogsServiceRequest, usize) {
        pack(occurrences, &ResourceContext::new(&Settings::default(), false), false, most_bytes)
    }

    #[test]
    fn one_resource_for_each_workload_in_any_order() {
        let (request, count) =
            packed(&[of(Some("a"), 1), of(None, 1), of(Some("b"), 1), of(Some("a"), 1), of(None, 1)]);
        let records: Vec<_> =
            request.resource_logs.iter().map(|logs| logs.scope_logs[0].log_records.len()).collect();
        assert_eq!((count, records.as_slice()), (5, &[2, 2, 1][..]));
        let scope = request.resource_logs[0].scope_logs[0].scope.as_ref().unwrap();
        assert_eq!((scope.name.as_str(), scope.version.as_str()), ("tapio", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn never_more_bytes_than_a_request_may_have() {
        let third = REQUEST_BYTES / 3;
        let (request, count) = packed(&[of(Some("a"), third), of(Some("a"), third), of(Some("b"), third)]);
        assert_eq!((count, request.resource_logs.len()), (2, 1), "and no Resource without records");
        assert!(request.encoded_len() <= REQUEST_BYTES);
        let (request, count) = packed(&[of(None, REQUEST_BYTES), of(None, 1)]);
        assert_eq!((count, request.resource_logs.len()), (0, 0));
    }

    #[test]
    fn fewer_bytes_where_the_receiver_takes_no_more_but_always_one() {
        let small = [of(None, 1), of(None, 1), of(None, 1), of(None, 1)];
        let (request, count) = packed(&small[..2]);
        assert_eq!(count, 2);
        let two = request.encoded_len();
        let (request, count) = packed_into(&small, two + 32);
        assert_eq!(count, 2);
        assert!(request.encoded_len() <= two + 32);
        let (_, count) = packed_into(&[of(None, 5000), of(None, 1)], 1000);
        assert_eq!(count, 1);
    }
}
