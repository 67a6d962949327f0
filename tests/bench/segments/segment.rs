//! What a segment is, and the messages that all of them are measured with.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use pointsman_protocol::MessageMeta;

/// Messages of a batch, where a segment does not say otherwise: what waits when the stage behind is busy.
pub(crate) const BATCH: usize = 256;

/// Length of a body, in bytes, where a segment does not say otherwise.
pub(crate) const BODY: usize = 100;

/// A stretch of the data path.
pub(crate) struct Segment {
    /// Its name in reports and in the baseline.
    pub(crate) name: String,
    /// Messages of one batch.
    pub(crate) messages: usize,
    /// What the machine could do at best with a message.
    pub(crate) limit: Limit,
    /// Whether all of it is compiled before it runs.
    pub(crate) is_native: bool,
    /// Makes it ready; only called when it is measured.
    pub(crate) make: Box<dyn FnOnce() -> Box<dyn Work>>,
}

/// The raw limit of a segment, for messages of that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Copying a message.
    Copy(usize),
    /// Appending a batch to a file.
    Append(usize),
    /// Appending a batch to a file and syncing it.
    Sync(usize),
    /// Reading a batch from a file that the system has in memory.
    Read(usize),
}

/// The work of a segment, one batch at a time.
pub(crate) trait Work {
    /// Makes a batch ready, and takes away what the last one left. Is not measured.
    fn prepare(&mut self);
    /// One batch.
    fn run(&mut self);
}

impl Segment {
    pub(crate) fn new<W: Work + 'static>(
        name: impl Into<String>,
        messages: usize,
        limit: Limit,
        make: impl FnOnce() -> W + 'static,
    ) -> Segment {
        Segment {
            name: name.into(),
            messages,
            limit,
            is_native: true,
            make: Box::new(|| Box::new(make())),
        }
    }

    /// The same, of which a module is a part.
    pub(crate) fn by_module(mut self) -> Segment {
        self.is_native = false;
        self
    }
}

/// Metadata as most publishers send it.
pub(crate) fn meta(routing_key: &str) -> MessageMeta<'_> {
    MessageMeta {
        routing_key,
        persistent: true,
        ..Default::default()
    }
}

/// Metadata and a body, one behind the other, and the metadata's length.
pub(crate) fn content(meta: &MessageMeta<'_>, body: usize) -> (Bytes, u32) {
    let mut content = postcard::to_stdvec(meta).expect("metadata encodes");
    let meta_len = content.len() as u32;
    content.resize(content.len() + body, b'x');
    (Bytes::from(content), meta_len)
}

/// Runs what is only ever pending because a module's call yields after a tick.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
}
