//! The sink's settings.

use tapio_service::setting::{AbsolutePath, Off, Wrong, settings};

use super::{Endpoint, Endpoints};

settings! {
    /// A POLKU gateway.
    pub struct Settings {
        /// Its address; https:// asks for TLS, http:// for none, and without either there is TLS where `ca`, `cert` or
        /// `token_file` is given. Of several the first that answers is used; when it is lost they are tried again in order.
        /// For agents POLKU_ENDPOINT sets it, too.
        pub endpoint: Endpoints = Endpoints::default(),
        /// PEM file with the certificates of the authorities that are trusted, instead of this machine's. Files are read
        /// again for each connection, and a new one is made when they change.
        pub ca: Off<AbsolutePath> = Off(None),
        /// PEM file with the client's own certificate, where the gateway asks for one.
        pub cert: Off<AbsolutePath> = Off(None),
        /// PEM file with the key of that certificate.
        pub key: Off<AbsolutePath> = Off(None),
        /// File with the bearer token that the gateway asks for, in its first line. It is never sent without TLS.
        pub token_file: Off<AbsolutePath> = Off(None),
    }
}

impl Settings {
    /// Checks combinations of keys. `section` is where they are in the configuration. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// Two keys contradict each other.
    pub fn check(&self, section: &str) -> Result<(), (&'static str, Wrong)> {
        let alone = |key, missing: &str| {
            Err((key, Wrong(format!("needs {section}.{missing}: give both or neither"))))
        };
        match (&self.cert.0, &self.key.0) {
            (Some(_), None) => return alone("cert", "key"),
            (None, Some(_)) => return alone("key", "cert"),
            _ => {}
        }
        let files = [("ca", &self.ca), ("cert", &self.cert), ("token_file", &self.token_file)];
        let file = files.into_iter().find(|(_, file)| file.0.is_some());
        let plain = self.endpoint.all().iter().find(|endpoint| endpoint.is_tls() == Some(false));
        match (file, plain) {
            (Some((key, _)), Some(plain)) => {
                let host = plain.authority();
                let what = format!(
                    "is for TLS, and {plain} is without: write https://{host}, or leave {section}.{key} out"
                );
                Err((key, Wrong(what)))
            }
            _ => Ok(()),
        }
    }

    /// Whether this endpoint is used with TLS.
    #[must_use]
    pub fn is_tls(&self, endpoint: &Endpoint) -> bool {
        endpoint
            .is_tls()
            .unwrap_or(self.ca.0.is_some() || self.cert.0.is_some() || self.token_file.0.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_service::setting::Node as _;

    fn of(keys: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (key, text) in keys {
            settings.assign(key, text).unwrap();
        }
        settings
    }

    #[test]
    fn keys_that_do_not_go_together() {
        let said = |keys: &[_]| {
            of(keys).check("polku").map_err(|(key, wrong)| format!("{key}: {wrong}")).unwrap_err()
        };
        assert_eq!(said(&[("key", "/k")]), "key: needs polku.cert: give both or neither");
        assert_eq!(said(&[("cert", "/c")]), "cert: needs polku.key: give both or neither");
        let plain = ("endpoint", "https://a:1,http://b:2");
        for (keys, key) in [
            (vec![("ca", "/c")], "ca"),
            (vec![("cert", "/c"), ("key", "/k")], "cert"),
            (vec![("token_file", "/t")], "token_file"),
        ] {
            let error = said(&[&[plain], &keys[..]].concat());
            let expected = format!(
                "{key}: is for TLS, and http://b:2 is without: write https://b:2, or leave polku.{key} out"
            );
            assert_eq!(error, expected);
        }
        let right = [("endpoint", "https://a:1,b:2"), ("ca", "/a"), ("cert", "/c"), ("key", "/k")];
        assert_eq!(of(&right).check("polku"), Ok(()));
        assert_eq!(of(&[("endpoint", "http://a:1,b:2")]).check("polku"), Ok(()));
    }

    #[test]
    fn tls_is_asked_for_or_implied() {
        let tls = |keys: &[_]| -> Vec<bool> {
            let settings = of(keys);
            settings.endpoint.all().iter().map(|endpoint| settings.is_tls(endpoint)).collect()
        };
        let mixed = ("endpoint", "https://a:1,b:2,http://c:3");
        assert_eq!(tls(&[mixed]), [true, false, false]);
        assert_eq!(tls(&[mixed, ("ca", "/a")]), [true, true, false]);
        assert_eq!(tls(&[mixed, ("cert", "/c"), ("key", "/k")]), [true, true, false]);
        assert_eq!(tls(&[mixed, ("token_file", "/t")]), [true, true, false]);
    }
}
