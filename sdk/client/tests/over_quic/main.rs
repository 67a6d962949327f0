//! The client against a peer that does just what each test says.

#![allow(missing_docs, reason = "tests are named, not documented")]

mod consumers;
mod fake;

use std::time::{Duration, UNIX_EPOCH};

use fake::{Fake, Peer, Stream};
use futures_util::{FutureExt, StreamExt};
use pointsman_protocol::consume::{
    ConsumerOpened, Credit, DeliveryMeta, FLAG_REDELIVERED, OpenConsumer, Settle, Settlement, StreamPlace,
};
use pointsman_protocol::frame::{self, HEADER_LEN, Header, Kind};
use pointsman_protocol::publish::{Confirm, OpenPublisher, PublisherOpened};
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_sdk::{
    Bytes, Client, Confirmation, Consumer, Error, Message, MessageMeta, Notice, Outcome, Publisher,
    QueueSpec, Reply, Request, StartAt,
};

const ROUTED: Outcome = Outcome::Routed { queues: 1 };

/// A publisher with that window, and the peer's end of its stream.
async fn publisher(client: &Client, peer: &Peer, window: u32) -> (Publisher, Stream, OpenPublisher) {
    let opened = PublisherOpened {
        last_sequence: 0,
        window,
        window_bytes: 1 << 20,
    };
    let (publisher, (stream, open)) = tokio::join!(
        client.publisher_builder("x").window(window).open(),
        peer.accept(Kind::OpenPublisher, Kind::PublisherOpened, &opened),
    );
    (publisher.unwrap(), stream, open)
}

async fn reopened_publisher(peer: &Peer) -> (Stream, OpenPublisher) {
    let opened = PublisherOpened {
        last_sequence: 0,
        window: 100,
        window_bytes: 1 << 20,
    };
    peer.accept(Kind::OpenPublisher, Kind::PublisherOpened, &opened)
        .await
}

fn opened(tag: &str) -> ConsumerOpened {
    ConsumerOpened {
        tag: tag.to_owned(),
        offset: None,
    }
}

/// A consumer with that prefetch, and the peer's end of its stream.
async fn consumer(client: &Client, peer: &Peer, prefetch: u32) -> (Consumer, Stream) {
    let opened = opened("c-1");
    let (consumer, (mut stream, _)) = tokio::join!(
        client.consumer("q").prefetch(prefetch).open(),
        peer.accept::<OpenConsumer>(Kind::OpenConsumer, Kind::ConsumerOpened, &opened),
    );
    let credit: Credit = stream.take(Kind::Credit).await.1;
    assert_eq!(credit.messages, prefetch);
    (consumer.unwrap(), stream)
}

async fn confirm(stream: &mut Stream, first: u64, count: u32, outcome: Outcome) {
    stream
        .put(Kind::Confirm, 0, first, &Confirm { count, outcome }, b"")
        .await;
}

async fn deliver(stream: &mut Stream, tag: u64, flags: u8, body: &[u8]) {
    deliver_placed(stream, tag, flags, body, None).await;
}

async fn deliver_placed(stream: &mut Stream, tag: u64, flags: u8, body: &[u8], place: Option<StreamPlace>) {
    let about = DeliveryMeta {
        delivery_count: 2,
        exchange: "orders",
        decided_by: "split@3",
        place,
    };
    let message = MessageMeta {
        routing_key: "order.eu",
        headers: vec![("a", pointsman_sdk::Value::Int(7))],
        ..MessageMeta::default()
    };
    stream
        .put(Kind::Deliver, flags, tag, &(about, message), body)
        .await;
}

async fn sequence(stream: &mut Stream) -> u64 {
    let frame = stream.next().await.expect("a publish");
    assert_eq!(frame.header.kind, Kind::Publish);
    frame.header.id
}

async fn publish(publisher: &Publisher, body: &'static str) -> Confirmation {
    publisher.publish(Message::new(body)).await.unwrap()
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_its_code() {
    let fake = Fake::start();
    let refuse = async {
        let (connection, mut control, hello) = fake.accept_hello().await;
        assert_eq!((&*hello.user, &*hello.password), ("ann", "secret"));
        let error = ErrorBody::new(ErrorCode::AuthenticationFailed, "wrong user or password");
        control.put(Kind::Close, 0, 0, &error, b"").await;
        connection.close(200u32.into(), b"wrong user or password");
    };
    let (client, ()) = tokio::join!(fake.builder().connect(), refuse);
    let error = client.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::AuthenticationFailed));
    assert_eq!(error.to_string(), "wrong user or password");
}

