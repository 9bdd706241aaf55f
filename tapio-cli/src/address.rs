//! The address in `--server`.

use http::Uri;

use crate::{cli::Reach, failure::Failure};

/// Where the server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) is_tls: bool,
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Both as they were given.
    pub(crate) authority: String,
}

impl Address {
    pub(crate) fn of(url: &str, reach: &Reach) -> Result<Self, Failure> {
        let wrong = || Failure::Usage(format!("--server {url}: give https://HOST or http://HOST:PORT"));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority =
            uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let is_root = uri.path_and_query().is_none_or(|path| path == "/");
        let (is_tls, port) = match (uri.scheme_str(), authority.port_u16()) {
            (Some("https"), port) => (true, port.unwrap_or(443)),
            (Some("http"), Some(port)) => (false, port),
            _ => return Err(wrong()),
        };
        if !is_root || authority.host().is_empty() {
            return Err(wrong());
        }
        if !is_tls && reach.ca_file.is_some() {
            return Err(Failure::Usage(format!(
                "--ca-file: {url} is plain HTTP: give https://, or leave it out"
            )));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Ok(Self { is_tls, host, port, authority: authority.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Arguments;

    fn of(url: &str, flags: &[&str]) -> Result<(bool, String, u16, String), String> {
        let arguments = [&["kubectl-tapio", "doctor"], flags].concat();
        let reach = Arguments::try_parse_from(arguments).unwrap().reach;
        let address = Address::of(url, &reach).map_err(|failure| failure.to_string())?;
        Ok((address.is_tls, address.host, address.port, address.authority))
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        for (url, is_tls, host, port, authority) in [
            ("http://127.0.0.1:8080", false, "127.0.0.1", 8080, "127.0.0.1:8080"),
            ("http://[::1]:8080/", false, "::1", 8080, "[::1]:8080"),
            ("https://tapio.example", true, "tapio.example", 443, "tapio.example"),
            ("https://tapio.example:8443/", true, "tapio.example", 8443, "tapio.example:8443"),
        ] {
            assert_eq!(of(url, &[]), Ok((is_tls, host.to_owned(), port, authority.to_owned())), "{url}");
        }
        for wrong in [
            "tapio.example:8080",
            "http://tapio.example",
            "ftp://tapio.example:1",
            "https://tapio.example/api",
            "https://tapio.example/?a",
            "https://a@tapio.example",
            "https://",
            "",
        ] {
            let said = of(wrong, &[]).unwrap_err();
            assert!(said.contains("give https://HOST or http://HOST:PORT"), "{wrong}: {said}");
        }
        let said = of("http://127.0.0.1:8080", &["--ca-file=/ca.crt"]).unwrap_err();
        assert!(said.starts_with("--ca-file: http://127.0.0.1:8080 is plain HTTP"), "{said}");
    }
}
