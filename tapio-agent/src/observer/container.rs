//! Container: who died, and of what.
//!
//! Watches `signal_generate`, `mark_victim` and `sched_process_exit`. Says `container.oom_kill`,
//! `container.exit_error`, `container.crash` and `container.killed`. The kernel programs find out who sent what and
//! let through deaths that are news; here they get their type.

mod message;
mod settings;
mod signal;

pub use settings::Settings;
use tapio_common::container::{self as fields, ContainerEvent, UNKNOWN, flag, kind, origin};

use super::{Actor, Anomaly, Attach, Hook, Malformed, Observer, Only, with};
use crate::occurrence::{Data, Outcome, Severity, Value};

/// How long a death by the kernel's hand waits for the word that it was for want of memory. That comes from the processor
/// that killed, right after; a virtual one may stand still in between.
const WORD_NS: u64 = 1_000_000_000;
/// Deaths that wait for it; more are told at once.
const MAX_WAITING: usize = 1024;

/// The container observer.
#[derive(Debug)]
pub struct Container {
    settings: Settings,
    waiting: Vec<Waiting>,
}

/// A process that the kernel killed, as it is to be told if it was for no want of memory.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    started_ns: u64,
    anomaly: Anomaly,
}

/// What the fields of every hook here rest upon.
const TASK: [usize; 19] = [
    fields::PID,
    fields::TGID,
    fields::COMM,
    fields::LEADER,
    fields::SIGNAL,
    fields::STARTED,
    fields::PARENT,
    fields::NSPROXY,
    fields::CGROUPS,
    fields::SIGNAL_FLAGS,
    fields::SESSION_LEADER,
    fields::PID_NS,
    fields::REAPER,
    fields::NS_LEVEL,
    fields::CGROUP,
    fields::CGROUP_ROOT,
    fields::CGROUP_LEVEL,
    fields::CGROUP_KN,
    fields::KN_ID,
];

impl Observer for Container {
    const NAME: &'static str = "container";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    const BY_HELPER: &'static [usize] = fields::BY_HELPER;
    // In the order of `tapio_common::container::program`.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "signal_generate",
            attach: Attach::BtfTracepoint("signal_generate"),
            needs: &with::<_, 2, 21>(TASK, [fields::MM, fields::OOM_SCORE_ADJ]),
            gives: "container.oom_kill, who sent a signal, and the address of a fault",
        },
        Hook {
            program: "mark_victim",
            attach: Attach::BtfTracepoint("mark_victim"),
            needs: &[],
            gives: "container.oom_kill",
        },
        Hook {
            program: "sched_process_exit",
            attach: Attach::BtfTracepoint("sched_process_exit"),
            needs: &with::<_, 3, 22>(TASK, [fields::LIVE, fields::EXIT_CODE, fields::GROUP_EXIT_CODE]),
            gives: "container.exit_error, container.crash, container.killed",
        },
    ];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone(), waiting: Vec::new() }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        Vec::new()
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let event: ContainerEvent =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let anomaly = judge(&event, &self.settings)?;
        let (pid, started_ns) = (event.header.pid, event.started_ns);
        if event.kind == kind::OOM_KILL {
            self.waiting.retain(|waits| (waits.pid, waits.started_ns) != (pid, started_ns));
        }
        let by_kernel = event.kind == kind::SIGNALLED
            && event.signal == signal::SIGKILL
            && event.origin == origin::KERNEL;
        if by_kernel && self.waiting.len() < MAX_WAITING {
            self.waiting.push(Waiting { pid, started_ns, anomaly });
        } else {
            out.push(anomaly);
        }
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Anomaly>) {
        let over = |waits: &mut Waiting| now_ns.saturating_sub(waits.anomaly.time_ns) >= WORD_NS;
        out.extend(self.waiting.extract_if(.., over).map(|waits| waits.anomaly));
    }
}

