//! Faults that the container observer reports, for the self-test.

use anyhow::bail;
use rustix::process::Signal;

use crate::fault::{Cgroup, Fault, Role, role::send_and_wait};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "out of memory",
        kinds: &["container.oom_kill"],
        part: "mark_victim",
        cause: |environment| Box::pin(environment.death("allocate", None)),
    },
    Fault {
        name: "crash",
        kinds: &["container.crash"],
        part: "sched_process_exit",
        cause: |environment| Box::pin(environment.death("abort", None)),
    },
    Fault {
        name: "kill from outside",
        kinds: &["container.killed"],
        part: "sched_process_exit",
        cause: |environment| Box::pin(environment.death("wait", Some(Signal::KILL))),
    },
];

pub(super) const ROLES: &[Role] = &[
    Role {
        name: "allocate",
        run: |_| {
            send_and_wait("ready")?;
            std::hint::black_box(vec![1_u8; 4 * Cgroup::LIMIT_BYTES]);
            bail!("there was enough memory")
        },
    },
    Role {
        name: "abort",
        run: |_| {
            send_and_wait("ready")?;
            std::process::abort()
        },
    },
    Role { name: "wait", run: |_| Ok(send_and_wait("ready")?) },
];
