//! The bytes of every frame and of every variant, written out by hand from the definitions in `src/frame.rs` and
//! <https://postcard.jamesmunns.com/wire-format>. A change here breaks every client and broker that exists.
//!
//! Bytes are hexadecimal; `'text'` stands for its ASCII bytes, `AB*32` for 32 bytes AB, `#` begins a remark. Postcard
//! writes numbers and lengths as LEB128 varints (300 is `AC 02`, 2^20 is `80 80 40`), signed ones in zigzag (-1 is
//! `01`), a variant as its number, and strings and lists behind their length.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pointsman_protocol::admin::*;
use pointsman_protocol::consume::*;
use pointsman_protocol::frame::{self, Frame, Kind};
use pointsman_protocol::publish::*;
use pointsman_protocol::session::*;
use pointsman_protocol::{ErrorBody, ErrorCode, Fsync, MessageMeta, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes that a text in the notation above means.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for token in text
        .lines()
        .flat_map(|line| line.split('#').next())
        .flat_map(str::split_whitespace)
    {
        if let Some(literal) = token.strip_prefix('\'') {
            out.extend(literal.strip_suffix('\'').expect("a closing quote").bytes());
        } else if let Some((byte, times)) = token.split_once('*') {
            let byte = u8::from_str_radix(byte, 16).unwrap();
            out.extend(std::iter::repeat_n(byte, times.parse().unwrap()));
        } else {
            let digits: Vec<char> = token.chars().collect();
            assert!(digits.len().is_multiple_of(2), "half a byte in {token}");
            out.extend(digits.chunks(2).map(|pair| {
                u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap_or_else(|_| panic!("{token}"))
            }));
        }
    }
    out
}

/// Checks both directions of a value, and that no shorter text of bytes decodes.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, text: &str) {
    let expected = bytes(text);
    let mut out = BytesMut::new();
    frame::put_postcard(&mut out, value);
    assert_eq!(Bytes::from(expected.clone()), out, "{value:?}");
    assert_eq!(&postcard::from_bytes::<T>(&expected).unwrap(), value);
    for len in 0..expected.len() {
        assert!(
            postcard::from_bytes::<T>(&expected[..len]).is_err(),
            "{value:?} cut to {len}"
        );
    }
}

/// Checks both directions of a whole frame.
fn golden_frame(kind: Kind, flags: u8, id: u64, meta: &impl Serialize, body: &[u8], text: &str) {
    let expected = bytes(text);
    let mut out = BytesMut::new();
    frame::put(&mut out, kind, flags, id, meta, body);
    assert_eq!(Bytes::from(expected), out, "{kind:?}");
    let frame = Frame::take(&mut out, body.len() as u32).unwrap().unwrap();
    assert!(out.is_empty(), "{kind:?}");
    let header = frame.header;
    assert_eq!((header.kind, header.flags, header.id), (kind, flags, id));
    let mut meta_bytes = BytesMut::new();
    frame::put_postcard(&mut meta_bytes, meta);
    assert_eq!((frame.meta(), &*frame.body()), (&*meta_bytes, body), "{kind:?}");
}

/// Checks all values of an enum both ways, and that they have every variant: a new one does not compile here until it
/// is listed, and fails until it has golden bytes.
macro_rules! golden_variants {
    ($values:expr; $($variant:pat),+ $(,)?) => {
        let mut missing = vec![$(stringify!($variant)),+];
        for (value, text) in $values {
            golden(&value, &text.to_string());
            let name = match value { $($variant => stringify!($variant)),+ };
            missing.retain(|m| *m != name);
        }
        assert!(missing.is_empty(), "without golden bytes: {missing:?}");
    };
}

fn exchange() -> ExchangeSpec {
    ExchangeSpec {
        name: "x".into(),
        kind: ExchangeKind::Topic,
        durable: true,
        auto_delete: false,
        alternate: Some("alt".into()),
        router: None,
    }
}
const EXCHANGE: &str = "01 'x' 02 01 00 01 03 'alt' 00 ";

