//! `tapio doctor`: what this node can observe, what keeps it from the rest, and what would help.
//!
//! Nothing is guessed: the programs are loaded and attached as the agent would, and detached again. Each check
//! stands for itself, so that one that fails hides no other.

mod delivery;
mod host;
mod kernel;
mod kubernetes;
mod observers;
mod pod;
mod report;
mod rights;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

pub use self::report::{Report, State};
use self::{
    pod::Pod,
    report::{Line, Section, Style, Tally},
};
use crate::{config::Config, kernel::BTF, observer};

/// What to examine.
#[derive(Debug)]
pub struct Doctor {
    /// The configuration that the agent would run with.
    pub config: Box<Config>,
    /// The file that it came from, if any.
    pub file: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
    /// Where the kernel shows its types: [`BTF`].
    pub types: PathBuf,
}

impl Doctor {
    /// With this configuration, from this file.
    #[must_use]
    pub fn new(config: Box<Config>, file: Option<PathBuf>, json: bool) -> Self {
        Self { config, file, json, types: BTF.into() }
    }

    /// Examines this node and prints what it finds. Fails, as an exit code, where nothing can be observed.
    ///
    /// # Errors
    /// The report cannot be written.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let report = self.examine();
        let mut out = std::io::stdout().lock();
        let text = if self.json {
            report.json().context("the report is no JSON")?
        } else {
            report.text(Style::of_stdout())
        };
        out.write_all(text.as_bytes()).context("the report cannot be written")?;
        // Without any of its hooks an agent does not do what it is for.
        let Tally { attached, hooks, files, .. } = report.tally;
        let works = attached > 0 || (hooks == 0 && files);
        Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Examines this node.
    #[must_use]
    pub fn examine(&self) -> Report {
        let pod = Pod::here();
        let built = observer::build(self.config.observers.names(), &self.config.observer);
        let rights = rights::Rights::read(pod, &built);
        let (observers, tally) = observers::examine(&self.config, &self.types, &built, &rights);
        let mut sections = vec![
            Section::new("kernel", kernel::examine(&self.types)),
            Section::new("rights", rights.lines()),
        ];
        sections.extend(observers);
        sections.push(Section::new("identity", host::examine(&self.config, pod)));
        let kubernetes = kubernetes::examine(&self.config, pod);
        if !kubernetes.is_empty() {
            sections.push(Section::new("kubernetes", kubernetes));
        }
        sections.push(Section::new("configuration", self.configuration()));
        sections.push(Section::new("delivery", delivery::examine(&self.config, pod)));
        Report { version: env!("CARGO_PKG_VERSION"), node: self.config.node().to_string(), sections, tally }
    }

    fn configuration(&self) -> Vec<Line> {
        let file = match &self.file {
            Some(file) => file.display().to_string(),
            None => "none: the defaults, the environment and the flags".to_owned(),
        };
        vec![
            Line::ok("file", file),
            Line::ok("node", &*self.config.node()),
            Line::ok("observers", self.config.observers.names().join(", ")),
        ]
    }
}
