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
