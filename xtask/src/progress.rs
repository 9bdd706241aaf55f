//! Progress of long work: on a terminal one line that is updated, elsewhere an occasional line.

use std::io::{self, BufReader, IsTerminal as _, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine;

/// Interval between progress lines that do not replace each other.
const PAUSE: Duration = Duration::from_secs(15);
/// Interval of updates on a terminal.
const TICK: Duration = Duration::from_millis(200);
/// Lines shown of a failed command if none begins with `error`.
const LAST_LINES: usize = 40;

/// The work of one task or several at once.
pub(crate) struct Progress {
    label: &'static str,
    start: Instant,
    on_terminal: bool,
    board: Mutex<Board>,
}

struct Board {
    /// Each job and its progress.
    jobs: Vec<(String, String)>,
    shown: Instant,
    /// Whether the terminal's last line shows the progress.
    is_drawn: bool,
}

impl Progress {
    /// Begins each line with a label.
    pub(crate) fn new(label: &'static str) -> Self {
        let now = Instant::now();
        let board = Board { jobs: Vec::new(), shown: now, is_drawn: false };
        Self { label, start: now, on_terminal: io::stderr().is_terminal(), board: Mutex::new(board) }
    }

    /// Prints a line that stays.
    pub(crate) fn say(&self, text: &str) {
        let mut board = self.board();
        board.clear();
        eprintln!("{}: {text}", self.label);
    }

    /// Runs a long command and shows its progress. Its output appears only in the error if it fails.
    pub(crate) fn run(&self, job: &str, command: &mut Command) -> Result<()> {
        let line = machine::line_of(command);
        let (output, input) = io::pipe().context("cannot make a pipe")?;
        let errors = input.try_clone().context("cannot make a pipe")?;
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", "100");
        command.env("CARGO_TERM_COLOR", "never").stdout(input).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("cannot run `{line}`"))?;
        // The command holds the pipe's other end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.update(job, "");
        let mut said = Vec::new();
        // Cargo ends the lines that it replaces with a carriage return.
        let mut text = Vec::new();
        for byte in BufReader::new(output).bytes() {
            match byte.with_context(|| format!("cannot read what `{line}` says"))? {
                b'\r' | b'\n' => {
                    let line = String::from_utf8_lossy(&text).into_owned();
                    match share(&line) {
                        Some(share) => self.update(job, share),
                        None if !line.trim().is_empty() => said.push(line),
                        None => {}
                    }
                    text.clear();
                }
                byte => text.push(byte),
            }
        }
        let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
        self.end(job);
        if !status.success() {
            bail!("`{line}` failed ({status})\n{}", last_words(&said));
        }
        Ok(())
    }

    fn update(&self, job: &str, share: &str) {
        let mut board = self.board();
        match board.jobs.iter_mut().find(|(name, _)| name == job) {
            Some((_, known)) => share.clone_into(known),
            None => board.jobs.push((job.to_owned(), share.to_owned())),
        }
        if board.shown.elapsed() < if self.on_terminal { TICK } else { PAUSE } {
            return;
        }
        let jobs: Vec<String> =
            board.jobs.iter().map(|(name, share)| format!("{name} {share}").trim_end().to_owned()).collect();
        let line = format!("{}: {:>3} s  {}", self.label, self.start.elapsed().as_secs(), jobs.join(", "));
        board.shown = Instant::now();
        if self.on_terminal {
            board.clear();
            eprint!("{line}");
            board.is_drawn = true;
            // Without a flush the line merely appears later.
            let _ = io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self, job: &str) {
        let mut board = self.board();
        board.clear();
        board.jobs.retain(|(name, _)| name != job);
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    fn clear(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            // Return to the start of the line and erase it.
            eprint!("\r\x1b[2K");
        }
    }
}

/// Cargo's progress: `45/120` of `    Building [===>    ] 45/120: serde, tokio(build)`.
fn share(line: &str) -> Option<&str> {
    let (_, rest) = line.trim_start().strip_prefix("Building [")?.split_once("] ")?;
    rest.split(':').next()
}

/// The output from the first error on, or the last lines.
fn last_words(said: &[String]) -> String {
    let error = said.iter().position(|line| line.starts_with("error"));
    said[error.unwrap_or(said.len().saturating_sub(LAST_LINES))..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_cargo_is() {
        assert_eq!(share("    Building [=====>    ] 45/120: serde, tokio(build)"), Some("45/120"));
        assert_eq!(share("   Compiling serde v1.0.229"), None);
    }

    #[test]
    fn a_command_that_fails_is_reported_with_its_error() {
        let progress = Progress::new("test");
        let script = "printf '   Compiling a\\n  Building [> ] 1/2: a\\rerror: no\\nmore\\n' >&2; exit 3";
        let error = progress.run("job", Command::new("sh").args(["-c", script])).unwrap_err().to_string();
        assert!(error.ends_with("failed (exit status: 3)\nerror: no\nmore"), "{error}");
        assert!(progress.board().jobs.is_empty());
        let error = progress.run("job", Command::new("sh").args(["-c", "echo hm; exit 1"])).unwrap_err();
        assert!(error.to_string().ends_with("\nhm"), "{error}");
    }
}
