//! `tapio doctor` reports what this node can observe, what it cannot, and the remedy.
//!
//! It does not guess: it loads and attaches the programs as the agent would, and detaches them again. The checks are
//! independent, so a failing one does not hide another.

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

/// The options of `tapio doctor`.
#[derive(Debug)]
pub struct Doctor {
    /// The configuration that the agent would use.
    pub config: Box<Config>,
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// Print the report as JSON.
    pub json: bool,
    /// The file with the kernel's types; [`BTF`] by default.
    pub types: PathBuf,
}

impl Doctor {
    /// Creates it with the default file of kernel types.
    #[must_use]
    pub fn new(config: Box<Config>, file: Option<PathBuf>, json: bool) -> Self {
        Self { config, file, json, types: BTF.into() }
    }

    /// Examines this node and prints the report. The exit code is a failure if nothing can be observed.
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
        // An agent with none of its hooks does not do its job, even if it reads files.
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
