//! What the sinks call things: the remedies of one trouble name the settings of the sink that has it.

/// The names that a sink's settings have, and what helps it.
#[derive(Debug)]
pub(crate) struct Words {
    /// What it sends, as in "takes no logs by OTLP".
    pub(crate) what: &'static str,
    /// How the endpoint is given.
    pub(crate) endpoint: &'static str,
    /// How the certificates of authorities are given.
    pub(crate) authorities: &'static str,
    /// The key of the file with these.
    pub(crate) ca: &'static str,
    /// The key of the file with the agent's own certificate.
    pub(crate) certificate: &'static str,
    /// The key of the file with the key of that certificate.
    pub(crate) key: &'static str,
    /// What helps where the other side speaks HTTP/1 only.
    pub(crate) http1_only: &'static str,
    /// What helps where it speaks HTTP/2 only.
    pub(crate) http2_only: &'static str,
    /// What helps where it does not let the agent in.
    pub(crate) no_access: &'static str,
    /// What helps where nothing is at the path.
    pub(crate) no_path: &'static str,
    /// What helps where it knows no such service.
    pub(crate) no_service: &'static str,
    /// What helps where it takes no message of that size.
    pub(crate) too_large: &'static str,
}

/// A text that is to be an endpoint, as it may be shown: without what is before an `@` and after a `?`, which may be
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
