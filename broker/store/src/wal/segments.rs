//! Segments: the files of the write-ahead log.
//!
//! Segment `n` holds the blocks from `n` times its length on. One whose batches are all in tables becomes the next one
//! behind the last: to sync what was written over something takes about half of the time that it takes to make a file
//! longer (`make bench`, raw limits). So a new one is written once before it is used, unless syncs are of much.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::Errno;

use super::block::BLOCK;
use super::buffer::Buffer;

/// Most segments that wait to be written again.
const READY_MAX: usize = 6;

const ENDING: &str = ".wal";

/// A segment that is being made.
const NEW: &str = "new";

/// No segment has this number or a higher one: 16 EiB would have been written.
const NUMBER_END: u64 = 1 << 40;

/// Bytes of a new segment written at once. A commit's sync has the disk write all that it has taken, this too.
const NEW_BYTES: usize = 64 * 1024;

/// Longest pause behind each piece, so that commits have their turn.
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// When a segment was filled with fewer syncs than that, a new one is not written before it is used: syncs of much gain nothing
/// by it.
const SYNCS_MIN: u64 = 128;

const NOT_WRITTEN: u64 = u64::MAX;

/// The segments of one log, shared by the thread that writes and the one that makes tables.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    /// Length of a segment, in blocks.
    pub(super) blocks: u64,
    /// How many there are.
    count: AtomicU64,
    /// Pause behind each piece of a new one, in microseconds; [`NOT_WRITTEN`] when it is not written at all.
    pause: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    /// The first that is needed to recover; those in front of it are gone, but for the kept ones.
    oldest: u64,
    /// Those in front of it that something lies in.
    kept: BTreeSet<u64>,
    /// Those behind the one that is written to, in order.
    ready: VecDeque<(u64, Arc<Segment>)>,
    /// The number behind the last.
    next: u64,
}

