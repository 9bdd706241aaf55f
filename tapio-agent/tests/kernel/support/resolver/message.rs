//! DNS messages (RFC 1035, RFC 6891), as far as these tests need them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const A: u16 = 1;
pub(super) const AAAA: u16 = 28;
const OPT: u8 = 41;
/// A pseudo-record that accepts answers of up to 1232 bytes.
const EDNS: [u8; 11] = [0, 0, OPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
const HEADER: usize = 12;

/// A query with one question.
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    /// End of the question.
    end: usize,
    /// In lower case.
    pub(super) name: String,
    pub(super) kind: u16,
}

impl<'a> Query<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        if header[2] & 0x80 != 0 || header[4..6] != [0, 1] {
            return None;
        }
        let (mut labels, mut at) = (Vec::new(), HEADER);
        loop {
            let length = usize::from(*bytes.get(at)?);
            let label = bytes.get(at + 1..=at + length)?;
            at += 1 + length;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        }
        let kind = bytes.get(at..at + 4)?;
        let kind = u16::from_be_bytes([kind[0], kind[1]]);
        Some(Self { bytes, end: at + 4, name: labels.join("."), kind })
    }

    /// An answer, with the first `most` addresses if the question is for addresses.
    pub(super) fn answer(&self, rcode: u8, most: u8) -> Vec<u8> {
        let count = if [A, AAAA].contains(&self.kind) { most } else { 0 };
        let has_edns = self.bytes[self.end..].starts_with(&[0, 0, OPT]);
        let mut message = self.bytes[..self.end].to_vec();
        // A response, with the opcode and RD of the query, and RA.
        message[2] = 0x80 | self.bytes[2] & 0x79;
        message[3] = 0x80 | rcode;
        message[6..HEADER].copy_from_slice(&[0, count, 0, 0, 0, has_edns.into()]);
        for last in 1..=count {
            // The name of the question, class IN, 60 seconds.
            message.extend([0xc0, HEADER as u8]);
            message.extend(self.kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60, 0]);
            match self.kind {
                A => {
                    message.push(4);
                    message.extend(Ipv4Addr::new(192, 0, 2, last).octets());
                }
                _ => {
                    message.push(16);
                    message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).octets());
                }
            }
        }
        if has_edns {
            message.extend(EDNS);
        }
        message
    }

    /// An answer as to a name in upper case.
    pub(super) fn in_upper_case(&self, mut answer: Vec<u8>) -> Vec<u8> {
        // A label has at most 63 bytes, so its length is no letter in lower case.
        answer[HEADER..self.end - 4].make_ascii_uppercase();
        answer
    }
}

/// A query with EDNS.
pub(super) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // RD; one question, one additional record.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len().try_into().expect("a label of at most 63 bytes"));
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message.extend(EDNS);
    message
}

/// An answer with a header.
pub(super) struct Answer(pub(super) Vec<u8>);

impl Answer {
    /// Returns none if it is no answer to a query with this id.
    pub(super) fn to(id: u16, bytes: &[u8]) -> Option<Self> {
        let is_one = bytes.len() >= HEADER && bytes[..2] == id.to_be_bytes() && bytes[2] & 0x80 != 0;
        is_one.then(|| Self(bytes.to_vec()))
    }

    pub(super) fn rcode(&self) -> u8 {
        self.0[3] & 0xf
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.0[2] & 2 != 0
    }

    /// Number of records.
    pub(super) fn count(&self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }

    /// The address in the last record before that of EDNS, if it is of this family.
    pub(super) fn last_address(&self, kind: u16) -> Option<IpAddr> {
        let records = self.0.strip_suffix(&EDNS)?;
        match kind {
            A => records.last_chunk::<4>().map(|octets| (*octets).into()),
            _ => records.last_chunk::<16>().map(|octets| (*octets).into()),
        }
    }
}
