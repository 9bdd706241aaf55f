//! The rows of a replayed file, and the errors for a file that cannot be read.

use std::io::{self, Read};

use csv::ByteRecord;
use tapio_occurrence::printable::printable;

/// A longer row is taken for a quote left open, which would otherwise swallow the rest of the file.
const MAX_ROW_BYTES: usize = 1 << 20;

/// Why a file cannot be replayed. Lines count from 1, as in editors.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file is empty.
    #[error("the file is empty; its first line has to name the columns, as in `timestamp,value`")]
    Empty,
    /// The file has a header and no rows.
    #[error("there are no rows below the header")]
    NoRows,
    /// The header lacks a column.
    #[error(
        "line 1: no column `{name}`, only {found}; the header has to name `timestamp` and `value`, separated by commas"
    )]
    MissingColumn {
        /// The missing column.
        name: &'static str,
        /// The columns found.
        found: String,
    },
    /// The header names a column twice.
    #[error("line 1: column `{name}` is there twice; rename one")]
    TwoColumns {
        /// The column.
        name: &'static str,
    },
    /// A row ends before a required column.
    #[error("line {line}: no column `{name}`; the row has {found} columns, the header {wanted}")]
    ShortRow {
        /// Line of the file.
        line: u64,
        /// The column.
        name: &'static str,
        /// Columns in the row.
        found: usize,
        /// Columns in the header.
        wanted: usize,
    },
    /// The value is not a finite decimal.
    #[error(
        "line {line}, column `value`: `{text}` is not a finite number; write a decimal such as 12.5, or -1 for a lost sample"
    )]
    Value {
        /// Line of the file.
        line: u64,
        /// The text found.
        text: String,
    },
    /// The text is not UTF-8.
    #[error("line {line}, column `{name}`: not UTF-8; convert the file, for example with `iconv -t UTF-8`")]
    Encoding {
        /// Line of the file.
        line: u64,
        /// The column.
        name: &'static str,
    },
    /// The row is too long; most likely a quote was left open.
    #[error("line {line}: a row of more than {MAX_ROW_BYTES} bytes begins here; is a quote left open?")]
    LongRow {
        /// Line of the file.
        line: u64,
    },
    /// Reading the file or writing the output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One row.
pub(super) struct Row<'a> {
    pub(super) timestamp: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) value: f64,
}

/// Reads one row after another into the same memory.
pub(super) struct Rows<R> {
    reader: csv::Reader<Capped<R>>,
    record: ByteRecord,
    width: usize,
    timestamp: usize,
    value: usize,
    key: Option<usize>,
}

/// Limits a row to `left` bytes.
struct Capped<R> {
    inner: R,
    left: usize,
}

impl<R: Read> Rows<R> {
    /// Reads the header.
    pub(super) fn of(reader: R) -> Result<Self, ReplayError> {
        let capped = Capped { inner: reader, left: MAX_ROW_BYTES };
        let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(capped);
        let mut record = ByteRecord::new();
        if !read(&mut reader, &mut record)? {
            return Err(ReplayError::Empty);
        }
        let needed = |name| {
            let found = || {
                let names: Vec<_> = record.iter().map(|field| format!("`{}`", shown(field))).collect();
                names.join(", ")
            };
            column(&record, name)?.ok_or_else(|| ReplayError::MissingColumn { name, found: found() })
        };
        let (timestamp, value) = (needed("timestamp")?, needed("value")?);
        let (key, width) = (column(&record, "key")?, record.len());
        Ok(Self { reader, record, width, timestamp, value, key })
    }

    /// The next row, or `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, ReplayError> {
        if !read(&mut self.reader, &mut self.record)? {
            return Ok(None);
        }
        let text = self.field("value", self.value)?;
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
        let value =
            value.ok_or_else(|| ReplayError::Value { line: self.line(), text: shown(text.as_bytes()) })?;
        let timestamp = self.field("timestamp", self.timestamp)?;
        let key = self.key.map(|index| self.field("key", index)).transpose()?;
        Ok(Some(Row { timestamp, key, value }))
    }

    fn field(&self, name: &'static str, index: usize) -> Result<&str, ReplayError> {
        let (line, found, wanted) = (self.line(), self.record.len(), self.width);
        let bytes = self.record.get(index).ok_or(ReplayError::ShortRow { line, name, found, wanted })?;
        let text = std::str::from_utf8(bytes).map_err(|_| ReplayError::Encoding { line, name })?;
        Ok(text.trim())
    }

    fn line(&self) -> u64 {
        self.record.position().map_or(0, csv::Position::line)
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read);
        Ok(read)
    }
}

/// Reads one record; false at the end of the file.
fn read<R: Read>(reader: &mut csv::Reader<Capped<R>>, record: &mut ByteRecord) -> Result<bool, ReplayError> {
    reader.get_mut().left = MAX_ROW_BYTES;
    let line = reader.position().line();
    reader.read_byte_record(record).map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            ReplayError::LongRow { line }
        }
        csv::ErrorKind::Io(error) => error.into(),
        other => io::Error::other(format!("line {line}: {other:?}")).into(),
    })
}

/// The position of the column `name` in the header, ignoring case.
fn column(header: &ByteRecord, name: &'static str) -> Result<Option<usize>, ReplayError> {
    let mut places =
        (0..header.len()).filter(|index| header[*index].trim_ascii().eq_ignore_ascii_case(name.as_bytes()));
    let first = places.next();
    if places.next().is_some() { Err(ReplayError::TwoColumns { name }) } else { Ok(first) }
}

/// The beginning of a field, made printable on one line of a message.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let beginning: String = text.chars().take(40).collect();
    let mut shown = printable(&beginning).into_owned();
    if text.chars().nth(40).is_some() {
        shown.push('…');
    }
    shown
}
