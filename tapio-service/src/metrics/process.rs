//! The resources that this process uses.

use std::{fs, time::Duration};

use crate::clock;

/// The resources of the whole process, all threads included.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// CPU time.
    pub cpu: Duration,
    /// Resident memory; `None` if it cannot be read.
    pub resident_bytes: Option<u64>,
}

/// The resources used so far.
#[must_use]
pub fn usage() -> Usage {
    let statm = fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|statm| statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    let resident_bytes = pages.map(|pages| pages * rustix::param::page_size() as u64);
    Usage { cpu: clock::process_cpu(), resident_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_show() {
        let before = usage();
        let taken = vec![1_u8; 64 << 20];
        let sum: u64 = std::hint::black_box(&taken).iter().map(|byte| u64::from(*byte)).sum();
        assert_eq!(sum, 64 << 20);
        let after = usage();
        assert!(after.cpu > before.cpu, "{before:?}, {after:?}");
        assert!(after.resident_bytes.unwrap() > 64 << 20, "{after:?}");
    }
}
