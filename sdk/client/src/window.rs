//! The unconfirmed messages of one publisher: numbered, encoded, kept until confirmed, resolved. No IO.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pointsman_protocol::frame::{HEADER_LEN, Header, Kind};
use pointsman_protocol::limits;
use pointsman_protocol::publish::Confirm;

use crate::confirm::Waiter;
use crate::{Error, Message, wire};

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
        wire::put_head(
            &mut self.open,
            Kind::Publish,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Confirmation;
    use pointsman_protocol::frame::Frame;
    use pointsman_protocol::publish::Outcome;

    fn push(window: &mut Window, body: impl Into<Bytes>) -> Confirmation {
        let (waiter, confirmation) = Waiter::one();
        window.push(&Message::new(body), 1, waiter).unwrap();
        confirmation
    }

    fn routed(count: u32) -> Confirm {
        let outcome = Outcome::Routed { queues: 1 };
        Confirm { count, outcome }
    }

    /// What `next_unwritten` hands out until there is no more.
    fn written(window: &mut Window) -> Vec<[Bytes; 2]> {
        std::iter::from_fn(|| window.next_unwritten()).collect()
    }

    fn numbers(segments: &[[Bytes; 2]]) -> Vec<u64> {
        let mut bytes = BytesMut::from(&*segments.concat().concat());
        std::iter::from_fn(|| Frame::take(&mut bytes, limits::FRAME_BODY_MAX).unwrap())
            .map(|frame| frame.header.id)
            .collect()
    }

    #[test]
    fn small_messages_share_a_segment_and_a_large_body_is_not_copied() {
        let mut window = Window::new();
        let large = Bytes::from(vec![7; LARGE_BODY]);
        let _small: Vec<_> = (0..3).map(|_| push(&mut window, "body")).collect();
        let _large = push(&mut window, large.clone());
        let _after = push(&mut window, "body");
        let segments = written(&mut window);
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[0][1].as_ptr(), large.as_ptr());
        assert_eq!(numbers(&segments), [1, 2, 3, 4, 5]);
        assert!(window.next_unwritten().is_none());
    }

    #[test]
    fn segments_stay_near_their_size() {
        let mut window = Window::new();
        let _all: Vec<_> = (0..1000).map(|_| push(&mut window, vec![0; 1000])).collect();
        for [frames, large_body] in written(&mut window) {
            assert!(frames.len() < SEGMENT + 1100 && large_body.is_empty());
        }
    }

    #[test]
    fn room_is_made_from_the_oldest_on_and_frames_are_let_go_with_it() {
        let mut window = Window::new();
        let _all: Vec<_> = (0..4).map(|_| push(&mut window, "body")).collect();
        written(&mut window);
        assert_eq!(window.confirm(2, &routed(2)).unwrap(), Room::default());
        let room = Room {
            messages: 3,
            bytes: 3,
        };
        assert_eq!(window.confirm(1, &routed(1)).unwrap(), room);
        assert_eq!((window.oldest(), window.segments.len()), (4, 1));
        window.confirm(4, &routed(1)).unwrap();
        assert!(window.is_empty() && window.segments.is_empty());
    }

    #[test]
    fn a_confirm_of_what_was_not_handed_out_is_refused() {
        let mut window = Window::new();
        let _one = push(&mut window, "body");
        assert!(window.confirm(1, &routed(1)).is_err(), "not handed out");
        written(&mut window);
        let _two = push(&mut window, "body");
        for (first, count) in [(0, 1), (1, 0), (1, 2), (2, 1), (u64::MAX, 1), (1, u32::MAX)] {
            assert!(window.confirm(first, &routed(count)).is_err(), "{first}, {count}");
        }
        window.confirm(1, &routed(1)).unwrap();
        assert_eq!(
            window.confirm(1, &routed(1)).unwrap(),
            Room::default(),
            "a second time does nothing"
        );
    }

    #[test]
    fn after_a_rewind_exactly_the_unconfirmed_are_handed_out_again() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let mut window = Window::new();
            let mut unconfirmed = std::collections::BTreeMap::new();
            for _ in 0..random.usize(1..60) {
                match random.u8(..4) {
                    0 | 1 => {
                        let len = [0, 10, 5_000, LARGE_BODY, 40_000][random.usize(..5)];
                        let body: Bytes = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
                        unconfirmed.insert(window.next(), body.clone());
                        drop(push(&mut window, body));
                    }
                    2 => drop(written(&mut window)),
                    _ => {
                        let last = window.last_written();
                        if last > 0 {
                            let first = random.u64(1..=last);
                            let count = random.u64(1..=last + 1 - first);
                            window.confirm(first, &routed(count as u32)).unwrap();
                            unconfirmed.retain(|number, _| !(first..first + count).contains(number));
                        }
                    }
                }
                if random.u8(..10) == 0 {
                    window.rewind();
                }
            }
            window.rewind();
            let mut bytes = BytesMut::from(&*written(&mut window).concat().concat());
            let frames = std::iter::from_fn(|| Frame::take(&mut bytes, limits::FRAME_BODY_MAX).unwrap());
            let again: std::collections::BTreeMap<u64, Bytes> =
                frames.map(|frame| (frame.header.id, frame.body())).collect();
            assert!(again == unconfirmed, "seed {seed}");
        }
    }
}
