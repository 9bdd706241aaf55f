//! The gateway's settings.

use tapio_service::setting::{AbsolutePath, Bytes, Count, Listen, MIB, Off, Wrong, settings};

use crate::tls;

settings! {
    /// The gateway that agents send to (gRPC, `polku.v1.Gateway`).
    pub struct Settings {
        /// The address that it listens on.
        pub listen: Listen = Listen(([0, 0, 0, 0], 50051).into()),
        /// PEM file with the server's certificate and its chain. `off`: no TLS. The files for TLS are read again when they
        /// change.
        pub cert: Off<AbsolutePath> = Off(None),
        /// PEM file with the key of that certificate.
        pub key: Off<AbsolutePath> = Off(None),
        /// PEM file with the certificates of the authorities whose clients are admitted (mTLS). `off`: clients need no
        /// certificate.
        pub client_ca: Off<AbsolutePath> = Off(None),
        /// File with bearer tokens, one a line; a client has to present one of them. It is read again when it changes. `off`:
        /// clients need no token. Without TLS tokens can be read on the network.
        pub token_file: Off<AbsolutePath> = Off(None),
        /// Number of streams at once; each agent has one. Further ones are refused, and agents try again later.
        pub streams: Count<1, 65_536> = Count::of(1_024),
        /// Number of events in a batch. Larger batches are refused, and agents send smaller ones.
        pub batch_events: Count<256, 65_536> = Count::of(4_096),
        /// Size of the events of all streams that wait to be written. When it is reached, streams are not read on.
        pub memory: Bytes<{ 8 * MIB }, { 65_536 * MIB }> = Bytes::of(64 * MIB),
    }
}

impl Settings {
    /// Checks combinations of keys. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// A key needs another one that is missing.
    pub fn check(&self) -> Result<(), (&'static str, Wrong)> {
        if self.cert.0.is_none() && self.key.0.is_none() && self.client_ca.0.is_some() {
            let what = "needs polku.cert and polku.key: only TLS asks clients for certificates";
            return Err(("client_ca", Wrong(what.to_owned())));
        }
        tls::check_pair("polku", &self.cert, &self.key)
    }

    /// The files for TLS, if it is on.
    pub(super) fn tls(&self, alpn: &'static [&'static [u8]]) -> Option<tls::Files> {
        let (cert, key) = (self.cert.file()?, self.key.file()?);
        Some(tls::Files { section: "polku", cert, key, client_ca: self.client_ca.file(), alpn })
    }
}
