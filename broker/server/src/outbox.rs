//! The way out of the driver: what a commit's effects tell sessions goes to the runtime as one parcel.
//!
//! To wake a task from a thread outside of the runtime takes a system call, and with thousands of consumers each commit
//! has news for many. So one task is woken, and that one wakes the others, which inside of the runtime costs next to
//! nothing. A driver that is inside of it does so itself.
//!
//! That task also notes when consumers' sessions have had their turn. While many have yet to, the driver withholds
//! deliveries: what collects meanwhile goes to each consumer as one, and waits in its queue instead of here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::mailbox::{Answer, ConsumerEvent, Mail, Mailbox, PublisherEvent};

/// One piece of news, and who hears it. A receiver that is gone has closed, and the core is told so by its own mail.
#[derive(Debug)]
pub(crate) enum Post {
    Answer(UnboundedSender<Answer>, Answer),
    Publisher(UnboundedSender<PublisherEvent>, PublisherEvent),
    Consumer(UnboundedSender<ConsumerEvent>, ConsumerEvent),
}

/// Where a driver is that sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// On a thread of its own.
    Outside,
    /// In a task of the runtime, which has one thread.
    Inside,
}

/// Most messages that are handed to consumers before others hear what is theirs.
const FIRST_DELIVERIES: u64 = 16;

/// While so many consumers' sessions have something to write, nothing more is handed out: a millisecond or two of work, so
/// that they have enough until the driver brings more.
const VISITS_MAX: usize = 512;

/// What is sent at once. Few deliveries are handed out first: somebody waits to work on them. With many the rest is first, because
/// publishers go on with their confirms while the deliveries are written.
#[derive(Debug, Default)]
struct Parcel {
    to_consumers: Vec<Post>,
    to_others: Vec<Post>,
    /// How many messages are delivered.
    deliveries: u64,
    /// How many consumers' sessions have deliveries to write.
    visits: usize,
}

/// The driver's end. What was not sent when it is dropped is sent then.
pub(crate) struct Outbox {
    parcel: Parcel,
    /// From where it is sent.
    side: Side,
    shared: Arc<Shared>,
}

/// The runtime's end.
pub(crate) struct Dispatcher(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    parcel: Parcel,
    /// How many consumers' sessions have something to write that was sent to them, or will be.
    unwritten: usize,
    /// Whether the driver wants to hear when they are few.
    asked: bool,
    /// Nothing more comes.
    closed: bool,
}

/// Both ends.
pub(crate) fn outbox() -> (Outbox, Dispatcher) {
    let shared = Arc::new(Shared::default());
    (
        Outbox {
            parcel: Parcel::default(),
            side: Side::Outside,
            shared: shared.clone(),
        },
        Dispatcher(shared),
    )
}

impl Outbox {
    /// Says where parcels are sent from now on.
    pub(crate) fn send_from(&mut self, side: Side) {
        self.side = side;
    }

    /// Adds to the parcel.
    pub(crate) fn put(&mut self, post: Post) {
        self.parcel.put(post);
    }

    /// Whether consumers' sessions may be handed more, `on_its_way` being how many have yet to be. If not,
    /// [`Mail::Written`] comes once that may have changed.
    pub(crate) fn has_room(&self, on_its_way: usize) -> bool {
        let mut waiting = self.shared.waiting();
        let has_room = waiting.unwritten + on_its_way < VISITS_MAX;
        waiting.asked = !has_room && waiting.unwritten > 0;
        has_room
    }

    /// Sends the parcel, in which are deliveries for so many consumers' sessions.
    pub(crate) fn send(&mut self, visits: usize) {
        self.parcel.visits += visits;
        if self.parcel.is_empty() {
            return;
        }
        let mut waiting = self.shared.waiting();
        waiting.unwritten += self.parcel.visits;
        match (waiting.parcel.is_empty(), self.side) {
            // Nothing is on its way that this could overtake.
            (true, Side::Inside) => {
                // They are few, and nothing is in front of them.
                waiting.unwritten -= self.parcel.visits;
                drop(waiting);
                self.parcel.hand_out();
            }
            (true, Side::Outside) => {
                waiting.parcel.append(&mut self.parcel);
                drop(waiting);
                self.shared.arrived.notify_one();
            }
            // Whoever has not been there yet has been woken already.
            (false, _) => waiting.parcel.append(&mut self.parcel),
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.side = Side::Outside;
        self.send(0);
        self.shared.waiting().closed = true;
        self.shared.arrived.notify_one();
    }
}

impl Dispatcher {
    /// Hands out parcels until nothing more comes, and tells the driver when sessions have written them, if it wants to know.
    pub(crate) async fn run(self, driver: Mailbox) {
        let mut parcel = Parcel::default();
        loop {
            self.0.arrived.notified().await;
            let closed = {
                let mut waiting = self.0.waiting();
                std::mem::swap(&mut parcel, &mut waiting.parcel);
                waiting.closed
            };
            let visits = parcel.visits;
            parcel.hand_out();
            if visits > 0 {
                // Behind those that were woken.
                tokio::task::yield_now().await;
                if self.0.written(visits) {
                    driver.send_now(Mail::Written);
                }
            }
            if closed {
                return;
            }
        }
    }
}

impl Parcel {
    fn is_empty(&self) -> bool {
        self.to_consumers.is_empty() && self.to_others.is_empty()
    }

