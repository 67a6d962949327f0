//! Valid bytes of every format, from which mutations start.

use bytes::BytesMut;
use pointsman_core::{ChunkBuilder, DecidedBy, ExchangeId, Lane, Offset, References, RouterId};
use pointsman_protocol::admin::{BindingSpec, ExchangeSpec, QueueSpec, Reply, Request};
use pointsman_protocol::consume::{
    ConsumerOpened, Credit, DeliveryMeta, OpenConsumer, Settle, Settlement, StartAt, StreamPlace,
};
use pointsman_protocol::frame::{self, Kind};
use pointsman_protocol::message::{MessageMeta, Value};
use pointsman_protocol::publish::{Confirm, OpenPublisher, Outcome, PublisherOpened};
use pointsman_protocol::session::{Hello, Notice, Welcome};
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_router::packed::{DecisionEncoder, Plan, Targets, encode_targets};
use pointsman_router::{Decision, Delivery, Field};
use serde::Serialize;

use crate::targets::{METADATA, TARGETS};

fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put_postcard(&mut out, value);
    out.to_vec()
}

fn small_message() -> MessageMeta<'static> {
    MessageMeta {
        routing_key: "order.eu",
        ..MessageMeta::default()
    }
}

fn full_message() -> MessageMeta<'static> {
    MessageMeta {
        routing_key: "order.eu",
        persistent: true,
        priority: 9,
        message_id: Some("m-1"),
        timestamp: Some(1_700_000_000_000),
        expiration: Some(60_000),
        delay: Some(5_000),
        content_type: Some("application/json"),
        content_encoding: Some("gzip"),
        correlation_id: Some("c"),
        reply_to: Some("r"),
        headers: vec![
            ("region", Value::Str("größe")),
            ("attempt", Value::Int(-3)),
            ("ratio", Value::Float(0.5)),
            ("paid", Value::Bool(true)),
            ("digest", Value::Bytes(&[0, 0xFF])),
        ],
    }
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut all = BytesMut::new();
    frame::put(&mut all, Kind::Publish, 0, 1, &full_message(), b"body");
    let single = all.to_vec();
    frame::put(&mut all, Kind::Publish, 0, 2, &small_message(), b"");
    frame::put(&mut all, Kind::Request, 0, 3, &Request::Status, &[7; 300]);
    let credit = Credit {
        messages: 1,
        bytes: 1,
    };
    frame::put(&mut all, Kind::Credit, 0, 0, &credit, b"");
    vec![single, all.to_vec()]
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    vec![encode(&small_message()), encode(&full_message())]
}

