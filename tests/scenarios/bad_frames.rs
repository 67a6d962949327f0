//! A malformed, oversized or out-of-order frame closes that stream or connection with a named error code and touches
//! nobody else.

use bytes::{BufMut, BytesMut};
use pointsman_protocol::consume::{Settle, Settlement};
use pointsman_protocol::frame::Kind;
use pointsman_protocol::limits::{FRAME_BODY_MAX, FRAME_META_MAX};
use pointsman_protocol::publish::Confirm;
use pointsman_protocol::session::Hello;
use pointsman_protocol::{ALPN, ErrorCode, VERSION};
use pointsman_sdk::QueueSpec;
use pointsman_tests::raw::{End, RawClient, config, hello};
use pointsman_tests::{Broker, Settings};
use quinn::Endpoint;

use crate::{publish, take};

/// A fixed header by hand.
fn header(kind: u8, reserved: u16, meta_len: u32, body_len: u32, id: u64) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    out.put_u8(0);
    out.put_u16_le(reserved);
    out.put_u32_le(meta_len);
    out.put_u32_le(body_len);
    out.put_u64_le(id);
    out
}

const PUBLISH: u8 = Kind::Publish as u8;

#[tokio::test]
async fn bad_bytes_on_a_publishers_stream_close_that_stream_and_no_other() {
    let broker = Broker::start();
    let bystander = broker.client().await;
    bystander.declare_queue(QueueSpec::new("q")).await.unwrap();
    let raw = RawClient::authenticated(&broker).await;
    let mut neighbour = raw.publisher().await;

    let offences = [
        (
            "an unknown kind",
            header(200, 0, 0, 0, 1),
            ErrorCode::MalformedFrame,
        ),
        (
            "a reserved field in use",
            header(PUBLISH, 1, 0, 0, 1),
            ErrorCode::MalformedFrame,
        ),
        (
            "metadata over the limit",
            header(PUBLISH, 0, FRAME_META_MAX + 1, 0, 1),
            ErrorCode::OversizedFrame,
        ),
        (
            "a body over the limit",
            header(PUBLISH, 0, 0, FRAME_BODY_MAX + 1, 1),
            ErrorCode::MessageTooLarge,
        ),
        (
            "a kind the client may not send",
            header(Kind::Confirm as u8, 0, 0, 0, 1),
            ErrorCode::UnexpectedFrame,
        ),
    ];
    for (what, bytes, code) in offences {
        let mut stream = raw.publisher().await;
        stream.bytes(&bytes).await;
        assert_eq!(stream.end().await, End::Close(code), "{what}");
        // The publisher beside it, on the same connection, goes on.
        neighbour.publish(next(), "q", what.as_bytes()).await;
        assert_eq!(neighbour.frame().await.header.kind, Kind::Confirm, "after {what}");
    }
    publish(&bystander, "", "q", "still here").await;
    assert_eq!(take(&bystander, "q", 6).await.len(), 6);
}

#[tokio::test]
async fn metadata_that_does_not_decode_closes_its_publisher_and_what_came_before_is_taken() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let raw = RawClient::authenticated(&broker).await;
    let mut publisher = raw.publisher().await;
    let mut neighbour = raw.publisher().await;
    publisher.publish(1, "q", b"before").await;
    let mut undecodable = header(PUBLISH, 0, 3, 0, 2);
    undecodable.extend_from_slice(&[0xff; 3]);
    publisher.bytes(&undecodable).await;
    assert_eq!(publisher.end().await, End::Close(ErrorCode::MalformedFrame));
    neighbour.publish(1, "q", b"beside").await;
    let confirm: Confirm = neighbour.frame().await.decode().unwrap();
    assert_eq!(confirm.outcome, crate::routed(1));
    assert_eq!(take(&client, "q", 2).await.len(), 2);
}

/// Rising numbers.
fn next() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn sequence_numbers_that_do_not_rise_close_the_publisher() {
    let broker = Broker::start();
    broker
        .client()
        .await
        .declare_queue(QueueSpec::new("q"))
        .await
        .unwrap();
    let raw = RawClient::authenticated(&broker).await;
    let mut publisher = raw.publisher().await;
    publisher.publish(5, "q", b"first").await;
    assert_eq!(publisher.frame().await.header.kind, Kind::Confirm);
    publisher.publish(7, "q", b"second").await;
    publisher.publish(6, "q", b"backwards").await;
    assert_eq!(publisher.end().await, End::Close(ErrorCode::SequenceOutOfOrder));
}

