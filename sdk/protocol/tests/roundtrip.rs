//! What is written is read back, for random messages and however a stream is cut. A failure prints its seed.

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use pointsman_protocol::frame::{self, Frame, FrameError, HEADER_LEN, Kind};
use pointsman_protocol::{MessageMeta, Value, limits};

/// Owned parts of random metadata.
struct Parts {
    texts: Vec<Option<String>>,
    headers: Vec<(String, u8, Vec<u8>)>,
    numbers: [u64; 2],
}

impl Parts {
    fn random(random: &mut Rng) -> Parts {
        let text = |random: &mut Rng| -> String {
            let len = random.usize(..limits::KEY_MAX / 4);
            std::iter::repeat_with(|| random.char(..)).take(len).collect()
        };
        Parts {
            texts: (0..6).map(|_| random.bool().then(|| text(random))).collect(),
            headers: (0..random.usize(..8))
                .map(|_| {
                    let bytes = std::iter::repeat_with(|| random.u8(..));
                    let bytes = bytes.take(20).collect();
                    (text(random), random.u8(..5), bytes)
                })
                .collect(),
            numbers: [random.u64(..), random.u64(..) >> random.u8(..64)],
        }
    }

    fn meta(&self) -> MessageMeta<'_> {
        let text = |at: usize| self.texts[at].as_deref();
        MessageMeta {
            routing_key: text(0).unwrap_or_default(),
            persistent: self.numbers[0] > self.numbers[1],
            priority: self.numbers[0] as u8,
            message_id: text(1),
            timestamp: text(1).map(|_| self.numbers[0]),
            expiration: text(2).map(|_| self.numbers[1] % limits::EXPIRATION_MAX_MS + 1),
            delay: text(3).map(|_| self.numbers[0] % (limits::DELAY_MAX_MS + 1)),
            content_type: text(2),
            content_encoding: text(3),
            correlation_id: text(4),
            reply_to: text(5),
            headers: self
                .headers
                .iter()
                .map(|(name, kind, bytes)| {
                    let value = match kind {
                        0 => Value::Bool(bytes[0] < 128),
                        1 => Value::Int(i64::from_le_bytes(*bytes.first_chunk().unwrap())),
                        2 => Value::Float(f64::from(bytes[0]) / 3.0),
                        3 => Value::Str(name),
                        _ => Value::Bytes(bytes),
                    };
                    (&**name, value)
                })
                .collect(),
        }
    }
}

#[test]
fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
    for seed in 0..200 {
        let mut random = Rng::with_seed(seed);
        let parts: Vec<Parts> = (0..20).map(|_| Parts::random(&mut random)).collect();
        let bodies: Vec<Bytes> = (0..20)
            .map(|_| (0..random.usize(..300)).map(|_| random.u8(..)).collect())
            .collect();
        let mut stream = BytesMut::new();
        for (id, (parts, body)) in (0..).zip(parts.iter().zip(&bodies)) {
            frame::put(&mut stream, Kind::Publish, 0, id, &parts.meta(), body);
        }

        let mut buffer = BytesMut::new();
        let mut id = 0;
        while !stream.is_empty() {
            buffer.extend_from_slice(&stream.split_to(random.usize(1..=stream.len())));
            while let Some(frame) = Frame::take(&mut buffer, 300).unwrap() {
                assert_eq!(frame.header.id, id, "seed {seed}");
                let at = id as usize;
                assert_eq!(
                    MessageMeta::decode(frame.meta()).unwrap(),
                    parts[at].meta(),
                    "seed {seed}"
                );
                assert_eq!(frame.body(), bodies[at], "seed {seed}");
                let key = pointsman_protocol::message::routing_key(frame.meta());
                assert_eq!(key, Some(parts[at].meta().routing_key), "seed {seed}");
                id += 1;
            }
        }
        assert_eq!((id, buffer.len()), (20, 0), "seed {seed}");
    }
}

