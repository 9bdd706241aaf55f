//! Scores how well shifts are found in a series with known level changes.
//!
//! Reports and changes are rows. A report matches a change if it is near enough. Each report and each change matches at
//! most once, in order. All series are counted together.

use std::io;

use serde_json::{Deserializer, Value};

use crate::replay::{self, Options, ReplayError};

/// A report matches from this many rows before a change.
const EARLY_ROWS: u64 = 2;
/// A report matches up to this many rows after a change: a shift is only reported after a run of samples.
const LATE_ROWS: u64 = 15;
/// The strict score compares the reported start of the shift. It may be this many rows after the change, and
/// [`EARLY_ROWS`] before it.
const STRICT_ROWS: u64 = 2;

/// A shift, as `tapio replay` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The row at which it was reported.
    pub row: u64,
    /// The row at which it began.
    pub since: u64,
}

/// Counts over any number of series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Shifts reported.
    pub reports: u64,
    /// Level changes in the series.
    pub changes: u64,
    /// Reports whose `row` is near a change.
    pub found: u64,
    /// Reports whose `since` is at a change.
    pub placed: u64,
}

impl Score {
    /// Adds one series; both lists in order.
    pub fn add(&mut self, reports: &[Report], changes: &[u64]) {
        self.reports += reports.len() as u64;
        self.changes += changes.len() as u64;
        self.found += matches(reports.iter().map(|report| report.row), changes, LATE_ROWS);
        self.placed += matches(reports.iter().map(|report| report.since), changes, STRICT_ROWS);
    }

    /// Runs one file through `tapio replay`, adds its reports, and returns its number of rows. The last column is the
    /// label: 1 on the first row of a new level.
    ///
    /// # Errors
    /// The file cannot be replayed.
    pub fn add_replayed(&mut self, csv: &str, options: &Options) -> Result<u64, ReplayError> {
        let mut out = Vec::new();
        let summary = replay::run(csv.as_bytes(), options, &mut out, io::sink())?;
        let mut reports = Vec::new();
        for line in Deserializer::from_slice(&out).into_iter::<Value>() {
            let line = line.map_err(io::Error::from)?;
            if let (Some(row), Some(since)) = (line["row"].as_u64(), line["since"].as_u64()) {
                reports.push(Report { row, since });
            }
        }
        let rows = (0..).zip(csv.lines().skip(1));
        let labelled = rows.filter(|(_, line)| line.rsplit(',').next() == Some("1"));
        self.add(&reports, &labelled.map(|(row, _)| row).collect::<Vec<_>>());
        Ok(summary.rows)
    }

    /// Share of the reports that are correct, 0 to 1.
    pub fn precision(&self) -> f64 {
        self.found as f64 / self.reports.max(1) as f64
    }

    /// Recall: share of the changes that are found, 0 to 1.
    pub fn recall(&self) -> f64 {
        self.found as f64 / self.changes.max(1) as f64
    }

    /// Harmonic mean of precision and recall.
    pub fn f1(&self) -> f64 {
        self.f1_of(self.found)
    }

    /// Like [`Self::f1`], for the reported starts of the shifts.
    pub fn strict_f1(&self) -> f64 {
        self.f1_of(self.placed)
    }

    fn f1_of(&self, matched: u64) -> f64 {
        2.0 * matched as f64 / (self.reports + self.changes).max(1) as f64
    }
}

fn matches(reports: impl Iterator<Item = u64>, changes: &[u64], late_rows: u64) -> u64 {
    let mut changes = changes.iter().peekable();
    let mut matched = 0;
    for report in reports {
        while changes.next_if(|change| **change + late_rows < report).is_some() {}
        if changes.next_if(|change| **change <= report + EARLY_ROWS).is_some() {
            matched += 1;
        }
    }
    matched
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(reports: &[(u64, u64)], changes: &[u64]) -> Score {
        let reports: Vec<_> =
            reports.iter().map(|(row, since)| Report { row: *row, since: *since }).collect();
        let mut score = Score::default();
        score.add(&reports, changes);
        score
    }

    #[test]
    fn near_enough_counts_once() {
        let score = score(&[(98, 98), (115, 110), (116, 112), (216, 203)], &[100, 200]);
        assert_eq!(score, Score { reports: 4, changes: 2, found: 1, placed: 1 });
        assert_eq!(score.f1(), 2.0 / 6.0);
        assert_eq!((score.precision(), score.recall()), (0.25, 0.5));
    }

    #[test]
    fn a_late_report_is_placed_by_where_it_began() {
        let score = score(&[(104, 100), (215, 202)], &[100, 200]);
        assert_eq!(score, Score { reports: 2, changes: 2, found: 2, placed: 2 });
    }

    /// The bounds hold for the whole set of 20 files; these three are close to its mean.
    #[test]
    fn known_level_changes_are_found() {
        let mut score = Score::default();
        for csv in [
            include_str!("../tests/data/rtt/10.csv"),
            include_str!("../tests/data/rtt/19.csv"),
            include_str!("../tests/data/rtt/20.csv"),
        ] {
            score.add_replayed(csv, &Options::default()).unwrap();
        }
        assert!(score.f1() >= 0.79, "{score:?}: {:.3}", score.f1());
        assert!(score.strict_f1() >= 0.75, "{score:?}: {:.3}", score.strict_f1());
    }

    #[test]
    fn nothing_is_not_a_number_less_than_zero() {
        assert_eq!(score(&[], &[]).f1(), 0.0);
    }
}
