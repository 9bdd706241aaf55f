//! Checks each observer: loads, attaches or opens every part of its sources, and closes it again.

use std::{path::Path, sync::Arc};

use super::{
    report::{Line, Missing, Section, Tally},
    rights::Rights,
};
use crate::{
    agent::open::Opener,
    config::Config,
    kernel::Kernel,
    observer::Built,
    source::{Lack, Part, Source},
};

/// Returns one section per observer, and how much of them works.
pub(super) fn examine(
    config: &Config,
    types: &Path,
    observers: &[Built],
    rights: &Rights,
) -> (Vec<Section>, Tally) {
    let kernel = Kernel::open_with(types, config.proc_root.as_path())
        .map(|kernel| kernel.with_cgroups(config.cgroup_root.as_path()));
    let opener = Opener { config, kernel: kernel.as_ref(), past: Arc::default() };
    let mut tally = Tally::default();
    let sections = observers.iter().map(|built| {
        let sources = opener.open(built);
        let mut lines = Vec::new();
        // Sources that need no capabilities come first.
        for source in sources.iter().rev() {
            source.check();
            let parts = source.parts();
            let of_kernel = source.of() == "hooks";
            lines.extend(parts.iter().map(|part| line(part, rights, of_kernel)));
            count(source, &parts, &mut tally);
        }
        if let Some(error) = sources.refused() {
            let (why, remedy) = match &kernel {
                Ok(_) => (format!("not loaded: {}", causes(error)), rights.remedy()),
                Err(_) => ("not loaded: no types (BTF)".to_owned(), "as for the types (BTF)".to_owned()),
            };
            lines.extend(refused(built, &why, &remedy, &mut tally));
        }
        Section::new(format!("observer {}", built.name), lines)
    });
    (sections.collect(), tally)
}

fn count(source: &dyn Source, parts: &[Part], tally: &mut Tally) {
    if source.of() != "hooks" {
        tally.files |= source.observes();
        return;
    }
    tally.hooks += parts.len();
    tally.attached += parts.iter().filter(|part| part.state.is_ok()).count();
    let missing = parts.iter().filter(|part| part.state.is_err());
    tally.missing.extend(missing.map(|part| Missing { hook: part.name, gives: part.gives }));
}

fn line(Part { name, state, gives }: &Part, rights: &Rights, of_kernel: bool) -> Line {
    let absent = match state {
        Ok(place) if gives.is_empty() => return Line::ok(*name, place),
        Ok(place) => return Line::ok(*name, format!("{place}: {gives}")),
        Err(absent) => absent,
    };
    let remedy = absent.remedy.unwrap_or_default();
    // Its absence only delays occurrences.
    if gives.is_empty() {
        return Line::note(*name, format!("{}; for earlier samples, {remedy}", absent.why));
    }
    if absent.lack == Lack::Inapplicable {
        return Line::note(*name, &*absent.why);
    }
    let found = format!("{}; without it: no {gives}", absent.why);
    match absent.lack {
        Lack::Unsupported | Lack::Missing | Lack::Inapplicable => Line::degraded(*name, found, remedy),
        Lack::Failed if remedy.is_empty() || (of_kernel && !rights.missing().is_empty()) => {
            Line::failed(*name, found, rights.remedy())
        }
        Lack::Failed => Line::failed(*name, found, remedy),
    }
}

/// Joins the causes of an error, each once. Omits the error's own text, which contains a remedy.
fn causes(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(ToString::to_string);
    let text = causes.fold(String::new(), |text, cause| match text.as_str() {
        "" => cause,
        reported if reported.ends_with(&cause) => text,
        reported => format!("{reported}: {cause}"),
    });
    if text.is_empty() { error.to_string() } else { text }
}

/// Lines for an object that did not load: all of its hooks fail for the same reason.
fn refused(built: &Built, why: &str, remedy: &str, tally: &mut Tally) -> Vec<Line> {
    tally.hooks += built.hooks.len();
    tally.missing.extend(built.hooks.iter().map(|hook| Missing { hook: hook.program, gives: hook.gives }));
    let mut lines = vec![Line::failed("programs", why, remedy)];
    lines.extend(built.hooks.iter().map(|hook| {
        let found = format!("not attached; without it: no {}", hook.gives);
        Line::failed(hook.program, found, "as for the programs")
    }));
    lines
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