#[tokio::test]
async fn settling_what_was_never_delivered_closes_the_consumer() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    publish(&client, "", "q", "one").await;
    let raw = RawClient::authenticated(&broker).await;
    for (first, count) in [(1, 1), (1, 0), (u64::MAX, 2), (0, u32::MAX)] {
        let mut consumer = raw.consumer("q").await;
        let settle = Settle {
            count,
            how: Settlement::Ack,
        };
        consumer.put(Kind::Settle, first, &settle, b"").await;
        let end = consumer.end().await;
        assert!(
            matches!(
                end,
                End::Close(ErrorCode::UnknownDeliveryTag | ErrorCode::MalformedFrame)
            ),
            "{count} from {first}: {end:?}"
        );
    }
    assert_eq!(take(&client, "q", 1).await, ["one"]);
}

#[tokio::test]
async fn a_stream_that_does_not_open_as_one_is_closed() {
    let broker = Broker::start();
    let raw = RawClient::authenticated(&broker).await;
    let mut stream = raw.stream().await;
    stream.publish(1, "q", b"too early").await;
    assert_eq!(stream.end().await, End::Close(ErrorCode::UnexpectedFrame));
}

#[tokio::test]
async fn bad_bytes_on_the_control_stream_close_that_connection_and_no_other() {
    let broker = Broker::start();
    let bystander = broker.client().await;
    let offences = [
        (
            "an unknown kind",
            header(99, 0, 0, 0, 1),
            ErrorCode::MalformedFrame,
        ),
        (
            "a reply from a client",
            header(Kind::Reply as u8, 0, 0, 0, 1),
            ErrorCode::UnexpectedFrame,
        ),
        (
            "a request over the limit",
            header(Kind::Request as u8, 0, FRAME_META_MAX + 1, 0, 1),
            ErrorCode::OversizedFrame,
        ),
    ];
    for (what, bytes, code) in offences {
        let mut raw = RawClient::authenticated(&broker).await;
        raw.control.bytes(&bytes).await;
        assert_eq!(raw.closed().await, code, "{what}");
        bystander.status().await.unwrap();
    }
}

#[tokio::test]
async fn nothing_but_hello_is_taken_from_a_client_that_has_not_said_who_it_is() {
    let broker = Broker::start();
    let mut raw = RawClient::connect(&broker).await;
    raw.control
        .put(Kind::Request, 1, &pointsman_protocol::admin::Request::Status, b"")
        .await;
    assert_eq!(raw.closed().await, ErrorCode::UnexpectedFrame);
}

#[tokio::test]
async fn a_hello_that_does_not_fit_is_refused_with_its_reason() {
    let broker = Broker::start();
    let right = hello(&broker);
    let wrong = [
        (
            Hello {
                password: "guess".into(),
                ..right.clone()
            },
            ErrorCode::AuthenticationFailed,
        ),
        (
            Hello {
                user: "nobody".into(),
                ..right.clone()
            },
            ErrorCode::AuthenticationFailed,
        ),
        (
            Hello {
                vhost: "elsewhere".into(),
                ..right.clone()
            },
            ErrorCode::NotFound,
        ),
        (
            Hello {
                version_min: VERSION + 1,
                version_max: VERSION + 5,
                ..right
            },
            ErrorCode::UnsupportedVersion,
        ),
    ];
    for (hello, code) in wrong {
        let mut raw = RawClient::connect(&broker).await;
        raw.control.put(Kind::Hello, 0, &hello, b"").await;
        assert_eq!(raw.closed().await, code, "{} in {}", hello.user, hello.vhost);
    }
}

#[tokio::test]
async fn another_protocol_is_refused_in_the_handshake() {
    let broker = Broker::start();
    let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    endpoint.set_default_client_config(config(&broker, b"h3"));
    assert!(
        endpoint
            .connect(broker.address(), "localhost")
            .unwrap()
            .await
            .is_err()
    );
    endpoint.set_default_client_config(config(&broker, ALPN));
    endpoint
        .connect(broker.address(), "localhost")
        .unwrap()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_body_over_the_configured_maximum_is_refused_before_it_is_received() {
    let broker = Broker::with(Settings::default().args(["--body-max", "1000"]));
    let raw = RawClient::authenticated(&broker).await;
    let mut publisher = raw.publisher().await;
    // The header alone; the body never comes.
    publisher.bytes(&header(PUBLISH, 0, 0, 1001, 1)).await;
    assert_eq!(publisher.end().await, End::Close(ErrorCode::MessageTooLarge));
}