/// How it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    OomKill,
    ExitError,
    Crash,
    Killed,
    /// It was asked to end before, and did not.
    Stopped,
}

impl Death {
    fn of(event: &ContainerEvent) -> Result<Self, Malformed> {
        Ok(match event.kind {
            kind::OOM_KILL => Self::OomKill,
            kind::EXIT_ERROR => Self::ExitError,
            kind::SIGNALLED if is_crash(event) => Self::Crash,
            kind::SIGNALLED if event.signal == signal::SIGKILL && event.asked_signal != 0 => Self::Stopped,
            kind::SIGNALLED => Self::Killed,
            other => return Err(Malformed::Kind(other)),
        })
    }
}

/// A signal of its own making, or one of which that is not known; then it is not said, either.
fn is_crash(event: &ContainerEvent) -> bool {
    signal::is_fault(event.signal) && matches!(event.origin, origin::ITSELF | origin::UNKNOWN)
}

/// An event as an anomaly.
fn judge(event: &ContainerEvent, settings: &Settings) -> Result<Anomaly, Malformed> {
    let death = Death::of(event)?;
    let header = &event.header;
    let (kind, severity, outcome, message): (_, _, _, message::Message) = match death {
        Death::OomKill => ("container.oom_kill", Severity::Error, Outcome::Failure, message::oom_kill),
        Death::ExitError => ("container.exit_error", Severity::Error, Outcome::Failure, message::exit_error),
        Death::Crash => ("container.crash", Severity::Error, Outcome::Failure, message::crash),
        Death::Killed => ("container.killed", Severity::Error, Outcome::Failure, message::killed),
        Death::Stopped => ("container.killed", Severity::Warning, Outcome::Timeout, message::stopped),
    };
    let has_actor = event.actor.pid != 0 && (event.origin == origin::PROCESS || death == Death::OomKill);
    Ok(Anomaly {
        kind,
        severity,
        outcome,
        time_ns: header.time_ns,
        cgroup_id: header.cgroup_id,
        pid: header.pid,
        comm: header.comm.into(),
        actor: has_actor.then(|| {
            let fields::Actor { cgroup_id, pid, comm, .. } = event.actor;
            Box::new(Actor { cgroup_id, pid, comm: comm.into() })
        }),
        full: (death == Death::OomKill).then_some(event.full.cgroup_id).and_then(known).filter(|id| *id != 0),
        only: Only {
            scope: settings.scope,
            from_outside: matches!(death, Death::Killed | Death::Stopped),
            usual_window_ns: (death == Death::ExitError).then(|| settings.usual_window.as_ns()),
        },
        antagonist: None,
        peer: None,
        detail: if death == Death::ExitError { event.status } else { event.signal },
        data: data(event, death),
        baseline: None,
        magnitude: known(event.memory.anon_bytes).unwrap_or_default(),
        count: 1 + u64::from(header.held_back),
        message,
    })
}

