//! The mark: how far the store was synced, kept outside of the write-ahead log and of fjall.
//!
//! A log ends in front of the first batch that is not whole, which is right for a torn end and silent about anything worse.
//! The mark tells the two apart: it is written after each sync, so a store that comes back with less than its mark has lost
//! something that was promised.
//!
//! After a power loss the mark itself may be some seconds old, as it is not synced on its own. Each block of the log
//! therefore also says how far the store was synced when it was written; only damage to the very last synced batches, with
//! nothing left behind them, is then taken for a torn end.
//!
//! In format 1 it was fjall's journals that the mark was compared with, and after a clean stop it told which there were.
//!
//! The file is two slots of 4096 bytes, written in turn. A slot (big-endian):
//!
//! ```text
//! [u8; 8] "PTSMMARK"
//! u64     generation; the valid slot with the higher one counts
//! u64     sequence of the last synced batch
//! u8      1 after a clean stop of format 1, otherwise 0
//! u64     number of the first journal, after a clean stop of format 1
//! u64     number of the last journal, after a clean stop of format 1
//! u64     XXH3 of the fields above
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use twox_hash::XxHash3_64;

/// Its name in the data folder.
pub(crate) const FILE: &str = "mark";
const MAGIC: &[u8; 8] = b"PTSMMARK";
const SLOT_DISTANCE: u64 = 4_096;
const SLOT_LEN: usize = 49;

/// What the mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The last synced batch.
    pub(crate) sequence: u64,
    /// The first and last journal, when a store of format 1 was closed properly.
    pub(crate) journals: Option<(u64, u64)>,
}

/// The open mark file.
#[derive(Debug)]
pub(crate) struct Mark {
    file: File,
    generation: u64,
}

impl Mark {
    /// Makes a mark for a new store, synced.
    pub(crate) fn create(folder: &Path) -> io::Result<Mark> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(folder.join(FILE))?;
        file.set_len(2 * SLOT_DISTANCE)?;
        let mut mark = Mark { file, generation: 0 };
        mark.write(Marked::default())?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the mark and says what it was, or `None` when no slot of it is whole.
    pub(crate) fn open(folder: &Path) -> io::Result<Option<(Mark, Marked)>> {
        let file = match OpenOptions::new().read(true).write(true).open(folder.join(FILE)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut newest: Option<(u64, Marked)> = None;
        for slot in 0..2 {
            let mut bytes = [0; SLOT_LEN];
            match file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => continue,
                Err(e) => return Err(e),
            }
            if let Some(found) = decode(&bytes)
                && newest.is_none_or(|(generation, _)| generation < found.0)
            {
                newest = Some(found);
            }
        }
        Ok(newest.map(|(generation, marked)| (Mark { file, generation }, marked)))
    }

    /// Writes the mark, without syncing it.
    pub(crate) fn write(&mut self, marked: Marked) -> io::Result<()> {
        self.generation += 1;
        let slot = self.generation % 2;
        self.file
            .write_all_at(&encode(self.generation, marked), slot * SLOT_DISTANCE)
    }

    /// Writes the mark to both slots, so that neither says anything older, and syncs it.
    pub(crate) fn write_synced(&mut self, marked: Marked) -> io::Result<()> {
        self.write(marked)?;
        self.write(marked)?;
        self.file.sync_all()
    }
}

fn encode(generation: u64, marked: Marked) -> [u8; SLOT_LEN] {
    let (first, last) = marked.journals.unwrap_or_default();
    let mut bytes = [0; SLOT_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&generation.to_be_bytes());
    bytes[16..24].copy_from_slice(&marked.sequence.to_be_bytes());
    bytes[24] = u8::from(marked.journals.is_some());
    bytes[25..33].copy_from_slice(&first.to_be_bytes());
    bytes[33..41].copy_from_slice(&last.to_be_bytes());
    let checksum = XxHash3_64::oneshot(&bytes[..41]);
    bytes[41..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_LEN]) -> Option<(u64, Marked)> {
    let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if !bytes.starts_with(MAGIC) || number(41)? != XxHash3_64::oneshot(&bytes[..41]) {
        return None;
    }
    let journals = (number(25)?, number(33)?);
    let marked = Marked {
        sequence: number(16)?,
        journals: (bytes[24] == 1).then_some(journals),
    };
    Some((number(8)?, marked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Marked = Marked {
        sequence: 9,
        journals: None,
    };

    #[test]
    fn the_newest_mark_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(dir.path()).unwrap();
        for sequence in 1..=9 {
            mark.write(Marked { sequence, ..LATER }).unwrap();
        }
        assert_eq!(Mark::open(dir.path()).unwrap().unwrap().1, LATER);
    }

    #[test]
    fn a_torn_slot_leaves_the_mark_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(dir.path()).unwrap();
        mark.write(LATER).unwrap();
        mark.write(Marked {
            sequence: 10,
            ..LATER
        })
        .unwrap();
        let slot = mark.generation % 2;
        mark.file
            .write_all_at(&[0xff], slot * SLOT_DISTANCE + 20)
            .unwrap();
        assert_eq!(Mark::open(dir.path()).unwrap().unwrap().1, LATER);
    }

    #[test]
    fn a_mark_without_a_whole_slot_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Mark::open(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join(FILE), [0; 8_192]).unwrap();
        assert!(Mark::open(dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_clean_stop_is_in_both_slots() {
        let dir = tempfile::tempdir().unwrap();
        let clean = Marked {
            sequence: 4,
            journals: Some((1, 3)),
        };
        let mut mark = Mark::create(dir.path()).unwrap();
        mark.write_synced(clean).unwrap();
        for slot in 0..2 {
            let mut bytes = [0; SLOT_LEN];
            let file = File::open(dir.path().join(FILE)).unwrap();
            file.read_exact_at(&mut bytes, slot * SLOT_DISTANCE).unwrap();
            assert_eq!(decode(&bytes).unwrap().1, clean);
        }
    }
}
