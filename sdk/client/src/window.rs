//! The unconfirmed messages of one publisher: numbered, encoded, kept until confirmed, resolved. No IO.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pointsman_protocol::frame::{self, HEADER_LEN, Header, Kind};
use pointsman_protocol::limits;
use pointsman_protocol::publish::Confirm;

use crate::confirm::Waiter;
use crate::{Error, Message};

/// Frames are written in segments of about so many bytes.
const SEGMENT: usize = 64 * 1024;
/// A body from so many bytes on is not copied into a segment.
const LARGE_BODY: usize = 16 * 1024;

/// Messages between the oldest unconfirmed one and the newest.
///
/// `push` takes messages in, `next_unwritten` hands their frames to the stream, `confirm` resolves them and says how
/// much room that made. `rewind` starts over on a new stream with whatever is unconfirmed.
pub(crate) struct Window {
    /// The number the next message gets.
    next: u64,
    /// One a message from the oldest unconfirmed on.
    slots: VecDeque<Slot>,
    /// Frames that are not in a segment yet.
    open: BytesMut,
    /// Frames of unconfirmed messages, oldest first; some frames of the first may be confirmed.
    segments: VecDeque<Segment>,
    /// So many of the segments were handed out on this stream.
    written: usize,
    /// Hand out nothing: the stream is being left.
    held: bool,
}

struct Slot {
    /// The bytes it counts as.
    charge: u32,
    /// `None` once it is confirmed.
    waiter: Option<Waiter>,
}

/// Frames one behind the other; the body of the last may be apart.
#[derive(Clone)]
struct Segment {
    /// The number of its last message.
    last: u64,
    frames: Bytes,
    large_body: Bytes,
}

/// Room that confirms made.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Window {
    pub(crate) fn new() -> Window {
        Window {
            next: 1,
            slots: VecDeque::new(),
            open: BytesMut::new(),
            segments: VecDeque::new(),
            written: 0,
            held: false,
        }
    }

    /// The number the next message gets.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The number of the oldest unconfirmed message, or the next when there is none.
    pub(crate) fn oldest(&self) -> u64 {
        self.next - self.slots.len() as u64
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether nothing that was handed out is unconfirmed.
    pub(crate) fn nothing_in_flight(&self) -> bool {
        self.oldest() > self.last_written()
    }

    /// Numbers and encodes a message. It was checked, and there is room for it.
    pub(crate) fn push(&mut self, message: &Message, charge: u32, waiter: Waiter) -> Result<(), Error> {
        let body = message.body();
        if self.open.capacity() == 0 {
            self.open.reserve(SEGMENT);
        }
        frame::put_head(
            &mut self.open,
            Kind::Publish,
            0,
            self.next,
            &message.meta(),
            body.len() as u32,
        )?;
        self.slots.push_back(Slot {
            charge,
            waiter: Some(waiter),
        });
        self.next += 1;
        self.put_body(self.next - 1, body.clone());
        Ok(())
    }

    /// Appends the body of the frame that was begun in `open`.
    fn put_body(&mut self, sequence: u64, body: Bytes) {
        if body.len() >= LARGE_BODY {
            self.seal(sequence, body);
        } else {
            self.open.extend_from_slice(&body);
            if self.open.len() >= SEGMENT {
                self.seal(sequence, Bytes::new());
            }
        }
    }

    fn seal(&mut self, last: u64, large_body: Bytes) {
        self.segments.push_back(Segment {
            last,
            frames: self.open.split().freeze(),
            large_body,
        });
    }

    /// Frames to write next, and a body to write behind them, which may be empty.
    pub(crate) fn next_unwritten(&mut self) -> Option<[Bytes; 2]> {
        if self.held {
            return None;
        }
        if self.written == self.segments.len() && !self.open.is_empty() {
            self.seal(self.next - 1, Bytes::new());
        }
        let segment = self.segments.get(self.written)?;
        self.written += 1;
        Some([segment.frames.clone(), segment.large_body.clone()])
    }

    /// Hands out nothing more on this stream.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// Resolves messages. Those that were resolved before are passed over.
    ///
    /// Room is made only from the oldest on, so that the window never spans more messages than it has room for.
    pub(crate) fn confirm(&mut self, first: u64, confirm: &Confirm) -> Result<Room, Error> {
        let end = first.saturating_add(confirm.count.into());
        if first == 0 || confirm.count == 0 || end > self.last_written() + 1 {
            return Err(Error::Protocol(format!(
                "a confirm of {} messages from number {first} on is not about what was published",
                confirm.count
            )));
        }
        let oldest = self.oldest();
        let from = first.max(oldest) - oldest;
        let to = end.max(oldest) - oldest;
        for slot in self.slots.range_mut(from as usize..to as usize) {
            if let Some(waiter) = slot.waiter.take() {
                waiter.resolve(Ok(confirm.outcome.clone()));
            }
        }
        Ok(self.slide())
    }

    /// Lets go of what is confirmed from the oldest on.
    fn slide(&mut self) -> Room {
        let mut room = Room::default();
        while let Some(Slot { waiter: None, charge }) = self.slots.front() {
            room.messages += 1;
            room.bytes += *charge as usize;
            self.slots.pop_front();
        }
        let oldest = self.oldest();
        while self.segments.front().is_some_and(|segment| segment.last < oldest) {
            self.segments.pop_front();
            self.written -= 1;
        }
        room
    }

    /// Starts over on a new stream: what is unconfirmed will be handed out again under its old numbers.
    pub(crate) fn rewind(&mut self) {
        if !self.open.is_empty() {
            self.seal(self.next - 1, Bytes::new());
        }
        self.held = false;
        self.written = 0;
        for segment in std::mem::take(&mut self.segments) {
            self.keep_unconfirmed(segment);
        }
    }

    /// Puts the unconfirmed frames of a segment behind what is there.
    fn keep_unconfirmed(&mut self, mut segment: Segment) {
        while let Some(header) = segment.frames.first_chunk::<HEADER_LEN>() {
            let Ok(header) = Header::decode(header, limits::FRAME_BODY_MAX) else {
                unreachable!("these frames were encoded here");
            };
            let is_apart = header.id == segment.last && !segment.large_body.is_empty();
            let head = segment.frames.split_to(HEADER_LEN + header.meta_len as usize);
            let body = match is_apart {
                true => std::mem::take(&mut segment.large_body),
                false => segment.frames.split_to(header.body_len as usize),
            };
            if self.is_unconfirmed(header.id) {
                self.open.extend_from_slice(&head);
                self.put_body(header.id, body);
            }
        }
        if !self.open.is_empty() {
            self.seal(segment.last, Bytes::new());
        }
    }

    fn is_unconfirmed(&self, sequence: u64) -> bool {
        let at = sequence.checked_sub(self.oldest());
        at.and_then(|at| self.slots.get(at as usize))
            .is_some_and(|slot| slot.waiter.is_some())
    }

    /// Fails everything that is unconfirmed. The numbers stay, to tell it from confirmed.
    pub(crate) fn fail(&mut self, error: &Error) {
        for slot in &mut self.slots {
            if let Some(waiter) = slot.waiter.take() {
                waiter.resolve(Err(error.clone()));
            }
        }
        self.open.clear();
        self.segments.clear();
        self.written = 0;
    }

    /// The highest number handed out on this stream, or one that is confirmed.
    fn last_written(&self) -> u64 {
        match self.written.checked_sub(1) {
            Some(at) => self.segments[at].last,
            None => self.oldest() - 1,
        }
    }
}
