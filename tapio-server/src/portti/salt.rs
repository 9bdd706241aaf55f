//! Salted hashes of values that must not leave the cluster.

use ring::{
    digest, hmac,
    rand::{SecureRandom as _, SystemRandom},
};

/// Bytes of a salt.
const SALT_BYTES: usize = 32;
/// Bytes of a hash that are shown: enough to tell values of one cluster apart.
const SHOWN_BYTES: usize = 8;

/// A secret of this installation. Equal values have equal hashes, and no value can be guessed from a hash without the
/// salt.
#[derive(Clone, Debug)]
pub(super) struct Salt(hmac::Key);

impl Salt {
    /// A new one, and its bytes.
    pub(super) fn random() -> anyhow::Result<(Self, Vec<u8>)> {
        let mut bytes = vec![0; SALT_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
        Ok((Self::of(&bytes), bytes))
    }

    /// The one with these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The hash of a value, such as `#0123456789abcdef`.
    pub(super) fn hash(&self, value: &str) -> String {
        use std::fmt::Write as _;
        let tag = hmac::sign(&self.0, value.as_bytes());
        let mut shown = String::with_capacity(1 + 2 * SHOWN_BYTES);
        shown.push('#');
        for byte in tag.as_ref().iter().take(SHOWN_BYTES) {
            // Writing to a string does not fail.
            let _ = write!(shown, "{byte:02x}");
        }
        shown
    }
}

/// 80 bits that depend on all of these parts.
pub(super) fn fingerprint(parts: &[&str]) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_le_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().take(10).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_the_value_and_on_the_salt() {
        let (salt, bytes) = Salt::random().unwrap();
        assert_eq!(salt.hash("a"), Salt::of(&bytes).hash("a"));
        assert_ne!(salt.hash("a"), salt.hash("b"));
        assert_ne!(salt.hash("a"), Salt::random().unwrap().0.hash("a"));
        assert_eq!(salt.hash("").len(), 17);
    }

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&["ab", "c"]), fingerprint(&["ab", "c"]));
        assert!(fingerprint(&["x"]) < 1 << 80);
    }
}
