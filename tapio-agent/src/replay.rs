//! `tapio replay`: the kernel's own baseline over a recorded series.
//!
//! Reads CSV with a header that names `timestamp,value` and, if the file holds several series, `key`; in any
//! order. Other columns are ignored. Writes one JSON line for each abnormal row, and a summary. It streams:
//! memory grows neither with the rows nor, past [`MAX_KEYS`], with the keys.
//!
//! Timestamps are passed through unchanged. A value of 0 or less is a lost sample: counted, not judged.

mod row;
mod series;

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::hash::RandomState;
use std::io::{self, BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use lru::LruCache;
use serde::Serialize;
use tapio_common::baseline::{Limits, Verdict};

pub use row::ReplayError;
use row::{Row, Rows};
use series::{Known, Series};

/// The most series kept at once, about 20 MB. Beyond that, the series that was silent for longest is
/// forgotten.
pub const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// `tapio replay FILE`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// CSV with a header naming `timestamp,value` and optionally `key`; `-` reads standard input
    pub file: PathBuf,
    /// When a row is abnormal.
    #[command(flatten)]
    pub options: Options,
    #[arg(long, hide = true, value_parser = no_band)]
    band: Option<Infallible>,
}

/// The thresholds for a row to be abnormal. Floor and ceiling are in the unit of the file.
#[derive(Clone, Debug, PartialEq, clap::Args)]
pub struct Options {
    /// A spike is over this many times the mean
    #[arg(long, default_value_t = 2.0, value_parser = number_between::<1, 655>, value_name = "TIMES")]
    pub ratio: f64,
    /// A spike is over the mean by more than this many deviations
    #[arg(long, default_value_t = Limits::DEFAULT.deviations, value_parser = clap::value_parser!(u8), value_name = "N")]
    pub deviations: u8,
    /// So many rows in a run, outside of 2.75 deviations, are a new level in a calm series; a restless one takes more
    #[arg(long, default_value_t = Limits::DEFAULT.run, value_parser = clap::value_parser!(u8).range(1..=100), value_name = "ROWS")]
    pub run: u8,
    /// Within this much of the mean nothing is abnormal; off unless given
    #[arg(long, default_value_t = 0.0, value_parser = number_between::<0, { u64::MAX }>, hide_default_value = true)]
    pub floor: f64,
    /// Over this every row is a spike; off unless given
    #[arg(long, default_value_t = 0.0, value_parser = number_between::<0, { u64::MAX }>, hide_default_value = true)]
    pub ceiling: f64,
    /// The unit of the values, to be named in the output; changes no number
    #[arg(long)]
    pub unit: Option<String>,
    /// Zero is a measurement, not a lost sample
    #[arg(long)]
    pub keep_zero: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ratio: f64::from(Limits::DEFAULT.ratio_percent) / 100.0,
            deviations: Limits::DEFAULT.deviations,
            run: Limits::DEFAULT.run,
            floor: 0.0,
            ceiling: 0.0,
            unit: None,
            keep_zero: false,
        }
    }
}

/// Counts of rows: `rows = lost + learning + normal + spikes + shifts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Rows without a measurement.
    pub lost: u64,
    /// Rows used to learn a series before it was judged.
    pub learning: u64,
    /// Rows with nothing to report.
    pub normal: u64,
    /// Rows reported as spikes.
    pub spikes: u64,
    /// Rows reported as shifts.
    pub shifts: u64,
    /// Series seen. A series that was forgotten and came back counts again.
    pub keys: u64,
    /// Series forgotten to keep memory bounded.
    pub forgotten: u64,
}

/// One abnormal row, as it is written.
#[derive(Serialize)]
struct Abnormal<'a> {
    row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    timestamp: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    value: f64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Before<'a>>,
}

/// The baseline before the row.
#[derive(Serialize)]
struct Before<'a> {
    #[serde(flatten)]
    known: Known,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
}

