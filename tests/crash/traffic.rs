//! Publishers and consumers that work on while the broker dies and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pointsman_sdk::{Client, Confirmation, Consumer, Message, Outcome};
use pointsman_tests::Broker;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::ledger::{Ledger, Line};

/// The fanout exchange everything is published to.
pub(crate) const EXCHANGE: &str = "crash";
/// The queues that each get every message.
pub(crate) const QUEUES: [&str; 2] = ["left", "right"];
/// How many publish at once: one plainly, one what would expire some day, one what comes later.
pub(crate) const PUBLISHERS: usize = 3;
const EXPIRING: usize = 1;
const DELAYED: usize = 2;

/// How long a message of [`DELAYED`] waits. The same for all of them, so that their order holds.
const DELAY: Duration = Duration::from_millis(100);
/// How long a message of [`EXPIRING`] may wait, which none does.
const EXPIRATION: Duration = Duration::from_secs(3_600);

/// Messages a publisher may have unconfirmed.
const WINDOW: u32 = 256;
/// Longest anything may take once the broker stays up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that runs beside the broker.
pub(crate) struct Traffic {
    stopping: Arc<AtomicBool>,
    drained: watch::Sender<bool>,
    publishers: Vec<JoinHandle<u64>>,
    consumers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts the publishers and a consumer for each queue, each with a client of its own.
    pub(crate) async fn start(broker: &Broker, ledger: &Ledger) -> Traffic {
        let stopping = Arc::new(AtomicBool::new(false));
        let drained = watch::Sender::new(false);
        let mut traffic = Traffic {
            stopping: stopping.clone(),
            drained,
            publishers: Vec::new(),
            consumers: Vec::new(),
        };
        for number in 0..PUBLISHERS {
            let client = broker.client().await;
            traffic.publishers.push(tokio::spawn(publish(
                client,
                number,
                ledger.clone(),
                stopping.clone(),
            )));
        }
        for (number, queue) in QUEUES.iter().enumerate() {
            let client = broker.client().await;
            let consumer = client
                .consumer(*queue)
                .prefetch(100)
                .open()
                .await
                .expect("the queue is there");
            let drained = traffic.drained.subscribe();
            traffic
                .consumers
                .push(tokio::spawn(consume(consumer, number, ledger.clone(), drained)));
        }
        traffic
    }

    /// Stops publishing, waits until all is confirmed and consumed, and returns how many messages were sent.
    pub(crate) async fn stop(self, broker: &Broker) -> u64 {
        self.stopping.store(true, Ordering::Relaxed);
        let ending = async {
            let mut sent = 0;
            for publisher in self.publishers {
                sent += publisher.await.expect("no publisher fails");
            }
            let client = broker.client().await;
            for queue in QUEUES {
                wait_until_empty(&client, queue).await;
            }
            self.drained.send_replace(true);
            for consumer in self.consumers {
                consumer.await.expect("no consumer fails");
            }
            sent
        };
        tokio::time::timeout(PATIENCE, ending)
            .await
            .expect("what is left is confirmed and consumed")
    }
}

async fn wait_until_empty(client: &Client, queue: &str) {
    loop {
        let info = client.queue(queue).await.expect("the queue is there");
        if info.ready + info.unsettled + info.delayed == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Publishes as fast as confirms allow, and returns how many messages that were.
async fn publish(client: Client, publisher: usize, ledger: Ledger, stopping: Arc<AtomicBool>) -> u64 {
    let stream = client
        .publisher_builder(EXCHANGE)
        .window(WINDOW)
        .open()
        .await
        .expect("the exchange is there");
    let (sender, mut confirmations) = mpsc::unbounded_channel::<(u64, Confirmation)>();
    let confirmed = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            while let Some((number, confirmation)) = confirmations.recv().await {
                match confirmation.await.expect("the client stays") {
                    Outcome::Routed { queues } => assert_eq!(queues as usize, QUEUES.len()),
                    Outcome::Duplicate => {}
                    other => panic!("message {number} of publisher {publisher}: {other:?}"),
                }
                ledger.write(Line::Confirmed { publisher, number });
            }
        }
    });
    let mut number = 0;
    while !stopping.load(Ordering::Relaxed) {
        number += 1;
        // Before it is sent: what the ledger does not have must never be delivered.
        ledger.write(Line::Sent { publisher, number });
        let confirmation = stream
            .publish(message(publisher, number))
            .await
            .expect("the client stays");
        sender
            .send((number, confirmation))
            .expect("confirmations are awaited");
    }
    drop(sender);
    confirmed.await.expect("every message is confirmed");
    number
}

async fn consume(mut consumer: Consumer, queue: usize, ledger: Ledger, mut drained: watch::Receiver<bool>) {
    loop {
        let delivery = tokio::select! {
            delivery = consumer.recv() => delivery.expect("the client stays").expect("the client stays"),
            _ = drained.wait_for(|drained| *drained) => return,
        };
        let (publisher, number) = parse(&delivery.body());
        let redelivered = delivery.redelivered();
        ledger.write(Line::Delivered {
            queue,
            publisher,
            number,
            redelivered,
        });
        delivery.ack();
    }
}

fn message(publisher: usize, number: u64) -> Message {
    let message = Message::new(body(publisher, number));
    match publisher {
        EXPIRING => message.expiration(EXPIRATION),
        DELAYED => message.delay(DELAY),
        _ => message,
    }
}

/// A body that says who sent it, and is of a length that varies with the number, up to some kilobytes.
fn body(publisher: usize, number: u64) -> String {
    let filling = (number * 7919) % if number.is_multiple_of(50) { 20_000 } else { 200 };
    format!("{publisher} {number} {}", "x".repeat(filling as usize))
}

/// Reads a body back, which must be whole.
fn parse(bytes: &[u8]) -> (usize, u64) {
    let text = std::str::from_utf8(bytes).expect("bodies are text");
    let mut words = text.split(' ');
    let publisher = words
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a body names its publisher");
    let number = words
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a body names its number");
    assert_eq!(text, body(publisher, number), "the body changed on its way");
    (publisher, number)
}
