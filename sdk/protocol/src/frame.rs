//! Frames: a fixed header of [`HEADER_LEN`] bytes, postcard metadata, a raw body.
//!
//! ```text
//! offset  size  field
//!      0     1  kind
//!      1     1  flags
//!      2     2  zero
//!      4     4  metadata length, little-endian
//!      8     4  body length, little-endian
//!     12     8  id, little-endian: request id, publish sequence number or delivery tag
//! ```

use bytes::{Buf, Bytes, BytesMut};
use serde::{Serialize, de::Deserialize};

use crate::error::{ErrorBody, ErrorCode};
use crate::limits;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 20;

/// What a frame is. Numbers are the wire's and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of the control stream, from the client: [`crate::session::Hello`].
    Hello = 1,
    /// Its answer: [`crate::session::Welcome`].
    Welcome = 2,
    /// [`crate::admin::Request`], with a request id.
    Request = 3,
    /// [`crate::admin::Reply`] in the body, with the id of its request; no metadata.
    Reply = 4,
    /// [`crate::session::Notice`] from the broker.
    Notice = 5,
    /// First frame of a publisher's stream: [`crate::publish::OpenPublisher`].
    OpenPublisher = 16,
    /// Its answer: [`crate::publish::PublisherOpened`].
    PublisherOpened = 17,
    /// One message: id is its sequence number, metadata a [`crate::MessageMeta`].
    Publish = 18,
    /// [`crate::publish::Confirm`] of one or several publishes; id is the first sequence number.
    Confirm = 19,
    /// First frame of a consumer's stream: [`crate::consume::OpenConsumer`].
    OpenConsumer = 32,
    /// Its answer: [`crate::consume::ConsumerOpened`].
    ConsumerOpened = 33,
    /// [`crate::consume::Credit`] from the client.
    Credit = 34,
    /// One delivery: id is its tag, metadata a [`crate::consume::DeliveryMeta`] and behind it the message's own.
    Deliver = 35,
    /// [`crate::consume::Settle`] from the client; id is the first delivery tag.
    Settle = 36,
    /// The last frame of a stream: an [`ErrorBody`] that says why the sender closes it.
    Close = 63,
}

impl Kind {
    /// The kind of that number, if this version knows it.
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Hello,
            2 => Kind::Welcome,
            3 => Kind::Request,
            4 => Kind::Reply,
            5 => Kind::Notice,
            16 => Kind::OpenPublisher,
            17 => Kind::PublisherOpened,
            18 => Kind::Publish,
            19 => Kind::Confirm,
            32 => Kind::OpenConsumer,
            33 => Kind::ConsumerOpened,
            34 => Kind::Credit,
            35 => Kind::Deliver,
            36 => Kind::Settle,
            63 => Kind::Close,
            _ => return None,
        })
    }
}

/// A decoded fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Flags of the kind; zero where the kind has none.
    pub flags: u8,
    /// Length of the metadata, in bytes.
    pub meta_len: u32,
    /// Length of the body, in bytes.
    pub body_len: u32,
    /// Request id, publish sequence number or delivery tag.
    pub id: u64,
}

impl Header {
    /// Reads a header from the first [`HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// An unknown kind, a non-zero reserved field or a length over the limits.
    pub fn decode(bytes: &[u8; HEADER_LEN], body_max: u32) -> Result<Header, FrameError> {
        let mut b = &bytes[..];
        let number = b.get_u8();
        let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
        let flags = b.get_u8();
        let reserved = b.get_u16_le();
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        let (meta_len, body_len, id) = (b.get_u32_le(), b.get_u32_le(), b.get_u64_le());
        if meta_len > limits::FRAME_META_MAX {
            return Err(FrameError::MetaTooLong(meta_len));
        }
        if body_len > body_max {
            return Err(FrameError::BodyTooLong {
                len: body_len,
                max: body_max,
            });
        }
        Ok(Header {
            kind,
            flags,
            meta_len,
            body_len,
            id,
        })
    }

    /// Appends the header's [`HEADER_LEN`] bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.kind as u8;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&bytes);
    }

    /// The header at the front of `bytes`, if the whole frame is there.
    fn of_whole(bytes: &[u8], body_max: u32) -> Result<Option<Header>, FrameError> {
        let Some(start) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::decode(start, body_max)?;
        Ok((bytes.len() >= header.frame_len()).then_some(header))
    }

    /// Length of the whole frame, in bytes.
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.content_len()
    }

    /// Length of what follows, in bytes.
    fn content_len(&self) -> usize {
        self.meta_len as usize + self.body_len as usize
    }
}

/// A frame whose parts are slices of the buffer it was received in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The fixed header.
    pub header: Header,
    /// Metadata and body, one behind the other; the header says where one ends.
    pub content: Bytes,
}

