//! The files of a case.

use std::{
    fs::{self, File},
    io::{BufReader, Read as _},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

fn text(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if path.extension().is_none_or(|extension| extension != "gz") {
        return fs::read_to_string(path).map_err(failed);
    }
    let mut text = String::new();
    MultiGzDecoder::new(BufReader::new(File::open(path).map_err(failed)?))
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

pub(crate) fn json(path: &Path) -> Result<Value, String> {
    // One of the sets begins its files with a byte order mark.
    serde_json::from_str(text(path)?.trim_start_matches('\u{feff}'))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// One value a line.
pub(crate) fn json_lines(path: &Path) -> Result<Vec<Value>, String> {
    let read = |(nth, line)| {
        serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), nth + 1))
    };
    text(path)?.lines().enumerate().filter(|(_, line)| !line.is_empty()).map(read).collect()
}

/// A table with a head.
pub(crate) struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = text(path)?;
        // Quotes are around texts without commas only.
        let cells =
            |line: &str| line.split(',').map(|cell| cell.trim_matches('"').to_owned()).collect::<Vec<_>>();
        let mut lines = text.lines().map(cells);
        let head = lines.next().ok_or_else(|| format!("{}: it is empty", path.display()))?;
        let rows: Vec<_> = lines.collect();
        match rows.iter().position(|row| row.len() != head.len()) {
            Some(nth) => Err(format!("{}:{}: not {} cells", path.display(), nth + 2, head.len())),
            None => Ok(Self { head, rows }),
        }
    }

    pub(crate) fn columns(&self) -> &[String] {
        &self.head
    }

    /// A column; empty texts if there is none of the name.
    pub(crate) fn texts(&self, column: &str) -> Vec<&str> {
        let at = self.head.iter().position(|name| name == column);
        self.rows.iter().map(|row| at.and_then(|at| row.get(at)).map_or("", String::as_str)).collect()
    }

    /// A column of numbers; what is none is not a number.
    pub(crate) fn numbers(&self, column: &str) -> Vec<f64> {
        self.texts(column).into_iter().map(|text| text.parse().unwrap_or(f64::NAN)).collect()
    }
}
