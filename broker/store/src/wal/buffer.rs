//! A buffer that begins where a page does, as the system wants it of who writes past its cache.

use std::ops::Range;

use super::block::BLOCK;

/// Bytes in memory whose first one is at a multiple of [`BLOCK`].
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    range: Range<usize>,
}

impl Buffer {
    /// So many zeros.
    pub(super) fn new(len: usize) -> Buffer {
        let bytes = vec![0; len + BLOCK];
        // The vector is never made longer, so that it stays where it is.
        let start = bytes.as_ptr().align_offset(BLOCK).min(BLOCK);
        Buffer {
            bytes,
            range: start..start + len,
        }
    }

    pub(super) fn all(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    pub(super) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_page_and_has_its_length() {
        for len in [BLOCK, 5 * BLOCK] {
            let mut buffer = Buffer::new(len);
            assert_eq!(buffer.all().as_ptr().align_offset(BLOCK), 0);
            assert_eq!((buffer.all().len(), buffer.all_mut().len()), (len, len));
        }
    }
}
