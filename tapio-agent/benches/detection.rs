//! Measures how well the default limits detect known level changes. Prints `name value unit` lines.
//!
//! The benchmark runs `tapio replay` on every CSV in a folder (`timestamp,value,label`; label 1 marks the
//! first row of a level). The folder is the first argument, or `TAPIO_SERIES`, or the series in `tests/data`.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context;
use tapio_agent::detection::Score;
use tapio_agent::replay::Options;

fn main() -> anyhow::Result<()> {
    // cargo adds its own flags, such as --bench.
    let argument = env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = argument
        .or_else(|| env::var("TAPIO_SERIES").ok())
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/rtt")), PathBuf::from);
    let mut score = Score::default();
    let (mut rows, mut files) = (0, 0);
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "csv") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let added = score.add_replayed(&text, &Options::default());
        rows += added.with_context(|| path.display().to_string())?;
        files += 1;
    }
    anyhow::ensure!(files > 0, "{}: no .csv files", folder.display());
    println!("detection_files {files} files");
    println!("detection_rows {rows} rows");
    println!("detection_changes {} changes", score.changes);
    println!("detection_reports {} reports", score.reports);
    println!("detection_precision {:.3} ratio", score.precision());
    println!("detection_recall {:.3} ratio", score.recall());
    println!("detection_f1 {:.3} ratio", score.f1());
    println!("detection_strict_f1 {:.3} ratio", score.strict_f1());
    Ok(())
}
