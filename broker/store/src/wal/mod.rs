//! The write-ahead log: what a batch changes lies here, written or synced as was promised, before anybody is told of it.
//!
//! fjall has journals of its own, and they are not used. A sync of theirs waits for the file to grow, a flush holds up who
//! writes, every body goes through both journal and memtable to be forgotten a moment later, and what is torn cannot be
//! told from what is damaged. Here a batch is written over what a segment held before, in [`block`]s that say where
//! they belong. What it changed is kept in a memtable of ours, from where it goes into fjall's tables in one piece.
//! What was removed in the meantime never gets there.

mod batch;
mod block;
mod buffer;
mod extent;
mod read;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use block::BLOCK;
use block::{HEADER, Header, PAYLOAD};
use buffer::Buffer;
pub(crate) use extent::{EXTENT_MAX, Extent, ExtentReader};
pub(crate) use read::{Behind, Reader};
pub(crate) use segments::path as segment_path;
use segments::{Segment, Segments};

use crate::staged::Changes;

/// Bytes collected before they are written, so that a large batch is in memory once.
const WRITE_BYTES: usize = 1024 * 1024;

/// Most bytes that are left to the system's cache at once: to copy them takes less than to wait for the disk.
const CACHED_WRITE_MAX: usize = 128 * 1024;

/// So many bytes in the system's cache are worth asking it to write them.
const CACHED_ENOUGH: u64 = 512 * 1024;

/// Most bytes there that it was not asked to write, so that a sync has little to wait for.
const CACHED_MAX: u64 = 1024 * 1024;

/// Where a batch ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The block behind its last one.
    pub(crate) block: u64,
    /// Its number.
    pub(crate) sequence: u64,
}

/// Length of a segment, in blocks: 16 MiB. It is part of the format.
pub(crate) const SEGMENT: u64 = 4_096;

/// The open log. Only one thread writes to it.
#[derive(Debug)]
pub(crate) struct Wal {
    segments: Arc<Segments>,
    /// The segment written to, and its number.
    current: (u64, Arc<Segment>),
    /// Those written to since the last sync, but for the current one.
    unsynced: Vec<Arc<Segment>>,
    /// Whether another segment should be made ready.
    wants_segment: bool,
    /// When a segment was half full last.
    half_full: Instant,
    /// Syncs since then.
    syncs: u64,
    /// The next block.
    end: u64,
    buffer: Buffer,
    /// Bytes in the buffer that are to be written, in whole blocks: the last ones in front of the end.
    buffered: usize,
    /// Where in the current segment lies what the system's cache has and was not asked to write.
    cached: Range<u64>,
}

/// Where blocks are written to.
#[derive(Clone, Copy, Debug)]
enum To {
    Disk,
    Cache,
}

/// The end of the log for the thread that makes tables: it says what the log may forget, and has time to make segments.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Segments>);

impl Room {
    /// Makes the next segment ready, if none is, and lets commits pass in between for as long as there is `time` for that.
    pub(crate) fn prepare(&self, time: impl Fn() -> bool) -> io::Result<()> {
        match self.0.is_short() {
            true => self.0.prepare(time),
            false => Ok(()),
        }
    }

    /// Bytes of all segments, and how many there are.
    pub(crate) fn disk_space(&self) -> (u64, u64) {
        self.0.disk_space()
    }

    /// Nothing in front of this block is needed to recover any more; segments that `is_kept` says are kept.
    pub(crate) fn release(&self, block: u64, is_kept: impl Fn(u64) -> bool) -> io::Result<()> {
        self.0.release(block, is_kept)
    }

    /// A segment that was kept is not needed any more.
    pub(crate) fn let_go(&self, segment: u64) -> io::Result<()> {
        self.0.let_go(segment)
    }
}

/// What was written up to some time and may not be on disk.
#[derive(Debug)]
pub(crate) struct Unsynced {
    /// Segments that nothing more is written to.
    full: Vec<Arc<Segment>>,
    current: Arc<Segment>,
}

impl Unsynced {
    /// Makes it durable, while others write and sync.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.full
            .iter()
            .chain([&self.current])
            .try_for_each(|segment| segment.sync_aside())
    }
}

/// What is in the system's cache and may not be on disk.
#[derive(Debug)]
pub(crate) struct Cached {
    segment: Arc<Segment>,
    range: Range<u64>,
}

impl Cached {
    /// Has the system begin to write it. Takes some tenths of a millisecond, during which others may write.
    pub(crate) fn begin_to_write(self) {
        self.segment.begin_to_write(self.range);
    }
}

