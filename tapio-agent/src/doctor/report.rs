//! The report: sections of lines, for people and as JSON.

use std::{
    fmt::{self, Write as _},
    io::IsTerminal as _,
};

use serde::Serialize;
use tapio_occurrence::printable::{json, printable};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Tapio's version.
    pub version: &'static str,
    /// The node's name.
    pub node: String,
    /// What was looked at.
    pub sections: Vec<Section>,
    /// How much of it works.
    #[serde(flatten)]
    pub tally: Tally,
}

/// How much of the chosen observers works.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Hooks that were attached.
    pub attached: usize,
    /// Hooks that there are.
    pub hooks: usize,
    /// Hooks that were not attached.
    pub missing: Vec<Missing>,
    /// Whether files tell something, too.
    pub files: bool,
}

/// A hook that was not attached.
#[derive(Clone, Debug, Serialize)]
pub struct Missing {
    /// Its name.
    pub hook: &'static str,
    /// The occurrences that are lost without it.
    pub gives: &'static str,
}

/// What belongs together.
#[derive(Debug, Serialize)]
pub struct Section {
    /// What it is about.
    pub name: String,
    /// One for each thing looked at.
    pub lines: Vec<Line>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
    /// What was found, and what it means.
    pub found: String,
}

/// How something is. What is not as it should be has its remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing, nothing is wrong.
    Note,
    /// It takes something away.
    Degraded {
        /// What would help, in one sentence.
        remedy: String,
    },
    /// It does not work.
    Failed {
        /// What would help, in one sentence.
        remedy: String,
    },
}

/// How a report looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Nothing but ASCII.
    Plain,
    /// Signs, for a terminal; in colour or not.
    Terminal { colour: bool },
}

/// Missing hooks that the last line names.
const MISSING_SHOWN: usize = 3;
/// Where the second column begins.
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

/// The last line: how many hooks are attached, and what is lost without the others.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attached, hooks, missing, files } = self;
        match (attached, hooks) {
            (_, 0) if *files => return f.write_str("All chosen observers work: they read files only."),
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
    /// What standard output can show: <https://no-color.org>.
    pub(super) fn of_stdout() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if !std::io::stdout().is_terminal() || set("TERM").is_some_and(|term| term == "dumb") {
            return Self::Plain;
        }
        Self::Terminal { colour: set("NO_COLOR").is_none() }
    }

    /// What a line begins with.
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
    fn nothing_that_others_said_reaches_the_terminal_as_it_is() {
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
            (tally(0, 0, true), "All chosen observers work: they read files only."),
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
