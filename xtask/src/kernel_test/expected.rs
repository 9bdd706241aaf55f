//! The expected results for each kernel: which tests cannot run there and why, and the doctor's output.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::report::Row;
use crate::machine;

/// The directory of expected results, next to the tests.
const DIRECTORY: &str = "tapio-agent/tests/kernel/expected";
/// The list of skips in that directory.
const SKIPS: &str = "skips.toml";
/// The kernel whose output stands for all that say the same: a plain boot's for all boots.
const REFERENCE: &str = "5.10-amd64";

/// The list of tests that cannot run on some kernels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Skips {
    #[serde(default)]
    skip: Vec<Skip>,
}

/// One entry of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    /// Kernels as in `5.10-amd64`; absent for every kernel.
    #[serde(default)]
    kernels: Vec<String>,
    /// Kernels exempt from it.
    #[serde(default)]
    except: Vec<String>,
    /// Ways to boot; absent for every one.
    #[serde(default)]
    boots: Vec<String>,
    /// The tests' names; `container::` matches all tests of that module that give the reason.
    tests: Vec<String>,
    /// The reason that each of them prints.
    reason: String,
    /// Why that is right, for readers.
    #[expect(dead_code, reason = "for readers")]
    why: String,
}

impl Skips {
    pub(super) fn read() -> Result<Self> {
        let path = directory()?.join(SKIPS);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is not as it should be", path.display()))
    }

    /// An unexpected skip counts as a failure. If all tests ran, so does an expected skip that did not
    /// happen.
    pub(super) fn judge(&self, row: &mut Row, complete: bool) {
        let skipped: Vec<(String, String)> = row
            .tests
            .notes
            .iter()
            .filter_map(|note| note.strip_prefix("skipped ")?.split_once(": "))
            .map(|(test, reason)| (test.to_owned(), reason.to_owned()))
            .collect();
        let expected: Vec<(&str, &str)> = self
            .skip
            .iter()
            .filter(|skip| skip.kernels.is_empty() || skip.kernels.contains(&row.kernel))
            .filter(|skip| !skip.except.contains(&row.kernel))
            .filter(|skip| skip.boots.is_empty() || skip.boots.iter().any(|boot| boot == row.boot))
            .flat_map(|skip| skip.tests.iter().map(|test| (test.as_str(), skip.reason.as_str())))
            .collect();
        let is = |(test, reason): &(String, String), (named, said): &(&str, &str)| {
            (test == named || named.ends_with("::") && test.starts_with(named)) && reason == said
        };
        for both @ (test, reason) in &skipped {
            if !expected.iter().any(|entry| is(both, entry)) {
                row.tests.skipped -= 1;
                row.fail(format!("{test}: skipped, which {SKIPS} does not expect: {reason}"));
            }
        }
        for entry @ (test, reason) in expected.iter().filter(|_| complete) {
            if !skipped.iter().any(|both| is(both, entry)) {
                row.fail(format!("{test}: {SKIPS} expects it to be skipped: {reason}"));
            }
        }
    }
}

/// Compares the doctor's output with the stored one, for each observer and for the rest: for this kernel and
/// way to boot, for this way to boot, or for all. `bless` stores the new output.
pub(super) fn doctor(row: &mut Row, bless: bool) -> Result<()> {
    let directory = directory()?.join("doctor");
    let said: Vec<String> = row.doctor.iter().map(|line| general(line, &row.release)).collect();
    if let Err(wrong) = sum(&said) {
        row.fail(wrong);
    }
    for (of, said) in by_observer(&said) {
        let names = [of.clone(), format!("{of}-{}", row.boot), format!("{of}-{}-{}", row.boot, row.kernel)];
        let files = names.map(|name| directory.join(name + ".txt"));
        let kept = files.iter().rev().find(|file| file.exists());
        let Some(kept) = kept.filter(|_| !bless) else {
            keep(&files, &said, row.kernel == REFERENCE, row.boot == "plain")?;
            continue;
        };
        let text = fs::read_to_string(kept).with_context(|| format!("cannot read {}", kept.display()))?;
        let differences = differences(&text, &said);
        if !differences.is_empty() {
            let file = kept.file_name().unwrap_or_default().to_string_lossy().into_owned();
            row.fail(format!(
                "tapio doctor says other things than {file} has (--bless keeps what it says):\n{}",
                differences.join("\n")
            ));
        }
    }
    Ok(())
}

