//! The sink's settings: configuration keys, and the corresponding OpenTelemetry variables.

use tapio_service::setting::{
    AbsolutePath, MS, Name, Off, SEC, Switch, Time, Wrong, choices, settings, shown,
};

use super::{Endpoint, Pairs};

settings! {
    /// An OpenTelemetry Collector, or what else takes logs by OTLP. OTEL_EXPORTER_OTLP_LOGS_ENDPOINT and the other
    /// variables of OpenTelemetry for logs set these keys, too, and those without LOGS_ where there is none with it.
    pub struct Settings {
        /// Its URL. With http/protobuf, /v1/logs is appended to one that has no path. grpc takes host and port of
        /// it, or just host:port.
        pub endpoint: Off<Endpoint> = Off(None),
        /// The protocol. The usual port of grpc is 4317, that of http/protobuf 4318.
        pub protocol: Protocol = Protocol::HttpProtobuf,
        /// With grpc, whether an endpoint without http:// or https:// is without TLS.
        pub insecure: Switch = Switch::False,
        /// Headers of each request: key=value,key=value, with values that are percent-encoded.
        pub headers: Pairs = Pairs::default(),
        /// How long a request may take, with the connection that it needs.
        pub timeout: Time<MS, { 300 * SEC }> = Time::of_ns(10 * SEC),
        /// How requests are compressed.
        pub compression: Compression = Compression::None,
        /// PEM file with the certificates of the authorities that are trusted, instead of this machine's. Files are
        /// read again for each connection.
        pub certificate: Off<AbsolutePath> = Off(None),
        /// PEM file with the agent's own certificate, where it is asked for one.
        pub client_certificate: Off<AbsolutePath> = Off(None),
        /// PEM file with the key of that certificate.
        pub client_key: Off<AbsolutePath> = Off(None),
        /// Whether records carry their name as the deprecated attribute event.name, too, for receivers that drop EventName.
        pub event_name: Switch = Switch::False,
        /// Attributes for each Resource, written as headers are. What is known of a workload is stronger, and those
        /// that begin with service. are for occurrences without a workload. OTEL_RESOURCE_ATTRIBUTES sets it, too.
        pub resource_attributes: Pairs = Pairs::default(),
        /// The service.name of occurrences without a workload. OTEL_SERVICE_NAME sets it, too.
        pub service_name: Name = Name::default(),
    }
}

choices! {
    /// How requests are made.
    pub enum Protocol {
        /// gRPC.
        Grpc = "grpc",
        /// Protobuf over HTTP/1.1.
        HttpProtobuf = "http/protobuf",
    }
}

choices! {
    /// How requests are compressed.
    pub enum Compression {
        /// Not at all.
        None = "none",
        /// RFC 1952.
        Gzip = "gzip",
    }
}

/// A standard OpenTelemetry variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The key that it sets, within the section.
    pub key: &'static str,
    /// Converts its value to that of the key.
    pub form: fn(&str) -> Result<String, Wrong>,
}