impl Wal {
    /// Goes on behind `end`. What lies in front of `begin` is not needed; `stale` are blocks behind the end that must not
    /// be taken for more of it, and `kept` are segments that something lies in.
    pub(crate) fn open(
        folder: &Path,
        segment: u64,
        begin: u64,
        end: u64,
        stale: &[u64],
        kept: BTreeSet<u64>,
    ) -> io::Result<Wal> {
        fs::create_dir_all(folder)?;
        wipe(folder, segment, stale)?;
        let (oldest, current) = (begin / segment, end / segment);
        let segments = Segments::open(folder.to_owned(), segment, oldest, current, kept)?;
        let file = segments.take(current)?;
        Ok(Wal {
            segments: Arc::new(segments),
            current: (current, file),
            unsynced: Vec::new(),
            wants_segment: false,
            half_full: Instant::now(),
            syncs: 0,
            end,
            buffer: Buffer::new(WRITE_BYTES),
            buffered: 0,
            cached: 0..0,
        })
    }

    /// Adds a batch; `synced` is the last one that is. What comes to less than a mebibyte is not written yet. Returns how
    /// many bytes it takes, and notes in the changes where the log has parts of chunks.
    ///
    /// # Errors
    /// When a write fails. Part of the batch may be there then, and nothing may be appended any more.
    pub(crate) fn append(&mut self, sequence: u64, synced: u64, changes: &mut Changes) -> io::Result<u64> {
        let count = blocks(batch::len(changes));
        let began = self.end;
        batch::locate(changes, began);
        let mut blocks = Blocks {
            header: Header {
                number: began,
                sequence,
                synced,
                index: 0,
                count: count as u32,
            },
            first: began - (self.buffered / BLOCK) as u64,
            block_at: std::mem::take(&mut self.buffered),
            filled: 0,
            buffer: std::mem::take(&mut self.buffer),
            wal: self,
        };
        let result = batch::encode(changes, |bytes| blocks.put(bytes)).map(|()| blocks.finish());
        let Blocks { buffer, block_at, .. } = blocks;
        (self.buffer, self.buffered) = (buffer, block_at);
        result?;
        self.end = began + count;
        let half = self.segments.blocks / 2;
        let is_half_full = (began + half) / self.segments.blocks < (self.end + half) / self.segments.blocks;
        if is_half_full {
            let before = std::mem::replace(&mut self.half_full, Instant::now());
            let syncs = std::mem::take(&mut self.syncs);
            self.segments.filled_in(before.elapsed(), syncs);
            self.wants_segment |= self.segments.is_short();
        }
        Ok(count * BLOCK as u64)
    }

