//! The message of each death: one sentence for people.

use std::fmt;

use tapio_occurrence::{Bytes, Occurrence, Value, Workload};

pub(super) fn oom_kill(o: &Occurrence) -> String {
    let held = o.data.number("anon_bytes");
    let held = held.map_or(String::new(), |bytes| format!(" holding {}", Bytes(bytes)));
    let usage = match (o.data.number("usage_bytes"), o.data.number("limit_bytes"), o.data.number("levels_up"))
    {
        (Some(usage), Some(limit), Some(up)) => {
            let whose = if up > 0 { "a parent cgroup" } else { "its cgroup" };
            format!(": {whose} used {} of {}{}{}", Bytes(usage), Bytes(limit), Earlier(o), Fills(o, limit))
        }
        _ if o.data.text("constraint") == Some("node") => ": the node was out of memory".to_owned(),
        _ => String::new(),
    };
    let trigger = match &o.actor {
        Some(actor) if o.process.as_ref() != Some(&actor.process) => {
            format!("; {} asked for more", Who(&actor.process.comm, actor.process.pid))
        }
        _ => String::new(),
    };
    format!("{}: {} was OOM-killed{held}{usage}{trigger}", o.subject(), Role(o))
}

pub(super) fn exit_error(o: &Occurrence) -> String {
    let status = o.data.number("status").unwrap_or_default();
    let meaning = o.data.text("meaning").map_or(String::new(), |meaning| format!(" ({meaning})"));
    if o.data.text("executed").is_some() {
        let hint = if meaning.is_empty() {
            "; check the image's architecture, and the command's path, permissions and interpreter line"
        } else {
            ""
        };
        return format!(
            "{}: the command was never executed: the process that was to run it ended with status {status}{meaning}{}{}{hint}",
            o.subject(),
            After(o),
            Asked(o)
        );
    }
    format!("{}: {} ended with status {status}{meaning}{}{}", o.subject(), Role(o), After(o), Asked(o))
}

pub(super) fn crash(o: &Occurrence) -> String {
    let code = o.data.text("code").map_or(String::new(), |code| format!(" ({code})"));
    let address = o.data.text("address").map_or(String::new(), |address| format!(" at {address}"));
    let how = if o.data.text("origin") == Some("itself") { "crashed with" } else { "died of" };
    let whose = if how == "died of" { "; whether it caused that itself is not known" } else { "" };
    format!("{}: {} {how} {}{code}{address}{}{whose}", o.subject(), Role(o), signal(o), After(o))
}

pub(super) fn abort(o: &Occurrence) -> String {
    let ended_with = o.data.text("ended_with").unwrap_or("another status");
    format!(
        "{}: {} aborted (SIGABRT){}; the kernel ignores SIGABRT for PID 1, so it ended with {ended_with}",
        o.subject(),
        Role(o),
        After(o)
    )
}

pub(super) fn killed(o: &Occurrence) -> String {
    let (signal, sender) = (signal(o), Sender(o));
    if o.data.text("executed").is_some() {
        return format!(
            "{}: the command was never executed: {sender} killed the process that was to run it with {signal}{}",
            o.subject(),
            After(o)
        );
    }
    let limit = match o.data.text("limit") {
        Some("RLIMIT_FSIZE") => ": it reached its file size limit (RLIMIT_FSIZE)",
        Some("RLIMIT_CPU") => ": it reached its CPU time limit (RLIMIT_CPU)",
        _ => "",
    };
    format!("{}: {sender} killed {} with {signal}{}{limit}", o.subject(), Role(o), After(o))
}

pub(super) fn exec(o: &Occurrence) -> String {
    format!(
        "{}: {} killed a command that it ran in the container, with {}{}, as runtimes do when an exec probe exceeds its timeout",
        o.subject(),
        Sender(o),
        signal(o),
        After(o)
    )
}