fn queue() -> QueueSpec {
    QueueSpec {
        name: "q".into(),
        durable: true,
        exclusive: false,
        auto_delete: true,
        fsync: Some(Fsync::Interval(300)),
        kind: QueueKind::Work,
        message_ttl_ms: Some(300),
    }
}
const QUEUE: &str = "01 'q' 01 00 01 01 01 AC02 00 01 AC02 ";

fn stream() -> QueueSpec {
    QueueSpec::stream("s")
        .max_age(Duration::from_millis(300))
        .max_messages(5)
}
const STREAM: &str = "01 's' 01 00 00 00 01 01 AC02 00 01 05 00 ";

fn binding() -> BindingSpec {
    BindingSpec {
        source: "x".into(),
        destination: Destination::Queue("q".into()),
        key: "k".into(),
        arguments: vec![("a".into(), Argument::Bool(true))],
    }
}
const BINDING: &str = "01 'x' 00 01 'q' 01 'k' 01 01 'a' 00 01 ";

fn version() -> RouterVersion {
    RouterVersion {
        router: "r".into(),
        version: 2,
        digest: [0xAB; 32],
        size: 1000,
        interface: Interface::Packed,
        config: b"{}".to_vec(),
        loaded_at: 1,
        active: true,
    }
}
const VERSION: &str = "01 'r' 02 AB*32 E807 01 02 '{}' 01 01 ";

fn error() -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, "no").hint("h")
}
const ERROR: &str = "AC02 02 'no' 01 'h' "; // NotFound is 300

#[test]
fn requests() {
    let name = || "n".to_owned();
    golden_variants! {
        [
            (Request::Status, "00".to_owned()),
            (Request::DeclareVhost(name()), "01 01 'n'".into()),
            (Request::DeleteVhost(name()), "02 01 'n'".into()),
            (Request::ListVhosts, "03".into()),
            (Request::DeclareExchange(exchange()), format!("04 {EXCHANGE}")),
            (Request::DeleteExchange { name: name(), if_unused: true }, "05 01 'n' 01".into()),
            (Request::ListExchanges(None), "06 00".into()),
            (Request::ListExchanges(Some(name())), "06 01 01 'n'".into()),
            (Request::DeclareQueue(queue()), format!("07 {QUEUE}")),
            (Request::DeclareQueue(stream()), format!("07 {STREAM}")),
            (Request::DeleteQueue { name: name(), if_unused: true, if_empty: false }, "08 01 'n' 01 00".into()),
            (Request::PurgeQueue(name()), "09 01 'n'".into()),
            (Request::ListQueues(Some(name())), "0A 01 01 'n'".into()),
            (Request::Bind(binding()), format!("0B {BINDING}")),
            (Request::Unbind(binding()), format!("0C {BINDING}")),
            (Request::ListBindings, "0D".into()),
            (
                Request::RouterLoad { name: name(), config: b"{}".to_vec(), activate: true },
                "0E 01 'n' 02 '{}' 01".into(),
            ),
            (Request::RouterActivate { name: name(), version: 300 }, "0F 01 'n' AC02".into()),
            (Request::RouterRollback(name()), "10 01 'n'".into()),
            (Request::RouterUnload { name: name(), version: None }, "11 01 'n' 00".into()),
            (Request::RouterUnload { name: name(), version: Some(3) }, "11 01 'n' 01 03".into()),
            (Request::ListRouters(None), "12 00".into()),
            (Request::RouterLogs { name: name(), count: 100 }, "13 01 'n' 64".into()),
            (Request::Explain { exchange: "x".into() }, "14 01 'x'".into()),
            (Request::RouterModule { name: name(), version: 300 }, "15 01 'n' AC02".into()),
            (Request::BackupBegin, "16".into()),
            (Request::BackupRead { file: 2, offset: 300 }, "17 02 AC02".into()),
            (Request::BackupEnd, "18".into()),
        ];
        Request::Status, Request::DeclareVhost(_), Request::DeleteVhost(_), Request::ListVhosts,
        Request::DeclareExchange(_), Request::DeleteExchange { .. }, Request::ListExchanges(_),
        Request::DeclareQueue(_), Request::DeleteQueue { .. }, Request::PurgeQueue(_), Request::ListQueues(_),
        Request::Bind(_), Request::Unbind(_), Request::ListBindings, Request::RouterLoad { .. },
        Request::RouterActivate { .. }, Request::RouterRollback(_), Request::RouterUnload { .. },
        Request::ListRouters(_), Request::RouterLogs { .. }, Request::Explain { .. },
        Request::RouterModule { .. }, Request::BackupBegin, Request::BackupRead { .. }, Request::BackupEnd,
    }
}

