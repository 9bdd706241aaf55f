//! Bearer tokens.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use http::{HeaderMap, header::AUTHORIZATION};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::Status;

use crate::files::{Stamps, stamps};

/// A token with fewer bytes could be guessed.
const LEAST_BYTES: usize = 16;
/// Far more than any file of tokens has.
const MOST_FILE_BYTES: u64 = 1 << 20;

/// The tokens of a file.
#[derive(Debug)]
pub(super) struct Tokens {
    file: PathBuf,
    read: Mutex<(Stamps, Known)>,
}

#[derive(Default)]
struct Known(Vec<Vec<u8>>);

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or has no token or an unsafe one.
    pub(super) fn new(file: PathBuf) -> anyhow::Result<Self> {
        let stamps = stamps([&file]);
        let known = read(&file)?;
        Ok(Self { file, read: Mutex::new((stamps, known)) })
    }

    /// Whether a call with these headers is admitted.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Err(Status::unauthenticated(
                "no bearer token: send `authorization: Bearer TOKEN` with a token of polku.token_file",
            ));
        };
        let (scheme, token) = value.as_bytes().split_at_checked(7).unwrap_or_default();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        self.renew(&mut read);
        if scheme.eq_ignore_ascii_case(b"Bearer ") && read.1.has(token) {
            return Ok(());
        }
        Err(Status::unauthenticated(
            "unknown bearer token: send one that is in the server's polku.token_file",
        ))
    }

    fn renew(&self, (stamps, known): &mut (Stamps, Known)) {
        let now = self::stamps([&self.file]);
        if *stamps == now {
            return;
        }
        *stamps = now;
        match read(&self.file) {
            Ok(read) => *known = read,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    "the file of tokens changed and cannot be used: the earlier tokens remain valid"
                );
            }
        }
    }
}

impl Known {
    /// Compares with every token, in a time that does not depend on how much of one is right.
    fn has(&self, token: &[u8]) -> bool {
        let found = self.0.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(token));
        found.into()
    }
}

impl std::fmt::Debug for Known {
    /// Without the tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

fn read(file: &Path) -> anyhow::Result<Known> {
    let unusable = || format!("polku.token_file: {} cannot be used", file.display());
    let mut text = String::new();
    let opened = File::open(file).with_context(unusable)?;
    opened.take(MOST_FILE_BYTES).read_to_string(&mut text).with_context(unusable)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<_> = lines.map(|line| line.as_bytes().to_vec()).collect();
    anyhow::ensure!(!tokens.is_empty(), "{}: there is no token in it", unusable());
    let is_short = tokens.iter().any(|token| token.len() < LEAST_BYTES);
    anyhow::ensure!(!is_short, "{}: a token needs at least {LEAST_BYTES} characters", unusable());
    Ok(Known(tokens))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use http::HeaderValue;

    use super::*;

    fn ask(tokens: &Tokens, value: Option<&'static str>) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        tokens.admit(&headers).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn any_token_of_the_file_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        fs::write(&file, "# of the agents\n0123456789abcdef\n\n fedcba9876543210fedcba \n").unwrap();
        let tokens = Tokens::new(file.clone()).unwrap();
        for right in ["Bearer 0123456789abcdef", "bearer fedcba9876543210fedcba"] {
            assert_eq!(ask(&tokens, Some(right)), Ok(()));
        }
        for wrong in
            ["Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer ", "Basic 0123456789abcdef", ""]
        {
            assert!(ask(&tokens, Some(wrong)).unwrap_err().contains("polku.token_file"), "{wrong}");
        }
        assert!(ask(&tokens, None).unwrap_err().contains("send `authorization: Bearer TOKEN`"));
        assert!(!format!("{tokens:?}").contains("0123456789abcdef"));

        fs::write(&file, "short\n").unwrap();
        assert_eq!(ask(&tokens, Some("Bearer 0123456789abcdef")), Ok(()), "the earlier ones remain");
        fs::write(&file, "another-token-of-the-agents").unwrap();
        assert!(ask(&tokens, Some("Bearer 0123456789abcdef")).is_err());
        assert_eq!(ask(&tokens, Some("Bearer another-token-of-the-agents")), Ok(()));
    }

    #[test]
    fn files_that_cannot_be_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tokens");
        let error = |file: &Path| format!("{:#}", Tokens::new(file.to_owned()).unwrap_err());
        assert!(error(&file).contains("No such file"));
        fs::write(&file, "# nothing\n").unwrap();
        assert!(error(&file).ends_with("there is no token in it"));
        fs::write(&file, "too-short").unwrap();
        assert!(error(&file).ends_with("a token needs at least 16 characters"));
    }
}
