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

/// Each octet with a dot behind it, and how long that is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut all = [([0; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let number = octet as u8;
        let [hundreds, tens, ones] = [b'0' + number / 100, b'0' + number / 10 % 10, b'0' + number % 10];
        all[octet] = match number {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        octet += 1;
    }
    all
};

impl AddressText {
    pub(super) fn new(address: IpAddr) -> Self {
        let mut written = Self { text: [0; 39], length: 0 };
        match address {
            IpAddr::V4(v4) => {
                for octet in v4.octets() {
                    let (digits, length) = OCTETS[usize::from(octet)];
                    // Always four, which is one instruction: what is too much is written over.
                    written.text[written.length..written.length + 4].copy_from_slice(&digits);
                    written.length += usize::from(length);
                }
                // The last dot.
                written.length -= 1;
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
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.text.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
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