#[test]
fn replies() {
    let status = Status {
        version: "1".into(),
        data_dir: "/d".into(),
        uptime_ms: 1,
        fsync: "always".into(),
        connections: 2,
        exchanges: 3,
        queues: 4,
        bindings: 5,
        routers: 6,
        ready: 7,
        unsettled: 8,
        published: 9,
        delivered: 10,
        expired: 20,
        delayed: 21,
        commits: 11,
        blocked: Some("low".into()),
        store: vec![("n".into(), 12)],
    };
    let queue_info = QueueInfo {
        spec: queue(),
        ready: 300,
        unsettled: 1,
        consumers: 2,
        published: 3,
        acked: 4,
        redelivered: 5,
        expired: 300,
        delayed: 6,
        fsync: Fsync::Never,
        stream: Some(StreamInfo {
            first_offset: 1,
            next_offset: 301,
            bytes: 3,
        }),
    };
    let router = RouterInfo {
        name: "r".into(),
        active: Some(2),
        previous: None,
        versions: vec![version()],
        exchanges: vec!["x".into()],
        counters: RouterCounters {
            routed: 1,
            cached: 2,
            rejected: 3,
            batches: 4,
            busy_ns: 5,
            failures: 6,
            cache_off: Some(7),
        },
    };
    let event = RouterEvent {
        at: 1,
        version: 2,
        text: "ok".into(),
    };
    let step = ExplainStep {
        exchange: "x".into(),
        kind: ExchangeKind::Router,
        decided_by: "r2".into(),
        matched: vec![binding()],
        remark: String::new(),
    };
    let explanation = Explanation {
        steps: vec![step],
        queues: vec!["q".into()],
        rejected: Some("no".into()),
    };
    golden_variants! {
        [
            (Reply::Done, "00".to_owned()),
            (Reply::Error(error()), format!("01 {ERROR}")),
            (
                Reply::Status(Box::new(status)),
                "02 01 '1' 02 '/d' 01 06 'always' 02 03 04 05 06 07 08 09 0A 14 15 0B 01 03 'low' 01 01 'n' 0C".into(),
            ),
            (Reply::Names(vec!["a".into(), "b".into()]), "03 02 01 'a' 01 'b'".into()),
            (
                Reply::Exchanges(vec![ExchangeInfo { spec: exchange(), bindings: 2 }]),
                format!("04 01 {EXCHANGE} 02"),
            ),
            (Reply::Queues(vec![queue_info]), format!("05 01 {QUEUE} AC02 01 02 03 04 05 AC02 06 02 01 01 AD02 03")),
            (Reply::Bindings(vec![binding()]), format!("06 01 {BINDING}")),
            (Reply::Purged(300), "07 AC02".into()),
            (Reply::RouterVersion(version()), format!("08 {VERSION}")),
            (
                Reply::Routers(vec![router]),
                format!("09 01 01 'r' 01 02 00 01 {VERSION} 01 01 'x' 01 02 03 04 05 06 01 07"),
            ),
            (Reply::RouterLogs(vec![event]), "0A 01 01 02 02 'ok'".into()),
            (
                Reply::Explanation(explanation),
                format!("0B 01 01 'x' 05 02 'r2' 01 {BINDING} 00 01 01 'q' 01 02 'no'"),
            ),
            (Reply::RouterModule(b"wasm".to_vec()), "0C 04 'wasm'".into()),
            (
                Reply::Backup(vec![BackupFile { path: "ca.pem".into(), len: 300 }]),
                "0D 01 06 'ca.pem' AC02".into(),
            ),
            (Reply::BackupPart(vec![0, 255]), "0E 02 00 FF".into()),
        ];
        Reply::Done, Reply::Error(_), Reply::Status(_), Reply::Names(_), Reply::Exchanges(_), Reply::Queues(_),
        Reply::Bindings(_), Reply::Purged(_), Reply::RouterVersion(_), Reply::Routers(_), Reply::RouterLogs(_),
        Reply::Explanation(_), Reply::RouterModule(_), Reply::Backup(_), Reply::BackupPart(_),
    }
}

