//! Semantics of the broker, seen from outside: inputs in, effects out.

mod declaring;
mod delivery;
mod due;
mod publishing;
mod streams;

use std::sync::Arc;

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::consume::{Credit, OpenConsumer, Settle, Settlement};
use pointsman_protocol::{ErrorBody, ErrorCode, MessageMeta};
use smallvec::smallvec;

use crate::input::{MessageCopy, Publish, Times, Verdict};
use crate::*;

const NOW: u64 = 1_700_000_000_000;

/// A broker with connection 1 in the default vhost.
struct Bench {
    broker: Broker,
    requests: u64,
}

/// One delivery, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Delivered {
    consumer: u64,
    tag: u64,
    body: String,
    redelivered: bool,
    delivery_count: u32,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_bounds(Bounds::default())
    }

    fn with_bounds(bounds: Bounds) -> Bench {
        let mut broker = Broker::with_bounds(bounds);
        broker.bootstrap(&mut Commit::default());
        let mut bench = Bench { broker, requests: 0 };
        bench.connect(1);
        bench
    }

    fn connect(&mut self, connection: u64) {
        self.turn([Input::Connected {
            connection: ConnectionId(connection),
            vhost: "/".to_owned(),
        }]);
    }

    /// One turn with these inputs.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Commit {
        self.turn_at(NOW, inputs)
    }

    fn turn_at(&mut self, now: u64, inputs: impl IntoIterator<Item = Input>) -> Commit {
        let mut commit = Commit::default();
        for input in inputs {
            self.broker.handle(input, now, &mut commit);
        }
        self.broker.finish(now, &mut commit);
        commit
    }

    fn request_of(&mut self, connection: u64, request: Request) -> (Result<Reply, ErrorBody>, Commit) {
        self.requests += 1;
        let commit = self.turn([Input::Request {
            connection: ConnectionId(connection),
            id: self.requests,
            request,
        }]);
        let reply = commit.effects.iter().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        });
        match reply.expect("a reply") {
            Reply::Error(error) => (Err(error), commit),
            reply => (Ok(reply), commit),
        }
    }

    fn request(&mut self, request: Request) -> Result<Reply, ErrorBody> {
        self.request_of(1, request).0
    }

    fn refusal(&mut self, request: Request) -> ErrorBody {
        self.request(request).expect_err("a refusal")
    }

    fn queue_id(&self, name: &str) -> QueueId {
        self.broker.topology().vhosts["/"].queues[name]
    }

    fn open_publisher(&mut self, publisher: u64, identity: u128) -> Commit {
        self.turn([Input::OpenPublisher {
            connection: ConnectionId(1),
            publisher: PublisherId(publisher),
            identity: PublisherIdentity(identity),
        }])
    }

    fn open_consumer(&mut self, consumer: u64, queue: &str) -> Commit {
        self.open_consumer_with(1, consumer, queue, false, false)
    }

    fn open_consumer_with(
        &mut self,
        connection: u64,
        consumer: u64,
        queue: &str,
        exclusive: bool,
        no_ack: bool,
    ) -> Commit {
        self.turn([Input::OpenConsumer {
            connection: ConnectionId(connection),
            consumer: ConsumerId(consumer),
            open: OpenConsumer {
                queue: queue.to_owned(),
                tag: String::new(),
                exclusive,
                no_ack,
                start: None,
            },
        }])
    }

    fn grant(&mut self, consumer: u64, messages: u32) -> Commit {
        self.turn([credit(consumer, messages, u64::MAX)])
    }

    fn settle(&mut self, consumer: u64, first: u64, count: u32, how: Settlement) -> Commit {
        self.turn([settle(consumer, first, count, how)])
    }
}

fn credit(consumer: u64, messages: u32, bytes: u64) -> Input {
    Input::Credit {
        consumer: ConsumerId(consumer),
        credit: Credit { messages, bytes },
    }
}

fn settle(consumer: u64, first: u64, count: u32, how: Settlement) -> Input {
    Input::Settle {
        consumer: ConsumerId(consumer),
        first: DeliveryTag(first),
        settle: Settle { count, how },
    }
}

fn copy(body: &str, queues: &[QueueId]) -> MessageCopy {
    let meta = postcard::to_stdvec(&MessageMeta::default()).unwrap();
    let mut content = meta.clone();
    content.extend_from_slice(body.as_bytes());
    MessageCopy {
        content: Bytes::from(content),
        meta_len: meta.len() as u32,
        persistent: true,
        times: Times::default(),
        exchange: ExchangeId(0),
        decided_by: None,
        queues: queues.into(),
    }
}

fn message(sequence: u64, body: &str, queues: &[QueueId]) -> Publish {
    Publish {
        sequence,
        verdict: Verdict::Deliver,
        copies: smallvec![copy(body, queues)],
    }
}

fn publish(publisher: u64, messages: Vec<Publish>) -> Input {
    Input::Publish {
        publisher: PublisherId(publisher),
        messages,
    }
}

fn deliveries(commit: &Commit) -> Vec<Delivered> {
    let mut all = Vec::new();
    for effect in &commit.effects {
        let Effect::Deliver {
            consumer,
            first,
            chunk,
            record,
            count,
            redelivered,
            delivery_count,
            ..
        } = effect
        else {
            continue;
        };
        for i in 0..*count {
            let body = chunk.get(record + i).unwrap().body;
            all.push(Delivered {
                consumer: consumer.0,
                tag: first.0 + u64::from(i),
                body: String::from_utf8(body.to_vec()).unwrap(),
                redelivered: *redelivered,
                delivery_count: *delivery_count,
            });
        }
    }
    all
}

fn bodies(commit: &Commit) -> Vec<String> {
    deliveries(commit)
        .into_iter()
        .map(|delivery| delivery.body)
        .collect()
}

fn consumer_closed(commit: &Commit) -> Option<ErrorCode> {
    commit.effects.iter().find_map(|effect| match effect {
        Effect::ConsumerClosed { error, .. } => Some(error.code),
        _ => None,
    })
}
