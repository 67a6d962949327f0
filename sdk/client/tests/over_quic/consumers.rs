//! A consumer against that peer.

use super::*;

#[tokio::test]
async fn a_delivery_shows_what_the_broker_said_of_it() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (mut consumer, mut stream) = consumer(&client, &peer, 10).await;
    assert_eq!(consumer.tag(), "c-1");
    deliver(&mut stream, 1, FLAG_REDELIVERED, b"body").await;
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!(delivery.body(), "body");
    assert_eq!(delivery.routing_key(), "order.eu");
    assert_eq!(delivery.header("a"), Some(pointsman_sdk::Value::Int(7)));
    assert_eq!(delivery.exchange(), "orders");
    assert_eq!(delivery.decided_by(), "split@3");
    assert_eq!(delivery.delivery_count(), 2);
    assert!(delivery.redelivered());
}

#[tokio::test]
async fn settlements_travel_as_ranges_and_credit_comes_back_in_halves() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (mut consumer, mut stream) = consumer(&client, &peer, 8).await;
    for tag in 1..=8 {
        deliver(&mut stream, tag, 0, b"").await;
    }
    let mut deliveries = Vec::new();
    for _ in 0..8 {
        deliveries.push(consumer.recv().await.unwrap().unwrap());
    }
    // Nothing runs between these on a current-thread runtime, so they are written together.
    deliveries.remove(3).nack(true);
    deliveries.remove(6).reject();
    deliveries.into_iter().for_each(|d| d.ack());
    consumer.flush().await.unwrap();
    let mut settled = Vec::new();
    for _ in 0..4 {
        let (first, settle, _) = stream.take::<Settle>(Kind::Settle).await;
        settled.push((first, settle.count, settle.how));
    }
    assert_eq!(
        settled,
        [
            (1, 3, Settlement::Ack),
            (4, 1, Settlement::Requeue),
            (5, 3, Settlement::Ack),
            (8, 1, Settlement::Reject)
        ]
    );
    assert_eq!(stream.take::<Credit>(Kind::Credit).await.1.messages, 8);
}

#[tokio::test]
async fn an_acknowledgement_that_nobody_waits_for_travels_too() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (mut consumer, mut stream) = consumer(&client, &peer, 8).await;
    deliver(&mut stream, 1, 0, b"").await;
    consumer.recv().await.unwrap().unwrap().ack();
    // The broker has credit left, and neither a flush nor another delivery comes.
    let (first, settle, _) = stream.take::<Settle>(Kind::Settle).await;
    assert_eq!((first, settle.count, settle.how), (1, 1, Settlement::Ack));
}

#[tokio::test]
async fn a_consumer_whose_settlements_are_not_read_holds_up_no_other_and_loses_none() {
    const MANY: u64 = 200;
    let mut transport = quinn::TransportConfig::default();
    // Room for a tenth of them.
    transport.stream_receive_window(500u32.into());
    let fake = Fake::start_with(transport);
    let (client, peer) = fake.connected().await;
    let (mut blocked, mut unread) = consumer(&client, &peer, 1_000).await;
    let (mut other, mut read) = consumer(&client, &peer, 10).await;
    // In turn, so that no two become a range.
    let how = |tag: u64| [Settlement::Requeue, Settlement::Reject][tag as usize % 2];
    for tag in 1..=MANY {
        deliver(&mut unread, tag, 0, b"").await;
        let delivery = blocked.recv().await.unwrap().unwrap();
        delivery.nack(how(tag) == Settlement::Requeue);
    }
    for tag in 1..=3 {
        deliver(&mut read, tag, 0, b"").await;
        other.recv().await.unwrap().unwrap().ack();
        other.flush().await.unwrap();
        assert_eq!(read.take::<Settle>(Kind::Settle).await.0, tag);
    }
    assert!(blocked.flush().now_or_never().is_none(), "there is no room");
    for tag in 1..=MANY {
        let (first, settle, _) = unread.take::<Settle>(Kind::Settle).await;
        assert_eq!((first, settle.count, settle.how), (tag, 1, how(tag)));
    }
    blocked.flush().await.unwrap();
}

#[tokio::test]
async fn a_consumer_without_acks_gives_credit_back_as_it_is_read() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let opened = opened("c");
    let (consumer, (mut stream, open)) = tokio::join!(
        client.consumer("q").prefetch(4).no_ack(true).open(),
        peer.accept::<OpenConsumer>(Kind::OpenConsumer, Kind::ConsumerOpened, &opened),
    );
    assert!(open.no_ack);
    let mut consumer = consumer.unwrap();
    assert_eq!(stream.take::<Credit>(Kind::Credit).await.1.messages, 4);
    for tag in 1..=4 {
        deliver(&mut stream, tag, 0, b"").await;
    }
    for _ in 0..2 {
        consumer.recv().await.unwrap().unwrap().ack();
    }
    // Acks of such a consumer are not sent, so the next frame is the credit.
    assert_eq!(stream.take::<Credit>(Kind::Credit).await.1.messages, 2);
}