#[tokio::test]
async fn a_broker_of_another_ca_is_not_trusted_and_the_error_says_what_to_do() {
    let (fake, other) = (Fake::start(), Fake::start());
    let connecting = fake.builder().ca_pem(other.ca_pem).connect();
    let error = tokio::select! {
        client = connecting => client.err().unwrap().to_string(),
        _ = fake.accept() => unreachable!("it must not greet"),
    };
    assert!(error.contains("not signed by the given CA"), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_trusted_and_the_error_says_what_to_do() {
    let fake = Fake::start();
    let connecting = fake.builder().server_name("broker.example").connect();
    let error = tokio::select! {
        client = connecting => client.err().unwrap().to_string(),
        _ = fake.accept() => unreachable!("it must not greet"),
    };
    assert!(error.contains("\"broker.example\""), "{error}");
}

#[tokio::test]
async fn nobody_there_is_a_connect_error_with_a_hint() {
    // A socket that never answers, so that no other program's does.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Fake::start()
        .builder()
        .server(silent.local_addr().unwrap().to_string())
        .connect_timeout(Duration::from_millis(50))
        .connect()
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("is the broker running there"),
        "{error}"
    );
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let fake = Fake::start();
    let (client, mut peer) = fake.connected().await;
    let answers = async {
        let (first, request, _) = peer.control.take::<Request>(Kind::Request).await;
        assert_eq!(request, Request::PurgeQueue("a".into()));
        let (second, _, _) = peer.control.take::<Request>(Kind::Request).await;
        peer.control.reply(second, Reply::Purged(2)).await;
        peer.control.reply(first, Reply::Purged(1)).await;
    };
    let (a, b, ()) = tokio::join!(client.purge_queue("a"), client.purge_queue("b"), answers);
    assert_eq!((a.unwrap(), b.unwrap()), (1, 2));
}

#[tokio::test]
async fn a_request_in_flight_fails_when_the_connection_is_lost_and_the_next_one_waits_for_another() {
    let fake = Fake::start();
    let (client, mut peer) = fake.connected().await;
    let lose = async {
        peer.control.take::<Request>(Kind::Request).await;
        peer.vanish();
    };
    let (lost, ()) = tokio::join!(client.vhosts(), lose);
    assert!(matches!(lost, Err(Error::Disconnected { .. })), "{lost:?}");

    let answer = async {
        let mut peer = fake.accept().await;
        let (id, _, _) = peer.control.take::<Request>(Kind::Request).await;
        peer.control.reply(id, Reply::Names(vec!["/".into()])).await;
        peer
    };
    let (names, _peer) = tokio::join!(client.vhosts(), answer);
    assert_eq!(names.unwrap(), ["/"]);
}

#[tokio::test]
async fn without_reconnect_everything_ends_with_the_connection() {
    let fake = Fake::start();
    let (client, peer) = tokio::join!(fake.builder().reconnect(false).connect(), fake.accept());
    let client = client.unwrap();
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let (mut consumer, _consumer_stream) = consumer(&client, &peer, 10).await;
    let unconfirmed = publish(&publisher, "a").await;
    sequence(&mut stream).await;
    peer.vanish();
    assert!(matches!(unconfirmed.await, Err(Error::Disconnected { .. })));
    assert!(matches!(
        consumer.recv().await,
        Some(Err(Error::Disconnected { .. }))
    ));
    assert!(consumer.recv().await.is_none());
    assert!(client.status().await.is_err());
    assert!(publisher.flush().await.is_err());
}

#[tokio::test]
async fn confirms_resolve_single_messages_and_ranges_with_their_outcomes() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let one = publish(&publisher, "one").await;
    let two = publish(&publisher, "two").await;
    let three = publish(&publisher, "three").await;
    for expected in 1..=3 {
        assert_eq!(sequence(&mut stream).await, expected);
    }
    confirm(&mut stream, 2, 2, ROUTED).await;
    confirm(&mut stream, 1, 1, Outcome::Unroutable).await;
    assert_eq!(one.await.unwrap(), Outcome::Unroutable);
    assert_eq!(two.await.unwrap(), ROUTED);
    assert_eq!(three.await.unwrap(), ROUTED);
    publisher.flush().await.unwrap();
}

#[tokio::test]
async fn a_full_window_holds_publishes_back_until_the_oldest_is_confirmed() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 2).await;
    let _one = publish(&publisher, "one").await;
    let two = publish(&publisher, "two").await;
    let mut three = Box::pin(publisher.publish(Message::new("three")));
    assert!((&mut three).now_or_never().is_none());

    assert_eq!(sequence(&mut stream).await, 1);
    assert_eq!(sequence(&mut stream).await, 2);
    confirm(&mut stream, 2, 1, ROUTED).await;
    two.await.unwrap();
    assert!((&mut three).now_or_never().is_none(), "one is still unconfirmed");
    confirm(&mut stream, 1, 1, ROUTED).await;
    let _three = three.await.unwrap();
    assert_eq!(sequence(&mut stream).await, 3);
}