impl ReplayArgs {
    /// Replays the file to standard output, the summary to standard error.
    pub fn run(&self) -> anyhow::Result<Summary> {
        let input: Box<dyn Read> = if self.file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(
                File::open(&self.file).with_context(|| format!("cannot replay {}", self.file.display()))?,
            )
        };
        let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
        match run(input, &self.options, out, io::stderr().lock()) {
            // The reader of the output has seen enough, as in `tapio replay FILE | head`.
            Err(ReplayError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Ok(Summary::default())
            }
            other => other.with_context(|| format!("cannot replay {}", self.file.display())),
        }
    }
}

/// Judges every row of `reader`, writes the abnormal ones to `out`, and counts in `summary`.
pub fn run(
    reader: impl Read,
    options: &Options,
    mut out: impl Write,
    mut summary: impl Write,
) -> Result<Summary, ReplayError> {
    let mut rows = Rows::of(reader)?;
    let mut known: LruCache<String, Series, RandomState> =
        LruCache::with_hasher(MAX_KEYS, RandomState::new());
    let mut counts = Summary::default();
    while let Some(row) = rows.next()? {
        let number = counts.rows;
        counts.rows += 1;
        if row.value < 0.0 || (row.value == 0.0 && !options.keep_zero) {
            counts.lost += 1;
            continue;
        }
        let series = series_of(&mut known, &row, &mut counts);
        let before = series.known(row.value);
        let verdict = series.observe(row.value, number, options);
        let (name, since) = match verdict {
            Verdict::Learning => {
                counts.learning += 1;
                continue;
            }
            Verdict::Normal => {
                counts.normal += 1;
                continue;
            }
            Verdict::Spike => {
                counts.spikes += 1;
                ("spike", None)
            }
            Verdict::Shift => {
                counts.shifts += 1;
                ("shift", Some(series.since()))
            }
        };
        let abnormal = Abnormal {
            row: number,
            since,
            timestamp: row.timestamp,
            key: row.key,
            value: row.value,
            verdict: name,
            baseline: before.map(|known| Before { known: known.rounded(), unit: options.unit.as_deref() }),
        };
        serde_json::to_writer(&mut out, &abnormal).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    }
    if counts.rows == 0 {
        return Err(ReplayError::NoRows);
    }
    out.flush()?;
    writeln!(summary, "{counts}")?;
    Ok(counts)
}

impl Options {
    /// The limits for values multiplied by `factor`.
    fn limits(&self, factor: f64) -> Limits {
        Limits {
            ratio_percent: (self.ratio * 100.0).round() as u16,
            deviations: self.deviations,
            run: self.run,
            floor: (self.floor * factor).round() as u64,
            // A ceiling of 0 would mean none at all.
            ceiling: if self.ceiling > 0.0 { ((self.ceiling * factor) as u64).max(1) } else { 0 },
            ..Limits::DEFAULT
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, lost, learning, normal, spikes, shifts, keys, forgotten } = self;
        write!(f, "{rows} rows, {keys} series: {spikes} spikes, {shifts} shifts, {normal} normal, ")?;
        write!(f, "{learning} learning, {lost} lost")?;
        if *forgotten > 0 {
            write!(f, "; {forgotten} series forgotten to bound memory")?;
        }
        Ok(())
    }
}

fn series_of<'a>(
    known: &'a mut LruCache<String, Series, RandomState>,
    row: &Row<'_>,
    counts: &mut Summary,
) -> &'a mut Series {
    let key = row.key.unwrap_or_default();
    if !known.contains(key) {
        counts.keys += 1;
        counts.forgotten += u64::from(known.len() == MAX_KEYS.get());
    }
    known.get_or_insert_mut_ref(key, Series::default)
}

/// The band is no option any more.
fn no_band(_: &str) -> Result<Infallible, String> {
    Err("the band is 2.75 deviations now; --floor widens it, --run says how many rows outside it are a new level".into())
}

/// Parses a finite decimal from `LEAST` to `MOST`.
fn number_between<const LEAST: u64, const MOST: u64>(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (LEAST as f64..=MOST as f64).contains(&number) => Ok(number),
        Ok(_) if MOST == u64::MAX => Err(format!("has to be a number of at least {LEAST}")),
        Ok(_) => Err(format!("has to be from {LEAST} to {MOST}")),
        Err(_) => Err("is not a number".to_owned()),
    }
}

#[cfg(test)]
mod tests;