/// All variables of <https://opentelemetry.io/docs/specs/otel/protocol/exporter/> that concern logs, in
/// increasing precedence.
pub const VARIABLES: &[Variable] = &[
    Variable { name: "OTEL_EXPORTER_OTLP_ENDPOINT", key: "endpoint", form: base_url },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", key: "endpoint", form: whole_url },
    Variable { name: "OTEL_EXPORTER_OTLP_PROTOCOL", key: "protocol", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", key: "protocol", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_INSECURE", key: "insecure", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_INSECURE", key: "insecure", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_HEADERS", key: "headers", form: as_it_is },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_HEADERS", key: "headers", form: as_it_is },
    Variable { name: "OTEL_EXPORTER_OTLP_TIMEOUT", key: "timeout", form: milliseconds },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", key: "timeout", form: milliseconds },
    Variable { name: "OTEL_EXPORTER_OTLP_COMPRESSION", key: "compression", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", key: "compression", form: word },
    Variable { name: "OTEL_EXPORTER_OTLP_CERTIFICATE", key: "certificate", form: as_it_is },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", key: "certificate", form: as_it_is },
    Variable { name: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", key: "client_certificate", form: as_it_is },
    Variable {
        name: "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
        key: "client_certificate",
        form: as_it_is,
    },
    Variable { name: "OTEL_EXPORTER_OTLP_CLIENT_KEY", key: "client_key", form: as_it_is },
    Variable { name: "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", key: "client_key", form: as_it_is },
    Variable { name: "OTEL_RESOURCE_ATTRIBUTES", key: "resource_attributes", form: as_it_is },
    Variable { name: "OTEL_SERVICE_NAME", key: "service_name", form: as_it_is },
];

/// Variables with this prefix concern only logs, so an unknown one is a mistake.
pub const PREFIX: &str = "OTEL_EXPORTER_OTLP_LOGS_";

impl Settings {
    /// Checks combinations of keys. Returns the invalid key, and the reason.
    ///
    /// # Errors
    /// Two keys contradict each other.
    pub fn check(&self) -> Result<(), (&'static str, Wrong)> {
        if let Some(endpoint) = &self.endpoint.0
            && !endpoint.has_scheme()
            && self.protocol == Protocol::HttpProtobuf
        {
            let what =
                format!("{endpoint} has no scheme: write http://{endpoint}, or https://{endpoint} for TLS");
            return Err(("endpoint", Wrong(what)));
        }
        self.headers.headers().map_err(|wrong| ("headers", wrong))?;
        let alone = |key, missing: &str| Err((key, Wrong(format!("needs {missing}: give both or neither"))));
        match (&self.client_certificate.0, &self.client_key.0) {
            (Some(_), None) => alone("client_certificate", "otlp.client_key"),
            (None, Some(_)) => alone("client_key", "otlp.client_certificate"),
            _ => Ok(()),
        }
    }
}

pub(super) fn as_it_is(text: &str) -> Result<String, Wrong> {
    Ok(text.to_owned())
}

/// OpenTelemetry's keywords are case-insensitive.
pub(super) fn word(text: &str) -> Result<String, Wrong> {
    Ok(text.to_ascii_lowercase())
}

pub(super) fn milliseconds(text: &str) -> Result<String, Wrong> {
    match text.parse::<u32>() {
        Ok(number) => Ok(format!("{number}ms")),
        Err(_) => {
            Err(Wrong(format!("`{}` is not a whole number of milliseconds, such as 10000", shown(text))))
        }
    }
}

/// The base URL below which all signals have their paths.
fn base_url(text: &str) -> Result<String, Wrong> {
    Ok(match text.parse::<Endpoint>() {
        Ok(endpoint) if endpoint.has_scheme() => endpoint.below("v1/logs").written(),
        // Errors refer to the text as written.
        _ => text.to_owned(),
    })
}

/// The URL of this signal, to which nothing is appended.
pub(super) fn whole_url(text: &str) -> Result<String, Wrong> {
    Ok(match text.parse::<Endpoint>() {
        Ok(endpoint) if endpoint.has_scheme() => endpoint.below("").written(),
        _ => text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tapio_service::setting::Node as _;

    fn of(keys: &[(&str, &str)]) -> Result<(), String> {
        let mut settings = Settings::default();
        for (key, text) in keys {
            settings.assign(key, text).unwrap();
        }
        settings.check().map_err(|(key, wrong)| format!("{key}: {wrong}"))
    }

    #[test]
    fn keys_that_do_not_go_together() {
        assert_eq!(of(&[("endpoint", "collector:4317"), ("protocol", "grpc")]), Ok(()));
        let error = of(&[("endpoint", "collector:4318")]).unwrap_err();
        assert!(
            error.starts_with("endpoint: collector:4318 has no scheme: write http://collector:4318"),
            "{error}"
        );
        let error = of(&[("client_key", "/key")]).unwrap_err();
        assert_eq!(error, "client_key: needs otlp.client_certificate: give both or neither");
        assert!(of(&[("client_certificate", "/c")]).unwrap_err().contains("otlp.client_key"));
        assert_eq!(of(&[("client_certificate", "/c"), ("client_key", "/k")]), Ok(()));
    }

    #[test]
    fn urls_of_all_signals_and_of_this_one() {
        for (text, all, own) in [
            ("http://c:4318", "http://c:4318/v1/logs", "http://c:4318/"),
            ("http://c:4318/", "http://c:4318/v1/logs", "http://c:4318/"),
            ("https://c/otlp/", "https://c/otlp/v1/logs", "https://c/otlp/"),
            ("https://c/otlp", "https://c/otlp/v1/logs", "https://c/otlp"),
            ("https://c/otlp?k=v", "https://c/otlp/v1/logs?k=v", "https://c/otlp?k=v"),
            ("c:4317", "c:4317", "c:4317"),
            ("no url", "no url", "no url"),
        ] {
            assert_eq!(
                (base_url(text).unwrap().as_str(), whole_url(text).unwrap().as_str()),
                (all, own),
                "{text}"
            );
        }
    }

    #[test]
    fn each_variable_sets_a_key() {
        let mut paths = Vec::new();
        Settings::default().paths("", &mut paths);
        for Variable { name, key, .. } in VARIABLES {
            assert!(paths.iter().any(|path| path == key), "{name}");
        }
    }
}