#[tokio::test]
async fn a_batch_larger_than_the_window_is_confirmed_as_one() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 64).await;
    let answer = async {
        for expected in 1..=1000 {
            assert_eq!(sequence(&mut stream).await, expected);
            let outcome = if expected % 10 == 0 {
                Outcome::Unroutable
            } else {
                ROUTED
            };
            confirm(&mut stream, expected, 1, outcome).await;
        }
    };
    let messages = (0..1000).map(|i| Message::new(format!("{i}")).key(format!("k{i}")));
    let publish = async { publisher.publish_all(messages).await.unwrap().await.unwrap() };
    let (outcome, ()) = tokio::join!(publish, answer);
    assert_eq!((outcome.routed, outcome.unroutable), (900, 100));
    assert_eq!(outcome.messages(), 1000);
    assert_eq!(outcome.first_failure, Some(Outcome::Unroutable));
    assert!(!outcome.is_success());
}

#[tokio::test]
async fn bodies_arrive_whole_whatever_their_size() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let bodies: Vec<Bytes> = [0, 1, 16 * 1024 - 1, 16 * 1024, 70_000, 1 << 20, 3]
        .into_iter()
        .map(|len| (0..len).map(|i| i as u8).collect())
        .collect();
    let receive = async {
        for body in &bodies {
            let frame = stream.next().await.unwrap();
            assert!(frame.body() == body, "a body of {}", body.len());
            assert_eq!(
                MessageMeta::decode(frame.meta()).unwrap().header("n"),
                Some(&pointsman_sdk::Value::Int(body.len() as i64))
            );
            confirm(&mut stream, frame.header.id, 1, ROUTED).await;
        }
    };
    let send = async {
        let mut confirmations = Vec::new();
        for body in &bodies {
            let message = Message::new(body.clone()).header("n", body.len() as i64);
            confirmations.push(publisher.publish(message).await.unwrap());
        }
        publisher.flush().await.unwrap();
        for confirmation in confirmations {
            assert_eq!(confirmation.await.unwrap(), ROUTED);
        }
    };
    tokio::join!(receive, send);
    let too_large = publisher.publish(Message::new(vec![0; (1 << 20) + 1])).await;
    assert!(matches!(too_large, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn after_a_loss_only_what_is_unconfirmed_is_sent_again_under_the_same_numbers() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, open) = publisher(&client, &peer, 100).await;
    let one = publish(&publisher, "one").await;
    let two = publish(&publisher, "two").await;
    let large = Message::new(vec![3; 50_000]);
    let three = publisher.publish(large).await.unwrap();
    for expected in 1..=3 {
        assert_eq!(sequence(&mut stream).await, expected);
    }
    confirm(&mut stream, 2, 1, ROUTED).await;
    two.await.unwrap();
    peer.vanish();
    let four = publish(&publisher, "four").await;

    let peer = fake.accept().await;
    let (mut stream, reopened) = reopened_publisher(&peer).await;
    assert_eq!(reopened.identity, open.identity);
    for (number, body) in [(1, &b"one"[..]), (3, &[3; 50_000][..]), (4, &b"four"[..])] {
        let frame = stream.next().await.unwrap();
        assert_eq!((frame.header.id, frame.body().len()), (number, body.len()));
        assert!(frame.body() == body);
    }
    confirm(&mut stream, 1, 1, Outcome::Duplicate).await;
    confirm(&mut stream, 3, 2, ROUTED).await;
    assert_eq!(one.await.unwrap(), Outcome::Duplicate);
    assert_eq!(three.await.unwrap(), ROUTED);
    assert_eq!(four.await.unwrap(), ROUTED);
}

#[tokio::test]
async fn a_publisher_whose_stream_is_refused_ends_with_the_reason() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let unconfirmed = publish(&publisher, "one").await;
    let error = ErrorBody::new(ErrorCode::NotFound, "the exchange \"x\" was deleted");
    stream.put(Kind::Close, 0, 0, &error, b"").await;
    assert_eq!(unconfirmed.await.unwrap_err().code(), Some(ErrorCode::NotFound));
    let next = publisher.publish(Message::new("two")).await;
    assert_eq!(next.unwrap_err().code(), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn a_confirm_of_what_was_never_published_ends_the_publisher() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let unconfirmed = publish(&publisher, "one").await;
    sequence(&mut stream).await;
    confirm(&mut stream, 1, 2, ROUTED).await;
    assert!(matches!(unconfirmed.await, Err(Error::Protocol(_))));
}