/// Stores the output: that of the reference kernel for all kernels, that of another where it differs.
fn keep([all, boot, own]: &[PathBuf; 3], said: &str, is_reference: bool, is_plain: bool) -> Result<()> {
    fs::create_dir_all(all.parent().context("no directory")?)?;
    let is_said = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| text == said);
    let shared = if boot.exists() { boot } else { all };
    let (file, others) = match is_reference {
        true if is_plain || is_said(all) => (all, [boot, own]),
        true => (boot, [own, own]),
        false if is_said(shared) => (shared, [own, own]),
        false => (own, [own, own]),
    };
    for other in others.into_iter().filter(|other| *other != file && other.exists()) {
        fs::remove_file(other).with_context(|| format!("cannot remove {}", other.display()))?;
    }
    fs::write(file, said).with_context(|| format!("cannot write {}", file.display()))
}

/// The lines of each observer, and of the rest, `host`, without the last line.
fn by_observer(said: &[String]) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::<String, String>::new();
    let mut of = "host";
    for line in said.iter().take(said.len().saturating_sub(1)).filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            of = line.strip_prefix("observer ").unwrap_or("host");
        }
        let part = parts.entry(of.to_owned()).or_default();
        part.push_str(line);
        part.push('\n');
    }
    parts
}

/// The last line is the sum of those before it.
fn sum(said: &[String]) -> Result<(), String> {
    let last = said.last().map(String::as_str).unwrap_or_default();
    let is_attached = |line: &&String| line.starts_with("  ok ") && line.contains(" attached (");
    let attached = said.iter().filter(is_attached).count();
    match last.starts_with(&format!("{attached} of ")) {
        true => Ok(()),
        false => Err(format!("tapio doctor shows {attached} attached hooks, and ends: {last}")),
    }
}

/// Lines that only one of the two has.
fn differences(kept: &str, said: &str) -> Vec<String> {
    let missing = kept.lines().filter(|line| !said.lines().any(|other| other == *line));
    let new = said.lines().filter(|line| !kept.lines().any(|other| other == *line));
    missing.map(|line| format!("    -{line}")).chain(new.map(|line| format!("    +{line}"))).collect()
}

/// A line without the parts that differ between kernel builds or between boots, or that change with each new
/// observer.
fn general(line: &str, release: &str) -> String {
    if let Some((before, _)) = line.split_once("observers ").filter(|(before, _)| before.trim() == "ok") {
        return format!("{before}observers ALL");
    }
    let line = [" x86_64", " aarch64"].iter().fold(line.replace(release, "RELEASE"), |line, machine| {
        line.replace(&format!("RELEASE{machine}"), "RELEASE")
    });
    let words: Vec<&str> = line.split(' ').collect();
    let general = words.iter().enumerate().map(|(index, word)| {
        // The size of the types, and the number of processes at /proc.
        let counts = matches!(words[index + 1..], ["KiB", ..] | ["at", "/proc", ..]);
        if counts && word.parse::<u64>().is_ok() { "N" } else { *word }
    });
    general.collect::<Vec<_>>().join(" ")
}

