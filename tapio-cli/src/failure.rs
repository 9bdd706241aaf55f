//! Why there is no answer, with an exit code for scripts.

/// The arguments are wrong.
pub(crate) const USAGE: u8 = 2;
/// There is no data to answer from.
const NO_DATA: u8 = 3;
/// The caller may not see it.
const FORBIDDEN: u8 = 4;

/// Why there is no answer. Users see its text unchanged.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments are wrong.
    Usage(String),
    /// There is no data.
    NoData(String),
    /// The caller may not see it.
    Forbidden(String),
    /// Anything else.
    Other(anyhow::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(what) | Self::NoData(what) | Self::Forbidden(what) => f.write_str(what),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::NoData(_) => NO_DATA,
            Self::Forbidden(_) => FORBIDDEN,
            Self::Other(_) => 1,
        }
    }
}
