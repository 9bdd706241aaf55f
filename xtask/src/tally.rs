//! Counts tests in libtest's output with `--show-output`.
//!
//! A test that cannot run here prints a line `SKIP <test>: <reason>` and returns. libtest calls it passed;
//! here it counts as skipped.

use std::collections::BTreeMap;
use std::time::Duration;

/// The results of a suite's tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    /// One line for each test that failed or was skipped, and for each error around them.
    pub(crate) notes: Vec<String>,
    /// Time of each module's tests, by the clock of [`Reader::line_at`].
    pub(crate) times: BTreeMap<String, Duration>,
}

/// Reads a suite's output line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    /// Number of tests that libtest announced.
    announced: usize,
    /// End time of the last test.
    ended: Option<Duration>,
    now: Duration,
    /// SKIP lines since the last result.
    skipped_themselves: usize,
    section: Section,
}

/// The part of the output that a line is in.
#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    /// Results, failures, summaries.
    #[default]
    Report,
    /// Output of the tests that passed; `skipped` once the current one has printed SKIP.
    Successes { skipped: bool },
}

impl Tally {
    /// Adds the counts of another suite.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.notes.extend_from_slice(&other.notes);
        for (module, took) in &other.times {
            *self.times.entry(module.clone()).or_default() += *took;
        }
    }

    /// Reads a closing line: `2 passed, 0 failed, 1 skipped`, alone or after a colon.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = line.rsplit(": ").next()?;
        let [passed, failed, skipped] =
            line.split(", ").collect::<Vec<_>>().try_into().ok().map(|parts: [&str; 3]| parts)?;
        let count = |part: &str, word: &str| part.strip_suffix(word)?.parse().ok();
        Some(Self {
            passed: count(passed, " passed")?,
            failed: count(failed, " failed")?,
            skipped: count(skipped, " skipped")?,
            ..Self::default()
        })
    }

    pub(crate) fn total(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

impl Reader {
    /// Like [`Self::line`], for tests that run one after the other, with the time since some start.
    pub(crate) fn line_at(&mut self, line: &str, now: Duration) -> bool {
        self.now = now;
        self.line(line)
    }

    /// Reads a line, and returns whether to show it: the output of passing tests is hidden.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if line == "successes:" {
            self.section = Section::Successes { skipped: false };
        } else if line == "failures:" {
            self.section = Section::Report;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.section = Section::Report;
            self.result(result);
        } else if let Some(rest) = line.strip_prefix("running ") {
            self.announced += number_before(rest, " test").unwrap_or(0);
            self.ended = Some(self.now);
        } else if self.section == Section::Report {
            self.reported(line);
        } else {
            self.printed(line);
        }
        self.section == Section::Report
    }

    /// Returns the counts; `success` comes from the exit code. Announced tests without a result count as
    /// failed, and so does a suite that fails without naming a test.
    pub(crate) fn finish(mut self, success: bool) -> Tally {
        let lost = self.announced.saturating_sub(self.tally.total());
        if lost > 0 {
            self.tally.failed += lost;
            self.tally.notes.push(format!("FAILED: the run ended before {lost} of its tests"));
        } else if !success && self.tally.failed == 0 {
            self.tally.failed += 1;
            self.tally.notes.push("FAILED: the run ended with an error outside its tests".into());
        }
        self.tally
    }

    /// `ok. 2 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s`
    fn result(&mut self, text: &str) {
        let count = |what: &str| {
            let fields = text.split(['.', ';']);
            fields.filter_map(|field| number_before(field, what)).next().unwrap_or(0)
        };
        // Tests that skipped themselves are among the passed.
        let skipped = std::mem::take(&mut self.skipped_themselves);
        self.tally.passed += count(" passed").saturating_sub(skipped);
        self.tally.failed += count(" failed");
        self.tally.skipped += count(" ignored") + skipped;
    }

    /// `test name ... ignored, reason` or `test name ... FAILED`
    fn reported(&mut self, line: &str) {
        let Some((name, became)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        let before = self.ended.replace(self.now).unwrap_or_default();
        if let Some((module, _)) = name.split_once("::") {
            *self.tally.times.entry(module.to_owned()).or_default() += self.now.saturating_sub(before);
        }
        if became == "FAILED" {
            self.tally.notes.push(format!("FAILED {name}"));
        } else if let Some(reason) = became.strip_prefix("ignored") {
            let reason = reason.strip_prefix(", ").unwrap_or("ignored");
            self.tally.notes.push(format!("skipped {name}: {reason}"));
        }
    }

    fn printed(&mut self, line: &str) {
        let Section::Successes { skipped } = &mut self.section else { return };
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            *skipped = false;
        } else if let Some(text) = line.strip_prefix("SKIP ")
            && !*skipped
        {
            *skipped = true;
            self.skipped_themselves += 1;
            self.tally.notes.push(format!("skipped {text}"));
        }
    }
}

/// The number in front of a word: `2` in ` 2 passed`.
fn number_before(text: &str, word: &str) -> Option<usize> {
    text.split_once(word)?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str, success: bool) -> (Tally, String) {
        let mut reader = Reader::default();
        let shown: Vec<&str> = output.lines().filter(|line| reader.line(line)).collect();
        (reader.finish(success), shown.join("\n"))
    }

    const OUTPUT: &str = "
running 5 tests
test failing ... FAILED
test ignored_one ... ignored, no such hook
test plain ... ok
test quiet ... ok
test skipping ... ok

successes:

---- quiet stdout ----
some text

---- skipping stdout ----
SKIP skipping: no tbf
SKIP skipping: no tun either

successes:
    plain
    quiet
    skipping

failures:

---- failing stdout ----
SKIP failing: not when it fails
thread 'failing' panicked

failures:
    failing

test result: FAILED. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_skip_is_never_a_pass() {
        let (tally, shown) = read(OUTPUT, false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 1, 2));
        let notes = ["FAILED failing", "skipped ignored_one: no such hook", "skipped skipping: no tbf"];
        assert_eq!(tally.notes, notes);
        assert!(shown.contains("thread 'failing' panicked") && !shown.contains("some text"));
    }

    #[test]
    fn a_closing_line_is_read_back() {
        for line in ["2 passed, 0 failed, 1 skipped", "2 kernels and boots: 2 passed, 0 failed, 1 skipped"] {
            let tally = Tally::parse(line).unwrap();
            assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 0, 1));
        }
        for other in ["", "2 passed, 1 failed", "a passed, 0 failed, 1 skipped", "ci passed in 3 s: a, b, c"]
        {
            assert_eq!(Tally::parse(other), None, "{other}");
        }
    }

    #[test]
    fn results_of_several_runs_add_up() {
        let once =
            "running 1 test\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(read(&once.repeat(2), true).0.passed, 2);
    }

    #[test]
    fn tests_without_a_result_have_failed() {
        let (tally, _) = read("running 3 tests\ntest one ... ok\n", true);
        assert_eq!((tally.passed, tally.failed), (0, 3));
        assert_eq!(read("", false).0.failed, 1);
    }
}
