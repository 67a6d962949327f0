//! What must hold for each decoder. A target says whether the input was accepted.

use bytes::{Bytes, BytesMut};
use pointsman_core::{Chunk, ChunkBuilder, Lane, Offset, References};
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::consume::{ConsumerOpened, Credit, DeliveryMeta, OpenConsumer, Settle};
use pointsman_protocol::frame::{self, Frame};
use pointsman_protocol::message::{self, MessageMeta};
use pointsman_protocol::publish::{Confirm, OpenPublisher, PublisherOpened};
use pointsman_protocol::session::{Hello, Notice, Welcome};
use pointsman_protocol::{ErrorBody, limits};
use pointsman_router::packed::{DecisionView, Decisions, Plan, Targets, encode_targets};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest body the frame target accepts, in bytes.
const BODY_MAX: u32 = 1024;
/// The decisions target is a batch of so many messages for an exchange with so many targets.
pub(crate) const BATCH: u32 = 3;
pub(crate) const TARGETS: u32 = 4;

/// Frames are what was fed, byte for byte, and the same however the stream was cut.
pub(crate) fn frames(input: &[u8]) -> bool {
    let mut whole = Vec::new();
    let mut buffer = BytesMut::from(input);
    let end = loop {
        let before = buffer.len();
        match Frame::take(&mut buffer, BODY_MAX) {
            Ok(Some(frame)) => {
                assert_eq!(before - buffer.len(), frame.header.frame_len());
                assert_eq!(frame.meta().len() + frame.body().len(), frame.content.len());
                whole.push(frame);
            }
            Ok(None) => {
                assert_eq!(buffer.len(), before, "an incomplete frame stays");
                break None;
            }
            Err(error) => break Some(error),
        }
    };
    let mut again = BytesMut::new();
    for frame in &whole {
        frame.header.encode(&mut again);
        again.extend_from_slice(&frame.content);
    }
    assert_eq!(&again[..], &input[..again.len()]);
    assert_eq!(shared(input), (whole.clone(), end.is_some()));
    assert_eq!(cut_into_bytes(input), (whole.clone(), end.is_some()));
    end.is_none() && !whole.is_empty()
}

fn shared(input: &[u8]) -> (Vec<Frame>, bool) {
    let mut frames = Vec::new();
    let mut bytes = Bytes::copy_from_slice(input);
    loop {
        match Frame::take_shared(&mut bytes, BODY_MAX) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, false),
            Err(_) => return (frames, true),
        }
    }
}

fn cut_into_bytes(input: &[u8]) -> (Vec<Frame>, bool) {
    let mut frames = Vec::new();
    let mut buffer = BytesMut::new();
    for byte in input {
        buffer.extend_from_slice(&[*byte]);
        match Frame::take(&mut buffer, BODY_MAX) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => {}
            Err(_) => return (frames, true),
        }
    }
    (frames, false)
}

/// The number of metadata types; the first byte of an input says which it is.
pub(crate) const METADATA: u8 = 14;

/// What decodes encodes to something that decodes to the same.
pub(crate) fn metadata(input: &[u8]) -> bool {
    let Some((kind, bytes)) = input.split_first() else {
        return false;
    };
    match kind % METADATA {
        0 => stable::<Hello>(bytes),
        1 => stable::<Welcome>(bytes),
        2 => stable::<Request>(bytes) && checked(bytes),
        3 => stable::<Reply>(bytes),
        4 => stable::<Notice>(bytes),
        5 => stable::<OpenPublisher>(bytes),
        6 => stable::<PublisherOpened>(bytes),
        7 => stable::<Confirm>(bytes),
        8 => stable::<OpenConsumer>(bytes),
        9 => stable::<ConsumerOpened>(bytes),
        10 => stable::<Credit>(bytes),
        11 => stable::<Settle>(bytes),
        12 => stable::<ErrorBody>(bytes),
        _ => delivery(bytes),
    }
}

fn encode(value: &impl Serialize) -> BytesMut {
    let mut out = BytesMut::new();
    frame::put_postcard(&mut out, value);
    out
}

fn stable<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok((value, rest)) = postcard::take_from_bytes::<T>(bytes) else {
        return false;
    };
    let once = encode(&value);
    // A number may come with more bytes than it needs, never with fewer.
    assert!(once.len() <= bytes.len() - rest.len());
    let again: T = postcard::from_bytes(&once).expect("what was encoded decodes");
    assert_eq!(encode(&again), once);
    true
}

/// The checks of declared things cope with whatever decodes.
fn checked(bytes: &[u8]) -> bool {
    let accepted = match postcard::from_bytes(bytes) {
        Ok(Request::DeclareExchange(spec)) => spec.check(),
        Ok(Request::DeclareQueue(spec)) => spec.check(),
        Ok(Request::Bind(mut spec) | Request::Unbind(mut spec)) => {
            let refused = spec.check().is_err();
            spec.sort_arguments();
            let sorted = spec.check();
            assert!(
                refused || sorted.is_ok(),
                "sorting what is sorted changes nothing"
            );
            sorted
        }
        _ => return true,
    };
    if let Err(error) = accepted {
        // Names are shown in the message, so it must not grow with them.
        assert!(error.message.len() < 10 * limits::NAME_MAX, "{error}");
    }
    true
}

