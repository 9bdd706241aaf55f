//! Container: processes that died, and why.
//!
//! Watches `signal_generate`, `mark_victim` and `sched_process_exit`. Reports `container.oom_kill`,
//! `container.exit_error`, `container.crash` and `container.killed`. The kernel programs record who sent each signal
//! and emit the deaths that are worth a report. This module determines the type of each.

mod death;
mod faults;
mod message;
mod settings;
mod signal;

pub use settings::Settings;

use tapio_common::container::{self as fields, ContainerEvent, UNKNOWN, flag, kind, origin};
use tapio_occurrence::{Data, Outcome, Severity, Value};

use self::death::{Death, Unexecuted, asked, command, is_restart, limit, sandbox, unexecuted};
use super::{
    Actor, Anomaly, Attach, ByHelper, Fault, Hook, Kind, Malformed, Observer, Only, Role, Room, with,
};

/// How long a SIGKILL by the kernel waits for the event that the OOM killer sent it. The CPU that killed emits that
/// event right after, but a virtual CPU may be descheduled in between.
const WORD_NS: u64 = 1_000_000_000;
/// Maximum number of deaths that wait for that event. Any more are reported at once.
const MAX_WAITING: usize = 1024;

/// The container observer.
#[derive(Debug)]
pub struct Container {
    settings: Settings,
    waiting: Vec<Waiting>,
}

/// A process that the kernel killed, with the report for the case that it was not the OOM killer.
#[derive(Debug)]
struct Waiting {
    pid: u32,
    started_ns: u64,
    anomaly: Anomaly,
}

/// The fields that the signal and exit hooks need.
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

static OOM_KILL: Kind = Kind::new("container.oom_kill", Severity::Error, Outcome::Failure, message::oom_kill);
static EXIT_ERROR: Kind =
    Kind::new("container.exit_error", Severity::Error, Outcome::Failure, message::exit_error);
static CRASH: Kind = Kind::new("container.crash", Severity::Error, Outcome::Failure, message::crash);
static KILLED: Kind = Kind::new("container.killed", Severity::Error, Outcome::Failure, message::killed);

impl Observer for Container {
    const NAME: &'static str = "container";
    const FIELDS: &'static [&'static str] = fields::FIELDS;
    const BY_HELPER: ByHelper = ByHelper {
        fields: fields::BY_HELPER,
        lost: "usage and limit of the OOM cgroup, and fault addresses, are unknown",
    };
    // In the order of `tapio_common::container::program`.
    const HOOKS: &'static [Hook] = &[
        Hook {
            program: "signal_generate",
            attach: Attach::BtfTracepoint("signal_generate"),
            needs: &with::<_, 2, 21>(TASK, [fields::MM, fields::OOM_SCORE_ADJ]),
            gives: "container.oom_kill, who sent a signal, and the address of a fault",
            or: &[],
        },
        Hook {
            program: "mark_victim",
            attach: Attach::BtfTracepoint("mark_victim"),
            needs: &[],
            gives: "container.oom_kill",
            or: &[],
        },
        Hook {
            program: "sched_process_exit",
            attach: Attach::BtfTracepoint("sched_process_exit"),
            needs: &with::<_, 5, 24>(
                TASK,
                [
                    fields::LIVE,
                    fields::EXIT_CODE,
                    fields::GROUP_EXIT_CODE,
                    fields::OOM_SCORE_ADJ,
                    fields::FLAGS,
                ],
            ),
            gives: "container.exit_error, container.crash, container.killed",
            or: &[],
        },
    ];
    const ROOM: Room = Room::LARGE;
    const KINDS: &'static [&'static Kind] = &[&OOM_KILL, &EXIT_ERROR, &CRASH, &KILLED];
    const FAULTS: &'static [Fault] = faults::FAULTS;
    const ROLES: &'static [Role] = faults::ROLES;
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

    fn wake_at(&self) -> Option<u64> {
        self.waiting.iter().map(|waits| waits.anomaly.time_ns.saturating_add(WORD_NS)).min()
    }

    fn pending(&self) -> u64 {
        self.waiting.iter().map(|waits| waits.anomaly.count).sum()
    }
}

