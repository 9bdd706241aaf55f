//! The report: sections of lines, as text and as JSON.

use std::{
    fmt::{self, Write as _},
    io::IsTerminal as _,
};

use serde::Serialize;
use tapio_occurrence::printable::{json, printable};

/// The findings of `tapio doctor`.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Tapio's version.
    pub version: &'static str,
    /// The node's name.
    pub node: String,
    /// The findings, by topic.
    pub sections: Vec<Section>,
    /// How many hooks work, and what is lost.
    #[serde(flatten)]
    pub tally: Tally,
}

/// How much of the configured observers works.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Number of attached hooks.
    pub attached: usize,
    /// Number of hooks.
    pub hooks: usize,
    /// The hooks that are not attached.
    pub missing: Vec<Missing>,
    /// Whether an observer has a source that needs no hook, such as files.
    pub files: bool,
}

/// A hook that is not attached.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    /// Its name.
    pub hook: &'static str,
    /// The occurrences that are lost without it.
    pub gives: &'static str,
}

/// Findings on one topic.
#[derive(Debug, Serialize)]
pub struct Section {
    /// The topic.
    pub name: String,
    /// One line per check.
    pub lines: Vec<Line>,
}

/// The finding of one check.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Name of the check.
    pub name: String,
    /// Result, with the remedy if something is wrong.
    #[serde(flatten)]
    pub state: State,
    /// The finding and what it means.
    pub found: String,
}

/// The result of a check. Every problem comes with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Nothing is wrong.
    Ok,
    /// Nothing is wrong, but worth knowing.
    Note,
    /// Some function is lost.
    Degraded {
        /// The remedy, in one sentence.
        remedy: String,
    },
    /// It does not work.
    Failed {
        /// The remedy, in one sentence.
        remedy: String,
    },
}

/// The style of a text report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// ASCII only.
    Plain,
    /// Symbols for a terminal, optionally in colour.
    Terminal { colour: bool },
}

/// Maximum number of missing hooks that the last line names.
const MISSING_SHOWN: usize = 3;
/// Column at which the findings begin.
const COLUMN: usize = 26;

impl Report {
    pub(super) fn json(&self) -> serde_json::Result<String> {
        Ok(json(&serde_json::to_string_pretty(self)?).into_owned() + "\n")
    }

    pub(super) fn text(&self, style: Style) -> String {
        let mut text = format!("tapio {} on {}\n", self.version, printable(&self.node));
        for section in &self.sections {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n{}", printable(&section.name));
            for line in &section.lines {
                let _ = writeln!(text, "  {} {}", style.sign(&line.state), line);
                if let State::Degraded { remedy } | State::Failed { remedy } = &line.state {
                    let (width, remedy) = (style.width() + COLUMN, printable(remedy));
                    let _ = writeln!(text, "  {:width$} remedy: {remedy}", "");
                }
            }
        }
        let _ = writeln!(text, "\n{}", self.tally);
        text
    }
}

/// The last line of the report: how many hooks are attached, and what is lost without the others.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attached, hooks, missing, files } = self;
        match (attached, hooks) {
            (_, 0) if *files => return f.write_str("All chosen observers work; none of them needs a hook."),
            (0, _) if *files => return write!(f, "0 of {hooks} hooks attached; only files can be observed."),
            (0, _) => return write!(f, "0 of {hooks} hooks attached; nothing can be observed."),
            _ => write!(f, "{attached} of {hooks} hooks attached")?,
        }
        for Missing { hook, gives } in missing.iter().take(MISSING_SHOWN) {
            write!(f, "; without {hook} there is no {gives}")?;
        }
        match missing.len().saturating_sub(MISSING_SHOWN) {
            0 => f.write_str("."),
            more => write!(f, "; {more} more are marked above."),
        }
    }
}

impl Section {
    pub(super) fn new(name: impl Into<String>, lines: Vec<Line>) -> Self {
        Self { name: name.into(), lines }
    }
}

impl Line {
    pub(super) fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Ok, found: found.into() }
    }

    pub(super) fn note(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { state: State::Note, ..Self::ok(name, found) }
    }

    pub(super) fn degraded(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Degraded { remedy: remedy.into() }, ..Self::ok(name, found) }
    }

    pub(super) fn failed(
        name: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Failed { remedy: remedy.into() }, ..Self::ok(name, found) }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<COLUMN$} {}", printable(&self.name), printable(&self.found))
    }
}