#[test]
fn parts_of_definitions() {
    golden_variants! {
        [
            (ExchangeKind::Direct, "00"), (ExchangeKind::Fanout, "01"), (ExchangeKind::Topic, "02"),
            (ExchangeKind::Headers, "03"), (ExchangeKind::ConsistentHash, "04"), (ExchangeKind::Router, "05"),
        ];
        ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers,
        ExchangeKind::ConsistentHash, ExchangeKind::Router,
    }
    golden_variants! {
        [(Interface::Typed, "00"), (Interface::Packed, "01"), (Interface::Core, "02")];
        Interface::Typed, Interface::Packed, Interface::Core,
    }
    golden_variants! {
        [(Destination::Queue("q".into()), "00 01 'q'"), (Destination::Exchange("x".into()), "01 01 'x'")];
        Destination::Queue(_), Destination::Exchange(_),
    }
    golden_variants! {
        [
            (Argument::Bool(true), "00 01"),
            (Argument::Int(-1), "01 01"),
            (Argument::Str("s".into()), "02 01 's'"),
            (Argument::Bytes(vec![1, 2]), "03 02 01 02"),
        ];
        Argument::Bool(_), Argument::Int(_), Argument::Str(_), Argument::Bytes(_),
    }
}

#[test]
fn outcomes_settlements_and_notices() {
    let reason = || "no".to_owned();
    golden_variants! {
        [
            (Outcome::Routed { queues: 300 }, "00 AC02".to_owned()),
            (Outcome::Unroutable, "01".into()),
            (Outcome::Rejected { reason: reason() }, "02 02 'no'".into()),
            (Outcome::Quarantined { reason: reason() }, "03 02 'no'".into()),
            (Outcome::Refused(error()), format!("04 {ERROR}")),
            (Outcome::Duplicate, "05".into()),
        ];
        Outcome::Routed { .. }, Outcome::Unroutable, Outcome::Rejected { .. }, Outcome::Quarantined { .. },
        Outcome::Refused(_), Outcome::Duplicate,
    }
    golden_variants! {
        [(Settlement::Ack, "00"), (Settlement::Requeue, "01"), (Settlement::Reject, "02")];
        Settlement::Ack, Settlement::Requeue, Settlement::Reject,
    }
    golden_variants! {
        [
            (Notice::GoAway { reason: reason() }, "00 02 'no'"),
            (Notice::Blocked { reason: reason() }, "01 02 'no'"),
            (Notice::Unblocked, "02"),
        ];
        Notice::GoAway { .. }, Notice::Blocked { .. }, Notice::Unblocked,
    }
}

/// Values of headers, which are borrowed and so have a test of their own.
#[test]
fn header_values() {
    let mut missing = vec!["Bool", "Int", "Float", "Str", "Bytes"];
    for (value, text) in [
        (Value::Bool(true), "00 01"),
        (Value::Int(-2), "01 03"),
        (Value::Float(1.5), "02 00*6 F83F"), // 1.5 is 3FF8 0000 0000 0000
        (Value::Str("s"), "03 01 's'"),
        (Value::Bytes(&[1, 2]), "04 02 01 02"),
    ] {
        let expected = bytes(text);
        let mut out = BytesMut::new();
        frame::put_postcard(&mut out, &value);
        assert_eq!(Bytes::from(expected.clone()), out);
        assert_eq!(postcard::from_bytes::<Value>(&expected).unwrap(), value);
        let name = match value {
            Value::Bool(_) => "Bool",
            Value::Int(_) => "Int",
            Value::Float(_) => "Float",
            Value::Str(_) => "Str",
            Value::Bytes(_) => "Bytes",
        };
        missing.retain(|m| *m != name);
    }
    assert!(missing.is_empty(), "without golden bytes: {missing:?}");
}

