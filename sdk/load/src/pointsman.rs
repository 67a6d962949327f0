//! Pointsman itself, through its own client.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;

use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use pointsman_sdk::{
    BatchConfirmation, BindingSpec, Client, ClientBuilder, Delivery, ErrorCode, ExchangeSpec, Message,
    QueueSpec, Request,
};

use crate::{Arrivals, BINDINGS, Broker, Consumer, Error, Outgoing, Publisher, Scenario, Shape};

/// Most deliveries that are taken in at once.
const RECEIVE_MAX: usize = 512;

/// Most messages that are published as one. A batch is confirmed as a whole, so one that fills the window lets nothing be
/// on its way while its confirm comes back.
const BATCH_MAX: usize = 64;

/// A Pointsman broker, its queues and exchange named by a prefix.
pub struct Pointsman {
    builder: ClientBuilder,
    prefix: String,
    /// The router that decides in place of a topic exchange.
    router: Option<String>,
    made: Mutex<Made>,
}

/// What a run made, to be removed in the end.
#[derive(Debug, Default)]
struct Made {
    exchanges: Vec<String>,
    queues: Vec<String>,
}

impl Pointsman {
    /// The broker that `builder` connects to. Everything made there has a name of `prefix` and a suffix.
    pub fn new(builder: ClientBuilder, prefix: impl Into<String>) -> Pointsman {
        Pointsman {
            builder,
            prefix: prefix.into(),
            router: None,
            made: Mutex::default(),
        }
    }

    /// Lets a router that is loaded decide where messages of a [`Shape::Topic`] go. Its targets are named by the first two
    /// words of the patterns, such as `area.17`.
    pub fn topics_by_router(mut self, router: impl Into<String>) -> Pointsman {
        self.router = Some(router.into());
        self
    }

    fn queue(&self, number: usize) -> String {
        format!("{}.queue.{number}", self.prefix)
    }

    fn exchange(&self) -> String {
        format!("{}.exchange", self.prefix)
    }

    async fn declare(&self, client: &Client, scenario: &Scenario) -> Result<(), Error> {
        for name in (0..scenario.shape.queues()).map(|n| self.queue(n)) {
            let mut spec = QueueSpec::new(name.clone());
            spec.durable = scenario.durable;
            self.note(|made| made.queues.push(name));
            client.declare_queue(spec).await?;
        }
        let mut exchange = match (scenario.shape, &self.router) {
            (Shape::Queue, _) => return Ok(()),
            (Shape::FanOut { .. }, _) => ExchangeSpec::fanout(self.exchange()),
            (Shape::Topic { .. }, None) => ExchangeSpec::topic(self.exchange()),
            (Shape::Topic { .. }, Some(router)) => ExchangeSpec::router(self.exchange(), router),
        };
        exchange.durable = scenario.durable;
        self.note(|made| made.exchanges.push(self.exchange()));
        client.declare_exchange(exchange).await?;
        for binding in self.bindings(scenario.shape) {
            client.bind(binding).await?;
        }
        Ok(())
    }

    fn bindings(&self, shape: Shape) -> Vec<BindingSpec> {
        let binding = |queue, key| BindingSpec::to_queue(self.exchange(), self.queue(queue), key);
        match shape {
            Shape::Queue => Vec::new(),
            Shape::FanOut { queues } => (0..queues).map(|queue| binding(queue, String::new())).collect(),
            Shape::Topic { .. } => (0..BINDINGS)
                .map(|number| {
                    let (pattern, queue) = shape.binding(number);
                    match &self.router {
                        None => binding(queue, pattern),
                        Some(_) => binding(queue, pattern.trim_end_matches(".*").to_owned()),
                    }
                })
                .collect(),
        }
    }

    /// Refuses names that are in use: declaring them again would succeed, and removing them would not be ours to do.
    async fn check_free(&self, client: &Client, shape: Shape) -> Result<(), Error> {
        for number in 0..shape.queues() {
            let name = self.queue(number);
            let found = client.queue(name.clone()).await.map(drop);
            refuse_found("queue", name, found)?;
        }
        let name = self.exchange();
        let request = Request::ListExchanges(Some(name.clone()));
        let found = client.request(request, bytes::Bytes::new()).await.map(drop);
        refuse_found("exchange", name, found)
    }