impl Segments {
    /// Takes over what lies in the folder: the kept segments, and those from `oldest` on, of which those behind `current`
    /// are written again. Removes all others.
    pub(super) fn open(
        folder: PathBuf,
        blocks: u64,
        oldest: u64,
        current: u64,
        mut kept: BTreeSet<u64>,
    ) -> io::Result<Segments> {
        let is_there = path(&folder, current).exists();
        let oldest = if is_there { oldest } else { current };
        kept.retain(|number| *number < oldest);
        let mut ring = Ring {
            oldest,
            kept,
            ready: VecDeque::new(),
            next: if is_there { current + 1 } else { current },
        };
        match fs::remove_file(folder.join(NEW)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        for number in list(&folder)? {
            let path = path(&folder, number);
            if (oldest..=current).contains(&number) || ring.kept.contains(&number) {
                continue;
            }
            let segment = Segment::open(&path, false)?;
            if number == ring.next && segment.len()? == blocks * BLOCK as u64 {
                ring.ready.push_back((number, Arc::new(segment)));
                ring.next += 1;
            } else {
                fs::remove_file(&path)?;
            }
        }
        let segments = Segments {
            folder,
            blocks,
            count: AtomicU64::new(ring.next - ring.oldest + ring.kept.len() as u64),
            pause: AtomicU64::new(0),
            ring: Mutex::new(ring),
        };
        if !is_there && segments.is_short() {
            segments.prepare(|| false)?;
        }
        Ok(segments)
    }

    /// The segment of that number, which is the one being written to or the one behind it; made in haste if none is
    /// ready, which costs its first round of syncs half as much again.
    pub(super) fn take(&self, number: u64) -> io::Result<Arc<Segment>> {
        let mut ring = self.ring();
        if let Some((found, segment)) = ring.ready.pop_front() {
            if found == number {
                return Ok(segment);
            }
            ring.ready.push_front((found, segment));
        }
        let segment = Segment::open(&path(&self.folder, number), true)?;
        segment.allocate(self.blocks * BLOCK as u64)?;
        segment.direct.sync_all()?;
        sync_folder(&self.folder)?;
        ring.next = ring.next.max(number + 1);
        self.note(&ring);
        Ok(Arc::new(segment))
    }

    /// Whether none is ready behind the one that is written to.
    pub(super) fn is_short(&self) -> bool {
        self.ring().ready.is_empty()
    }

    /// One segment was filled in that time, with so many syncs. The next new one is made ready in half of the time that half of
    /// one takes, from when it is asked for until it is needed.
    pub(super) fn filled_in(&self, time: Duration, syncs: u64) {
        let pieces = (self.blocks * BLOCK as u64).div_ceil(NEW_BYTES as u64);
        let pause = match syncs {
            ..SYNCS_MIN => NOT_WRITTEN,
            _ => (time / 4 / pieces as u32).min(PAUSE_MAX).as_micros() as u64,
        };
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Makes one more segment ready, with pauses for as long as there is `time` for them.
    pub(super) fn prepare(&self, time: impl Fn() -> bool) -> io::Result<()> {
        let new = self.folder.join(NEW);
        let made = self.write_new(&new, time).and_then(|file| self.add(&new, file));
        if made.is_err() {
            // On a full disk its room is needed for something else.
            let _ = fs::remove_file(new);
        }
        made
    }

    /// Makes the file of a segment, and writes all of it once where that is worth it.
    fn write_new(&self, new: &Path, time: impl Fn() -> bool) -> io::Result<Segment> {
        let segment = Segment::open(new, true)?;
        let len = self.blocks * BLOCK as u64;
        segment.allocate(len)?;
        let pause = self.pause.load(Ordering::Relaxed);
        if pause != NOT_WRITTEN {
            let zeros = Buffer::new(NEW_BYTES.min(len as usize));
            for at in (0..len).step_by(zeros.all().len()) {
                segment.write(&zeros.all()[..NEW_BYTES.min((len - at) as usize)], at)?;
                if time() {
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        }
        segment.direct.sync_all()?;
        Ok(segment)
    }

    fn add(&self, new: &Path, segment: Segment) -> io::Result<()> {
        let mut ring = self.ring();
        fs::rename(new, path(&self.folder, ring.next))?;
        sync_folder(&self.folder)?;
        let number = ring.next;
        ring.ready.push_back((number, Arc::new(segment)));
        ring.next += 1;
        self.note(&ring);
        Ok(())
    }

    /// Lets segments in front of this block be written again, but for those that are kept.
    pub(super) fn release(&self, block: u64, is_kept: impl Fn(u64) -> bool) -> io::Result<()> {
        let first_needed = block / self.blocks;
        let mut ring = self.ring();
        let mut released = Vec::new();
        while ring.oldest < first_needed {
            let number = ring.oldest;
            match is_kept(number) {
                true => _ = ring.kept.insert(number),
                false => released.push(number),
            }
            ring.oldest += 1;
        }
        self.renew(&mut ring, &released)
    }

    /// Lets a segment that was kept be written again.
    pub(super) fn let_go(&self, number: u64) -> io::Result<()> {
        let mut ring = self.ring();
        match ring.kept.remove(&number) {
            true => self.renew(&mut ring, &[number]),
            // It is not behind what is needed yet.
            false => Ok(()),
        }
    }

    /// Puts segments that nothing is in behind the last one, or removes them where enough are ready.
    fn renew(&self, ring: &mut Ring, released: &[u64]) -> io::Result<()> {
        let mut renewed = Vec::new();
        for &number in released {
            let path_now = path(&self.folder, number);
            if ring.ready.len() + renewed.len() < READY_MAX {
                let new = path(&self.folder, ring.next);
                fs::rename(&path_now, &new)?;
                renewed.push((ring.next, new));
                ring.next += 1;
            } else {
                fs::remove_file(&path_now)?;
            }
        }
        self.note(ring);
        if renewed.is_empty() {
            return Ok(());
        }
        // A name that a power loss takes back would take what is written there along.
        sync_folder(&self.folder)?;
        for (number, path) in renewed {
            let segment = Segment::open(&path, false)?;
            ring.ready.push_back((number, Arc::new(segment)));
        }
        Ok(())
    }

    /// Removes every segment. Nothing may be written any more.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        for number in list(&self.folder)? {
            fs::remove_file(path(&self.folder, number))?;
        }
        sync_folder(&self.folder)
    }

    /// Bytes of all segments, and how many there are.
    pub(super) fn disk_space(&self) -> (u64, u64) {
        let count = self.count.load(Ordering::Relaxed);
        (count * self.blocks * BLOCK as u64, count)
    }

    fn note(&self, ring: &Ring) {
        let count = ring.next - ring.oldest + ring.kept.len() as u64;
        self.count.store(count, Ordering::Relaxed);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a segment is.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}{ENDING}"))
}

/// Numbers of the segments in a folder, rising; none when it is not there.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(ENDING)?.parse().ok());
        numbers.extend(number.filter(|number| *number < NUMBER_END));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The open file of a segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Writes past the system's cache, where nobody would read it: a sync has less to do, and the cache is left to what
    /// is read. Not every file system can; there this goes through the cache as well.
    direct: File,
    /// Writes to the system's cache: who does not wait for a sync waits for no disk.
    cached: File,
}

impl Segment {
    fn open(path: &Path, create: bool) -> io::Result<Segment> {
        let mut options = OpenOptions::new();
        options.write(true).create(create);
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let direct = match options.clone().custom_flags(direct).open(path) {
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => options.open(path),
            other => other,
        }?;
        let cached = options.open(path)?;
        Ok(Segment { direct, cached })
    }

    /// Writes whole blocks to the disk.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.direct.write_all_at(bytes, at)
    }

    /// Writes whole blocks to the system's cache.
    pub(super) fn write_cached(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.cached.write_all_at(bytes, at)
    }

    /// Has the system begin to write what its cache has of this range.
    pub(super) fn begin_to_write(&self, range: Range<u64>) {
        // Of nothing it would take all. Where the system does not take advice, a sync has more to do.
        if let Some(len) = NonZeroU64::new(range.end - range.start) {
            let _ = fadvise(&self.cached, range.start, Some(len), Advice::DontNeed);
        }
    }

    /// Makes durable what was written, either way.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.direct.sync_data()
    }

    /// As [`Segment::sync`], for who syncs while commits do: the system tells an error once to each open file, so it takes none
    /// that a commit should hear of. Of two that do this at once one may be told; the store fails by that one.
    pub(super) fn sync_aside(&self) -> io::Result<()> {
        self.cached.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.direct.metadata()?.len())
    }

    /// Takes the room of a segment now, so that no later write finds the disk full.
    fn allocate(&self, len: u64) -> io::Result<()> {
        match fallocate(&self.direct, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Some file systems cannot; there a write says it.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.direct.set_len(len),
            Err(error) => Err(error.into()),
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
