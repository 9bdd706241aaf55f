//! Numbers of up to 56 bits in few: an exponent of 6 bits above a mantissa. Smaller numbers have smaller codes, and a
//! number times a power of two keeps its mantissa, so that the unit changes no verdict.

use super::FIXED_MAX;

/// The code of `value`, rounded down.
#[inline(always)]
pub(super) const fn encode(value: u64, mantissa_bits: u32) -> u64 {
    let bits = u64::BITS - value.leading_zeros();
    let exponent = bits.saturating_sub(mantissa_bits + 1);
    ((exponent as u64) << mantissa_bits) + (value >> exponent)
}

/// The number of a code; of any bits, at most [`FIXED_MAX`].
#[inline(always)]
pub(super) fn decode(code: u64, mantissa_bits: u32) -> u64 {
    let exponent = (code >> mantissa_bits) as u32;
    if exponent == 0 {
        return code;
    }
    let mantissa = code & ((1 << mantissa_bits) - 1);
    ((1 << mantissa_bits | mantissa) << ((exponent - 1) & 63)).min(FIXED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_rounded_down() {
        for bits in [2, 10] {
            for value in [0, 1, 3, 4, 7, 1000, 123_456_789, FIXED_MAX] {
                let code = encode(value, bits);
                let back = decode(code, bits);
                assert!(back <= value && value - back <= value >> bits, "{value}: {back}");
                assert!(code < 1 << (6 + bits), "{value}: {code}");
                assert_eq!(encode(back, bits), code);
            }
        }
        assert_eq!(decode(0xffff, 10), FIXED_MAX);
    }
}
