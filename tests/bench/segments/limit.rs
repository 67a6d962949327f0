//! What the machine could do at best with the bytes of a segment, measured in the same rounds.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use crate::segment::Limit;

/// How long a limit is measured, each time.
const TIME: Duration = Duration::from_millis(2);
/// Length at which the file begins anew, in bytes.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// Raw limits of one segment.
pub(crate) struct Raw {
    limit: Limit,
    messages: usize,
    from: Vec<u8>,
    to: Vec<u8>,
    file: File,
    written: u64,
}

impl Raw {
    pub(crate) fn new(limit: Limit, messages: usize) -> Raw {
        let (Limit::Copy(len) | Limit::Append(len) | Limit::Sync(len) | Limit::Read(len)) = limit;
        let mut file = tempfile::tempfile().expect("a file can be made");
        let from = vec![7; messages * len];
        if matches!(limit, Limit::Read(_)) {
            file.write_all(&from).expect("the file can be written");
        }
        Raw {
            limit,
            messages,
            to: vec![0; from.len()],
            from,
            file,
            written: 0,
        }
    }

    /// Nanoseconds a message.
    pub(crate) fn measure(&mut self) -> f64 {
        let (mut batches, since) = (0, Instant::now());
        while since.elapsed() < TIME {
            self.batch();
            batches += 1;
        }
        since.elapsed().as_nanos() as f64 / (batches * self.messages) as f64
    }

    fn batch(&mut self) {
        match self.limit {
            Limit::Copy(len) => {
                for (from, to) in self.from.chunks_exact(len).zip(self.to.chunks_exact_mut(len)) {
                    to.copy_from_slice(black_box(from));
                }
                black_box(&self.to);
            }
            Limit::Read(_) => {
                self.file.rewind().expect("a file can be rewound");
                self.file.read_exact(&mut self.to).expect("it was written");
            }
            Limit::Append(_) | Limit::Sync(_) => {
                if self.written > FILE_MAX {
                    self.file.rewind().expect("a file can be rewound");
                    self.file.set_len(0).expect("a file can be cut");
                    self.written = 0;
                }
                self.file.write_all(&self.from).expect("the file can be written");
                self.written += self.from.len() as u64;
                if matches!(self.limit, Limit::Sync(_)) {
                    self.file.sync_data().expect("the file can be synced");
                }
            }
        }
    }
}
