//! Addresses as text.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

/// An address as the standard library writes it. IPv4 by hand: most are, and a general formatter takes several
/// times as long.
pub(super) struct AddressText {
    /// The longest is that of an IPv6 address.
    text: [u8; 39],
    length: usize,
}

impl AddressText {
    pub(super) fn new(address: IpAddr) -> Self {
        let mut written = Self { text: [0; 39], length: 0 };
        match address {
            IpAddr::V4(v4) => {
                for (nth, octet) in v4.octets().into_iter().enumerate() {
                    if nth > 0 {
                        written.push(b'.');
                    }
                    if octet >= 100 {
                        written.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        written.push(b'0' + octet / 10 % 10);
                    }
                    written.push(b'0' + octet % 10);
                }
            }
            // There is room for it.
            IpAddr::V6(v6) => drop(write!(written, "{v6}")),
        }
        written
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        self.text[self.length] = byte;
        self.length += 1;
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_the_standard_library_says() {
        let mut rng = fastrand::Rng::with_seed(5);
        let v4 = (0..=u8::MAX).map(|octet| IpAddr::from([octet, 255 - octet, octet / 2, octet / 20]));
        let v6 = (0..10_000).map(|_| IpAddr::from((rng.u128(..) >> rng.u32(..128)).to_be_bytes()));
        let longest = IpAddr::from([u8::MAX; 16]);
        for address in v4.chain(v6).chain([longest]) {
            assert_eq!(AddressText::new(address).as_str(), address.to_string());
        }
    }
}
