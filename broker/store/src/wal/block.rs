//! Blocks: what the write-ahead log is cut into.
//!
//! A batch is one or more blocks, the last one filled up with zeros, so that no block holds two batches and a torn write
//! never hits one that was synced before. A block (big-endian):
//!
//! ```text
//! u64   XXH3 of the rest of the block
//! u64   number: where in the log it belongs; rises by one from block to block
//! u64   sequence of the batch it is of
//! u64   sequence of the last batch that was synced when this one was written
//! u32   which block of its batch it is, from 0
//! u32   of how many
//! bytes payload, 4056 of them
//! ```
//!
//! Segments are written again and again, so that the number tells a block from what was in its place before. And as
//! every 4096 bytes begin with what is written here, nobody who publishes can have a body taken for a block.

use twox_hash::XxHash3_64;

/// Length of a block, in bytes.
pub(crate) const BLOCK: usize = 4_096;

/// Length of what comes in front of the payload, in bytes.
pub(super) const HEADER: usize = 40;

/// Bytes of a batch in one block.
pub(super) const PAYLOAD: usize = BLOCK - HEADER;

/// What a block says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) sequence: u64,
    pub(crate) synced: u64,
    pub(crate) index: u32,
    pub(crate) count: u32,
}

impl Header {
    /// Writes it to the front of a block whose payload is there.
    pub(super) fn write_to(&self, block: &mut [u8; BLOCK]) {
        block[8..16].copy_from_slice(&self.number.to_be_bytes());
        block[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        block[24..32].copy_from_slice(&self.synced.to_be_bytes());
        block[32..36].copy_from_slice(&self.index.to_be_bytes());
        block[36..HEADER].copy_from_slice(&self.count.to_be_bytes());
        let checksum = XxHash3_64::oneshot(&block[8..]);
        block[..8].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Reads the header of a whole block; `None` when the block is not what was written.
    pub(super) fn of(block: &[u8; BLOCK]) -> Option<Header> {
        let number = |at: usize| Some(u64::from_be_bytes(block.get(at..at + 8)?.try_into().ok()?));
        let short = |at: usize| Some(u32::from_be_bytes(block.get(at..at + 4)?.try_into().ok()?));
        let header = Header {
            number: number(8)?,
            sequence: number(16)?,
            synced: number(24)?,
            index: short(32)?,
            count: short(36)?,
        };
        (number(0)? == XxHash3_64::oneshot(&block[8..])).then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_it_was_or_none() {
        let header = Header {
            number: 1,
            sequence: 2,
            synced: 3,
            index: 4,
            count: 5,
        };
        let mut block = [7; BLOCK];
        header.write_to(&mut block);
        let golden: [u8; HEADER - 8] = [
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5,
        ];
        assert_eq!(block[8..HEADER], golden);
        assert_eq!(block[HEADER..], [7; PAYLOAD]);
        assert_eq!(Header::of(&block), Some(header));
        for at in [0, 8, 39, 40, BLOCK - 1] {
            let mut flipped = block;
            flipped[at] ^= 1;
            assert_eq!(Header::of(&flipped), None, "byte {at}");
        }
        assert_eq!(Header::of(&[0; BLOCK]), None);
    }
}