fn directory() -> Result<PathBuf> {
    Ok(machine::workspace()?.join(DIRECTORY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Tally;

    #[test]
    fn what_differs_from_build_to_build_is_left_out() {
        let general = |line| general(line, "6.1.0-56-cloud-amd64");
        assert_eq!(general("  ok   release   6.1.0-56-cloud-amd64 x86_64"), "  ok   release   RELEASE");
        assert_eq!(general("  ok   types (BTF)   vmlinux, 4083 KiB"), "  ok   types (BTF)   vmlinux, N KiB");
        assert_eq!(general("  ok   processes   72 at /proc"), "  ok   processes   N at /proc");
        for same in ["  ok   bpf_jit_enable   1", "  ok   cgroups   version 2 at /sys/fs/cgroup: named"] {
            assert_eq!(general(same), same);
        }
    }

    #[test]
    fn each_observer_has_its_part_and_the_last_line_is_their_sum() {
        let said = "tapio 1 on n\n\nrights\n  ok   CAP_BPF  loads\n\nobserver a\n  ok   x  attached (tp_btf x): y\n  \
                    warn z  no z; without it: no w\n\nidentity\n  ok   c  v2\n\n1 of 2 hooks attached; without z there is no w."
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        let parts = by_observer(&said);
        assert_eq!(parts.keys().collect::<Vec<_>>(), ["a", "host"]);
        assert!(parts["a"].starts_with("observer a\n  ok   x") && parts["a"].ends_with("no w\n"));
        assert!(parts["host"].ends_with("identity\n  ok   c  v2\n"));
        assert_eq!(sum(&said), Ok(()));
        let mut wrong = said;
        *wrong.last_mut().unwrap() = "2 of 2 hooks attached.".to_owned();
        assert!(sum(&wrong).is_err());
    }

    #[test]
    fn what_is_kept_is_of_the_reference_kernel_and_of_those_that_differ() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let files = |boot: &str, kernel: &str| {
            ["a".to_owned(), format!("a-{boot}"), format!("a-{boot}-{kernel}")]
                .map(|name| directory.path().join(name))
        };
        let mut rows = Vec::new();
        let mut bless = |boot: &str, kernel: &str, said: &str| {
            keep(&files(boot, kernel), said, kernel == REFERENCE, boot == "plain")?;
            let mut names: Vec<_> =
                fs::read_dir(directory.path())?.flatten().map(|e| e.file_name()).collect();
            names.sort();
            rows.push(names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "));
            anyhow::Ok(())
        };
        bless("plain", REFERENCE, "1")?;
        bless("plain", "6.1-arm64", "2")?;
        bless("v1", "6.1-arm64", "1")?;
        bless("v1", REFERENCE, "3")?;
        bless("v1", "6.1-arm64", "1")?;
        bless("v1", REFERENCE, "1")?;
        let v1 = "a a-plain-6.1-arm64 a-v1";
        let all = "a a-plain-6.1-arm64";
        assert_eq!(
            rows,
            ["a", all, all, v1, &format!("{v1} a-v1-6.1-arm64"), &format!("{all} a-v1-6.1-arm64")]
        );
        Ok(())
    }

    fn row(notes: &[&str]) -> Row {
        let notes: Vec<String> = notes.iter().map(|note| (*note).to_owned()).collect();
        let tests = Tally { skipped: notes.len(), notes, ..Tally::default() };
        Row::sample("6.1-amd64", "plain", tests)
    }

    #[test]
    fn a_whole_module_may_be_skipped() -> Result<()> {
        let skips: Skips = toml::from_str("[[skip]]\ntests = ['all::']\nreason = 'none'\nwhy = 'so'\n")?;
        let judged = |notes: &[&str]| {
            let mut row = row(notes);
            skips.judge(&mut row, true);
            (row.tests.failed, row.tests.skipped)
        };
        assert_eq!(judged(&["skipped all::of: none", "skipped all::these: none"]), (0, 2));
        assert_eq!(judged(&["skipped all::of: none", "skipped alls: none", "skipped all::of: x"]), (2, 1));
        assert_eq!(judged(&[]), (1, 0));
        Ok(())
    }

    #[test]
    fn a_skip_is_on_the_list_or_a_failure() -> Result<()> {
        let list = "[[skip]]\nkernels = ['6.1-amd64']\ntests = ['one']\nreason = 'no such hook'\nwhy = 'came later'\n";
        let skips: Skips = toml::from_str(list)?;
        let judged = |notes: &[&str], complete| {
            let mut row = row(notes);
            skips.judge(&mut row, complete);
            (row.tests.failed, row.tests.skipped)
        };
        assert_eq!(judged(&["skipped one: no such hook"], true), (0, 1));
        assert_eq!(judged(&["skipped one: another reason"], false), (1, 0));
        assert_eq!(judged(&["skipped one: no such hook", "skipped two: no such hook"], true), (1, 1));
        assert_eq!(judged(&[], true), (1, 0), "it did not happen");
        assert_eq!(judged(&[], false), (0, 0), "it was not run");
        Ok(())
    }
}