    /// Writes what was appended, without syncing it: from here on it survives the process, if not the machine.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub(crate) fn write_out(&mut self) -> io::Result<()> {
        let is_small = self.buffered <= CACHED_WRITE_MAX;
        let has_room = self.cached.end - self.cached.start < CACHED_MAX;
        self.empty_buffer(if is_small && has_room { To::Cache } else { To::Disk })
    }

    /// Whether something was appended and not written.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.buffered > 0
    }

    /// Whether the system should be asked to write what it has in its cache.
    pub(crate) fn has_cached(&self) -> bool {
        self.cached.end - self.cached.start >= CACHED_ENOUGH
    }

    /// What it should be asked to write, if there is enough.
    pub(crate) fn take_cached(&mut self) -> Option<Cached> {
        self.has_cached().then(|| Cached {
            segment: self.current.1.clone(),
            range: std::mem::take(&mut self.cached),
        })
    }

    /// Makes durable what was appended so far.
    ///
    /// # Errors
    /// When a write or sync fails: what was written since the last one may or may not be on disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.empty_buffer(To::Disk)?;
        self.syncs += 1;
        for segment in std::mem::take(&mut self.unsynced) {
            segment.sync()?;
        }
        self.cached = 0..0;
        self.current.1.sync()
    }

    /// Writes what was appended so far, and answers what makes it durable.
    ///
    /// # Errors
    /// As [`Wal::append`].
    pub(crate) fn begin_to_sync(&mut self) -> io::Result<Unsynced> {
        self.write_out()?;
        self.syncs += 1;
        self.cached = 0..0;
        Ok(Unsynced {
            full: self.unsynced.clone(),
            current: self.current.1.clone(),
        })
    }

    /// That is durable. More may have been written to the segment that was the current one then.
    pub(crate) fn synced(&mut self, synced: &Unsynced) {
        self.unsynced
            .retain(|segment| !synced.full.iter().any(|full| Arc::ptr_eq(full, segment)));
    }

    /// The block behind the next batch, if it is of these changes and one whose key and value have that length together.
    pub(crate) fn end_with(&self, changes: &Changes, another: usize) -> u64 {
        self.end + blocks(batch::len(changes) + batch::FIXED + another)
    }

    /// The block the next batch begins at.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn room(&self) -> Room {
        Room(self.segments.clone())
    }

    /// Whether [`Room::prepare`] should be called; says so once.
    pub(crate) fn wants_segment(&mut self) -> bool {
        std::mem::take(&mut self.wants_segment)
    }

    /// Removes its files: all it held is in tables, and nothing more is written.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.segments.remove_all()
    }

    /// Writes what was appended.
    fn empty_buffer(&mut self, to: To) -> io::Result<()> {
        let len = std::mem::take(&mut self.buffered);
        let buffer = std::mem::take(&mut self.buffer);
        let written = self.write(self.end - (len / BLOCK) as u64, &buffer.all()[..len], to);
        self.buffer = buffer;
        written
    }

    /// Writes blocks from this number on.
    fn write(&mut self, mut number: u64, mut bytes: &[u8], to: To) -> io::Result<()> {
        while !bytes.is_empty() {
            let segment = number / self.segments.blocks;
            if segment != self.current.0 {
                let next = self.segments.take(segment)?;
                self.cached = 0..0;
                let (_, before) = std::mem::replace(&mut self.current, (segment, next));
                self.unsynced.push(before);
            }
            let first = number % self.segments.blocks;
            let room = (self.segments.blocks - first) as usize * BLOCK;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let at = first * BLOCK as u64;
            match to {
                To::Disk => self.current.1.write(now, at)?,
                To::Cache => {
                    self.current.1.write_cached(now, at)?;
                    if self.cached.is_empty() {
                        self.cached.start = at;
                    }
                    self.cached.end = at + now.len() as u64;
                }
            }
            number += (now.len() / BLOCK) as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// How many blocks a batch of that length takes.
fn blocks(len: usize) -> u64 {
    len.div_ceil(PAYLOAD) as u64
}

/// A batch on its way into blocks.
struct Blocks<'a> {
    wal: &'a mut Wal,
    buffer: Buffer,
    /// The number of the first block in the buffer.
    first: u64,
    /// Of the block being filled.
    header: Header,
    /// Where in the buffer that block begins.
    block_at: usize,
    /// Bytes of it that are there; 0 before the first.
    filled: usize,
}

impl Blocks<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            let at = self.block_at + self.filled;
            self.buffer.all_mut()[at..at + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BLOCK {
                self.end_block();
            }
        }
        Ok(())
    }

    /// Fills up the last block.
    fn finish(&mut self) {
        if self.filled > 0 {
            let (from, to) = (self.block_at + self.filled, self.block_at + BLOCK);
            self.buffer.all_mut()[from..to].fill(0);
            self.end_block();
        }
    }

    /// Begins a block if none is begun, and writes the buffer before that if it is full.
    fn make_room(&mut self) -> io::Result<()> {
        if self.filled > 0 {
            return Ok(());
        }
        if self.block_at == WRITE_BYTES {
            self.wal.write(self.first, self.buffer.all(), To::Disk)?;
            self.first = self.header.number;
            self.block_at = 0;
        }
        self.filled = HEADER;
        Ok(())
    }

    fn end_block(&mut self) {
        if let Some(block) = self.buffer.all_mut()[self.block_at..].first_chunk_mut() {
            self.header.write_to(block);
        }
        self.header.number += 1;
        self.header.index += 1;
        self.block_at += BLOCK;
        self.filled = 0;
    }
}

/// Overwrites blocks with zeros: what a crash left behind the end must not go on from a batch that is written there.
fn wipe(folder: &Path, segment: u64, blocks: &[u64]) -> io::Result<()> {
    for of_segment in blocks.chunk_by(|one, next| one / segment == next / segment) {
        let file = OpenOptions::new()
            .write(true)
            .open(segment_path(folder, of_segment[0] / segment))?;
        for block in of_segment {
            file.write_all_at(&[0; BLOCK], block % segment * BLOCK as u64)?;
        }
        file.sync_data()?;
    }
    Ok(())
}
