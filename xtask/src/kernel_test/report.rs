//! The closing tables.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::guest::Said;
use super::kernel::Kernel;
use crate::tally::Tally;

/// One boot of one kernel.
pub(super) struct Row {
    /// The requested kernel with its architecture: `6.1-amd64`.
    pub(super) kernel: String,
    pub(super) release: String,
    pub(super) boot: &'static str,
    pub(super) doctor: Vec<String>,
    pub(super) tests: Tally,
    took: Duration,
}

impl Row {
    pub(super) fn new(kernel: &Kernel, boot: &'static str, said: Said, start: Instant) -> Self {
        Self {
            kernel: format!("{}-{}", kernel.query, kernel.arch.name()),
            release: kernel.release.clone(),
            boot,
            doctor: said.doctor,
            tests: said.tests,
            took: start.elapsed(),
        }
    }

    #[cfg(test)]
    pub(super) fn sample(kernel: &str, boot: &'static str, tests: Tally) -> Self {
        let (doctor, release, took) = (Vec::new(), String::new(), Duration::ZERO);
        Self { kernel: kernel.to_owned(), release, boot, doctor, tests, took }
    }

    pub(super) fn fail(&mut self, note: String) {
        self.tests.failed += 1;
        self.tests.notes.push(format!("FAILED {note}"));
    }

    /// `observer hook`, and whether it is attached.
    fn hooks(&self) -> Vec<(String, bool)> {
        let mut observer = None;
        let mut hooks = Vec::new();
        for line in &self.doctor {
            if !line.starts_with(' ') {
                observer = line.strip_prefix("observer ");
            } else if let Some(observer) = observer {
                let mut words = line.split_whitespace();
                // A remedy has a separate line.
                if let (Some(state @ ("ok" | "warn" | "fail")), Some(hook)) = (words.next(), words.next()) {
                    hooks.push((format!("{observer} {hook}"), state == "ok"));
                }
            }
        }
        hooks
    }
}

/// Prints each observer's hooks and whether they are attached on each kernel. A boot with the same hooks as
/// the kernel's first boot has no column.
fn hooks(rows: &[Row]) {
    let mut columns: Vec<&Row> = Vec::new();
    for row in rows {
        if !columns.iter().any(|column| column.kernel == row.kernel && column.hooks() == row.hooks()) {
            columns.push(row);
        }
    }
    let mut names: Vec<String> = columns.iter().flat_map(|row| row.hooks()).map(|(hook, _)| hook).collect();
    names.sort();
    names.dedup();
    let titles = columns.iter().map(|row| match row.boot {
        "plain" => row.kernel.clone(),
        boot => format!("{} {boot}", row.kernel),
    });
    let titles: Vec<String> = titles.collect();
    println!("\n{:<34} {}", "hook", titles.join("  "));
    for name in names {
        let cells = columns.iter().zip(&titles).map(|(row, title)| {
            let attached = row.hooks().iter().find(|(hook, _)| *hook == name).map(|(_, attached)| *attached);
            let cell = match attached {
                Some(true) => "ok",
                Some(false) => "no",
                None => "-",
            };
            format!("{cell:<width$}", width = title.len())
        });
        println!("{name:<34} {}", cells.collect::<Vec<_>>().join("  "));
    }
    println!();
}

/// Prints kernels, hooks, skips with their reasons, and the closing line.
pub(super) fn report(rows: &[Row]) -> Result<Tally> {
    println!(
        "\n{:<34} {:<24} {:>7} {:>7} {:>8} {:>6}  hooks",
        "kernel", "boot", "passed", "failed", "skipped", "time"
    );
    let mut all = Tally::default();
    for row in rows {
        let Tally { passed, failed, skipped, .. } = row.tests;
        let hooks = row.hooks();
        let attached = hooks.iter().filter(|(_, attached)| *attached).count();
        let seconds = row.took.as_secs();
        println!(
            "{:<34} {:<24} {passed:>7} {failed:>7} {skipped:>8} {seconds:>4} s  {attached} of {}",
            row.release,
            row.boot,
            hooks.len()
        );
        all.add(&row.tests);
    }
    hooks(rows);
    for row in rows {
        for note in &row.tests.notes {
            println!("{} {}: {note}", row.release, row.boot);
        }
    }
    println!(
        "\n{} kernels and boots: {} passed, {} failed, {} skipped",
        rows.len(),
        all.passed,
        all.failed,
        all.skipped
    );
    if all.total() == 0 {
        bail!("no test has that in its name");
    }
    if all.failed > 0 {
        bail!("{} of {} tests failed", all.failed, all.total());
    }
    Ok(all)
}