    fn note(&self, note: impl FnOnce(&mut Made)) {
        note(
            &mut self
                .made
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }
}

fn refuse_found(
    kind: &'static str,
    name: String,
    found: Result<(), pointsman_sdk::Error>,
) -> Result<(), Error> {
    match found {
        Ok(()) => Err(Error::Exists { kind, name }),
        Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Broker for Pointsman {
    type Publisher = PointsmanPublisher;
    type Consumer = PointsmanConsumer;

    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        let client = self.builder.clone().connect().await?;
        let done = async {
            self.check_free(&client, scenario.shape).await?;
            self.declare(&client, scenario).await
        };
        let done = done.await;
        client.close().await;
        done
    }

    async fn publisher(&self, scenario: &Scenario) -> Result<PointsmanPublisher, Error> {
        let client = self.builder.clone().connect().await?;
        let (exchange, key) = match scenario.shape {
            // A message's key is static or its own; a run has one queue, so little is leaked.
            Shape::Queue => (String::new(), Some(&*self.queue(0).leak())),
            Shape::FanOut { .. } | Shape::Topic { .. } => (self.exchange(), None),
        };
        let window = u32::try_from(scenario.window).unwrap_or(u32::MAX);
        let publisher = client.publisher_builder(exchange).window(window).open().await?;
        Ok(PointsmanPublisher {
            client,
            publisher,
            key,
            persistent: scenario.durable,
            batches: VecDeque::new(),
            sent: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, queue: usize) -> Result<PointsmanConsumer, Error> {
        let client = self.builder.clone().connect().await?;
        let window = u32::try_from(scenario.window).unwrap_or(u32::MAX);
        let consumer = client.consumer(self.queue(queue)).prefetch(window).open().await?;
        Ok(PointsmanConsumer {
            client,
            deliveries: consumer.ready_chunks(RECEIVE_MAX),
            received: Vec::new(),
        })
    }

    async fn tear_down(&self) -> Result<(), Error> {
        let mut made = Made::default();
        self.note(|noted| made = std::mem::take(noted));
        let client = self.builder.clone().connect().await?;
        let mut result = Ok(());
        for name in made.exchanges {
            result = result.and(not_there_is_fine(client.delete_exchange(name, false).await));
        }
        for name in made.queues {
            let deleted = client.delete_queue(name, false, false).await;
            result = result.and(not_there_is_fine(deleted.map(drop)));
        }
        client.close().await;
        result
    }
}

/// Removing what was not made yet when the run ended.
fn not_there_is_fine(result: Result<(), pointsman_sdk::Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.code() != Some(ErrorCode::NotFound) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Publishes through a [`pointsman_sdk::Publisher`].
pub struct PointsmanPublisher {
    client: Client,
    publisher: pointsman_sdk::Publisher,
    /// The key of every message, where it is not the message's own.
    key: Option<&'static str>,
    persistent: bool,
    /// Batches on their way with the numbers of their messages, oldest first.
    batches: VecDeque<(Range<u64>, BatchConfirmation)>,
    sent: u64,
}

impl Publisher for PointsmanPublisher {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        let (key, persistent) = (self.key, self.persistent);
        let mut messages = messages.into_iter().map(|outgoing| {
            Message::new(outgoing.body)
                .key(key.unwrap_or(outgoing.key))
                .persistent(persistent)
        });
        while messages.len() > 0 {
            let first = self.sent;
            self.sent += messages.len().min(BATCH_MAX) as u64;
            let batch = messages.by_ref().take(BATCH_MAX);
            let batch = self.publisher.publish_all(batch).await?;
            self.batches.push_back((first..self.sent, batch));
        }
        Ok(())
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        let Some((_, oldest)) = self.batches.front_mut() else {
            return std::future::pending().await;
        };
        let outcome = oldest.await?;
        if let Some(failure) = outcome.first_failure {
            return Err(Error::Broker(format!("a message was not taken: it is {failure}")));
        }
        numbers.extend(self.batches.pop_front().map(|(numbers, _)| numbers));
        Ok(())
    }

    async fn close(self) -> Result<(), Error> {
        self.publisher.close().await?;
        self.client.close().await;
        Ok(())
    }
}

/// Consumes through a [`pointsman_sdk::Consumer`].
pub struct PointsmanConsumer {
    client: Client,
    deliveries: ReadyChunks<pointsman_sdk::Consumer>,
    /// What is not acknowledged.
    received: Vec<Delivery>,
}

impl Consumer for PointsmanConsumer {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        let Some(deliveries) = self.deliveries.next().await else {
            return Err(Error::Broker("the consumer was closed".into()));
        };
        for delivery in deliveries {
            let delivery = delivery?;
            arrivals.push(&delivery.body())?;
            self.received.push(delivery);
        }
        Ok(())
    }

    async fn ack(&mut self) -> Result<(), Error> {
        self.received.drain(..).for_each(Delivery::ack);
        Ok(())
    }

    async fn close(self) -> Result<(), Error> {
        self.deliveries.get_ref().flush().await?;
        drop(self.deliveries);
        self.client.close().await;
        Ok(())
    }
}
