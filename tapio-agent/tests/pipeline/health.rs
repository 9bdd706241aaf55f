//! The health observer: from slices to the lines that leave the node.

use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::health::{Failed, Health, Resource, Settings, UNKNOWN};
use tapio_common::{
    Header,
    health::{CALLS, error},
};
use tapio_service::setting::Count;

use super::{SECOND, conforms, line::Line};

/// Learns in two slices.
fn line() -> Line {
    let mut line = Line::with::<Health>(&Settings { min_samples: Count::of(2), ..Settings::default() });
    (0..2).for_each(|at| line.record(bytemuck::bytes_of(&failed(&line, at, 0, 0, 0))));
    line
}

fn failed(line: &Line, at: u64, number: u32, errno: u32, count: u64) -> Failed {
    let (time_ns, cgroup_id) = ((1_000 + at) * SECOND, line.cgroup_id);
    let comm = (*b"checkout\0\0\0\0\0\0\0\0").into();
    let header = Header { time_ns, cgroup_id, pid: 4242, suppressed: 0, comm };
    Failed { header, number, errno, count, slice_ns: SECOND / 10, limit: UNKNOWN, used: UNKNOWN }
}

/// What two slices lead to in which this failed.
async fn reported(line: &mut Line, failed_: &Failed) -> Vec<Value> {
    for at in 0..2 {
        let mut failed_ = *failed_;
        failed_.header.time_ns += at * SECOND;
        line.record(bytemuck::bytes_of(&failed_));
        line.record(bytemuck::bytes_of(&Failed { count: 0, ..failed_ }));
    }
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    reported
}

/// Number of a system call that asks for this when it fails so.
fn call(resource: Resource, errno: u32) -> u32 {
    let number = (0..CALLS as u32).find(|number| Resource::of(*number, errno) == Some(resource));
    number.unwrap_or_else(|| panic!("no call asks for {resource:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_may_open_no_more_files() {
    let mut line = line();
    let number = call(Resource::OpenFiles, error::EMFILE);
    let files = Failed { limit: 1024, used: 1024, ..failed(&line, 10, number, error::EMFILE, 7) };
    let [exhausted] = reported(&mut line, &files).await.try_into().unwrap();
    let message = exhausted["message"].as_str().unwrap();
    let (who, what) = message.split_once(": ").unwrap();
    assert_eq!(who, "9b2c8089b3b0 (checkout)");
    assert!(what.contains("fails with EMFILE, 14 times seen in 1.1 s"), "{message}");
    assert!(what.ends_with("(ulimit -n) (1024 of 1024 used)"), "{message}");
    assert_eq!(exhausted["data"]["used_files"], 1024);
    assert_eq!(
        (&exhausted["baseline"]["mean"], &exhausted["baseline"]["unit"]),
        (&json!(0), &json!("failures"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_resource_conforms_with_and_without_its_limit() {
    let errors = [
        error::EAGAIN,
        error::ENOMEM,
        error::ENFILE,
        error::EMFILE,
        error::ENOSPC,
        error::EROFS,
        error::EDQUOT,
    ];
    for resource in Resource::ALL {
        let is_so = |errno: &&u32| (0..CALLS as u32).any(|nr| Resource::of(nr, **errno) == Some(resource));
        let errno = *errors.iter().find(is_so).unwrap();
        for limit in [UNKNOWN, 128] {
            let mut line = line();
            let failed = Failed { limit, ..failed(&line, 10, call(resource, errno), errno, 7) };
            let [exhausted] = reported(&mut line, &failed).await.try_into().unwrap();
            assert_eq!(exhausted["data"]["resource"], resource.name());
        }
    }
}

proptest! {
    /// Whatever is in a record: what comes of it conforms.
    #[test]
    fn any_record(record in prop::collection::vec(any::<u8>(), size_of::<Failed>()), number in 0..CALLS as u32, slice_ns in 1..SECOND) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut line = line();
            let mut failed: Failed = bytemuck::pod_read_unaligned(&record);
            failed.header.time_ns %= 1 << 50;
            (failed.header.cgroup_id, failed.header.pid) = (line.cgroup_id, 0);
            (failed.number, failed.errno, failed.slice_ns) = (number, error::ENOSPC, slice_ns);
            failed.count = (failed.count >> 1).max(1);
            let is_known = Resource::of(number, error::ENOSPC).is_some();
            assert_eq!(reported(&mut line, &failed).await.len(), usize::from(is_known));
        });
    }
}
