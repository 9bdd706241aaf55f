//! The names of a sink's settings, so that the remedies of a shared error name the settings of the sink that
//! has it.

/// The names of a sink's settings, and its remedies.
#[derive(Debug)]
pub(crate) struct Words {
    /// What it sends, as in "takes no logs by OTLP".
    pub(crate) what: &'static str,
    /// How the endpoint is set.
    pub(crate) endpoint: &'static str,
    /// How the certificates of authorities are set.
    pub(crate) authorities: &'static str,
    /// The key of the file with the authorities' certificates.
    pub(crate) ca: &'static str,
    /// The key of the file with the agent's own certificate.
    pub(crate) certificate: &'static str,
    /// The key of the file with that certificate's private key.
    pub(crate) key: &'static str,
    /// The remedy if the other side supports HTTP/1 only.
    pub(crate) http1_only: &'static str,
    /// The remedy if it supports HTTP/2 only.
    pub(crate) http2_only: &'static str,
    /// The remedy if it denies access.
    pub(crate) no_access: &'static str,
    /// The remedy if the path does not exist.
    pub(crate) no_path: &'static str,
    /// The remedy if it has no such service.
    pub(crate) no_service: &'static str,
    /// The remedy if it refuses a message of that size.
    pub(crate) too_large: &'static str,
}

/// An invalid endpoint, fit to be printed: without anything before an `@` or after a `?`, which may be
/// secrets.
pub(crate) fn bare(text: &str) -> String {
    let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
    let rest = rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, rest)| format!("...@{rest}"));
    format!("{scheme}{}", rest.split('?').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn secrets_are_left_out() {
        for (text, expected) in [
            ("", ""),
            ("collector:4318", "collector:4318"),
            ("http://user:password@collector:4318/v1/logs", "http://...@collector:4318/v1/logs"),
            ("user:pass@word?/x@collector:4317", "...@collector:4317"),
            ("https://[fd00::7]/v1/logs?token=a&b=c", "https://[fd00::7]/v1/logs"),
        ] {
            assert_eq!(bare(text), expected);
        }
    }
}
