//! Settings of the role.

use std::fs;

use anyhow::Context as _;
use tapio_ahti::Rules;
use tapio_service::setting::{AbsolutePath, Listen, Off, SEC, Time, Wrong, choices, settings};

use crate::tls;

choices! {
    /// Who may ask.
    pub enum Auth {
        /// Users of the cluster, by their tokens: each sees what is in namespaces that they may read.
        Kubernetes = "kubernetes",
        /// Everybody on this host.
        None = "none",
    }
}

settings! {
    /// What explains.
    pub struct Settings {
        /// Where the API is served, for kubectl tapio, which comes by a port-forward.
        pub api: Off<Listen> = Off(Some(Listen(([127, 0, 0, 1], 8080).into()))),
        /// Who may ask there. kubernetes: users of the cluster that the server runs in, or that KUBECONFIG names, by their
        /// tokens; each sees what is in namespaces that they may read. none: everybody, so that `api` has to be an address of
        /// this host.
        pub auth: Auth = Auth::Kubernetes,
        /// PEM file with the certificate of `api` and its chain. With it `api` is served by TLS, and without TLS only to this host,
        /// where port-forwards come from. `off`: plain HTTP. The files for TLS are read again when they change.
        pub cert: Off<AbsolutePath> = Off(None),
        /// PEM file with the key of that certificate.
        pub key: Off<AbsolutePath> = Off(None),
        /// How long it is remembered whose a token is, and what they may read: for so long they see what they saw, after the right
        /// to it was taken from them.
        pub auth_cache: Time<0, { 60 * SEC }> = Time::of_ns(60 * SEC),
        /// A directory with own rule files (*.yaml), beside those that come with Tapio. A rule with the same name replaces
        /// the one that comes with it.
        pub rules: Off<AbsolutePath> = Off(None),
    }
}

impl Settings {
    /// Checks combinations of keys. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// Everybody could ask, from everywhere; or a certificate has no key.
    pub fn check(&self) -> Result<(), (&'static str, Wrong)> {
        match self.api.0 {
            Some(Listen(api)) if self.auth == Auth::None && !api.ip().is_loopback() => {
                let what = format!(
                    "`none` lets everybody ask who reaches ahti.api, and that is {api}: set ahti.api to an address of this host, such as \
                     127.0.0.1:{}, or ahti.auth to kubernetes",
                    api.port()
                );
                Err(("auth", Wrong(what)))
            }
            _ => tls::check_pair("ahti", &self.cert, &self.key),
        }
    }

    /// The files for TLS, if it is on.
    pub(super) fn tls(&self) -> Option<tls::Files> {
        let (cert, key) = (self.cert.file()?, self.key.file()?);
        Some(tls::Files { section: "ahti", cert, key, client_ca: None, alpn: &[b"h2", b"http/1.1"] })
    }

    /// The rules that come with the engine, and the user's own.
    pub(super) fn rules(&self) -> anyhow::Result<Rules> {
        let Some(directory) = &self.rules.0 else { return Ok(Rules::with([])?) };
        let directory = directory.as_path();
        let read = || format!("ahti.rules: {} cannot be read", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).with_context(read)? {
            let path = entry.with_context(read)?.path();
            if path.extension().is_some_and(|end| end == "yaml" || end == "yml") {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        let mut files = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("ahti.rules: {} cannot be read", path.display()))?;
            files.push((path.display().to_string(), text));
        }
        Rules::with(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))).context("ahti.rules")
    }
}
