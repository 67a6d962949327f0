//! Bytes to messages and messages to bytes: frames, metadata, chunks, deliveries.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset};
use pointsman_protocol::consume::{DeliveryMeta, put_delivery};
use pointsman_protocol::frame::{self, Frame, Kind};
use pointsman_protocol::limits::FRAME_BODY_MAX;
use pointsman_protocol::{MessageMeta, Value};

use crate::segment::{BATCH, BODY, Limit, Segment, Work, content, meta};

const KEY: &str = "orders.eu.new";

/// What the client writes and the broker's session makes of it, up to the chunk.
pub(crate) fn received() -> Vec<Segment> {
    let full = full_meta();
    let full_len = content(&full, 0).0.len();
    vec![
        Segment::new("encode a publish frame", BATCH, Limit::Copy(BODY), || Encode {
            body: vec![b'x'; BODY],
            out: BytesMut::new(),
        }),
        Segment::new("decode a publish frame", BATCH, Limit::Copy(BODY), || Decode {
            bytes: publishes(BATCH),
            buffer: BytesMut::new(),
        }),
        Segment::new("scan metadata, a key", BATCH, Limit::Copy(BODY), || Scan {
            bytes: content(&meta(KEY), 0).0,
        }),
        Segment::new(
            "scan metadata, all fields and 8 headers",
            BATCH,
            Limit::Copy(full_len),
            || Scan {
                bytes: content(&full_meta(), 0).0,
            },
        ),
    ]
}

/// From the log to the consumer's stream.
pub(crate) fn delivered() -> Vec<Segment> {
    vec![
        Segment::new("build a chunk", BATCH, Limit::Copy(BODY), || Build {
            content: content(&meta(KEY), BODY),
            chunk: None,
        }),
        Segment::new("parse a chunk", BATCH, Limit::Copy(BODY), || Parse {
            bytes: chunk(BATCH, BODY).bytes(),
            chunk: None,
        }),
        Segment::new("encode a delivery", BATCH, Limit::Copy(BODY), || Deliver {
            chunk: chunk(BATCH, BODY),
            label: label(),
            out: BytesMut::new(),
        }),
    ]
}

/// Frames as a publisher's stream brings them.
pub(crate) fn publishes(count: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    for sequence in 0..count {
        frame::put(
            &mut out,
            Kind::Publish,
            0,
            sequence as u64 + 1,
            &meta(KEY),
            &[b'x'; BODY],
        );
    }
    out.to_vec()
}

fn full_meta() -> MessageMeta<'static> {
    let names = [
        "a", "region", "kind", "customer", "trace", "tenant", "attempt", "source",
    ];
    MessageMeta {
        routing_key: KEY,
        persistent: true,
        priority: 3,
        message_id: Some("0192f0c1-7d5e-7c3a-9f0e-1d2c3b4a5968"),
        timestamp: Some(1_700_000_000_000),
        expiration: Some(60_000),
        delay: None,
        content_type: Some("application/json"),
        content_encoding: Some("identity"),
        correlation_id: Some("0192f0c1"),
        reply_to: Some("answers"),
        headers: names
            .into_iter()
            .map(|name| (name, Value::Str("a value")))
            .collect(),
    }
}

pub(crate) fn chunk(messages: usize, body: usize) -> Chunk {
    let (content, meta_len) = content(&meta(KEY), body);
    let (meta, body) = content.split_at(meta_len as usize);
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(0), 1_000);
    for _ in 0..messages {
        builder.push(ExchangeId(1), None, meta, body);
    }
    builder.finish()
}

fn label() -> Bytes {
    let mut label = BytesMut::new();
    let meta = DeliveryMeta {
        delivery_count: 0,
        exchange: "orders",
        decided_by: "",
        place: None,
    };
    frame::put_postcard(&mut label, &meta);
    label.freeze()
}

/// What the client does with a message.
struct Encode {
    body: Vec<u8>,
    out: BytesMut,
}

impl Work for Encode {
    fn prepare(&mut self) {
        self.out.clear();
    }
    fn run(&mut self) {
        for sequence in 1..=BATCH as u64 {
            frame::put(&mut self.out, Kind::Publish, 0, sequence, &meta(KEY), &self.body);
        }
    }
}

/// What the session does with a full buffer.
struct Decode {
    bytes: Vec<u8>,
    buffer: BytesMut,
}

impl Work for Decode {
    fn prepare(&mut self) {
        self.buffer = BytesMut::from(&self.bytes[..]);
    }
    fn run(&mut self) {
        while let Some(frame) = Frame::take(&mut self.buffer, FRAME_BODY_MAX).expect("they are frames") {
            black_box(frame);
        }
    }
}

/// What routing does first.
struct Scan {
    bytes: Bytes,
}

impl Work for Scan {
    fn prepare(&mut self) {}
    fn run(&mut self) {
        for _ in 0..BATCH {
            let scanned = pointsman_router_host::scan(black_box(&self.bytes));
            black_box(scanned.expect("it is metadata"));
        }
    }
}

/// What the core's log does with a message.
struct Build {
    content: (Bytes, u32),
    chunk: Option<Chunk>,
}

impl Work for Build {
    fn prepare(&mut self) {
        self.chunk = None;
    }
    fn run(&mut self) {
        let (content, meta_len) = &self.content;
        let (meta, body) = content.split_at(*meta_len as usize);
        let mut builder = ChunkBuilder::new(Lane::Queues, Offset(0), 1_000);
        for _ in 0..BATCH {
            builder.push(ExchangeId(1), None, black_box(meta), black_box(body));
        }
        self.chunk = Some(builder.finish());
    }
}

/// What reading back does with the bytes of a chunk.
struct Parse {
    bytes: Bytes,
    chunk: Option<Chunk>,
}

impl Work for Parse {
    fn prepare(&mut self) {
        self.chunk = None;
    }
    fn run(&mut self) {
        let chunk = Chunk::parse(Lane::Queues, Offset(0), 1_000, self.bytes.clone());
        self.chunk = Some(chunk.expect("it is a chunk"));
    }
}

/// What a consumer's session does with a run of records.
struct Deliver {
    chunk: Chunk,
    label: Bytes,
    out: BytesMut,
}

impl Work for Deliver {
    fn prepare(&mut self) {
        self.out.clear();
    }
    fn run(&mut self) {
        for record in 0..self.chunk.count() {
            let message = self.chunk.get(record).expect("it is there");
            let (meta, body) = (message.meta, message.body);
            put_delivery(
                &mut self.out,
                0,
                u64::from(record) + 1,
                &self.label,
                meta,
                body.len() as u32,
            );
            self.out.extend_from_slice(body);
        }
    }
}
