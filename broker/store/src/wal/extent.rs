//! Extents: values that stay where the log has them.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::block::{BLOCK, HEADER, Header, PAYLOAD};
use super::segments::path;

/// Longest value that an extent is made of, in bytes.
pub(crate) const EXTENT_MAX: usize = 16 * 1024 * 1024;

const VERSION: u8 = 1;

/// A stretch of the log's payload. Its blocks say which they are, so that what was written over it is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it begins: block `n` holds the bytes from `n` times 4056 on. No value is the very first of the log.
    pub(crate) at: NonZeroU64,
    /// Its length in bytes.
    pub(crate) len: u32,
}

impl Extent {
    /// As it is stored (big-endian): version, `u64` where it begins, `u32` length.
    pub(crate) fn encode(&self) -> [u8; 13] {
        let mut bytes = [VERSION; 13];
        bytes[1..9].copy_from_slice(&self.at.get().to_be_bytes());
        bytes[9..].copy_from_slice(&self.len.to_be_bytes());
        bytes
    }

    /// Reads it back; `None` when it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Extent> {
        let [VERSION, rest @ ..] = <&[u8; 13]>::try_from(bytes).ok()? else {
            return None;
        };
        let (at, len) = rest.split_first_chunk()?;
        let at = NonZeroU64::new(u64::from_be_bytes(*at))?;
        let len = u32::from_be_bytes(len.try_into().ok()?);
        at.checked_add(u64::from(len))?;
        (len > 0 && len as usize <= EXTENT_MAX).then_some(Extent { at, len })
    }

    /// The segments it lies in, rising, with the blocks of each that it takes, as `first..end` over the whole log.
    pub(crate) fn stretches(self, segment: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
        let payload = PAYLOAD as u64;
        let first = self.at.get() / payload;
        let end = (self.at.get() + u64::from(self.len)).div_ceil(payload);
        (first / segment..=(end - 1) / segment).map(move |number| {
            (
                number,
                first.max(number * segment)..end.min((number + 1) * segment),
            )
        })
    }
}

/// Reads extents. It goes through the system's cache, which reads ahead for whoever reads one behind the other.
#[derive(Debug)]
pub(crate) struct ExtentReader {
    folder: PathBuf,
    /// Length of a segment, in blocks.
    segment: u64,
    /// The segment that was read last, and its number. No other segment ever has that number.
    file: Option<(u64, File)>,
    /// What was read last.
    blocks: Vec<u8>,
}

impl ExtentReader {
    pub(crate) fn new(folder: PathBuf, segment: u64) -> ExtentReader {
        ExtentReader {
            folder,
            segment,
            file: None,
            blocks: Vec::new(),
        }
    }

    /// Reads the value; `None` when something else is there, or nothing.
    pub(crate) fn read(&mut self, extent: Extent) -> io::Result<Option<Bytes>> {
        let len = extent.len as usize;
        let mut value = Vec::with_capacity(len);
        let mut skipped = (extent.at.get() % PAYLOAD as u64) as usize;
        for (segment, stretch) in extent.stretches(self.segment) {
            match self.read_blocks(segment, &stretch) {
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {
                    return Ok(None);
                }
                other => other?,
            }
            for (block, number) in self.blocks.as_chunks::<BLOCK>().0.iter().zip(stretch) {
                if Header::of(block).is_none_or(|header| header.number != number) {
                    return Ok(None);
                }
                let from = HEADER + std::mem::take(&mut skipped);
                let to = BLOCK.min(from + len - value.len());
                value.extend_from_slice(&block[from..to]);
            }
        }
        Ok(Some(value.into()))
    }

    fn read_blocks(&mut self, segment: u64, stretch: &Range<u64>) -> io::Result<()> {
        let file = match self.file.take_if(|(number, _)| *number == segment) {
            Some((_, file)) => file,
            None => {
                let file = File::open(path(&self.folder, segment))?;
                // Where the system does not take advice, it is read all the same.
                let _ = fadvise(&file, 0, None, Advice::Sequential);
                file
            }
        };
        self.blocks
            .resize((stretch.end - stretch.start) as usize * BLOCK, 0);
        file.read_exact_at(&mut self.blocks, stretch.start % self.segment * BLOCK as u64)?;
        self.file = Some((segment, file));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(at: u64, len: u32) -> Extent {
        let at = NonZeroU64::new(at).unwrap();
        Extent { at, len }
    }

    #[test]
    fn an_extent_is_read_back_and_nothing_else_is_one() {
        let bytes = extent(0x0102, 0x0304).encode();
        assert_eq!(bytes, *b"\x01\0\0\0\0\0\0\x01\x02\0\0\x03\x04");
        assert_eq!(Extent::decode(&bytes), Some(extent(0x0102, 0x0304)));
        for len in 0..bytes.len() {
            assert_eq!(Extent::decode(&bytes[..len]), None);
        }
        let too_long = extent(1, EXTENT_MAX as u32 + 1).encode();
        let behind_all = extent(u64::MAX, 1).encode();
        for wrong in [[0; 13], [2; 13], extent(1, 0).encode(), too_long, behind_all] {
            assert_eq!(Extent::decode(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_extent_is_in_the_segments_that_its_blocks_are_in() {
        let payload = PAYLOAD as u64;
        let stretches = |at, len| extent(at, len).stretches(4).collect::<Vec<_>>();
        assert_eq!(stretches(1, PAYLOAD as u32 - 1), [(0, 0..1)]);
        assert_eq!(stretches(1, PAYLOAD as u32), [(0, 0..2)]);
        assert_eq!(
            stretches(payload * 3, 9 * PAYLOAD as u32),
            [(0, 3..4), (1, 4..8), (2, 8..12)]
        );
    }
}
