//! Frames on a QUIC stream: as many as there are for one wake-up, one write for all that wait.

use bytes::{Bytes, BytesMut};
use pointsman_core::Chunk;
use pointsman_protocol::ErrorBody;
use pointsman_protocol::frame::{self, Frame, FrameError, HEADER_LEN, Header, Kind};
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::mailbox::Mailbox;

/// Chunks taken from QUIC at once; each is about a packet.
const READ_CHUNKS: usize = 32;
/// Length from which what comes alone in a packet keeps its place there, in bytes. What is shorter is sooner copied, and then
/// keeps no packet in memory.
const TAKE_OVER: usize = 512;
/// Length from which a frame waits for room before the rest of it is received, in bytes.
const LARGE_FRAME: usize = 64 * 1024;
/// Length at which what waits is written, in bytes.
const WRITE_AT: usize = 48 * 1024;
/// Length from which bytes are handed to QUIC instead of copied, in bytes.
const HAND_OVER: usize = 16 * 1024;

/// Why a stream ended.
#[derive(Debug)]
pub(super) enum StreamEnd {
    /// The client finished it.
    Finished,
    /// The connection or stream broke.
    Lost(String),
    /// The broker ends it, and says why.
    Refused(ErrorBody),
}

impl std::fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StreamEnd::Finished => f.write_str("finished by the client"),
            StreamEnd::Lost(reason) => f.write_str(reason),
            StreamEnd::Refused(error) => error.fmt(f),
        }
    }
}

impl From<ErrorBody> for StreamEnd {
    fn from(error: ErrorBody) -> StreamEnd {
        StreamEnd::Refused(error)
    }
}

impl From<FrameError> for StreamEnd {
    fn from(error: FrameError) -> StreamEnd {
        StreamEnd::Refused(error.into())
    }
}

impl From<crate::mailbox::DriverGone> for StreamEnd {
    fn from(_: crate::mailbox::DriverGone) -> StreamEnd {
        StreamEnd::Refused(super::shutting_down())
    }
}

impl From<quinn::WriteError> for StreamEnd {
    fn from(error: quinn::WriteError) -> StreamEnd {
        StreamEnd::Lost(error.to_string())
    }
}

/// Reads frames.
pub(super) struct FrameReader {
    recv: RecvStream,
    /// Empty between reads. Making it anew for each takes longer than most reads do.
    chunks: Box<[Bytes; READ_CHUNKS]>,
    buffer: BytesMut,
    body_max: u32,
    mailbox: Mailbox,
    /// Room held for a large frame that is being received.
    permit: Option<OwnedSemaphorePermit>,
}

impl FrameReader {
    pub(super) fn new(recv: RecvStream, body_max: u32, mailbox: Mailbox) -> FrameReader {
        FrameReader {
            recv,
            chunks: Box::default(),
            buffer: BytesMut::new(),
            body_max,
            mailbox,
            permit: None,
        }
    }

    /// Lets bodies of that length pass from now on.
    pub(super) fn set_body_max(&mut self, body_max: u32) {
        self.body_max = body_max;
    }

    /// The first frame.
    pub(super) async fn first(&mut self) -> Result<Frame, StreamEnd> {
        loop {
            if let Some(frame) = self.next()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// Takes a whole frame that was received, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        Frame::take(&mut self.buffer, self.body_max)
    }

    /// Room that was taken for a large frame; whoever keeps the frame's bytes keeps it.
    pub(super) fn take_permit(&mut self) -> Option<OwnedSemaphorePermit> {
        self.permit.take()
    }

    /// Waits for bytes and takes all that are there. Nothing is lost when this is dropped half-way.
    pub(super) async fn fill(&mut self) -> Result<(), StreamEnd> {
        self.make_room().await?;
        let count = match self.recv.read_chunks(&mut *self.chunks).await {
            Ok(Some(count)) => count,
            Ok(None) if self.buffer.is_empty() => return Err(StreamEnd::Finished),
            Ok(None) => return Err(StreamEnd::Lost("the stream ended inside a frame".to_owned())),
            Err(error) => return Err(StreamEnd::Lost(error.to_string())),
        };
        for chunk in &mut self.chunks[..count] {
            let chunk = std::mem::take(chunk);
            if count == 1 && self.buffer.is_empty() && chunk.len() >= TAKE_OVER {
                // Its packet is nobody else's any more, unless others came with it.
                self.buffer = chunk.try_into_mut().unwrap_or_else(|shared| shared[..].into());
            } else {
                self.buffer.extend_from_slice(&chunk);
            }
        }
        Ok(())
    }

    /// Before more of a large frame is received: room for it among all publishes, and one buffer of its length.
    async fn make_room(&mut self) -> Result<(), StreamEnd> {
        let Some(start) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(());
        };
        let length = Header::decode(start, self.body_max)?.frame_len();
        if length < LARGE_FRAME || self.buffer.capacity() >= length {
            return Ok(());
        }
        if self.permit.is_none() {
            self.permit = Some(self.mailbox.publish_room(length).await?);
        }
        self.buffer.reserve(length - self.buffer.len());
        Ok(())
    }
}

/// Writes frames.
pub(super) struct FrameWriter {
    send: SendStream,
    out: BytesMut,
}

impl FrameWriter {
    pub(super) fn new(send: SendStream) -> FrameWriter {
        FrameWriter {
            send,
            out: BytesMut::new(),
        }
    }

    /// Adds a frame to what waits.
    pub(super) fn put<T: Serialize>(&mut self, kind: Kind, id: u64, meta: &T) {
        frame::put(&mut self.out, kind, 0, id, meta, &[]);
    }

    /// The buffer of what waits.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Writes what waits if it is enough for a write of its own.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), StreamEnd> {
        if self.out.len() >= WRITE_AT {
            self.flush().await
        } else {
            Ok(())
        }
    }

    /// Writes what waits.
    pub(super) async fn flush(&mut self) -> Result<(), StreamEnd> {
        if self.out.is_empty() {
            return Ok(());
        }
        if self.out.len() >= HAND_OVER {
            self.send.write_chunk(self.out.split().freeze()).await?;
        } else {
            self.send.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Adds a body, a part of `chunk`'s bytes, behind a header that waits: copied when short, handed over when long.
    pub(super) async fn put_body(&mut self, chunk: &Chunk, body: &[u8]) -> Result<(), StreamEnd> {
        if body.len() < HAND_OVER {
            self.out.extend_from_slice(body);
            return Ok(());
        }
        self.hand_over(chunk.share(body)).await
    }

    /// Writes what waits, and bytes behind it that are not copied.
    pub(super) async fn hand_over(&mut self, bytes: Bytes) -> Result<(), StreamEnd> {
        self.flush().await?;
        Ok(self.send.write_chunk(bytes).await?)
    }

    /// Writes what waits and a last frame that says why the stream ends.
    pub(super) async fn close(&mut self, error: &ErrorBody) {
        self.put(Kind::Close, 0, error);
        // If the client is gone it cannot be told.
        let _ = self.flush().await;
        self.finish();
    }

    /// Ends the stream; what was written still arrives.
    pub(super) fn finish(&mut self) {
        let _ = self.send.finish();
    }

    /// Waits until the client has everything, or is gone.
    pub(super) async fn delivered(&mut self) {
        let _ = self.send.stopped().await;
    }
}