    fn put(&mut self, post: Post) {
        match &post {
            Post::Consumer(_, event) => {
                if let ConsumerEvent::Deliver(delivery) = event {
                    self.deliveries += u64::from(delivery.count);
                }
                self.to_consumers.push(post);
            }
            Post::Answer(..) | Post::Publisher(..) => self.to_others.push(post),
        }
    }

    fn append(&mut self, other: &mut Parcel) {
        self.to_consumers.append(&mut other.to_consumers);
        self.to_others.append(&mut other.to_others);
        self.deliveries += std::mem::take(&mut other.deliveries);
        self.visits += std::mem::take(&mut other.visits);
    }

    /// Gives all of it to whom it is for.
    fn hand_out(&mut self) {
        for post in self.drain() {
            match post {
                Post::Answer(to, answer) => drop(to.send(answer)),
                Post::Publisher(to, event) => drop(to.send(event)),
                Post::Consumer(to, event) => drop(to.send(event)),
            }
        }
    }

    fn drain(&mut self) -> impl Iterator<Item = Post> {
        self.visits = 0;
        let are_few = std::mem::take(&mut self.deliveries) <= FIRST_DELIVERIES;
        let (first, second) = match are_few {
            true => (&mut self.to_consumers, &mut self.to_others),
            false => (&mut self.to_others, &mut self.to_consumers),
        };
        first.drain(..).chain(second.drain(..))
    }
}

impl Shared {
    /// So many consumers' sessions have had their turn. Answers whether the driver is to hear of it.
    fn written(&self, visits: usize) -> bool {
        let mut waiting = self.waiting();
        waiting.unwritten -= visits;
        waiting.unwritten < VISITS_MAX && std::mem::take(&mut waiting.asked)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use pointsman_core::chunk::ChunkBuilder;
    use pointsman_core::{DeliveryTag, Lane, Offset};
    use pointsman_protocol::publish::Outcome;
    use tokio::sync::mpsc::{self, UnboundedReceiver};

    use super::*;
    use crate::mailbox::{Delivery, Inbox, mailbox};

    fn confirm(to: &UnboundedSender<PublisherEvent>, first: u64) -> Post {
        let event = PublisherEvent::Confirm {
            first,
            count: 1,
            outcome: Outcome::Unroutable,
        };
        Post::Publisher(to.clone(), event)
    }

    fn delivery(to: &UnboundedSender<ConsumerEvent>, first: u64, count: u32) -> Post {
        let delivery = Delivery {
            first: DeliveryTag(first),
            chunk: Arc::new(ChunkBuilder::new(Lane::Queues, Offset(0), 0).finish()),
            record: 0,
            count,
            redelivered: false,
            delivery_count: 0,
            place: None,
        };
        Post::Consumer(to.clone(), ConsumerEvent::Deliver(delivery))
    }

    /// The mailbox of a driver that is gone.
    fn nobody() -> Mailbox {
        mailbox(false).0
    }

    #[tokio::test]
    async fn news_comes_in_order_and_the_last_of_it_when_the_driver_is_gone() {
        let (mut outbox, dispatcher) = outbox();
        let (to, mut events) = mpsc::unbounded_channel();
        outbox.put(confirm(&to, 1));
        outbox.put(confirm(&to, 2));
        outbox.send(0);
        outbox.put(confirm(&to, 3));
        drop((outbox, to));
        dispatcher.run(nobody()).await;
        let mut firsts = Vec::new();
        while let Some(PublisherEvent::Confirm { first, .. }) = events.recv().await {
            firsts.push(first);
        }
        assert_eq!(firsts, [1, 2, 3]);
    }

    #[test]
    fn few_deliveries_are_handed_out_first_and_many_last_each_in_order() {
        let (to_publisher, _confirms) = mpsc::unbounded_channel();
        let (to_consumer, _deliveries) = mpsc::unbounded_channel();
        let few = ["delivery 1", "delivery 2", "confirm 1", "confirm 2"];
        let many = ["confirm 1", "confirm 2", "delivery 1", "delivery 2"];
        let most = FIRST_DELIVERIES as u32;
        let mut parcel = Parcel::default();
        // What was handed out before does not count.
        for (count, expected) in [(most - 1, few), (most, many), (most - 1, few)] {
            let mut added = Parcel::default();
            added.put(confirm(&to_publisher, 1));
            added.put(delivery(&to_consumer, 1, count));
            parcel.append(&mut added);
            added.put(confirm(&to_publisher, 2));
            added.put(delivery(&to_consumer, 2, 1));
            parcel.append(&mut added);
            let handed_out: Vec<_> = parcel.drain().map(|post| name(&post)).collect();
            assert_eq!(handed_out, expected);
        }
    }

    fn name(post: &Post) -> String {
        match post {
            Post::Publisher(_, PublisherEvent::Confirm { first, .. }) => format!("confirm {first}"),
            Post::Consumer(_, ConsumerEvent::Deliver(delivery)) => format!("delivery {}", delivery.first.0),
            other => format!("{other:?}"),
        }
    }

    /// Whether the driver was told that sessions have written; what it was told is taken.
    fn was_told(inbox: &Inbox) -> bool {
        let mut mails = VecDeque::new();
        inbox.take(&mut mails);
        assert!(mails.iter().all(|mail| matches!(mail, Mail::Written)));
        !mails.is_empty()
    }

    #[tokio::test]
    async fn while_many_sessions_have_something_to_write_there_is_no_room_and_the_driver_hears_when_there_is()
    {
        let (mut outbox, dispatcher) = outbox();
        let (driver, inbox, _bell) = mailbox(false);
        let consumers: Vec<_> = (0..VISITS_MAX).map(|_| mpsc::unbounded_channel()).collect();
        let handing_out = tokio::spawn(dispatcher.run(driver));
        for asks in [true, false] {
            for (to, _) in &consumers {
                outbox.put(delivery(to, 1, 1));
            }
            outbox.send(VISITS_MAX);
            assert!(!asks || !outbox.has_room(0));
            let is_there = |(_, events): &(_, UnboundedReceiver<ConsumerEvent>)| !events.is_empty();
            while !consumers.iter().all(is_there) {
                assert!(!was_told(&inbox), "none has had its turn");
                tokio::task::yield_now().await;
            }
            while outbox.shared.waiting().unwritten > 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(was_told(&inbox), asks);
            assert!(outbox.has_room(0));
            assert!(!outbox.has_room(VISITS_MAX), "what has yet to be sent counts");
            for (_, events) in &consumers {
                assert_eq!(events.len(), 1 + usize::from(!asks));
            }
        }
        drop(outbox);
        handing_out.await.unwrap();
    }

    #[tokio::test]
    async fn inside_of_the_runtime_news_is_handed_out_when_it_is_sent_but_overtakes_none() {
        let (mut outbox, dispatcher) = outbox();
        let (to, mut events) = mpsc::unbounded_channel();
        outbox.put(confirm(&to, 1));
        outbox.send(0);
        outbox.send_from(Side::Inside);
        outbox.put(confirm(&to, 2));
        outbox.send(0);
        assert!(events.is_empty());
        let handing_out = tokio::spawn(dispatcher.run(nobody()));
        for _ in 1..=2 {
            assert!(events.recv().await.is_some());
        }
        outbox.put(confirm(&to, 3));
        outbox.send(0);
        assert_eq!(events.len(), 1);
        drop(outbox);
        handing_out.await.unwrap();
    }

    #[tokio::test]
    async fn a_parcel_that_comes_while_another_is_handed_out_is_not_left() {
        let (mut outbox, dispatcher) = outbox();
        let (to, mut events) = mpsc::unbounded_channel();
        let handing_out = tokio::spawn(dispatcher.run(nobody()));
        for first in 0..100 {
            outbox.put(confirm(&to, first));
            outbox.send(0);
            assert!(events.recv().await.is_some());
        }
        drop(outbox);
        handing_out.await.unwrap();
    }
}