#[tokio::test]
async fn after_a_loss_a_reader_of_a_stream_goes_on_behind_what_was_taken() {
    let fake = Fake::start();
    let (client, mut peer) = fake.connected().await;
    let opened = |offset| ConsumerOpened {
        tag: "c-1".to_owned(),
        offset: Some(offset),
    };
    let at_five = opened(5);
    let (consumer, (mut stream, open)) = tokio::join!(
        client.consumer("s").offset(StartAt::Next).open(),
        peer.accept::<OpenConsumer>(Kind::OpenConsumer, Kind::ConsumerOpened, &at_five),
    );
    assert_eq!(open.start, Some(StartAt::Next));
    let mut consumer = consumer.unwrap();
    // Nothing was taken, then one of two.
    for (first, taken) in [(5, 0), (5, 1), (6, 0)] {
        stream.take::<Credit>(Kind::Credit).await;
        for (tag, offset) in [(1, first), (2, first + 1)] {
            let place = StreamPlace { offset, time: 7 };
            deliver_placed(&mut stream, tag, 0, b"", Some(place)).await;
        }
        for n in 0..taken {
            let delivery = consumer.recv().await.unwrap().unwrap();
            assert_eq!(delivery.offset(), Some(first + n));
            assert_eq!(delivery.stored_at(), Some(UNIX_EPOCH + Duration::from_millis(7)));
        }
        let next = first + taken;
        assert_eq!(consumer.next_offset(), Some(next));
        peer.vanish();
        peer = fake.accept().await;
        let (again, open) = peer
            .accept::<OpenConsumer>(Kind::OpenConsumer, Kind::ConsumerOpened, &opened(next))
            .await;
        assert_eq!(open.start, Some(StartAt::Offset(next)));
        stream = again;
    }
}

#[tokio::test]
async fn after_a_loss_a_consumer_comes_back_and_old_deliveries_no_longer_settle() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (mut consumer, mut stream) = consumer(&client, &peer, 4).await;
    deliver(&mut stream, 1, 0, b"taken").await;
    deliver(&mut stream, 2, 0, b"waiting").await;
    let stale = consumer.recv().await.unwrap().unwrap();
    peer.vanish();

    let peer = fake.accept().await;
    let opened = opened("c-1");
    let (mut stream, open) = peer
        .accept::<OpenConsumer>(Kind::OpenConsumer, Kind::ConsumerOpened, &opened)
        .await;
    assert_eq!(open.tag, "c-1");
    assert_eq!(stream.take::<Credit>(Kind::Credit).await.1.messages, 4);
    stale.ack();
    deliver(&mut stream, 1, FLAG_REDELIVERED, b"taken").await;
    let fresh = consumer.recv().await.unwrap().unwrap();
    assert_eq!(fresh.body(), "taken", "what waited on the old stream is gone");
    fresh.nack(false);
    let (tag, settle, _) = stream.take::<Settle>(Kind::Settle).await;
    assert_eq!(
        (tag, settle.how),
        (1, Settlement::Reject),
        "the stale ack was not sent"
    );
}

#[tokio::test]
async fn a_refused_consumer_stream_yields_the_reason_once_and_ends() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let (mut consumer, mut stream) = consumer(&client, &peer, 4).await;
    let error = ErrorBody::new(ErrorCode::NotFound, "the queue \"q\" was deleted");
    stream.put(Kind::Close, 0, 0, &error, b"").await;
    let refused = consumer.recv().await.unwrap();
    assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::NotFound));
    assert!(consumer.recv().await.is_none());
}

#[tokio::test]
async fn a_reason_that_comes_together_with_the_opening_is_not_lost() {
    let fake = Fake::start();
    let (client, peer) = fake.connected().await;
    let open_and_close = async {
        let (mut stream, _) = peer.accept_unanswered::<OpenConsumer>(Kind::OpenConsumer).await;
        let mut both = bytes::BytesMut::new();
        frame::put(&mut both, Kind::ConsumerOpened, 0, 0, &opened("c-1"), b"");
        let error = ErrorBody::new(ErrorCode::NotFound, "the queue \"q\" was deleted");
        frame::put(&mut both, Kind::Close, 0, 0, &error, b"");
        stream.write(&both).await;
        stream
    };
    let (consumer, _stream) = tokio::join!(client.consumer("q").open(), open_and_close);
    let refused = consumer.unwrap().recv().await.unwrap();
    assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::NotFound));
}
