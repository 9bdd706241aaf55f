//! Name-value pairs in one line, in the format of OpenTelemetry's variables.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use tapio_service::setting::{Form, Value, Wrong, shown};

/// `key=value,key=value` with percent-encoded values (W3C Baggage without properties). Values may be secrets,
/// so they are never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Each key with its decoded value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The pairs as request headers.
    ///
    /// # Errors
    /// A pair is no valid header, or a header that the protocol sets itself.
    pub fn headers(&self) -> Result<HeaderMap, Wrong> {
        let mut headers = HeaderMap::new();
        for (key, value) in &self.0 {
            let name = HeaderName::from_bytes(key.as_bytes())
                .map_err(|_| Wrong(format!("`{}` is not the name of a header", shown(key))))?;
            if OWN.contains(&name.as_str())
                || name.as_str().starts_with("grpc-")
                || name.as_str().ends_with("-bin")
            {
                return Err(Wrong(format!("the header `{name}` is the protocol's own: leave it out")));
            }
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Wrong(format!("the value of the header `{name}` has other characters than visible ASCII"))
            })?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// Headers that the protocol sets itself.
const OWN: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
];

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (key, _)) in self.0.iter().enumerate() {
            write!(f, "{}{key}=...", if nth > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl Value for Pairs {
    fn expected() -> String {
        "key=value,key=value with values that are percent-encoded, or \"\" for none".to_owned()
    }

    fn form() -> Form {
        Form::Any
    }
}

impl FromStr for Pairs {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let mut pairs = Vec::new();
        for (nth, pair) in text.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
            // The pair may be a secret, so the error names its position only.
            let wrong = |what: &str| Wrong(format!("pair {} {what}: expected {}", nth + 1, Self::expected()));
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong("has no `=`"))?;
            let key = key.trim();
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
                return Err(wrong("has no key before its `=`"));
            }
            let value = percent_decode_str(value.trim()).decode_utf8();
            let value = value.map_err(|_| wrong("has a value that is not UTF-8 once it is decoded"))?;
            pairs.push((key.to_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_shown_nowhere() {
        let pairs: Pairs = " api-key = s%20ecret%3D,x-tenant=a=b, ".parse().unwrap();
        assert_eq!(pairs.iter().collect::<Vec<_>>(), [("api-key", "s ecret="), ("x-tenant", "a=b")]);
        let headers = pairs.headers().unwrap();
        assert_eq!(headers["api-key"], "s ecret=");
        for text in [format!("{pairs}"), format!("{pairs:?}"), format!("{headers:?}")] {
            assert!(!text.contains("ecret"), "{text}");
        }
        assert_eq!("".parse(), Ok(Pairs::default()));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (text, why) in [
            ("a=1,secret", "pair 2 has no `=`"),
            ("=secret", "pair 1 has no key"),
            ("a b=secret", "pair 1 has no key"),
            ("a=secret%ff", "pair 1 has a value that is not UTF-8"),
        ] {
            let Wrong(error) = text.parse::<Pairs>().unwrap_err();
            assert!(error.starts_with(why) && !error.contains("secret"), "{error}");
        }
        for (text, why) in [
            ("content-type=x", "the header `content-type` is the protocol's own"),
            ("grpc-timeout=1S", "protocol's own"),
            ("k\u{e4}se=x", "is not the name of a header"),
            ("key=secret%0a", "the value of the header `key` has other characters"),
        ] {
            let Wrong(error) = text.parse::<Pairs>().unwrap().headers().unwrap_err();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }
}
