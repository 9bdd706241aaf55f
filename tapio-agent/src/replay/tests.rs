use std::cell::Cell;
use std::fmt::Write as _;

use clap::Parser;
use serde_json::{Value, json};

use super::*;

/// `rows` rows that alternate between 5.04 and 4.96, followed by `then`.
fn series(rows: usize, then: &[f64]) -> String {
    let mut text = String::from("timestamp,value\n");
    for row in 0..rows {
        writeln!(text, "{row},{}", if row % 2 == 0 { 4.96 } else { 5.04 }).unwrap();
    }
    for (row, value) in then.iter().enumerate() {
        writeln!(text, "{},{value}", rows + row).unwrap();
    }
    text
}

fn replay(text: impl AsRef<[u8]>, options: &Options) -> Result<(Summary, Vec<Value>), String> {
    let (mut out, mut summary) = (Vec::new(), Vec::new());
    let counts = run(text.as_ref(), options, &mut out, &mut summary).map_err(|error| error.to_string())?;
    assert_eq!(String::from_utf8(summary).unwrap(), format!("{counts}\n"));
    let judged = counts.lost + counts.learning + counts.normal + counts.spikes + counts.shifts;
    assert_eq!(counts.rows, judged, "every row is counted once");
    let lines = String::from_utf8(out).unwrap();
    Ok((counts, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

fn refused(text: impl AsRef<[u8]>) -> String {
    replay(text, &Options::default()).unwrap_err()
}

#[test]
fn a_spike_says_what_was_normal() {
    let options = Options { unit: Some("ms".to_owned()), ..Options::default() };
    let (counts, lines) = replay(series(200, &[41.0, 5.0]), &options).unwrap();
    assert_eq!((counts.rows, counts.spikes, counts.shifts), (202, 1, 0));
    let mean = lines[0]["baseline"]["mean"].as_f64().unwrap();
    assert!((4.99..5.01).contains(&mean), "{mean}");
    let ratio = lines[0]["baseline"]["ratio"].as_f64().unwrap();
    assert!((8.1..8.3).contains(&ratio), "{ratio}");
    assert_eq!(lines[0]["baseline"]["samples"], 200);
    assert_eq!(lines[0]["baseline"]["unit"], "ms");
    assert_eq!(lines[0]["value"], 41.0);
    assert_eq!((&lines[0]["row"], &lines[0]["verdict"]), (&json!(200), &json!("spike")));
    assert!(lines[0].get("since").is_none() && lines[0].get("key").is_none());
}

#[test]
fn a_shift_says_since_when_and_what_was_normal_before() {
    let (counts, lines) = replay(series(200, &[9.0; 40]), &Options::default()).unwrap();
    assert_eq!((counts.spikes, counts.shifts), (0, 1));
    assert_eq!((&lines[0]["row"], &lines[0]["since"]), (&json!(204), &json!(200)));
    assert!(lines[0]["baseline"]["mean"].as_f64().unwrap() < 5.1);
    assert_eq!(lines[0]["timestamp"], "204");
}

#[test]
fn any_unit_gives_the_same_rows() {
    let rows = |factor: f64| {
        let mut text = String::from("timestamp,value\n");
        for row in 0..600 {
            let level = if row < 300 { 5.0 } else { 6.0 };
            writeln!(text, "{row},{}", (level + f64::from(row * 7_919 % 100) / 1e3) * factor).unwrap();
        }
        let (_, lines) = replay(text, &Options::default()).unwrap();
        lines.iter().map(|line| (line["row"].as_u64(), line["since"].as_u64())).collect::<Vec<_>>()
    };
    let expected = rows(1.0);
    assert_eq!(expected, [(Some(306), Some(300))]);
    for factor in [1e-290, 1e-9, 1e-3, 1e3, 1e9, 1e300] {
        assert_eq!(rows(factor), expected, "{factor}");
    }
}

#[test]
fn a_level_far_out_of_scale_is_learnt_again() {
    for level in [1e-9, 1e12] {
        let mut values = vec![level; 100];
        values.extend([level * 1.5; 10]);
        let (counts, lines) = replay(series(100, &values), &Options::default()).unwrap();
        assert_eq!(counts.shifts, 2, "{level}");
        assert_eq!(lines.last().unwrap()["since"], 200);
    }
}

#[test]
fn floor_and_ceiling_are_in_the_unit_of_the_file() {
    let abnormal = |options| replay(series(200, &[12.0]), &options).unwrap().1.len();
    assert_eq!(abnormal(Options::default()), 1);
    assert_eq!(abnormal(Options { floor: 7.5, ..Options::default() }), 0);
    assert_eq!(abnormal(Options { ceiling: 5.03, ..Options::default() }), 101);
    assert_eq!(abnormal(Options { ratio: 3.0, ..Options::default() }), 0);
}

#[test]
fn keys_are_series_of_their_own() {
    let mut text = String::from("value,ignored,key,timestamp\n");
    for row in 0..100 {
        let value = if row == 90 { 100 } else { 10 };
        writeln!(text, "{value},x,\"a, b\",{row}\n500,x,c,{row}").unwrap();
    }
    let (counts, lines) = replay(text, &Options::default()).unwrap();
    assert_eq!((counts.keys, counts.spikes, lines.len()), (2, 1, 1));
    assert_eq!((&lines[0]["key"], &lines[0]["row"]), (&json!("a, b"), &json!(180)));
}

#[test]
fn a_lost_sample_is_counted_and_not_judged() {
    let (counts, lines) = replay(series(200, &[0.0, -1.0, 5.0]), &Options::default()).unwrap();
    assert_eq!((counts.lost, lines.len()), (2, 0));
    let keep = Options { keep_zero: true, ..Options::default() };
    assert_eq!(replay(series(200, &[0.0, -1.0, 5.0]), &keep).unwrap().0.lost, 1);
    let zeros = "timestamp,value\n".to_owned() + &"1,0\n".repeat(100) + "1,7\n";
    assert_eq!(replay(zeros, &keep).unwrap().0.spikes, 1);
}

#[test]
fn line_ends_byte_order_mark_blanks_and_case_do_not_matter() {
    let text = "\u{feff}Timestamp, VALUE \r\n1, 5.0\r\n\r\n2,1e-3";
    assert_eq!(replay(text, &Options::default()).unwrap().0.rows, 2);
}

#[test]
fn a_bad_file_is_refused_with_place_and_remedy() {
    for (text, expected) in [
        ("", "the file is empty"),
        ("timestamp,value\n", "no rows below the header"),
        ("1,5\n2,6\n", "line 1: no column `timestamp`, only `1`, `5`"),
        ("timestamp;value\n1;5\n", "separated by commas"),
        ("timestamp,value,value\n1,2,3\n", "line 1: column `value` is there twice"),
        ("timestamp,value\n1,5\n2\n", "line 3: no column `value`; the row has 1 columns, the header 2"),
        ("timestamp,value\n1,5\n2,abc\n", "line 3, column `value`: `abc` is not a finite number"),
        ("timestamp,value\n1,\n", "line 2, column `value`: `` is not a finite number"),
        ("timestamp,value\n1,NaN\n", "`NaN` is not a finite number"),
        ("timestamp,value\n1,-inf\n", "`-inf` is not a finite number"),
        ("timestamp,value\n1,1e999\n", "`1e999` is not a finite number"),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert!(refused(b"timestamp,value\n1,5\n\xff,5\n").contains("line 3, column `timestamp`: not UTF-8"));
    assert!(refused([0xff; 5_000]).contains("no column `timestamp`"));
}

#[test]
fn an_open_quote_does_not_swallow_the_file() {
    let text = "timestamp,value\n1,5\n\"2,5\n".to_owned() + &"3,5\n".repeat(1 << 20);
    assert!(refused(text).contains("line 3: a row of more than 1048576 bytes begins here"));
}

/// Generates rows as they are read, so that only the replay itself can hold them in memory.
struct Endless<'a> {
    row: u64,
    rows: u64,
    pending: Vec<u8>,
    most_pending: &'a Cell<usize>,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pending.is_empty() && self.row < self.rows {
            self.pending =
                format!("{},{},{}\n", self.row, 100 + self.row % 7, self.row % 100_000).into_bytes();
            self.row += 1;
        }
        let length = buffer.len().min(self.pending.len());
        buffer[..length].copy_from_slice(&self.pending[..length]);
        self.pending.drain(..length);
        self.most_pending.set(self.most_pending.get().max(self.pending.len()));
        Ok(length)
    }
}

#[test]
fn a_million_rows_and_many_keys_stay_in_bounded_memory() {
    // Between two rows the replay keeps one record and at most MAX_KEYS series. With more keys than that,
    // visited in turn, each is forgotten before it comes back.
    let most_pending = Cell::new(0);
    let header = "timestamp,value,key\n".as_bytes();
    let rows = Endless { row: 0, rows: 1_000_000, pending: Vec::new(), most_pending: &most_pending };
    let counts = run(header.chain(rows), &Options::default(), io::sink(), io::sink()).unwrap();
    assert_eq!((counts.rows, counts.keys), (1_000_000, 1_000_000));
    assert_eq!(counts.forgotten, 1_000_000 - MAX_KEYS.get() as u64);
    assert_eq!(counts.learning, 1_000_000);
    assert!(size_of::<Series>() <= 160, "{}", size_of::<Series>());
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    replay: ReplayArgs,
}

#[test]
fn flags_default_to_what_was_measured() {
    let command = Command::try_parse_from(["replay", "file.csv"]).unwrap();
    assert_eq!(command.replay.options, Options::default());
    assert_eq!(Options::default().limits(1.0), Limits::DEFAULT);
}

#[test]
fn flags_out_of_range_are_refused() {
    for flag in ["--ratio=0.5", "--ratio=NaN", "--run=0", "--floor=-1", "--ceiling=inf"] {
        assert!(Command::try_parse_from(["replay", "file.csv", flag]).is_err(), "{flag}");
    }
    let gone =
        Command::try_parse_from(["replay", "file.csv", "--band=2.5"]).err().map(|error| error.to_string());
    assert!(gone.is_some_and(|gone| gone.contains("--run")), "it names what there is instead");
}