#[test]
fn error_codes() {
    let codes = [
        (100, "MalformedFrame"),
        (101, "OversizedFrame"),
        (102, "UnexpectedFrame"),
        (103, "SequenceOutOfOrder"),
        (104, "UnsupportedVersion"),
        (105, "UnknownDeliveryTag"),
        (200, "AuthenticationFailed"),
        (201, "AccessRefused"),
        (300, "NotFound"),
        (301, "PreconditionFailed"),
        (302, "InvalidArgument"),
        (303, "ResourceLocked"),
        (304, "InUse"),
        (305, "NotImplemented"),
        (400, "LimitReached"),
        (401, "MessageTooLarge"),
        (500, "ModuleInvalid"),
        (501, "ModuleConfigRefused"),
        (502, "ModuleFailed"),
        (600, "ShuttingDown"),
        (601, "StoreFailed"),
        (602, "Internal"),
    ];
    let known: Vec<(u16, &str)> = (0..=u16::MAX)
        .map(|number| (number, ErrorCode::from(number)))
        .filter(|(_, code)| !matches!(code, ErrorCode::Unknown(_)))
        .map(|(number, code)| (number, code.name()))
        .collect();
    assert_eq!(known, codes, "a code is new, or has changed");
    golden(&ErrorCode::NotFound, "AC02");
    golden(&ErrorCode::Unknown(999), "E707"); // a code of a later version survives
}

#[test]
fn frames_of_the_control_stream() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        client: "app".into(),
        vhost: "/".into(),
        user: "ann".into(),
        password: "pw".into(),
    };
    golden_frame(
        Kind::Hello,
        0,
        0,
        &hello,
        b"",
        "01 00 0000 10000000 00000000 0000000000000000 # kind, flags, zero, metadata of 16, no body, id
         01 01 00 03 'app' 01 '/' 03 'ann' 02 'pw'",
    );
    let welcome = Welcome {
        version: 1,
        features: 0,
        server: "pm".into(),
        connection: 7,
        body_max: 1 << 20,
    };
    golden_frame(
        Kind::Welcome,
        0,
        0,
        &welcome,
        b"",
        "02 00 0000 09000000 00000000 0000000000000000
         01 00 02 'pm' 07 808040",
    );
    golden_frame(
        Kind::Request,
        0,
        0x0102,
        &Request::Status,
        b"module",
        "03 00 0000 01000000 06000000 0201000000000000 # id 258
         00
         'module'",
    );
    let mut reply = BytesMut::new();
    Reply::Purged(300).put(&mut reply, 258);
    let expected = bytes("04 00 0000 00000000 03000000 0201000000000000 07 AC02 # a reply is a body");
    assert_eq!(reply, Bytes::from(expected));
    let frame = Frame::take(&mut reply, 3).unwrap().unwrap();
    assert_eq!(Reply::from_frame(&frame).unwrap(), Reply::Purged(300));
    golden_frame(
        Kind::Notice,
        0,
        0,
        &Notice::Unblocked,
        b"",
        "05 00 0000 01000000 00000000 0000000000000000
         02",
    );
    golden_frame(
        Kind::Close,
        0,
        0,
        &error(),
        b"",
        "3F 00 0000 07000000 00000000 0000000000000000
         AC02 02 'no' 01 'h'",
    );
}