fn delivery(bytes: &[u8]) -> bool {
    let Ok((about, rest)) = DeliveryMeta::split(bytes) else {
        return false;
    };
    assert!(rest.len() < bytes.len() && bytes.ends_with(rest));
    let once = encode(&about);
    assert_eq!(
        DeliveryMeta::split(&once).expect("what was encoded decodes").0,
        about
    );
    true
}

/// As `metadata`, and within the limits.
pub(crate) fn message(input: &[u8]) -> bool {
    let key = message::routing_key(input);
    let Ok(meta) = MessageMeta::decode(input) else {
        return false;
    };
    assert_eq!(key, Some(meta.routing_key));
    assert!(meta.routing_key.len() <= limits::KEY_MAX && meta.headers.len() <= limits::HEADERS_MAX);
    let once = encode(&meta);
    let again = MessageMeta::decode(&once).expect("what was encoded decodes");
    // Not the values but their bytes: a float may be NaN.
    assert_eq!(encode(&again), once);
    true
}

/// A chunk that parses has every record it counts, and the same records when it is built anew.
pub(crate) fn chunk(input: &[u8]) -> bool {
    let bytes = Bytes::copy_from_slice(input);
    let Ok(chunk) = Chunk::parse(Lane::Queues, Offset(7), 1, bytes) else {
        return false;
    };
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1);
    for record in 0..chunk.count() {
        let message = chunk.get(record).expect("every record is there");
        builder.push(message.exchange, message.decided_by, message.meta, message.body);
    }
    assert!(chunk.get(chunk.count()).is_none());
    let again = builder.finish();
    assert_eq!(again.count(), chunk.count());
    for record in 0..chunk.count() {
        assert_eq!(again.get(record), chunk.get(record));
    }
    assert!(again.len() <= input.len(), "built anew it is no longer");
    chunk.count() > 0
}

/// A sparse chunk that parses has exactly the records that have references, and references survive their encoding.
pub(crate) fn sparse_chunk(input: &[u8]) -> bool {
    let Some((&len, rest)) = input.split_first() else {
        return false;
    };
    let Some((encoded, records)) = rest.split_at_checked(len.into()) else {
        return false;
    };
    let Some(references) = References::decode(encoded) else {
        return false;
    };
    let mut again = Vec::new();
    references.encode(&mut again);
    assert_eq!(References::decode(&again), Some(references.clone()));
    let records = Bytes::copy_from_slice(records);
    let Ok(chunk) = Chunk::parse_sparse(Lane::Queues, Offset(7), 1, records, Vec::new(), &references) else {
        return false;
    };
    assert_eq!(
        (chunk.count(), chunk.kept()),
        (references.records(), references.live())
    );
    let mut record = 0;
    for (records, references) in references.runs() {
        for _ in 0..records {
            assert_eq!(chunk.get(record).is_some(), references > 0);
            record += 1;
        }
    }
    assert_eq!(chunk.without_dead(&references), chunk);
    chunk.kept() > 0
}

/// No more decisions than messages, and no target that is not bound.
pub(crate) fn decisions(input: &[u8]) -> bool {
    let Ok(decisions) = Decisions::decode(input, BATCH, TARGETS) else {
        return false;
    };
    let mut count = 0;
    for decision in decisions {
        let Ok(decision) = decision else { return false };
        count += 1;
        match decision {
            DecisionView::One(target) => assert!(target < TARGETS),
            DecisionView::Several(targets) => {
                assert!(targets.iter().len() > 0 && targets.iter().all(|target| target < TARGETS));
            }
            DecisionView::Changed(deliveries) => {
                assert!(!deliveries.is_empty() && deliveries.iter().all(|d| d.target < TARGETS));
            }
            DecisionView::Unroutable | DecisionView::Reject(_) => {}
        }
    }
    assert_eq!(count, BATCH);
    true
}

/// A plan encodes to what was read.
pub(crate) fn plan(input: &[u8]) -> bool {
    let Ok(plan) = Plan::decode(input) else {
        return false;
    };
    assert_eq!(plan.encode(), input);
    true
}

/// Target names are numbered in their order.
pub(crate) fn target_list(input: &[u8]) -> bool {
    let Ok(targets) = Targets::decode(input) else {
        return false;
    };
    let names: Vec<&str> = targets.iter().map(|(_, name)| name).collect();
    // Three reserved bytes behind the version are written as zero and not read.
    assert_eq!(encode_targets(names.iter().copied())[4..], input[4..]);
    true
}
