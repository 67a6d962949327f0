//! Reading the write-ahead log: batch after batch to where it ends, and a look at what lies behind that.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::block::{BLOCK, HEADER, Header};
use super::segments::{list, path};
use super::{Place, batch};
use crate::error::{Damage, Trouble};
use crate::staged::Changes;

/// Blocks read at once.
const READ_BLOCKS: u64 = 256;

/// What lies behind the last batch that follows the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Blocks that are whole and in their place: of a batch whose write was interrupted, or behind damage.
    pub(crate) blocks: Vec<u64>,
    /// The last batch that was synced for certain, as they say.
    pub(crate) synced: u64,
}

/// Reads the log in a folder; changes nothing.
pub(crate) struct Reader {
    folder: PathBuf,
    /// Length of a segment, in blocks.
    segment: u64,
    /// Behind the last batch that was read.
    pub(crate) at: Place,
    file: Option<(u64, Option<File>)>,
    buffer: Vec<u8>,
    /// The numbers of the blocks in the buffer.
    buffered: Range<u64>,
}

impl Reader {
    /// Reads from behind this batch on.
    pub(crate) fn new(folder: &Path, segment: u64, at: Place) -> Reader {
        Reader {
            folder: folder.to_owned(),
            segment,
            at,
            file: None,
            buffer: Vec::new(),
            buffered: 0..0,
        }
    }

    /// As [`Reader::new`], from the first block there is without a gap behind: segments in front of one were only kept.
    pub(crate) fn from_oldest(folder: &Path, segment: u64) -> io::Result<Reader> {
        let numbers = list(folder)?;
        let mut stretches = numbers.chunk_by(|one, next| one + 1 == *next);
        let oldest = stretches.next_back().map_or(0, |stretch| stretch[0]);
        let mut reader = Reader::new(folder, segment, Place::default());
        reader.at.block = oldest * segment;
        if let Some(header) = reader.next_whole(oldest * segment)? {
            reader.at = Place {
                block: header.number,
                sequence: header.sequence.saturating_sub(1),
            };
        }
        Ok(reader)
    }

    /// What the next batch changes, or `None` at the end.
    ///
    /// # Errors
    /// When reading fails, and when a batch whose blocks are whole is none. That one counts as read.
    pub(crate) fn next(&mut self) -> Result<Option<Changes>, Trouble> {
        let sequence = self.at.sequence.saturating_add(1);
        let mut payload: Vec<u8> = Vec::new();
        let mut block = self.at.block;
        loop {
            let index = (block - self.at.block) as u32;
            let Some((header, bytes)) = self.block(block)? else {
                return Ok(None);
            };
            if header.sequence != sequence || header.index != index {
                return Ok(None);
            }
            payload.extend_from_slice(bytes);
            block += 1;
            if index + 1 >= header.count {
                break;
            }
        }
        let (began, damage) = (self.at.block, self.damage_at(self.at.block));
        self.at = Place { block, sequence };
        Ok(Some(batch::decode(Bytes::from(payload), began).ok_or(damage)?))
    }

    /// Looks at everything behind the last batch.
    pub(crate) fn behind(&mut self) -> io::Result<Behind> {
        let mut behind = Behind::default();
        let mut from = self.at.block;
        while let Some(header) = self.next_whole(from)? {
            behind.blocks.push(header.number);
            behind.synced = behind.synced.max(header.synced);
            from = header.number + 1;
        }
        Ok(behind)
    }

    /// Goes on at the first whole batch behind where it stopped. Answers how many batches lie between, or `None` when
    /// there is none.
    pub(crate) fn skip(&mut self) -> io::Result<Option<u64>> {
        let mut from = self.at.block;
        while let Some(header) = self.next_whole(from)? {
            if header.index == 0 && header.sequence > self.at.sequence && self.is_whole(&header)? {
                let skipped = header.sequence - self.at.sequence - 1;
                self.at = Place {
                    block: header.number,
                    sequence: header.sequence - 1,
                };
                return Ok(Some(skipped));
            }
            from = header.number + 1;
        }
        Ok(None)
    }

    /// Says that the log is damaged at a block.
    pub(crate) fn damage_at(&self, block: u64) -> Damage {
        Damage::Wal {
            segment: block / self.segment,
            at: block % self.segment * BLOCK as u64,
        }
    }

    fn is_whole(&mut self, first: &Header) -> io::Result<bool> {
        for index in 0..first.count {
            match self.block(first.number + u64::from(index))? {
                Some((header, _)) if (header.sequence, header.index) == (first.sequence, index) => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The first whole block in its place from this one on.
    fn next_whole(&mut self, from: u64) -> io::Result<Option<Header>> {
        for segment in list(&self.folder)? {
            let first = segment * self.segment;
            for number in first.max(from)..first + self.segment {
                if let Some((header, _)) = self.block(number)? {
                    return Ok(Some(header));
                }
            }
        }
        Ok(None)
    }

    /// A block and its payload; `None` when it is not there, not whole, or another one.
    fn block(&mut self, number: u64) -> io::Result<Option<(Header, &[u8])>> {
        if !self.buffered.contains(&number) {
            self.read_from(number)?;
        }
        let at = (number - self.buffered.start) as usize * BLOCK;
        let Some(block) = self.buffer.get(at..).and_then(|from| from.first_chunk()) else {
            return Ok(None);
        };
        let header = Header::of(block).filter(|header| header.number == number);
        Ok(header.map(|header| (header, &block[HEADER..])))
    }

    /// Fills the buffer with blocks of one segment.
    fn read_from(&mut self, number: u64) -> io::Result<()> {
        let segment = number / self.segment;
        if self.file.as_ref().is_none_or(|(of, _)| *of != segment) {
            let file = match File::open(path(&self.folder, segment)) {
                Ok(file) => Some(file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            };
            self.file = Some((segment, file));
        }
        let end = (number + READ_BLOCKS).min((segment + 1) * self.segment);
        self.buffered = number..end;
        self.buffer.clear();
        self.buffer.resize((end - number) as usize * BLOCK, 0);
        let Some((_, Some(file))) = &self.file else {
            return Ok(());
        };
        let from = number % self.segment * BLOCK as u64;
        let mut read = 0;
        while read < self.buffer.len() {
            match file.read_at(&mut self.buffer[read..], from + read as u64) {
                Ok(0) => break,
                Ok(len) => read += len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
