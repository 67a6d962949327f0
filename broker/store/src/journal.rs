//! A look at the journals of a store of format 1 before fjall opens them, because opening cuts off what does not decode.
//!
//! The format is fjall 3.1's (`src/journal/entry.rs`), which is pinned. A journal is a run of batches:
//!
//! ```text
//! 1 u32 items, u64 number         start
//! 2 u8 type, u8 compression, u64 keyspace, u16 key length, u32 length, u32 length on disk, key, value    each item
//! 3 u64 XXH3 of the items' bytes, "FJL" 3           end
//! ```
//!
//! Numbers are little-endian. Each of our batches holds [`Progress`], whose sequence rises by one, so that a batch
//! that is not there is noticed.

use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use crate::error::{Damage, Trouble};
use crate::keys;
use crate::values::Progress;

const TRAILER: &[u8; 4] = b"FJL\x03";

/// What the journals hold.
#[derive(Debug, Default)]
pub(crate) struct Journals {
    /// Number of the first and the last file.
    pub(crate) files: Option<(u64, u64)>,
    /// The first batch.
    pub(crate) first: Option<Batch>,
    /// The sequence of the last batch that follows the others without a gap.
    pub(crate) last: Option<u64>,
    /// The last batch that was synced for certain, as far as batches say, also those behind damage.
    pub(crate) synced: u64,
    /// Where the last journal ends, if there is something behind.
    pub(crate) torn: Option<Torn>,
}

/// The end of the last journal that does not decode.
#[derive(Debug)]
pub(crate) struct Torn {
    pub(crate) file: PathBuf,
    pub(crate) at: u64,
    /// The sequence of the first whole batch behind, if there is one: the one before it is damaged.
    pub(crate) behind: Option<u64>,
}

impl Torn {
    pub(crate) fn name(&self) -> String {
        self.file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Cuts it off.
    pub(crate) fn cut(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.file)?;
        file.set_len(self.at)?;
        file.sync_all()
    }
}

/// What a batch says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// fjall's number.
    pub(crate) number: u64,
    pub(crate) progress: Progress,
}

/// Numbers of the journals in fjall's folder, rising.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads all journals and changes nothing.
pub(crate) fn look(folder: &Path) -> Result<Journals, Trouble> {
    let numbers = list(folder)?;
    let mut journals = Journals {
        files: numbers.first().copied().zip(numbers.last().copied()),
        ..Journals::default()
    };
    let mut fjall_number = None;
    for (at, &number) in numbers.iter().enumerate() {
        if at > 0 && numbers[at - 1] + 1 != number {
            let name = format!("{}.jnl", number - 1);
            return Err(Damage::JournalMissing { name }.into());
        }
        let name = format!("{number}.jnl");
        let path = folder.join(&name);
        let mut reader = JournalReader::open(&path)?;
        while let Some(batch) = reader.next()? {
            let expected = journals.last.map(|last| last + 1);
            let rises = fjall_number.is_none_or(|last| last < batch.number);
            if expected.is_some_and(|expected| expected != batch.progress.sequence) || !rises {
                let at = reader.batch_began;
                return Err(Damage::Journal { name, at }.into());
            }
            fjall_number = Some(batch.number);
            journals.first = journals.first.or(Some(batch));
            journals.last = Some(batch.progress.sequence);
            journals.synced = journals.synced.max(batch.progress.synced);
        }
        let at = reader.batch_began;
        if !reader.only_zeros_from(at)? {
            if number != numbers[numbers.len() - 1] {
                return Err(Damage::Journal { name, at }.into());
            }
            let behind = reader.behind(at, &mut journals.synced)?;
            journals.torn = Some(Torn {
                file: path,
                at,
                behind,
            });
        }
    }
    Ok(journals)
}

/// What was left of the journals of a damaged store.
#[derive(Debug, Default)]
pub(crate) struct Rescued {
    /// The first batch.
    pub(crate) first: Option<Batch>,
    /// Batches missing between others.
    pub(crate) gaps: u64,
    /// The last batch that was synced for certain, as far as batches say.
    pub(crate) synced: u64,
    last: Option<Batch>,
}

/// Leaves only whole batches in the journals of a copy, so that fjall replays all of them.
///
/// Where bytes do not decode, it goes on at the first point from which everything to the end of the journal decodes: a
/// message body that looks like a batch is always followed by the rest of the batch it lies in, so that nobody who
/// publishes can have it taken for one.
pub(crate) fn rescue(folder: &Path) -> io::Result<Rescued> {
    let mut rescued = Rescued::default();
    for number in list(folder)? {
        let path = folder.join(format!("{number}.jnl"));
        let mut reader = JournalReader::open(&path)?;
        let (end, _) = reader.run(0, &mut rescued)?;
        let behind = match reader.only_zeros_from(end)? {
            true => None,
            false => reader.last_run(end, &mut rescued)?,
        };
        keep(&path, [Some(0..end), behind])?;
    }
    Ok(rescued)
}

/// Rewrites a file with only these ranges of it.
fn keep(path: &Path, ranges: [Option<Range<u64>>; 2]) -> io::Result<()> {
    let new = path.with_extension("new");
    let (mut from, mut to) = (File::open(path)?, File::create(&new)?);
    for range in ranges.into_iter().flatten() {
        from.seek(SeekFrom::Start(range.start))?;
        io::copy(&mut (&from).take(range.end - range.start), &mut to)?;
    }
    fs::rename(new, path)
}

