//! Each observer and each of its hooks: loaded, attached and detached again.

use std::path::Path;

use super::{
    report::{Line, Section},
    rights::Rights,
};
use crate::{
    cgroupfs::{Files, Part},
    config::Config,
    kernel::{HookState, Kernel, Loaded},
    observer::{self, Attach, Built, Hook},
};

/// How many hooks there are, and how many work; whether files tell something, too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) attached: usize,
    pub(super) hooks: usize,
    pub(super) files: bool,
}

/// One section for each observer that the configuration names.
pub(super) fn examine(config: &Config, types: &Path, rights: &Rights) -> (Vec<Section>, Tally) {
    let kernel = Kernel::open_with(types, config.proc_root.as_path());
    let mut tally = Tally::default();
    let sections = observer::build(config.observers.names(), &config.observer)
        .iter()
        .map(|built| {
            let mut lines = Vec::new();
            if let Some(reads) = built.reads() {
                let (groups, proc) = (config.cgroup_root.as_path(), config.proc_root.as_path());
                let files = Files::open(groups, proc, reads.interval);
                tally.files |= files.parts.iter().any(|part| part.state.is_ok() && !part.gives.is_empty());
                lines.extend(files.parts.iter().map(part));
            }
            if built.hooks().is_empty() {
                return Section::new(format!("observer {}", built.name), lines);
            }
            let hooks = match kernel.as_ref().map(|kernel| load(kernel, built)) {
                Ok(Ok(loaded)) => attached(built, &loaded, rights, &mut tally),
                Ok(Err(why)) => refused(built, &why, &rights.remedy(), &mut tally),
                Err(_) => refused(built, "not loaded: no types (BTF)", "as for the types (BTF)", &mut tally),
            };
            lines.extend(hooks);
            Section::new(format!("observer {}", built.name), lines)
        })
        .collect();
    (sections, tally)
}

/// What is read from files.
fn part(Part { name, state, gives }: &Part) -> Line {
    match state {
        Ok(place) if gives.is_empty() => Line::ok(*name, place),
        Ok(place) => Line::ok(*name, format!("{place}: {gives}")),
        // It takes nothing away but time.
        Err(absent) if gives.is_empty() => {
            Line::note(*name, format!("{}; to have it sooner, {}", absent.why, absent.remedy))
        }
        Err(absent) => {
            Line::degraded(*name, format!("{}; without it: no {gives}", absent.why), absent.remedy)
        }
    }
}

fn load(kernel: &Kernel, built: &Built) -> Result<Loaded, String> {
    built
        .object()
        .and_then(|object| kernel.load(&object))
        .map_err(|error| format!("not loaded: {}", causes(&error)))
}

/// The causes of an error, each once, without its own text, which has a remedy in it.
fn causes(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    let text = causes.fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        reported if reported.ends_with(&cause) => text,
        reported => format!("{reported}: {cause}"),
    });
    if text.is_empty() { error.to_string() } else { text }
}

fn attached(built: &Built, loaded: &Loaded, rights: &Rights, tally: &mut Tally) -> Vec<Line> {
    tally.hooks += loaded.hooks.len();
    let counting = loaded.counting();
    let is_uncounted = |hook: &Hook| counting.is_none() && built.counts_in() == Some(hook.program);
    let lines = loaded.hooks.iter().map(|HookState { hook, state }| match state {
        Ok(()) => {
            tally.attached += 1;
            let counting = counting.iter().filter(|(program, _)| *program == hook.program);
            let counting: String = counting.map(|(_, what)| format!(" with {what}")).collect();
            Line::ok(hook.program, format!("{}{counting}: {}", place(hook), hook.gives))
        }
        Err(error) if error.is_unsupported() && is_uncounted(hook) => {
            let found = format!("{error}; without it: no {}", hook.gives);
            let remedy =
                "run on a machine that shows its performance counters (KVM: -cpu host,pmu=on), and free ones";
            Line::degraded(hook.program, found, remedy)
        }
        Err(error) => {
            let found = format!("{error}; without it: no {}", hook.gives);
            if error.is_unsupported() {
                let remedy = "run a kernel that allows it; the other hooks work without it";
                Line::degraded(hook.program, found, remedy)
            } else if is_uncounted(hook) && rights.missing().is_empty() {
                let remedy = "sysctl -w kernel.perf_event_paranoid=2, or what the line names";
                Line::failed(hook.program, found, remedy)
            } else {
                Line::failed(hook.program, found, rights.remedy())
            }
        }
    });
    lines.collect()
}

/// The object as a whole did not load: none of its hooks works, for one reason.
fn refused(built: &Built, why: &str, remedy: &str, tally: &mut Tally) -> Vec<Line> {
    let hooks = built.hooks();
    tally.hooks += hooks.len();
    let mut lines = vec![Line::failed("programs", why, remedy)];
    lines.extend(hooks.iter().map(|hook| {
        let found = format!("not attached; without it: no {}", hook.gives);
        Line::failed(hook.program, found, "as for the programs")
    }));
    lines
}

fn place(hook: &Hook) -> String {
    match hook.attach {
        Attach::BtfTracepoint(name) if name == hook.program => "attached (tp_btf)".to_owned(),
        Attach::BtfTracepoint(name) => format!("attached (tp_btf {name})"),
        Attach::FunctionExit(name) if name == hook.program => "attached (fexit)".to_owned(),
        Attach::FunctionExit(name) => format!("attached (fexit {name})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_reported_once_and_without_the_remedy() {
        let error =
            anyhow::anyhow!("not permitted").context("map EVENTS: not permitted").context("run as root");
        assert_eq!(causes(&error), "map EVENTS: not permitted");
        let error = anyhow::anyhow!("not permitted").context("map EVENTS").context("run as root");
        assert_eq!(causes(&error), "map EVENTS: not permitted");
        assert_eq!(causes(&anyhow::anyhow!("alone")), "alone");
    }
}