fn data(event: &ContainerEvent, death: Death) -> Data {
    let mut data = Vec::with_capacity(12);
    let mut put = |key, value: Value| data.push((key, value));
    match death {
        Death::OomKill => {
            let (full, memory) = (&event.full, &event.memory);
            if let Some(cgroup_id) = known(full.cgroup_id) {
                put("constraint", if cgroup_id == 0 { "node" } else { "cgroup" }.into());
            }
            for (key, value) in [
                ("usage_bytes", full.usage_bytes),
                ("limit_bytes", full.limit_bytes),
                ("levels_up", full.levels_up),
                ("anon_bytes", memory.anon_bytes),
                ("file_bytes", memory.file_bytes),
                ("shmem_bytes", memory.shmem_bytes),
                ("page_tables_bytes", memory.page_tables_bytes),
            ] {
                if let Some(value) = known(value) {
                    put(key, value.into());
                }
            }
            put("oom_score_adj", Value::Signed(i64::from(event.score_adj as i32)));
        }
        Death::ExitError => {
            put("status", u64::from(event.status).into());
            if let Some(meaning) = signal::meaning(event.status) {
                put("meaning", Value::Text(meaning));
            }
        }
        Death::Crash | Death::Killed | Death::Stopped => {
            put("signal", Value::Text(signal::name(event.signal)))
        }
    }
    if death == Death::Crash {
        put("origin", if event.origin == origin::ITSELF { "itself" } else { "unknown" }.into());
        if let Some(code) = signal::code(event.signal, event.code as i32) {
            put("code", code.into());
        }
        if let Some(address) =
            known(event.address).filter(|_| signal::has_address(event.signal, event.code as i32))
        {
            put("address", Value::Text(format!("{address:#x}").into()));
        }
    }
    if matches!(death, Death::Killed | Death::Stopped) && event.origin == origin::KERNEL {
        put("sender", "kernel".into());
    }
    if event.asked_signal != 0 && death != Death::OomKill && death != Death::Crash {
        put("asked_signal", Value::Text(signal::name(event.asked_signal)));
        put("asked_ms", (event.header.time_ns.saturating_sub(event.asked_ns) / 1_000_000).into());
    }
    let is_main = event.flags & (flag::INIT | flag::SESSION_OF_HOST) != 0;
    put("process_role", if is_main { "main" } else { "child" }.into());
    put("ran_ms", (event.header.time_ns.saturating_sub(event.started_ns) / 1_000_000).into());
    Data(data)
}

const fn known(number: u64) -> Option<u64> {
    if number == UNKNOWN { None } else { Some(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(pid: u32, kind: u32, time_ns: u64) -> ContainerEvent {
        let mut event: ContainerEvent = bytemuck::Zeroable::zeroed();
        (event.header.pid, event.header.time_ns, event.started_ns) = (pid, time_ns, 7);
        (event.kind, event.signal, event.origin) = (kind, signal::SIGKILL, origin::KERNEL);
        event
    }

    fn observe(container: &mut Container, event: &ContainerEvent) -> Vec<&'static str> {
        let mut out = Vec::new();
        container.observe(bytemuck::bytes_of(event), &mut out).unwrap();
        out.iter().map(|anomaly| anomaly.kind).collect()
    }

    fn tick(container: &mut Container, now_ns: u64) -> Vec<u32> {
        let mut out = Vec::new();
        container.tick(now_ns, &mut out);
        assert!(out.iter().all(|anomaly| anomaly.kind == "container.killed"));
        out.iter().map(|anomaly| anomaly.pid).collect()
    }

    #[test]
    fn a_victim_that_is_gone_before_the_kernel_says_why_is_told_once_with_the_reason() {
        let mut container = Container::new(&Settings::default());
        assert!(observe(&mut container, &killed(1, kind::SIGNALLED, 100)).is_empty());
        assert!(observe(&mut container, &killed(2, kind::SIGNALLED, 200)).is_empty());
        assert_eq!(observe(&mut container, &killed(1, kind::OOM_KILL, 90)), ["container.oom_kill"]);
        assert!(tick(&mut container, 150 + WORD_NS).is_empty());
        assert_eq!(tick(&mut container, 200 + WORD_NS), [2], "nobody said why");
        let other = ContainerEvent { started_ns: 8, ..killed(2, kind::OOM_KILL, 300) };
        observe(&mut container, &killed(2, kind::SIGNALLED, 300));
        observe(&mut container, &other);
        assert_eq!(tick(&mut container, u64::MAX), [2], "the other had its id before");
    }

    #[test]
    fn a_storm_of_deaths_by_the_kernel_is_bounded() {
        let mut container = Container::new(&Settings::default());
        let told: usize =
            (0..2000).map(|pid| observe(&mut container, &killed(pid, kind::SIGNALLED, 1)).len()).sum();
        assert_eq!(told + tick(&mut container, u64::MAX).len(), 2000);
        assert_eq!(told, 2000 - MAX_WAITING);
    }
}
