//! The state machine: a batch of publishes into queues, their delivery, their acknowledgement.

use pointsman_core::input::{MessageCopy, Publish, Times, Verdict};
use pointsman_core::{
    Broker, Commit, ConnectionId, ConsumerId, DeliveryTag, Effect, Input, PublisherId, PublisherIdentity,
    QueueId,
};
use pointsman_protocol::admin::{QueueSpec, Request};
use pointsman_protocol::consume::{Credit, OpenConsumer, Settle, Settlement};
use smallvec::SmallVec;

use crate::segment::{BATCH, BODY, Limit, Segment, Work, content, meta};

pub(crate) const NOW: u64 = 1_700_000_000_000;
pub(crate) const CONNECTION: ConnectionId = ConnectionId(1);
pub(crate) const PUBLISHER: PublisherId = PublisherId(2);

pub(crate) fn segments() -> Vec<Segment> {
    let publish = |queues: usize| {
        Segment::new(
            format!("core: publish to {queues} queue(s)"),
            BATCH,
            Limit::Copy(BODY),
            move || Publishing::new(queues),
        )
    };
    vec![
        publish(1),
        publish(4),
        Segment::new("core: deliver", BATCH, Limit::Copy(BODY), Delivering::new),
        Segment::new("core: acknowledge", BATCH, Limit::Copy(BODY), Settling::new),
    ]
}

/// A broker with a publisher and a consumer on each of its queues, which all have the same messages.
pub(crate) struct Core {
    pub(crate) broker: Broker,
    queues: SmallVec<[QueueId; 4]>,
    /// The sequence number of the next publish; the delivery tags are the same.
    pub(crate) next: u64,
}

impl Core {
    pub(crate) fn new(mut broker: Broker, queues: usize) -> (Core, Commit) {
        let mut commit = Commit::default();
        broker.bootstrap(&mut commit);
        let vhost = "/".to_owned();
        broker.handle(
            Input::Connected {
                connection: CONNECTION,
                vhost,
            },
            NOW,
            &mut commit,
        );
        for number in 0..queues {
            let request = Request::DeclareQueue(QueueSpec::new(format!("q{number}")));
            broker.handle(request_of(request), NOW, &mut commit);
        }
        broker.finish(NOW, &mut commit);
        let identity = PublisherIdentity(3);
        let opened = Input::OpenPublisher {
            connection: CONNECTION,
            publisher: PUBLISHER,
            identity,
        };
        broker.handle(opened, NOW, &mut commit);
        for number in 0..queues {
            let open = OpenConsumer {
                queue: format!("q{number}"),
                tag: String::new(),
                exclusive: false,
                no_ack: false,
                start: None,
            };
            let consumer = consumer(number);
            broker.handle(
                Input::OpenConsumer {
                    connection: CONNECTION,
                    consumer,
                    open,
                },
                NOW,
                &mut commit,
            );
        }
        broker.finish(NOW, &mut commit);
        let ids = &broker.topology().vhosts["/"].queues;
        let queues = (0..queues).map(|number| ids[&format!("q{number}")]).collect();
        let core = Core {
            broker,
            queues,
            next: 1,
        };
        (core, commit)
    }

    /// A turn with one input.
    pub(crate) fn turn(&mut self, input: Input) -> Commit {
        let mut commit = Commit::default();
        self.broker.handle(input, NOW, &mut commit);
        self.broker.finish(NOW, &mut commit);
        commit
    }

    /// The next batch, for all queues.
    fn messages(&mut self) -> Input {
        let (content, meta_len) = content(&meta("q0"), BODY);
        let copy = MessageCopy {
            content,
            meta_len,
            persistent: true,
            times: Times::default(),
            exchange: pointsman_core::ExchangeId::DEFAULT,
            decided_by: None,
            queues: self.queues.clone(),
        };
        let messages = (self.next..).take(BATCH).map(|sequence| Publish {
            sequence,
            verdict: Verdict::Deliver,
            copies: SmallVec::from_iter([copy.clone()]),
        });
        let messages = messages.collect();
        self.next += BATCH as u64;
        Input::Publish {
            publisher: PUBLISHER,
            messages,
        }
    }

    /// Lets every consumer have the last batch.
    pub(crate) fn deliver(&mut self) -> SmallVec<[Commit; 4]> {
        (0..self.queues.len())
            .map(|number| self.turn(credit(number)))
            .collect()
    }

    /// Lets every consumer acknowledge the last batch.
    pub(crate) fn settle(&mut self) -> SmallVec<[Commit; 4]> {
        let first = self.next - BATCH as u64;
        (0..self.queues.len())
            .map(|number| self.turn(settle(number, first)))
            .collect()
    }
}

/// How many messages a commit delivers.
pub(crate) fn delivered(commit: &Commit) -> usize {
    let counts = commit.effects.iter().map(|effect| match effect {
        Effect::Deliver { count, .. } => *count as usize,
        _ => 0,
    });
    counts.sum()
}

pub(crate) fn request_of(request: Request) -> Input {
    Input::Request {
        connection: CONNECTION,
        id: 1,
        request,
    }
}

fn consumer(number: usize) -> ConsumerId {
    ConsumerId(number as u64 + 10)
}

fn credit(number: usize) -> Input {
    let credit = Credit {
        messages: BATCH as u32,
        bytes: 1 << 20,
    };
    Input::Credit {
        consumer: consumer(number),
        credit,
    }
}

fn settle(number: usize, first: u64) -> Input {
    let settle = Settle {
        count: BATCH as u32,
        how: Settlement::Ack,
    };
    Input::Settle {
        consumer: consumer(number),
        first: DeliveryTag(first),
        settle,
    }
}

struct Publishing {
    core: Core,
    input: Option<Input>,
    commit: Commit,
}

impl Publishing {
    fn new(queues: usize) -> Publishing {
        let (core, commit) = Core::new(Broker::new(), queues);
        Publishing {
            core,
            input: None,
            commit,
        }
    }
}

impl Work for Publishing {
    fn prepare(&mut self) {
        if self.core.next > 1 {
            assert!(
                self.core
                    .deliver()
                    .iter()
                    .all(|commit| delivered(commit) == BATCH)
            );
            self.core.settle();
        }
        self.input = Some(self.core.messages());
    }
    fn run(&mut self) {
        if let Some(input) = self.input.take() {
            self.commit = self.core.turn(input);
        }
    }
}

struct Delivering {
    core: Core,
    commit: Commit,
}

impl Delivering {
    fn new() -> Delivering {
        let (core, commit) = Core::new(Broker::new(), 1);
        Delivering { core, commit }
    }
}

impl Work for Delivering {
    fn prepare(&mut self) {
        if self.core.next > 1 {
            assert_eq!(delivered(&self.commit), BATCH);
            self.core.settle();
        }
        let input = self.core.messages();
        self.core.turn(input);
    }
    fn run(&mut self) {
        self.commit = self.core.turn(credit(0));
    }
}

struct Settling {
    core: Core,
    commit: Commit,
}

impl Settling {
    fn new() -> Settling {
        let (core, commit) = Core::new(Broker::new(), 1);
        Settling { core, commit }
    }
}

impl Work for Settling {
    fn prepare(&mut self) {
        assert_eq!(self.core.broker.totals().unsettled, 0);
        let input = self.core.messages();
        self.core.turn(input);
        assert_eq!(delivered(&self.core.turn(credit(0))), BATCH);
    }
    fn run(&mut self) {
        self.commit = self.core.turn(settle(0, self.core.next - BATCH as u64));
    }
}
