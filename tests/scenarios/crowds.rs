//! More consumers than are written to at once: nobody is forgotten, and shares are fair.

use pointsman_sdk::{Client, Consumer, Message, QueueSpec};
use pointsman_tests::Broker;
use tokio::task::JoinSet;

use crate::{soon, text};

/// Consumers; the broker hands out to 512 before it waits for them.
const CROWD: usize = 1_500;
const OF_CONNECTION: usize = 500;

async fn crowd(broker: &Broker, open: impl AsyncFn(&Client) -> Consumer) -> Vec<Consumer> {
    let mut consumers = Vec::new();
    for _ in 0..CROWD / OF_CONNECTION {
        let client = broker.client().await;
        for _ in 0..OF_CONNECTION {
            consumers.push(open(&client).await);
        }
    }
    consumers
}

/// Publishes numbers to `q`, from four publishers at once.
async fn publish_numbers(broker: &Broker, count: usize) {
    let mut publishing = JoinSet::new();
    for first in 0..4 {
        let client = broker.client().await;
        let numbers = (first..count).step_by(4);
        publishing.spawn(async move {
            let publisher = client.publisher("").await.unwrap();
            let messages = numbers.map(|n| Message::new(n.to_string()).key("q"));
            let confirmed = publisher.publish_all(messages).await.unwrap();
            assert!(soon(confirmed).await.unwrap().is_success());
        });
    }
    while let Some(published) = publishing.join_next().await {
        published.unwrap();
    }
}

#[tokio::test]
async fn a_crowd_of_consumers_gets_every_message_of_a_queue_once_and_in_fair_shares() {
    share(false).await;
}

/// Without acknowledgements nothing comes from the consumers that would remind the broker of what is left.
#[tokio::test]
async fn a_crowd_that_acknowledges_nothing_gets_every_message_too() {
    share(true).await;
}

async fn share(no_ack: bool) {
    const MESSAGES: usize = 60_000;
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let consumers = crowd(&broker, async |client| {
        client.consumer("q").no_ack(no_ack).open().await.unwrap()
    })
    .await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut taking = JoinSet::new();
    for (who, mut consumer) in consumers.into_iter().enumerate() {
        let tell = tell.clone();
        taking.spawn(async move {
            while let Some(Ok(delivery)) = consumer.recv().await {
                tell.send((who, text(&delivery).parse::<usize>().unwrap()))
                    .unwrap();
                delivery.ack();
            }
        });
    }
    publish_numbers(&broker, MESSAGES).await;
    let mut shares = vec![0; CROWD];
    let mut came = vec![false; MESSAGES];
    for _ in 0..MESSAGES {
        let (who, number) = soon(told.recv()).await.unwrap();
        shares[who] += 1;
        assert!(!std::mem::replace(&mut came[number], true), "{number} came twice");
    }
    let fair = MESSAGES / CROWD;
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(
        *least >= fair / 4 && *most <= fair * 2,
        "between {least} and {most} instead of {fair}"
    );
}

#[tokio::test]
async fn a_crowd_of_readers_of_a_stream_gets_each_all_of_it_in_order() {
    const MESSAGES: usize = 100;
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::stream("q")).await.unwrap();
    let readers = crowd(&broker, async |client| client.consumer("q").open().await.unwrap()).await;
    publish_numbers(&broker, MESSAGES).await;
    let mut reading = JoinSet::new();
    for mut reader in readers {
        reading.spawn(async move {
            let mut bodies = Vec::new();
            for offset in 0..MESSAGES as u64 {
                let delivery = soon(reader.recv()).await.unwrap().unwrap();
                assert_eq!(delivery.offset(), Some(offset));
                bodies.push(text(&delivery));
                delivery.ack();
            }
            bodies
        });
    }
    let mut all = reading.join_all().await.into_iter();
    let first = all.next().unwrap();
    assert!(all.all(|bodies| bodies == first), "offsets mean the same to all");
}