impl Frame {
    /// Takes one whole frame off the front of `buffer`, or returns `None` and leaves it when more bytes are needed.
    ///
    /// `body_max` is the largest body the receiver accepts, in bytes. The buffer never needs to hold more than one
    /// header and what its lengths say, so a receiver is bounded by the limits.
    ///
    /// # Errors
    /// As [`Header::decode`]; the stream cannot be read further then.
    pub fn take(buffer: &mut BytesMut, body_max: u32) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::of_whole(buffer, body_max)? else {
            return Ok(None);
        };
        buffer.advance(HEADER_LEN);
        let content = buffer.split_to(header.content_len()).freeze();
        Ok(Some(Frame { header, content }))
    }

    /// [`Frame::take`] of bytes that may be shared.
    ///
    /// # Errors
    /// As [`Frame::take`].
    pub fn take_shared(bytes: &mut Bytes, body_max: u32) -> Result<Option<Frame>, FrameError> {
        let Some(header) = Header::of_whole(bytes, body_max)? else {
            return Ok(None);
        };
        bytes.advance(HEADER_LEN);
        let content = bytes.split_to(header.content_len());
        Ok(Some(Frame { header, content }))
    }

    /// How many bytes of the frame at the front of `buffer` are missing, as far as is known.
    ///
    /// # Errors
    /// As [`Frame::take`].
    pub fn missing(buffer: &[u8], body_max: u32) -> Result<usize, FrameError> {
        match buffer.first_chunk::<HEADER_LEN>() {
            Some(start) => {
                let header = Header::decode(start, body_max)?;
                Ok(header.frame_len().saturating_sub(buffer.len()))
            }
            None => Ok(HEADER_LEN - buffer.len()),
        }
    }

    /// The metadata's bytes.
    pub fn meta(&self) -> &[u8] {
        &self.content[..self.header.meta_len as usize]
    }

    /// The body, without a copy.
    pub fn body(&self) -> Bytes {
        self.content.slice(self.header.meta_len as usize..)
    }

    /// Decodes the metadata, which must be used up to its last byte.
    ///
    /// # Errors
    /// [`FrameError::Meta`] when the bytes are not a `T`.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, FrameError> {
        match postcard::take_from_bytes(self.meta()) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(FrameError::Meta(self.header.kind)),
        }
    }
}

/// Appends one frame to `out`.
///
/// # Panics
/// Never for metadata and bodies within [`limits`]; a longer one is a bug of the caller.
pub fn put<T: Serialize>(out: &mut BytesMut, kind: Kind, flags: u8, id: u64, meta: &T, body: &[u8]) {
    assert!(body.len() <= limits::FRAME_BODY_MAX as usize);
    put_head(out, kind, flags, id, meta, body.len() as u32)
        .unwrap_or_else(|error| unreachable!("the caller keeps metadata within its limit: {error}"));
    out.extend_from_slice(body);
}

/// Appends a frame without its body, of which `body_len` bytes must follow.
///
/// # Errors
/// [`FrameError::MetaTooLong`] when the metadata is over its limit; nothing is appended then.
pub fn put_head<T: Serialize>(
    out: &mut BytesMut,
    kind: Kind,
    flags: u8,
    id: u64,
    meta: &T,
    body_len: u32,
) -> Result<(), FrameError> {
    let start = out.len();
    let header = Header {
        kind,
        flags,
        meta_len: 0,
        body_len,
        id,
    };
    header.encode(out);
    put_postcard(out, meta);
    let meta_len = out.len() - start - HEADER_LEN;
    if meta_len > limits::FRAME_META_MAX as usize {
        out.truncate(start);
        return Err(FrameError::MetaTooLong(
            u32::try_from(meta_len).unwrap_or(u32::MAX),
        ));
    }
    out[start + 4..start + 8].copy_from_slice(&(meta_len as u32).to_le_bytes());
    Ok(())
}

/// Appends the postcard form of `value`.
pub fn put_postcard<T: Serialize>(out: &mut BytesMut, value: &T) {
    let writer = Writer {
        out,
        waiting: &mut [0; WAITING],
        length: 0,
    };
    // Our wire types have no map or sequence of unknown length, the only thing postcard cannot write.
    postcard::serialize_with_flavor(value, writer).unwrap_or_else(|_| unreachable!("wire types serialize"));
}

/// Bytes that wait to be appended as one: postcard mostly writes one byte at a time.
const WAITING: usize = 128;

struct Writer<'a> {
    out: &'a mut BytesMut,
    waiting: &'a mut [u8; WAITING],
    length: usize,
}

impl Writer<'_> {
    fn flush(&mut self) {
        self.out.extend_from_slice(&self.waiting[..self.length]);
        self.length = 0;
    }
}

impl postcard::ser_flavors::Flavor for Writer<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.length == WAITING {
            self.flush();
        }
        self.waiting[self.length] = byte;
        self.length += 1;
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if bytes.len() > WAITING - self.length {
            self.flush();
        }
        match self.waiting.get_mut(self.length..self.length + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.out.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<()> {
        self.flush();
        Ok(())
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind's number is not one this version knows.
    #[error("frame kind {0} is not known")]
    UnknownKind(u8),
    /// The reserved field is not zero.
    #[error("the reserved field of a frame is {0}, not 0")]
    Reserved(u16),
    /// The metadata is over [`limits::FRAME_META_MAX`].
    #[error("frame metadata of {0} bytes is over the limit of {max}", max = limits::FRAME_META_MAX)]
    MetaTooLong(u32),
    /// The body is over the receiver's maximum.
    #[error("a body of {len} bytes is over the limit of {max}")]
    BodyTooLong {
        /// Length announced, in bytes.
        len: u32,
        /// Largest accepted, in bytes.
        max: u32,
    },
    /// The metadata does not decode.
    #[error("the metadata of a {0:?} frame does not decode")]
    Meta(Kind),
}

impl From<FrameError> for ErrorBody {
    fn from(error: FrameError) -> ErrorBody {
        let code = match error {
            FrameError::MetaTooLong(_) => ErrorCode::OversizedFrame,
            FrameError::BodyTooLong { .. } => ErrorCode::MessageTooLarge,
            FrameError::UnknownKind(_) | FrameError::Reserved(_) | FrameError::Meta(_) => {
                ErrorCode::MalformedFrame
            }
        };
        ErrorBody::new(code, error.to_string())
    }
}
