//! Varints of 32 bits: LEB128, as postcard's.

/// The longest one, in bytes.
pub(crate) const LEN_MAX: usize = 5;

/// Hands its bytes to `append`, one after the other.
pub(crate) fn put(mut value: u32, mut append: impl FnMut(u8)) {
    while value >= 0x80 {
        append(value as u8 | 0x80);
        value >>= 7;
    }
    append(value as u8);
}

/// Reads one at `at`, which is then behind it; `None` where it is cut off or of more than 32 bits.
pub(crate) fn take(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &[u8]) -> Option<(u32, usize)> {
        let mut at = 0;
        take(bytes, &mut at).map(|value| (value, at))
    }

    #[test]
    fn what_was_put_is_taken_again() {
        for value in [0, 1, 127, 128, 300, u32::MAX >> 4, u32::MAX] {
            let mut bytes = Vec::new();
            put(value, |byte| bytes.push(byte));
            assert!(bytes.len() <= LEN_MAX);
            assert_eq!(taken(&bytes), Some((value, bytes.len())));
            assert_eq!(taken(&bytes[..bytes.len() - 1]), None, "{value} was cut");
        }
    }

    #[test]
    fn one_of_more_than_32_bits_is_none() {
        assert_eq!(taken(&[0x80, 0x80, 0x80, 0x80, 0x10]), None);
        assert_eq!(taken(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]), None);
        // As protobuf's example: 300 is 1010_1100 0000_0010.
        assert_eq!(taken(&[0xac, 0x02, 0xff]), Some((300, 2)));
    }
}
