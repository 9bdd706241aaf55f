//! Faults that the container observer reports, for the self-test.

use anyhow::bail;
use rustix::process::Signal;

use crate::fault::{Act, Fault, Group, act::wait_after};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "out of memory",
        kinds: &["container.oom_kill"],
        part: "mark_victim",
        cause: |stage| Box::pin(stage.death("allocate", None)),
    },
    Fault {
        name: "crash",
        kinds: &["container.crash"],
        part: "sched_process_exit",
        cause: |stage| Box::pin(stage.death("abort", None)),
    },
    Fault {
        name: "kill from outside",
        kinds: &["container.killed"],
        part: "sched_process_exit",
        cause: |stage| Box::pin(stage.death("wait", Some(Signal::KILL))),
    },
];

pub(super) const ACTS: &[Act] = &[
    Act {
        name: "allocate",
        run: |_| {
            wait_after("ready")?;
            std::hint::black_box(vec![1_u8; 4 * Group::LIMIT_BYTES]);
            bail!("there was enough memory")
        },
    },
    Act {
        name: "abort",
        run: |_| {
            wait_after("ready")?;
            std::process::abort()
        },
    },
    Act { name: "wait", run: |_| Ok(wait_after("ready")?) },
];
