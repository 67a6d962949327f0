//! Frames over a QUIC stream.

use bytes::{Bytes, BytesMut};
use pointsman_protocol::frame::{self, Frame, FrameError, Kind};
use pointsman_protocol::{ErrorBody, limits};
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// Reads a stream and cuts it into frames that are slices of the packets they came in, but for those that lie across two.
pub(crate) struct FrameReader {
    stream: RecvStream,
    /// Received and not taken.
    received: Bytes,
    /// The first part of a frame that goes on in `received`, or in what is yet to come.
    begun: BytesMut,
    body_max: u32,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, body_max: u32) -> FrameReader {
        FrameReader {
            stream,
            received: Bytes::new(),
            begun: BytesMut::new(),
            body_max,
        }
    }

    /// Waits until there is something that was not taken and returns whether the stream goes on. Then
    /// [`FrameReader::take`] has whatever frames are complete. Nothing is lost when this is dropped half-way.
    pub(crate) async fn fill(&mut self) -> Result<bool, Error> {
        if !self.received.is_empty() {
            return Ok(true);
        }
        match self.stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => {
                self.received = chunk.bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The next complete frame of what was read.
    pub(crate) fn take(&mut self) -> Result<Option<Frame>, Error> {
        if self.begun.is_empty()
            && let Some(frame) = Frame::take_shared(&mut self.received, self.body_max)?
        {
            return Ok(Some(frame));
        }
        self.complete()
    }

    /// Moves bytes to the frame that is begun until it is whole or there are none left.
    fn complete(&mut self) -> Result<Option<Frame>, Error> {
        while !self.received.is_empty() {
            // The header at first, and when that is there, all that it announces: growing would copy it again and again.
            let missing = Frame::missing(&self.begun, self.body_max)?;
            self.begun.reserve(missing);
            let part = self.received.split_to(missing.min(self.received.len()));
            self.begun.extend_from_slice(&part);
            if let Some(frame) = Frame::take(&mut self.begun, self.body_max)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
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
            self.received.clear();
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