impl Style {
    /// Chooses the style for standard output; honours NO_COLOR, <https://no-color.org>.
    pub(super) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if !std::io::stdout().is_terminal() || set("TERM").is_some_and(|term| term == "dumb") {
            return Self::Plain;
        }
        Self::Terminal { colour: set("NO_COLOR").is_none() }
    }

    /// The sign at the beginning of a line.
    const fn sign(self, state: &State) -> &'static str {
        match (self, state) {
            (Self::Plain, State::Ok) => "ok  ",
            (Self::Plain, State::Note) => "-   ",
            (Self::Plain, State::Degraded { .. }) => "warn",
            (Self::Plain, State::Failed { .. }) => "fail",
            (Self::Terminal { colour: false }, State::Ok) => "✓",
            (Self::Terminal { colour: false }, State::Note) => "-",
            (Self::Terminal { colour: false }, State::Degraded { .. }) => "!",
            (Self::Terminal { colour: false }, State::Failed { .. }) => "✗",
            (Self::Terminal { colour: true }, State::Ok) => "\x1b[32m✓\x1b[0m",
            (Self::Terminal { colour: true }, State::Note) => "\x1b[2m-\x1b[0m",
            (Self::Terminal { colour: true }, State::Degraded { .. }) => "\x1b[33m!\x1b[0m",
            (Self::Terminal { colour: true }, State::Failed { .. }) => "\x1b[31m✗\x1b[0m",
        }
    }

    /// Columns of [`Self::sign`] and the space after it.
    const fn width(self) -> usize {
        match self {
            Self::Plain => 5,
            Self::Terminal { .. } => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_occurrence::samples::{HOSTILE, is_harmless};

    fn missing(hook: &'static str) -> Missing {
        Missing { hook, gives: "node.cpi_outlier" }
    }

    fn report() -> Report {
        let lines = vec![
            Line::ok("release", "6.1"),
            Line::note("seccomp", "on"),
            Line::degraded("sys_ptrace", "missing: a bit is lost", "add it"),
            Line::failed("bpf", "missing: all is lost", "add that"),
        ];
        Report {
            version: "1.2.3",
            node: "node-a".into(),
            sections: vec![Section::new("rights", lines)],
            tally: Tally { attached: 1, hooks: 2, missing: vec![missing("sched_switch")], files: false },
        }
    }

    #[test]
    fn what_is_wrong_has_its_remedy_below_it() {
        assert_eq!(
            report().text(Style::Plain),
            "tapio 1.2.3 on node-a\n\nrights\n\
             \x20 ok   release                    6.1\n\
             \x20 -    seccomp                    on\n\
             \x20 warn sys_ptrace                 missing: a bit is lost\n\
             \x20                                 remedy: add it\n\
             \x20 fail bpf                        missing: all is lost\n\
             \x20                                 remedy: add that\n\n\
             1 of 2 hooks attached; without sched_switch there is no node.cpi_outlier.\n"
        );
        let terminal = report().text(Style::Terminal { colour: false });
        assert!(terminal.contains("  ✗ bpf                        missing"), "{terminal}");
        assert!(terminal.contains("\n                               remedy: add that"), "{terminal}");
        assert!(!terminal.contains('\x1b'));
        assert!(report().text(Style::Terminal { colour: true }).contains("\x1b[31m✗\x1b[0m bpf"));
    }

    #[test]
    fn text_from_others_is_escaped() {
        let hostile = || HOSTILE.to_owned();
        let lines = vec![Line::ok(hostile(), hostile()), Line::failed(hostile(), hostile(), hostile())];
        let sections = vec![Section::new(hostile(), lines)];
        let report = Report { node: hostile(), sections, ..report() };
        for text in [report.text(Style::Plain), report.json().unwrap()] {
            assert!(is_harmless(&text), "{text:?}");
        }
    }

    #[test]
    fn the_last_line_names_what_is_lost() {
        let tally = |attached, hooks, files| Tally { attached, hooks, files, missing: Vec::new() };
        for (tally, said) in [
            (tally(10, 10, true), "10 of 10 hooks attached."),
            (tally(0, 10, true), "0 of 10 hooks attached; only files can be observed."),
            (tally(0, 10, false), "0 of 10 hooks attached; nothing can be observed."),
            (tally(0, 0, true), "All chosen observers work; none of them needs a hook."),
            (tally(0, 0, false), "0 of 0 hooks attached; nothing can be observed."),
        ] {
            assert_eq!(tally.to_string(), said);
        }
        let many = Tally { missing: ["a", "b", "c", "d", "e"].map(missing).into(), ..tally(5, 10, true) };
        let said = many.to_string();
        assert!(said.contains("without c there is no node.cpi_outlier; 2 more are marked above."), "{said}");
        assert!(!said.contains("without d"), "{said}");
    }

    #[test]
    fn json_has_the_same() {
        let json = serde_json::to_value(report()).unwrap();
        let line = &json["sections"][0]["lines"][3];
        let expected = serde_json::json!(
            { "name": "bpf", "state": "failed", "remedy": "add that", "found": "missing: all is lost" }
        );
        assert_eq!(*line, expected);
        assert_eq!(json["attached"], 1);
        assert_eq!(json["missing"][0]["hook"], "sched_switch");
    }
}
