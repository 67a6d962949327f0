//! Decisions: what the guest packs and how the host reads it.

use super::bytes::{PackedError, Reader, encode_text, within};
use super::{CHANGED_HEADERS_MAX, NAME_MAX, REASON_MAX, VERSION, bytes::cut};
use crate::{Decision, Delivery, Target, Value};

const UNROUTABLE: u8 = 0;
const ONE: u8 = 1;
const SEVERAL: u8 = 2;
const CHANGED: u8 = 3;
const REJECT: u8 = 4;

/// The parts of a message that a delivery can change. The number is the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Change {
    /// The routing key.
    RoutingKey = 0,
    /// The priority.
    Priority = 1,
    /// The time to live.
    Expiration = 2,
    /// Headers that go.
    RemoveHeaders = 3,
    /// Headers that come.
    SetHeaders = 4,
    /// The body.
    Body = 5,
    /// The time until it enters its queues.
    Delay = 6,
}

impl Change {
    const ALL_BITS: u32 = 0b111_1111;

    /// The change's bit.
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// Guest: packs the decisions of one batch.
#[derive(Debug)]
pub struct DecisionEncoder {
    out: Vec<u8>,
}

impl DecisionEncoder {
    /// Starts the answer to a batch of `count` messages.
    pub fn new(count: usize) -> DecisionEncoder {
        let mut out = Vec::with_capacity(8 + 5 * count);
        out.extend([VERSION, 0, 0, 0]);
        out.extend((count as u32).to_le_bytes());
        DecisionEncoder { out }
    }

    /// Adds the decision on the next message.
    pub fn push(&mut self, decision: &Decision) {
        match decision {
            Decision::Unroutable | Decision::One(Target::NOWHERE) => self.out.push(UNROUTABLE),
            Decision::One(target) => {
                self.out.push(ONE);
                self.out.extend(target.0.to_le_bytes());
            }
            Decision::Several(targets) => self.counted(SEVERAL, targets, |target| *target, |_, _| ()),
            Decision::Changed(deliveries) => {
                self.counted(
                    CHANGED,
                    deliveries,
                    |delivery| delivery.target,
                    Delivery::encode_changes,
                );
            }
            Decision::Reject(reason) => {
                self.out.push(REJECT);
                encode_text(&mut self.out, cut(reason, REASON_MAX));
            }
        }
    }

    /// A kind, a count, and for each item its target and what `rest` adds; targets that lead nowhere are left out.
    fn counted<T>(
        &mut self,
        kind: u8,
        items: &[T],
        target: impl Fn(&T) -> Target,
        rest: impl Fn(&T, &mut Vec<u8>),
    ) {
        self.out.push(kind);
        let count_at = self.out.len();
        self.out.extend([0; 4]);
        let mut count = 0_u32;
        for item in items {
            let target = target(item);
            if target != Target::NOWHERE {
                self.out.extend(target.0.to_le_bytes());
                rest(item, &mut self.out);
                count += 1;
            }
        }
        self.out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    }

    /// The answer.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Host: the decisions of a module, in the order of the batch. Each is checked as it is read; after the first error
/// nothing of the answer is to be used.
#[derive(Debug)]
pub struct Decisions<'a> {
    reader: Reader<'a>,
    left: u32,
    targets: u32,
}

/// A decision as the host sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum DecisionView<'a> {
    /// To no target.
    Unroutable,
    /// To one target, by its number.
    One(u32),
    /// To at least one target; a number may be there twice.
    Several(TargetNumbers<'a>),
    /// To at least one target, changed.
    Changed(Vec<DeliveryView<'a>>),
    /// Refused with this reason, up to [`REASON_MAX`] bytes long.
    Reject(&'a str),
}

/// Numbers of targets, all in range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TargetNumbers<'a>(&'a [u8]);

impl<'a> TargetNumbers<'a> {
    /// The numbers in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (numbers, _) = self.0.as_chunks();
        numbers.iter().map(|number| u32::from_le_bytes(*number))
    }
}

/// One target and what it gets.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryView<'a> {
    /// The target's number.
    pub target: u32,
    /// What is different for it.
    pub changes: Changes<'a>,
}

/// What one target gets instead of the message as it was published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes<'a> {
    /// The new routing key.
    pub routing_key: Option<&'a str>,
    /// The new priority.
    pub priority: Option<u8>,
    /// The new time to live, in milliseconds.
    pub expiration: Option<u64>,
    /// Headers to remove, all of each name; this comes before `set_headers`.
    pub remove_headers: Vec<&'a str>,
    /// Headers that replace those of their name or are added at the end.
    pub set_headers: Vec<(&'a str, Value<'a>)>,
    /// The new body.
    pub body: Option<&'a [u8]>,
    /// The time until it enters its queues, in milliseconds.
    pub delay: Option<u64>,
}

