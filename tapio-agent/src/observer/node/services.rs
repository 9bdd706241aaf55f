//! Services of the node: one that ended and has not come back.

use std::collections::BTreeMap;

use tapio_common::{
    Header,
    node::{SERVICES, Sample},
};
use tapio_occurrence::Data;

use super::SERVICE_STOPPED;
use crate::observer::Anomaly;

/// A service that comes back sooner was restarted: systemd starts a kubelet again 10 s after its end, as kubeadm sets it up.
const GONE_NS: u64 = 15_000_000_000;
/// A service that so many scans in a row have not shown is gone.
const GONE_SCANS: u32 = 2;

/// The services that ran when they were last looked at, by their number in a sample.
#[derive(Debug, Default)]
pub(super) struct Services(BTreeMap<u64, Seen>);

#[derive(Debug)]
struct Seen {
    /// When it last ran.
    last_ns: u64,
    /// How many scans have not shown it since.
    missed: u32,
}

impl Services {
    /// Takes note of a service that runs.
    pub(super) fn look(&mut self, sample: &Sample) {
        if sample.service != 0 {
            self.0.insert(sample.service, Seen { last_ns: sample.header.time_ns, missed: 0 });
        }
    }

    /// Returns those that are gone, at the end of a scan that began at this time. Each is returned once, until it runs again.
    pub(super) fn gone(&mut self, scan: &Header) -> Vec<Anomaly> {
        let mut gone = Vec::new();
        self.0.retain(|number, seen| {
            if seen.last_ns >= scan.time_ns {
                return true;
            }
            seen.missed += 1;
            let gone_ns = scan.time_ns - seen.last_ns;
            let is_gone = seen.missed >= GONE_SCANS && gone_ns >= GONE_NS;
            if is_gone {
                gone.extend(stopped(*number, gone_ns, scan));
            }
            !is_gone
        });
        gone
    }
}

fn stopped(number: u64, gone_ns: u64, scan: &Header) -> Option<Anomaly> {
    let unit = usize::try_from(number.checked_sub(1)?).ok().and_then(|at| SERVICES.get(at))?;
    let since_ms = gone_ns / 1_000_000;
    Some(Anomaly {
        data: Data::from([("of", "node".into()), ("unit", (*unit).into()), ("since_ms", since_ms.into())]),
        detail: number as u32,
        ..Anomaly::new(&SERVICE_STOPPED, scan)
    })
}