impl Rescued {
    /// Counts a batch in. One that is not behind all others is not taken.
    fn add(&mut self, batch: Batch) -> bool {
        if let Some(last) = self.last {
            if batch.number <= last.number || batch.progress.sequence <= last.progress.sequence {
                return false;
            }
            self.gaps += batch.progress.sequence - last.progress.sequence - 1;
        }
        self.first = self.first.or(Some(batch));
        self.last = Some(batch);
        self.synced = self.synced.max(batch.progress.synced);
        true
    }
}

struct JournalReader {
    file: BufReader<File>,
    len: u64,
    /// Where the batch being read began, or the first that did not decode.
    batch_began: u64,
}

impl JournalReader {
    fn open(path: &Path) -> io::Result<JournalReader> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(JournalReader {
            file: BufReader::with_capacity(256 * 1024, file),
            len,
            batch_began: 0,
        })
    }

    /// Reads batches from `at` on for as long as they decode and rise. Returns where they end, and how many there are.
    fn run(&mut self, at: u64, rescued: &mut Rescued) -> io::Result<(u64, u64)> {
        self.file.seek(SeekFrom::Start(at))?;
        self.batch_began = at;
        let (mut end, mut count) = (at, 0);
        while let Some(batch) = self.next()? {
            if !rescued.add(batch) {
                break;
            }
            end = self.batch_began;
            count += 1;
        }
        Ok((end, count))
    }

    /// The batches behind damage at `at` that go on to the end of the file.
    fn last_run(&mut self, at: u64, rescued: &mut Rescued) -> io::Result<Option<Range<u64>>> {
        let mut from = at;
        while let Some(start) = self.find_trailer(from)? {
            let mut tried = Rescued {
                last: rescued.last,
                ..Rescued::default()
            };
            let (end, count) = self.run(start, &mut tried)?;
            if count > 0 && self.only_zeros_from(end)? {
                rescued.gaps += tried.gaps;
                rescued.first = rescued.first.or(tried.first);
                rescued.last = tried.last;
                rescued.synced = rescued.synced.max(tried.synced);
                return Ok(Some(start..end));
            }
            from = end;
        }
        Ok(None)
    }

    /// The next batch, or `None` at the first byte that belongs to none.
    fn next(&mut self) -> io::Result<Option<Batch>> {
        match self.batch() {
            Ok(Some(batch)) => {
                self.batch_began = self.file.stream_position()?;
                Ok(Some(batch))
            }
            Ok(None) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn batch(&mut self) -> io::Result<Option<Batch>> {
        let [1] = self.take()? else { return Ok(None) };
        let items = u32::from_le_bytes(self.take()?);
        let number = u64::from_le_bytes(self.take()?);
        let mut hash = XxHash3_64::new();
        let mut progress = None;
        for _ in 0..items {
            let head: [u8; 21] = self.take()?;
            let key_len = u16::from_le_bytes([head[11], head[12]]);
            let len = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
            if head[0] != 2 {
                return Ok(None);
            }
            hash.write(&head);
            let mut key = vec![0; usize::from(key_len)];
            self.file.read_exact(&mut key)?;
            hash.write(&key);
            if key == keys::progress().as_ref() && len < 1_024 {
                let mut value = vec![0; len as usize];
                self.file.read_exact(&mut value)?;
                hash.write(&value);
                progress = Progress::decode(&value);
            } else if !self.hash_over(u64::from(len), &mut hash)? {
                return Ok(None);
            }
        }
        let [3] = self.take()? else { return Ok(None) };
        let checksum = u64::from_le_bytes(self.take()?);
        let trailer: [u8; 4] = self.take()?;
        if trailer != *TRAILER || checksum != hash.finish() {
            return Ok(None);
        }
        Ok(progress.map(|progress| Batch { number, progress }))
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads over `len` bytes without holding them at once. Answers whether there were so many.
    fn hash_over(&mut self, mut len: u64, hash: &mut XxHash3_64) -> io::Result<bool> {
        while len > 0 {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(false);
            }
            let taken = bytes.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            hash.write(&bytes[..taken]);
            self.file.consume(taken);
            len -= taken as u64;
        }
        Ok(true)
    }

    /// Whether the file goes on with nothing but zeros, as fjall allocates it ahead.
    fn only_zeros_from(&mut self, at: u64) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(at))?;
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            let len = bytes.len();
            self.file.consume(len);
        }
    }

    /// The sequence of the first whole batch behind a damaged one. Raises `synced` to what the batches behind say.
    fn behind(&mut self, at: u64, synced: &mut u64) -> io::Result<Option<u64>> {
        let mut first = None;
        let mut from = at;
        while let Some(end) = self.find_trailer(from)? {
            self.file.seek(SeekFrom::Start(end))?;
            self.batch_began = end;
            while let Some(batch) = self.next()? {
                first = first.or(Some(batch.progress.sequence));
                *synced = batch.progress.synced.max(*synced);
            }
            from = self.batch_began;
        }
        Ok(first)
    }

    /// The position behind the next end of a batch.
    fn find_trailer(&mut self, from: u64) -> io::Result<Option<u64>> {
        self.file.seek(SeekFrom::Start(from))?;
        let mut last = [0; 4];
        let mut at = from;
        while at < self.len {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            for (offset, &byte) in bytes.iter().enumerate() {
                last = [last[1], last[2], last[3], byte];
                if last == *TRAILER {
                    return Ok(Some(at + offset as u64 + 1));
                }
            }
            let len = bytes.len();
            at += len as u64;
            self.file.consume(len);
        }
        Ok(None)
    }
}