impl<'a> Decisions<'a> {
    /// Starts reading the answer to a batch of `messages` messages for an exchange with `targets` targets.
    ///
    /// # Errors
    /// When it is no answer or has another count.
    pub fn decode(bytes: &'a [u8], messages: u32, targets: u32) -> Result<Decisions<'a>, PackedError> {
        let mut reader = Reader::versioned(bytes, "decisions")?;
        reader.take(3, "decisions")?;
        let decisions = reader.u32("decisions")?;
        if decisions != messages {
            return Err(PackedError::WrongCount { decisions, messages });
        }
        Ok(Decisions {
            reader,
            left: messages,
            targets,
        })
    }

    fn decision(&mut self) -> Result<DecisionView<'a>, PackedError> {
        match self.reader.u8("decision")? {
            UNROUTABLE => Ok(DecisionView::Unroutable),
            ONE => Ok(DecisionView::One(self.target()?)),
            SEVERAL => self.several(),
            CHANGED => self.changed(),
            REJECT => Ok(DecisionView::Reject(self.reader.text("reason", REASON_MAX)?)),
            other => Err(PackedError::Unknown("kind of decision", other.into())),
        }
    }

    fn target(&mut self) -> Result<u32, PackedError> {
        let target = self.reader.u32("target")?;
        self.in_range(target)
    }

    fn in_range(&self, target: u32) -> Result<u32, PackedError> {
        if target < self.targets {
            return Ok(target);
        }
        Err(PackedError::TargetOutOfRange {
            target,
            targets: self.targets,
        })
    }

    /// A count of targets, of which one decision names each at most once.
    fn count(&mut self) -> Result<usize, PackedError> {
        let count = self.reader.u32("number of targets")?;
        within(
            "number of targets in one decision",
            count.into(),
            self.targets as usize,
        )
    }

    fn several(&mut self) -> Result<DecisionView<'a>, PackedError> {
        let count = self.count()?;
        let numbers = TargetNumbers(self.reader.take(count.saturating_mul(4), "targets")?);
        for number in numbers.iter() {
            self.in_range(number)?;
        }
        Ok(match count {
            0 => DecisionView::Unroutable,
            _ => DecisionView::Several(numbers),
        })
    }

    fn changed(&mut self) -> Result<DecisionView<'a>, PackedError> {
        let count = self.count()?;
        let mut deliveries = Vec::new();
        for _ in 0..count {
            let target = self.target()?;
            let changes = decode_changes(&mut self.reader)?;
            deliveries.push(DeliveryView { target, changes });
        }
        Ok(match count {
            0 => DecisionView::Unroutable,
            _ => DecisionView::Changed(deliveries),
        })
    }
}

impl<'a> Iterator for Decisions<'a> {
    type Item = Result<DecisionView<'a>, PackedError>;

    /// The next decision; the last one is an error if anything follows it.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let decision = self.decision();
        if self.left == 0
            && decision.is_ok()
            && let Err(error) = self.reader.end()
        {
            return Some(Err(error));
        }
        Some(decision)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

fn decode_changes<'a>(reader: &mut Reader<'a>) -> Result<Changes<'a>, PackedError> {
    let bits = reader.u32("changes")?;
    if bits & !Change::ALL_BITS != 0 {
        return Err(PackedError::Unknown("change bits", bits.into()));
    }
    let has = |change: Change| bits & change.bit() != 0;
    let mut changes = Changes::default();
    if has(Change::RoutingKey) {
        changes.routing_key = Some(reader.text("routing key", NAME_MAX)?);
    }
    if has(Change::Priority) {
        changes.priority = Some(reader.u8("priority")?);
    }
    if has(Change::Expiration) {
        changes.expiration = Some(reader.u64("expiration")?);
    }
    if has(Change::RemoveHeaders) {
        for _ in 0..changed_headers(reader)? {
            changes.remove_headers.push(reader.name("header name")?);
        }
    }
    if has(Change::SetHeaders) {
        for _ in 0..changed_headers(reader)? {
            changes.set_headers.push(reader.header()?);
        }
    }
    if has(Change::Body) {
        let len = reader.u32("body")?;
        changes.body = Some(reader.take(len as usize, "body")?);
    }
    if has(Change::Delay) {
        changes.delay = Some(reader.u64("delay")?);
    }
    Ok(changes)
}

fn changed_headers(reader: &mut Reader<'_>) -> Result<usize, PackedError> {
    let count = reader.u16("number of changed headers")?;
    within("number of changed headers", count.into(), CHANGED_HEADERS_MAX)
}
