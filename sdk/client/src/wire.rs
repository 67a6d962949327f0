//! Frames over a QUIC stream.

use bytes::{Bytes, BytesMut};
use pointsman_protocol::frame::{self, Frame, FrameError, Kind};
use pointsman_protocol::{ErrorBody, limits};
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;

use crate::Error;

/// Spare room for one read, in bytes: what a busy stream has ready at once.
const READ_BUFFER: usize = 64 * 1024;
/// Below this much spare room a new buffer is taken, in bytes.
const READ_BUFFER_LOW: usize = 8 * 1024;

/// Reads a stream and cuts it into frames whose bodies are slices of the buffers that were read.
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    body_max: u32,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, body_max: u32) -> FrameReader {
        FrameReader {
            stream,
            buffer: BytesMut::new(),
            body_max,
        }
    }

    /// Waits until something arrived and returns whether the stream goes on. Then [`FrameReader::take`] has
    /// whatever frames are complete.
    pub(crate) async fn fill(&mut self) -> Result<bool, Error> {
        if self.buffer.capacity() - self.buffer.len() < READ_BUFFER_LOW {
            // A frame that is longer has one buffer of its length at once: growing would copy it again and again.
            let missing = Frame::missing(&self.buffer, self.body_max)?;
            self.buffer.reserve(missing.max(READ_BUFFER));
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Ok(false),
            Ok(_) => Ok(true),
            // quinn wraps its own error in an io::Error for this trait; this brings it back.
            Err(error) => Err(match error.downcast::<quinn::ReadError>() {
                Ok(error) => error.into(),
                Err(error) => Error::disconnected(error.to_string()),
            }),
        }
    }

    /// The next complete frame of what was read.
    pub(crate) fn take(&mut self) -> Result<Option<Frame>, Error> {
        Ok(Frame::take(&mut self.buffer, self.body_max)?)
    }

    /// Waits for one frame.
    pub(crate) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            if !self.fill().await? {
                return Err(Error::disconnected("the broker ended the stream"));
            }
        }
    }

    /// Waits for the first frame of a stream, which must be of `kind` unless the broker refuses.
    pub(crate) async fn expect<T: DeserializeOwned>(&mut self, kind: Kind) -> Result<T, Error> {
        let frame = self.next().await?;
        if frame.header.kind == kind {
            return Ok(frame.decode()?);
        }
        Err(refusal(&frame))
    }

    /// Reads until the broker ends the stream, throwing away what comes.
    pub(crate) async fn skip_to_end(&mut self) -> Result<(), Error> {
        while self.fill().await? {
            self.buffer.clear();
        }
        Ok(())
    }
}

/// The error in a `Close` frame, or that the frame does not belong there.
pub(crate) fn refusal(frame: &Frame) -> Error {
    match frame.header.kind {
        Kind::Close => match frame.decode::<ErrorBody>() {
            Ok(body) => Error::Refused(body),
            Err(error) => error.into(),
        },
        kind => Error::Protocol(format!("a {kind:?} frame does not belong there")),
    }
}

/// Opens a stream and writes its first frame.
pub(crate) async fn open<T: Serialize>(
    connection: &quinn::Connection,
    kind: Kind,
    meta: &T,
    body_max: u32,
) -> Result<(SendStream, FrameReader), Error> {
    let (mut send, receive) = connection.open_bi().await?;
    let mut out = BytesMut::new();
    put_head(&mut out, kind, 0, meta, 0)?;
    send.write_chunk(out.freeze()).await?;
    Ok((send, FrameReader::new(receive, body_max)))
}

/// Appends a frame up to its body, unless what the program gave is longer than metadata may be.
pub(crate) fn put_head<T: Serialize>(
    out: &mut BytesMut,
    kind: Kind,
    id: u64,
    meta: &T,
    body_len: u32,
) -> Result<(), Error> {
    frame::put_head(out, kind, 0, id, meta, body_len).map_err(|error| match error {
        FrameError::MetaTooLong(len) => Error::TooLarge {
            what: "metadata in bytes",
            len: len as usize,
            max: limits::FRAME_META_MAX as usize,
        },
        other => other.into(),
    })
}

/// Writes chunks one behind the other and empties `chunks`.
pub(crate) async fn write_chunks(send: &mut SendStream, chunks: &mut [Bytes]) -> Result<(), Error> {
    Ok(send.write_all_chunks(chunks).await?)
}
