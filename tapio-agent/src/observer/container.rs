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
/// A death so long after SIGTERM is no end of a stop: Kubernetes waits for 30 s unless a pod wants more, systemd for 90 s.
const STOP_NS: u64 = 3_600_000_000_000;
/// The same after SIGINT and SIGQUIT. Some images are stopped with these, but a process may also handle them and go on,
/// as a JVM that writes the stacks of its threads.
const HANDLED_NS: u64 = 120_000_000_000;
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

    fn held_back(&self) -> u64 {
        self.waiting.iter().map(|waits| waits.anomaly.count).sum()
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
            kind::SIGNALLED if event.signal == signal::SIGKILL && asked(event).is_some() => Self::Stopped,
            kind::SIGNALLED => Self::Killed,
            other => return Err(Malformed::Kind(other)),
        })
    }
}

/// A signal of its own making, or one of which that is not known; then it is not said, either.
fn is_crash(event: &ContainerEvent) -> bool {
    signal::is_fault(event.signal) && matches!(event.origin, origin::ITSELF | origin::UNKNOWN)
}

/// The signal that asked it to end, and how long before, nanoseconds: not one that it has long survived.
fn asked(event: &ContainerEvent) -> Option<(u32, u64)> {
    let ago_ns = event.header.time_ns.saturating_sub(event.asked_ns);
    let most_ns = if event.asked_signal == signal::SIGTERM { STOP_NS } else { HANDLED_NS };
    (event.asked_signal != 0 && ago_ns <= most_ns).then_some((event.asked_signal, ago_ns))
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
    let had_a_hand = match death {
        Death::OomKill => true,
        // Who asked.
        Death::ExitError => event.origin == origin::PROCESS && asked(event).is_some(),
        Death::Crash | Death::Killed | Death::Stopped => event.origin == origin::PROCESS,
    };
    Ok(Anomaly {
        kind,
        severity,
        outcome,
        time_ns: header.time_ns,
        cgroup_id: header.cgroup_id,
        pid: header.pid,
        comm: header.comm.into(),
        actor: (event.actor.pid != 0 && had_a_hand).then(|| {
            let fields::Actor { cgroup_id, pid, comm, .. } = event.actor;
            Box::new(Actor { cgroup_id, pid, comm: comm.into() })
        }),
        full: (death == Death::OomKill).then_some(event.full.cgroup_id).and_then(known).filter(|id| *id != 0),
        only: Only {
            scope: settings.scope,
            from_outside: matches!(death, Death::Killed | Death::Stopped),
            usual_window_ns: (death == Death::ExitError).then(|| settings.usual_window.as_ns()),
            unless_steady: false,
        },
        antagonist: None,
        peer: None,
        detail: if death == Death::ExitError { event.status } else { event.signal },
        data: data(event, death),
        baseline: None,
        magnitude: known(event.memory.anon_bytes).unwrap_or_default(),
        count: 1 + u64::from(header.held_back),
        pace: None,
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
    if let Some((asked, ago_ns)) = asked(event)
        && death != Death::OomKill
        && death != Death::Crash
    {
        put("asked_signal", Value::Text(signal::name(asked)));
        put("asked_ms", (ago_ns / 1_000_000).into());
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
    fn a_request_that_was_long_survived_is_no_reason() {
        let told = |kind, asked_signal, ago_ns| {
            let mut event = killed(1, kind, 2 * STOP_NS);
            (event.origin, event.actor.pid) = (origin::PROCESS, 77);
            (event.asked_signal, event.asked_ns) = (asked_signal, event.header.time_ns - ago_ns);
            let told = judge(&event, &Settings::default()).unwrap();
            let asked = told.data.text("asked_signal").map(str::to_owned).zip(told.data.number("asked_ms"));
            (told.severity, asked, told.actor.is_some())
        };
        const SIGINT: u32 = 2;
        const SIGQUIT: u32 = 3;
        for (signal, name, most_ns) in [
            (signal::SIGTERM, "SIGTERM", STOP_NS),
            (SIGINT, "SIGINT", HANDLED_NS),
            (SIGQUIT, "SIGQUIT", HANDLED_NS),
        ] {
            let asked = Some((name.to_owned(), most_ns / 1_000_000));
            assert_eq!(told(kind::SIGNALLED, signal, most_ns), (Severity::Warning, asked.clone(), true));
            assert_eq!(told(kind::SIGNALLED, signal, most_ns + 1), (Severity::Error, None, true), "{name}");
            assert_eq!(told(kind::EXIT_ERROR, signal, most_ns), (Severity::Error, asked, true));
            assert_eq!(told(kind::EXIT_ERROR, signal, most_ns + 1), (Severity::Error, None, false), "{name}");
        }
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