#[tokio::test]
async fn garbage_from_the_broker_ends_only_the_stream_it_came_on() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (good, mut good_stream, _) = publisher(&client, &peer, 10).await;
    let (bad, mut bad_stream, _) = publisher(&client, &peer, 10).await;
    let unconfirmed = publish(&bad, "one").await;
    bad_stream.write(&[0xFF; 64]).await;
    assert!(matches!(unconfirmed.await, Err(Error::Protocol(_))));
    let confirmation = publish(&good, "two").await;
    sequence(&mut good_stream).await;
    confirm(&mut good_stream, 1, 1, ROUTED).await;
    confirmation.await.unwrap();
}

#[tokio::test]
async fn closing_waits_for_confirms_and_for_the_broker_to_take_the_settlements() {
    let fake = Fake::start();
    let (client, mut peer) = fake.connected().await;
    let (publisher, mut publishes, _) = publisher(&client, &peer, 10).await;
    let (mut consumer, mut deliveries) = consumer(&client, &peer, 4).await;
    deliver(&mut deliveries, 1, 0, b"").await;
    let delivery = consumer.recv().await.unwrap().unwrap();
    let confirmation = publish(&publisher, "last").await;
    delivery.ack();
    let mut closing = Box::pin(client.close());
    assert!((&mut closing).now_or_never().is_none());

    let script = async {
        assert_eq!(sequence(&mut publishes).await, 1);
        assert_eq!(deliveries.take::<Settle>(Kind::Settle).await.0, 1);
        while deliveries.next().await.is_some() {}
        deliveries.finish().await;
        confirm(&mut publishes, 1, 1, ROUTED).await;
        assert!(publishes.next().await.is_none(), "the publisher ends its stream");
        peer.connection.closed().await;
    };
    tokio::join!(closing, script);
    assert_eq!(confirmation.await.unwrap(), ROUTED);
    assert!(consumer.recv().await.is_none());
    assert!(matches!(
        publisher.publish(Message::new("late")).await,
        Err(Error::Closed { .. })
    ));
    assert!(matches!(
        client.declare_queue(QueueSpec::new("q")).await,
        Err(Error::Closed { .. })
    ));
    let _ = &mut peer.control;
}

#[tokio::test]
async fn a_publisher_outlives_the_client_handle_and_drains_when_dropped() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    drop(client);
    let confirmation = publish(&publisher, "one").await;
    drop(publisher);
    assert_eq!(sequence(&mut stream).await, 1);
    confirm(&mut stream, 1, 1, ROUTED).await;
    assert_eq!(confirmation.await.unwrap(), ROUTED);
    assert!(stream.next().await.is_none());
    peer.connection.closed().await;
}

#[tokio::test]
async fn going_away_waits_for_confirms_and_moves_on_to_a_new_connection() {
    let fake = Fake::start();
    let (client, mut peer) = fake.connected().await;
    let mut notices = client.notices();
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let one = publish(&publisher, "one").await;
    assert_eq!(sequence(&mut stream).await, 1);
    let going = Notice::GoAway {
        reason: "maintenance".into(),
    };
    peer.control.put(Kind::Notice, 0, 0, &going, b"").await;
    assert_eq!(notices.recv().await, Some(going));
    let two = publish(&publisher, "two").await;
    confirm(&mut stream, 1, 1, ROUTED).await;
    assert_eq!(one.await.unwrap(), ROUTED);
    assert!(
        stream.ends().await,
        "nothing new is sent on the connection that goes"
    );
    peer.connection.closed().await;

    let peer = fake.accept().await;
    let (mut stream, _) = reopened_publisher(&peer).await;
    assert_eq!(sequence(&mut stream).await, 2);
    confirm(&mut stream, 2, 1, ROUTED).await;
    two.await.unwrap();
}

#[tokio::test]
async fn a_frame_cut_anywhere_is_put_together_again() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (publisher, mut stream, _) = publisher(&client, &peer, 10).await;
    let confirmation = publish(&publisher, "one").await;
    sequence(&mut stream).await;
    let mut bytes = bytes::BytesMut::new();
    let meta = Confirm {
        count: 1,
        outcome: Outcome::Rejected {
            reason: "too late".into(),
        },
    };
    frame::put(&mut bytes, Kind::Confirm, 0, 1, &meta, b"");
    assert!(bytes.len() > HEADER_LEN);
    let header = bytes.first_chunk().unwrap();
    assert_eq!(Header::decode(header, 0).unwrap().frame_len(), bytes.len());
    for byte in bytes {
        stream.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(
        confirmation.await.unwrap(),
        Outcome::Rejected {
            reason: "too late".into()
        }
    );
}

#[tokio::test]
async fn a_configuration_longer_than_a_frame_holds_is_refused_before_it_is_sent() {
    let fake = Fake::start();
    let (client, _peer) = fake.connected().await;
    let loaded = client.router_load("r", "module", vec![0; 300_000], true).await;
    assert!(matches!(loaded, Err(Error::TooLarge { .. })), "{loaded:?}");
}