#[test]
fn a_length_over_its_limit_is_refused_before_its_bytes_come() {
    let head = |meta_len: u32, body_len: u32| {
        let mut out = BytesMut::from(&[18, 0, 0, 0][..]);
        out.extend_from_slice(&meta_len.to_le_bytes());
        out.extend_from_slice(&body_len.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out
    };
    assert_eq!(Frame::take(&mut head(limits::FRAME_META_MAX, 100), 100), Ok(None));
    assert_eq!(
        Frame::take(&mut head(limits::FRAME_META_MAX + 1, 0), 100),
        Err(FrameError::MetaTooLong(limits::FRAME_META_MAX + 1))
    );
    assert_eq!(
        Frame::take(&mut head(0, 101), 100),
        Err(FrameError::BodyTooLong { len: 101, max: 100 })
    );
}

#[test]
fn an_unknown_kind_a_used_reserve_and_left_over_metadata_are_refused() {
    let mut unknown = BytesMut::from(&[6; HEADER_LEN][..]);
    assert_eq!(Frame::take(&mut unknown, 0), Err(FrameError::UnknownKind(6)));
    let mut reserved = BytesMut::from(&[1; HEADER_LEN][..]);
    assert_eq!(Frame::take(&mut reserved, 0), Err(FrameError::Reserved(0x0101)));
    let mut longer = BytesMut::new();
    frame::put(&mut longer, Kind::Credit, 0, 0, &(1u32, 1u64, 1u8), b"");
    let frame = Frame::take(&mut longer, 0).unwrap().unwrap();
    let credit = frame.decode::<pointsman_protocol::consume::Credit>();
    assert_eq!(credit, Err(FrameError::Meta(Kind::Credit)));
}

#[test]
fn metadata_over_its_limit_is_not_written() {
    let mut out = BytesMut::from(&b"before"[..]);
    let long = "x".repeat(limits::FRAME_META_MAX as usize);
    assert!(frame::put_head(&mut out, Kind::Publish, 0, 1, &&*long, 0).is_err());
    assert_eq!(&out[..], b"before");
}

#[test]
fn keys_and_headers_over_their_limits_do_not_decode() {
    use pointsman_protocol::message::MetaError;
    let encode = |meta: &MessageMeta<'_>| {
        let mut out = BytesMut::new();
        frame::put_postcard(&mut out, meta);
        out
    };
    let key = "k".repeat(limits::KEY_MAX + 1);
    let long = encode(&MessageMeta {
        routing_key: &key,
        ..MessageMeta::default()
    });
    assert_eq!(
        MessageMeta::decode(&long),
        Err(MetaError::KeyTooLong(limits::KEY_MAX + 1))
    );
    let many = encode(&MessageMeta {
        headers: vec![("h", Value::Bool(true)); limits::HEADERS_MAX + 1],
        ..MessageMeta::default()
    });
    assert_eq!(
        MessageMeta::decode(&many),
        Err(MetaError::TooManyHeaders(limits::HEADERS_MAX + 1))
    );
}

#[test]
fn times_out_of_range_do_not_decode() {
    use pointsman_protocol::message::MetaError;
    let decode = |expiration, delay| {
        let mut out = BytesMut::new();
        let meta = MessageMeta {
            expiration,
            delay,
            ..MessageMeta::default()
        };
        frame::put_postcard(&mut out, &meta);
        MessageMeta::decode(&out).map(drop)
    };
    let (longest, too_long) = (limits::EXPIRATION_MAX_MS, limits::EXPIRATION_MAX_MS + 1);
    assert_eq!(decode(Some(longest), Some(limits::DELAY_MAX_MS)), Ok(()));
    assert_eq!(decode(Some(1), Some(0)), Ok(()));
    assert_eq!(decode(Some(0), None), Err(MetaError::Expiration(0)));
    assert_eq!(decode(Some(too_long), None), Err(MetaError::Expiration(too_long)));
    let too_long = limits::DELAY_MAX_MS + 1;
    assert_eq!(decode(None, Some(too_long)), Err(MetaError::Delay(too_long)));
}
