//! What became of a fact that was given to the journal.

/// The outcome of one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk, under this sequence number.
    Accepted(u64),
    /// The journal has it already.
    Repeated,
    /// The journal cannot take it, now or later.
    Refused(Unfit),
}

/// Why the journal cannot take a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Facts are found by their ids.
    #[error("its id is not a ULID")]
    Id,
    /// It has more than [`MAX_FACT_BYTES`](super::MAX_FACT_BYTES).
    #[error("it is larger than {} bytes", super::MAX_FACT_BYTES)]
    Size,
}

/// Why the journal did nothing. The same facts can be given again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The file cannot be written or read now.
    #[error("{0}")]
    Away(String),
    /// The file's content is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The journal is closed: the server is stopping.
    #[error("the journal is closed")]
    Closed,
}

impl Unfit {
    /// The reason as a metric label.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Size => "size",
        }
    }
}
