//! Names and types of questions, human-readable.

use std::{borrow::Cow, fmt::Write as _};

tapio_service::setting::choices! {
    /// How names are shown.
    pub enum Names {
        /// As they are.
        Full = "full",
        /// Only the last three labels: `*.svc.cluster.local`.
        Cut = "cut",
        /// Only a hash, which differs from node to node.
        Hash = "hash",
    }
}

/// The longest text of a name. An escaped byte takes four characters.
const MAX_TEXT: usize = 255;
/// Labels that [`Names::Cut`] shows.
const LABELS: usize = 3;

impl Names {
    /// Shows a name in wire format.
    pub(super) fn show(self, wire: &[u8], hash: u64) -> String {
        match self {
            Self::Full => text(&labels(wire)),
            Self::Cut => {
                let labels = labels(wire);
                let (cut, shown) = labels.split_at(labels.len().saturating_sub(LABELS));
                format!("{}{}", if cut.is_empty() { "" } else { "*." }, text(shown))
            }
            Self::Hash => format!("{hash:016x}"),
        }
    }
}

/// The labels of a name.
fn labels(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let [len, rest @ ..] = wire
        && *len > 0
        && let Some((label, rest)) = rest.split_at_checked(usize::from(*len))
    {
        labels.push(label);
        wire = rest;
    }
    labels
}

/// Labels with dots between them, in lower case. Other characters than those of host names are escaped as in zone files
/// (RFC 1035, 5.1).
fn text(labels: &[&[u8]]) -> String {
    let mut text = String::new();
    for (at, label) in labels.iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for byte in *label {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                text.push(byte.to_ascii_lowercase().into());
            } else {
                // Writing to memory does not fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
        if text.len() > MAX_TEXT {
            text.truncate(MAX_TEXT);
            text.push_str("...");
            return text;
        }
    }
    if labels.is_empty() { ".".to_owned() } else { text }
}

/// Name of a type, <https://www.iana.org/assignments/dns-parameters>; `TYPE65280` for others (RFC 3597).
pub(super) fn kind(number: u16) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        257 => "CAA",
        _ => return Cow::Owned(format!("TYPE{number}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_capped() {
        let show = |wire: &[u8]| Names::Full.show(wire, 7);
        assert_eq!(show(b"\x03WWW\x07example\x03com\0"), "www.example.com");
        assert_eq!(show(b"\0"), ".");
        assert_eq!(show(b"\x04_tcp\x05a.b\x1b\xff\0"), "_tcp.a\\046b\\027\\255");
        // Cut off in mid-label: what is whole is shown.
        assert_eq!(show(b"\x03www\x07exam"), "www");
        let long = [&[63][..], &[0xff; 63], &[63], &[0xff; 63], &[0]].concat();
        assert_eq!(show(&long).len(), MAX_TEXT + 3);
        assert_eq!(
            Names::Cut.show(b"\x05redis\x04prod\x03svc\x07cluster\x05local\0", 7),
            "*.svc.cluster.local"
        );
        assert_eq!(Names::Cut.show(b"\x07example\x03com\0", 7), "example.com");
        assert_eq!(Names::Hash.show(b"\x03www\0", 0xabc), "0000000000000abc");
        assert_eq!((kind(28), kind(65_280)), ("AAAA".into(), "TYPE65280".into()));
    }
}