/// Behind the byte that says which type it is.
pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let name = || "orders".to_owned();
    let error = || ErrorBody::new(ErrorCode::NotFound, "no such queue").hint("declare it");
    let binding = BindingSpec::to_queue("x", "q", "k")
        .argument("a", 1)
        .argument("b", "text");
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        client: name(),
        vhost: "/".into(),
        user: name(),
        password: name(),
    };
    let welcome = Welcome {
        version: 1,
        features: 0,
        server: name(),
        connection: 300,
        body_max: 1 << 20,
    };
    let about = DeliveryMeta {
        delivery_count: 3,
        exchange: "orders",
        decided_by: "split@2",
        place: Some(StreamPlace { offset: 300, time: 2 }),
    };
    let all = vec![
        (0, encode(&hello)),
        (1, encode(&welcome)),
        (
            2,
            encode(&Request::DeclareExchange(
                ExchangeSpec::router("x", "split").alternate("y"),
            )),
        ),
        (2, encode(&Request::DeclareQueue(QueueSpec::new("q").exclusive()))),
        (
            2,
            encode(&Request::DeclareQueue(QueueSpec::stream("s").max_bytes(1 << 30))),
        ),
        (2, encode(&Request::Bind(binding.clone()))),
        (
            2,
            encode(&Request::RouterLoad {
                name: name(),
                config: b"{}".to_vec(),
                activate: true,
            }),
        ),
        (3, encode(&Reply::Bindings(vec![binding.clone(), binding]))),
        (3, encode(&Reply::Error(error()))),
        (4, encode(&Notice::GoAway { reason: name() })),
        (
            5,
            encode(&OpenPublisher {
                exchange: name(),
                identity: u128::MAX,
                window: 4096,
            }),
        ),
        (
            6,
            encode(&PublisherOpened {
                last_sequence: 1,
                window: 4096,
                window_bytes: 1 << 24,
            }),
        ),
        (
            7,
            encode(&Confirm {
                count: 3,
                outcome: Outcome::Routed { queues: 2 },
            }),
        ),
        (
            7,
            encode(&Confirm {
                count: 1,
                outcome: Outcome::Refused(error()),
            }),
        ),
        (
            8,
            encode(&OpenConsumer {
                queue: name(),
                tag: String::new(),
                exclusive: true,
                no_ack: false,
                start: Some(StartAt::Timestamp(300)),
            }),
        ),
        (
            9,
            encode(&ConsumerOpened {
                tag: name(),
                offset: Some(300),
            }),
        ),
        (
            10,
            encode(&Credit {
                messages: 256,
                bytes: 1 << 24,
            }),
        ),
        (
            11,
            encode(&Settle {
                count: 300,
                how: Settlement::Reject,
            }),
        ),
        (12, encode(&error())),
        (13, encode(&(about, full_message()))),
    ];
    assert!((0..METADATA).all(|kind| all.iter().any(|(k, _)| *k == kind)));
    all.into_iter()
        .map(|(kind, bytes)| [vec![kind], bytes].concat())
        .collect()
}

pub(crate) fn chunks() -> Vec<Vec<u8>> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1);
    let by = DecidedBy {
        router: RouterId(3),
        version: 300,
    };
    builder.push(ExchangeId(1), None, &encode(&small_message()), b"body");
    builder.push(ExchangeId(500), Some(by), &encode(&full_message()), &[9; 200]);
    builder.push(ExchangeId(0), None, b"", b"");
    vec![builder.finish().bytes().to_vec()]
}

/// Length of the references, references, records that have some.
pub(crate) fn sparse_chunks() -> Vec<Vec<u8>> {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(7), 1);
    for body in [b"one".as_slice(), b"two", b"three"] {
        builder.push(ExchangeId(1), None, b"", body);
    }
    let mut references = References::uniform(1, 2);
    references.push(1, 0);
    references.push(1, 1);
    let mut encoded = Vec::new();
    references.encode(&mut encoded);
    let sparse = builder.finish().without_dead(&references);
    vec![[&[encoded.len() as u8], encoded.as_slice(), &sparse.bytes()].concat()]
}

pub(crate) fn decisions() -> Vec<Vec<u8>> {
    let names = ["a", "b", "c", "d"];
    assert_eq!(names.len(), TARGETS as usize);
    let targets: Targets = names.into_iter().collect();
    let [a, b, d] = ["a", "b", "d"].map(|name| targets.named(name));
    let changed = Delivery::to(b)
        .routing_key("new.key")
        .priority(3)
        .without_header("old")
        .header("new", "value")
        .body("body");
    let pack = |decisions: [Decision; 3]| {
        let mut encoder = DecisionEncoder::new(decisions.len());
        decisions.iter().for_each(|decision| encoder.push(decision));
        encoder.finish()
    };
    vec![
        pack([
            Decision::to(a),
            Decision::Several([a, d].into_iter().collect()),
            Decision::Unroutable,
        ]),
        pack([
            Decision::Changed(vec![changed, Delivery::to(a)]),
            Decision::Reject("too late".into()),
            Decision::to(d),
        ]),
    ]
}

pub(crate) fn plans() -> Vec<Vec<u8>> {
    vec![
        Plan::new().encode(),
        Plan::new()
            .field(Field::RoutingKey)
            .header("region")
            .header("kind")
            .body_up_to(1000)
            .cacheable()
            .encode(),
    ]
}

pub(crate) fn target_lists() -> Vec<Vec<u8>> {
    vec![encode_targets(["eu", "us", ""].into_iter())]
}