pub(super) fn stopped(o: &Occurrence) -> String {
    format!("{}: {} killed {} with {}{}", o.subject(), Sender(o), Role(o), signal(o), Asked(o))
}

/// ` (20 MiB 5 min earlier)`
struct Earlier<'a>(&'a Occurrence);

impl fmt::Display for Earlier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Value::List(samples)) = self.0.data.get("before") else { return Ok(()) };
        let first =
            samples.first().and_then(|sample| sample.number("held_bytes").zip(sample.number("seconds_ago")));
        match first {
            Some((held, seconds)) if seconds > 0 => {
                write!(f, " ({} {} earlier)", Bytes(held), Millis(seconds * 1000))
            }
            _ => Ok(()),
        }
    }
}

/// The largest part of an OOM cgroup's memory, if it belongs to no process.
struct Fills<'a>(&'a Occurrence, u64);

impl fmt::Display for Fills<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_most = |bytes: &u64| bytes.saturating_mul(2) > self.1;
        let held = |key| self.0.data.number(key).filter(is_most);
        if let Some(bytes) = held("cgroup_shmem_bytes") {
            let what =
                "files in memory (tmpfs, memory-backed emptyDir, shared memory), which outlive processes";
            return write!(f, ", {} of it {what}", Bytes(bytes));
        }
        match held("cgroup_kernel_bytes") {
            Some(bytes) => write!(f, ", {} of it kernel memory", Bytes(bytes)),
            None => Ok(()),
        }
    }
}

fn signal(o: &Occurrence) -> &str {
    o.data.text("signal").unwrap_or("a signal")
}

/// `the main process`, `a process`
struct Role<'a>(&'a Occurrence);

impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.data.text("process_role") == Some("main") {
            "the main process"
        } else {
            "a process"
        })
    }
}

/// `bash[12] of app`, `sh[13], which was started in the container from outside,`, `the kernel`
struct Sender<'a>(&'a Occurrence);

impl fmt::Display for Sender<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sender = self.0.data.text("sender");
        let Some(actor) = &self.0.actor else {
            let is_kernel = sender == Some("kernel");
            return f.write_str(if is_kernel { "the kernel" } else { "an unknown process" });
        };
        Who(&actor.process.comm, actor.process.pid).fmt(f)?;
        if sender == Some("entered") {
            return f.write_str(", which was started in the container from outside, as by kubectl exec,");
        }
        match actor.workload.as_deref().and_then(short_name) {
            Some(name) => write!(f, " of {name}"),
            None => Ok(()),
        }
    }
}

fn short_name(workload: &Workload) -> Option<&str> {
    let id = workload.container_id.as_deref().map(|id| id.get(..12).unwrap_or(id));
    workload.pod.as_deref().or(workload.unit.as_deref()).or(id)
}

struct Who<'a>(&'a str, u32);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => write!(f, "process {}", self.1),
            comm => write!(f, "{comm}[{}]", self.1),
        }
    }
}

/// `, 3.0 s after SIGTERM`
struct Asked<'a>(&'a Occurrence);

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.data.text("asked_signal"), self.0.data.number("asked_ms")) {
            (Some(signal), Some(ms)) => write!(f, ", {} after {signal}", Millis(ms)),
            _ => Ok(()),
        }
    }
}

/// ` after 3.0 s`
struct After<'a>(&'a Occurrence);

impl fmt::Display for After<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " after {}", Millis(self.0.data.number("ran_ms").unwrap_or_default()))
    }
}

/// Milliseconds in a unit that suits their size.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ 0..1_000 => write!(f, "{ms} ms"),
            ms @ 1_000..120_000 => write!(f, "{:.1} s", ms as f64 / 1e3),
            ms @ 120_000..7_200_000 => write!(f, "{} min", ms / 60_000),
            ms @ 7_200_000..172_800_000 => write!(f, "{} h", ms / 3_600_000),
            ms => write!(f, "{} days", ms / 86_400_000),
        }
    }
}