#[test]
fn frames_of_a_publisher() {
    let open = OpenPublisher {
        exchange: "x".into(),
        identity: 300,
        window: 4096,
    };
    golden_frame(
        Kind::OpenPublisher,
        0,
        0,
        &open,
        b"",
        "10 00 0000 06000000 00000000 0000000000000000
         01 'x' AC02 8020 # 4096 is 2^12: 80 20",
    );
    let opened = PublisherOpened {
        last_sequence: 0,
        window: 4096,
        window_bytes: 1 << 20,
    };
    golden_frame(
        Kind::PublisherOpened,
        0,
        0,
        &opened,
        b"",
        "11 00 0000 06000000 00000000 0000000000000000
         00 8020 808040",
    );
    let meta = MessageMeta {
        routing_key: "k",
        persistent: true,
        priority: 9,
        message_id: Some("m"),
        timestamp: Some(1),
        expiration: None,
        delay: Some(300),
        content_type: Some("t"),
        content_encoding: None,
        correlation_id: None,
        reply_to: Some("r"),
        headers: vec![
            ("a", Value::Bool(true)),
            ("b", Value::Int(-1)),
            ("c", Value::Float(1.5)),
            ("d", Value::Str("s")),
            ("e", Value::Bytes(&[1, 2])),
        ],
    };
    golden_frame(
        Kind::Publish,
        0,
        1,
        &meta,
        b"body",
        "12 00 0000 34000000 04000000 0100000000000000 # metadata of 22 + 30 = 52
         01 'k'            # routing key
         01 09             # persistent, priority
         01 01 'm'         # message id
         01 01 00 01 AC02  # timestamp, no expiration, delay
         01 01 't' 00      # content type, no encoding
         00 01 01 'r'      # no correlation id, reply to
         05                # headers
         01 'a' 00 01
         01 'b' 01 01
         01 'c' 02 00*6 F83F
         01 'd' 03 01 's'
         01 'e' 04 02 01 02
         'body'",
    );
    let confirm = Confirm {
        count: 3,
        outcome: Outcome::Routed { queues: 1 },
    };
    golden_frame(
        Kind::Confirm,
        0,
        1,
        &confirm,
        b"",
        "13 00 0000 03000000 00000000 0100000000000000
         03 00 01",
    );
}

#[test]
fn frames_of_a_consumer() {
    let open = OpenConsumer {
        queue: "q".into(),
        tag: String::new(),
        exclusive: false,
        no_ack: true,
        start: Some(StartAt::Offset(300)),
    };
    golden_frame(
        Kind::OpenConsumer,
        0,
        0,
        &open,
        b"",
        "20 00 0000 09000000 00000000 0000000000000000
         01 'q' 00 00 01 01 03 AC02",
    );
    let opened = ConsumerOpened {
        tag: "c".into(),
        offset: Some(300),
    };
    golden_frame(
        Kind::ConsumerOpened,
        0,
        0,
        &opened,
        b"",
        "21 00 0000 05000000 00000000 0000000000000000
         01 'c' 01 AC02",
    );
    let credit = Credit {
        messages: 256,
        bytes: 1 << 20,
    };
    golden_frame(
        Kind::Credit,
        0,
        0,
        &credit,
        b"",
        "22 00 0000 05000000 00000000 0000000000000000
         8002 808040",
    );
    let about = DeliveryMeta {
        delivery_count: 1,
        exchange: "x",
        decided_by: "r2",
        place: Some(StreamPlace { offset: 300, time: 2 }),
    };
    let message = MessageMeta {
        routing_key: "k",
        ..MessageMeta::default()
    };
    golden_frame(
        Kind::Deliver,
        FLAG_REDELIVERED,
        2,
        &(about, message),
        b"b",
        "23 01 0000 17000000 01000000 0200000000000000 # redelivered; metadata of 10 + 13 = 23
         01 01 'x' 02 'r2' 01 AC02 02 # of the delivery
         01 'k' 00*11      # of the message
         'b'",
    );
    let settle = Settle {
        count: 4,
        how: Settlement::Requeue,
    };
    golden_frame(
        Kind::Settle,
        0,
        2,
        &settle,
        b"",
        "24 00 0000 02000000 00000000 0200000000000000
         04 01",
    );
}

/// Every kind has a golden frame above. One that is new does not compile here until it is listed.
#[test]
fn frame_kinds() {
    let mut known = 0;
    for number in 0..=u8::MAX {
        let Some(kind) = Kind::from_number(number) else {
            continue;
        };
        known += 1;
        let expected = match kind {
            Kind::Hello => 1,
            Kind::Welcome => 2,
            Kind::Request => 3,
            Kind::Reply => 4,
            Kind::Notice => 5,
            Kind::OpenPublisher => 16,
            Kind::PublisherOpened => 17,
            Kind::Publish => 18,
            Kind::Confirm => 19,
            Kind::OpenConsumer => 32,
            Kind::ConsumerOpened => 33,
            Kind::Credit => 34,
            Kind::Deliver => 35,
            Kind::Settle => 36,
            Kind::Close => 63,
        };
        assert_eq!((number, kind as u8), (expected, expected));
    }
    assert_eq!(known, 15);
}