/// Converts an event into an anomaly.
fn judge(event: &ContainerEvent, settings: &Settings) -> Result<Anomaly, Malformed> {
    let death = Death::of(event)?;
    let header = &event.header;
    let kind = match death {
        Death::OomKill => &OOM_KILL,
        Death::ExitError => &EXIT_ERROR,
        Death::Crash | Death::Abort => &CRASH,
        Death::Killed | Death::Exec | Death::Stopped => &KILLED,
    };
    let (severity, outcome) = match death {
        Death::Exec | Death::Stopped => (Severity::Warning, Outcome::Timeout),
        _ => (kind.severity, kind.outcome),
    };
    let has_actor = match death {
        Death::OomKill => true,
        // The process that asked it to stop.
        Death::ExitError => event.origin == origin::PROCESS && asked(event).is_some(),
        Death::Abort => false,
        // A crash is usually the process's own doing, so only another process counts as its actor.
        Death::Crash => event.origin == origin::PROCESS,
        Death::Killed | Death::Stopped | Death::Exec => {
            matches!(event.origin, origin::PROCESS | origin::ITSELF)
        }
    };
    Ok(Anomaly {
        severity,
        outcome,
        comm: command(header.comm),
        actor: (event.actor.pid != 0 && has_actor).then(|| {
            let fields::Actor { cgroup_id, pid, comm, .. } = event.actor;
            Box::new(Actor { cgroup_id, pid, comm: command(comm) })
        }),
        full: (death == Death::OomKill)
            .then_some(event.oom_cgroup.cgroup_id)
            .and_then(known)
            .filter(|id| *id != 0),
        only: Only {
            scope: settings.scope,
            from_outside: matches!(death, Death::Killed | Death::Stopped | Death::Exec)
                && event.actor.entered == 0,
            expected_window_ns: (death == Death::ExitError).then(|| settings.expected_window.as_ns()),
            sandbox: sandbox(event, death),
            by_pod: is_restart(event, death),
            ..Only::ALL
        },
        detail: match death {
            Death::ExitError => event.status,
            Death::Abort => signal::SIGABRT,
            _ => event.signal,
        },
        data: data(event, death),
        magnitude: known(event.memory.anon_bytes).unwrap_or_default(),
        message: match death {
            Death::Abort => message::abort,
            Death::Exec => message::exec,
            Death::Stopped => message::stopped,
            _ => kind.message,
        },
        ..Anomaly::new(kind, header)
    })
}

fn data(event: &ContainerEvent, death: Death) -> Data {
    let mut data = Data::default();
    let mut put = |key: &'static str, value: Value| data.push(key, value);
    match death {
        Death::OomKill => {
            let (oom, memory) = (&event.oom_cgroup, &event.memory);
            if let Some(cgroup_id) = known(oom.cgroup_id) {
                put("constraint", if cgroup_id == 0 { "node" } else { "cgroup" }.into());
            }
            for (key, value) in [
                ("usage_bytes", oom.usage_bytes),
                ("limit_bytes", oom.limit_bytes),
                ("levels_up", oom.levels_up),
                ("anon_bytes", memory.anon_bytes),
                ("file_bytes", memory.file_bytes),
                ("shmem_bytes", memory.shmem_bytes),
                ("page_tables_bytes", memory.page_tables_bytes),
            ] {
                if let Some(value) = known(value) {
                    put(key, value.into());
                }
            }
            put("oom_score_adj", Value::Signed(i64::from(event.oom_score_adj as i32)));
        }
        Death::ExitError => {
            put("status", u64::from(event.status).into());
            let meaning = match unexecuted(event) {
                // The status is the container runtime's. Runtimes define no meanings.
                Some(Unexecuted::Runtime) => None,
                Some(Unexecuted::Systemd) => signal::systemd(event.status).map(Into::into),
                None => signal::meaning(event.status),
            };
            if let Some(meaning) = meaning {
                put("meaning", Value::Text(meaning));
            }
        }
        Death::Abort => {
            put("signal", Value::Text(signal::name(signal::SIGABRT)));
            put("origin", "itself".into());
            let ended_with = match event.signal {
                0 => format!("status {}", event.status).into(),
                signal => signal::name(signal),
            };
            put("ended_with", Value::Text(ended_with));
        }
        Death::Crash | Death::Killed | Death::Stopped | Death::Exec => {
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
    if matches!(death, Death::ExitError | Death::Killed | Death::Stopped) && unexecuted(event).is_some() {
        put("executed", "never".into());
    }
    if let Some(limit) = limit(event, death) {
        put("limit", limit.into());
    }
    if death == Death::Exec {
        put("started_by", "exec".into());
    }
    if matches!(death, Death::Killed | Death::Stopped) && event.origin == origin::KERNEL {
        put("sender", "kernel".into());
    }
    if matches!(death, Death::Killed | Death::Stopped) && event.actor.entered != 0 {
        put("sender", "entered".into());
    }
    if let Some((asked, ago_ns)) = asked(event)
        && !matches!(death, Death::OomKill | Death::Crash | Death::Abort)
    {
        put("asked_signal", Value::Text(signal::name(asked)));
        put("asked_ms", (ago_ns / 1_000_000).into());
    }
    let is_main = event.flags & (flag::INIT | flag::SESSION_OF_HOST) != 0;
    put("process_role", if is_main { "main" } else { "child" }.into());
    put("ran_ms", (event.header.time_ns.saturating_sub(event.started_ns) / 1_000_000).into());
    data
}

const fn known(number: u64) -> Option<u64> {
    if number == UNKNOWN { None } else { Some(number) }
}

#[cfg(test)]
mod tests;
