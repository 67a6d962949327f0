//! The way out of the driver: what a commit's effects tell sessions goes to the runtime as one parcel.
//!
//! To wake a task from a thread outside of the runtime takes a system call, and with thousands of consumers each commit
//! has news for many. So one task is woken, and that one wakes the others, which inside of the runtime costs next to
//! nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::mailbox::{Answer, ConsumerEvent, PublisherEvent};

/// One piece of news, and who hears it. A receiver that is gone has closed, and the core is told so by its own mail.
#[derive(Debug)]
pub(crate) enum Post {
    Answer(UnboundedSender<Answer>, Answer),
    Publisher(UnboundedSender<PublisherEvent>, PublisherEvent),
    Consumer(UnboundedSender<ConsumerEvent>, ConsumerEvent),
}

/// Most messages that are handed to consumers before others hear what is theirs.
const FIRST_DELIVERIES: u64 = 16;

/// What is sent at once. Of little, deliveries are handed out first: somebody waits to work on them. Of more the rest is first,
/// because publishers go on with their confirms while the deliveries are written.
#[derive(Debug, Default)]
struct Parcel {
    to_consumers: Vec<Post>,
    to_others: Vec<Post>,
    /// How many messages are delivered.
    deliveries: u64,
}

/// The driver's end. What was not sent when it is dropped is sent then.
pub(crate) struct Outbox {
    parcel: Parcel,
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
    /// Nothing more comes.
    closed: bool,
}

/// Both ends.
pub(crate) fn outbox() -> (Outbox, Dispatcher) {
    let shared = Arc::new(Shared::default());
    (
        Outbox {
            parcel: Parcel::default(),
            shared: shared.clone(),
        },
        Dispatcher(shared),
    )
}

impl Outbox {
    /// Adds to the parcel.
    pub(crate) fn put(&mut self, post: Post) {
        if let Post::Consumer(_, ConsumerEvent::Deliver(delivery)) = &post {
            self.parcel.deliveries += u64::from(delivery.count);
        }
        match post {
            Post::Consumer(..) => self.parcel.to_consumers.push(post),
            Post::Answer(..) | Post::Publisher(..) => self.parcel.to_others.push(post),
        }
    }

    /// Sends the parcel.
    pub(crate) fn send(&mut self) {
        if self.parcel.is_empty() {
            return;
        }
        let mut waiting = self.shared.waiting();
        // Whoever has not been there yet has been woken already.
        let wakes = waiting.parcel.is_empty();
        waiting.parcel.append(&mut self.parcel);
        drop(waiting);
        if wakes {
            self.shared.arrived.notify_one();
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.send();
        self.shared.waiting().closed = true;
        self.shared.arrived.notify_one();
    }
}

impl Dispatcher {
    /// Hands out parcels until nothing more comes.
    pub(crate) async fn run(self) {
        let mut parcel = Parcel::default();
        loop {
            self.0.arrived.notified().await;
            let closed = {
                let mut waiting = self.0.waiting();
                std::mem::swap(&mut parcel, &mut waiting.parcel);
                waiting.closed
            };
            for post in parcel.drain() {
                match post {
                    Post::Answer(to, answer) => drop(to.send(answer)),
                    Post::Publisher(to, event) => drop(to.send(event)),
                    Post::Consumer(to, event) => drop(to.send(event)),
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

    fn append(&mut self, other: &mut Parcel) {
        self.to_consumers.append(&mut other.to_consumers);
        self.to_others.append(&mut other.to_others);
        self.deliveries += std::mem::take(&mut other.deliveries);
    }

    fn drain(&mut self) -> impl Iterator<Item = Post> {
        let is_little = std::mem::take(&mut self.deliveries) <= FIRST_DELIVERIES;
        let (first, second) = match is_little {
            true => (&mut self.to_consumers, &mut self.to_others),
            false => (&mut self.to_others, &mut self.to_consumers),
        };
        first.drain(..).chain(second.drain(..))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use pointsman_protocol::publish::Outcome;
    use tokio::sync::mpsc;

    use super::*;

    fn confirm(to: &UnboundedSender<PublisherEvent>, first: u64) -> Post {
        let event = PublisherEvent::Confirm {
            first,
            count: 1,
            outcome: Outcome::Unroutable,
        };
        Post::Publisher(to.clone(), event)
    }

    #[tokio::test]
    async fn news_comes_in_order_and_the_last_of_it_when_the_driver_is_gone() {
        let (mut outbox, dispatcher) = outbox();
        let (to, mut events) = mpsc::unbounded_channel();
        outbox.put(confirm(&to, 1));
        outbox.put(confirm(&to, 2));
        outbox.send();
        outbox.put(confirm(&to, 3));
        drop((outbox, to));
        dispatcher.run().await;
        let mut firsts = Vec::new();
        while let Some(PublisherEvent::Confirm { first, .. }) = events.recv().await {
            firsts.push(first);
        }
        assert_eq!(firsts, [1, 2, 3]);
    }

    #[tokio::test]
    async fn deliveries_are_handed_out_first_and_each_receiver_has_its_news_in_order() {
        let (mut outbox, dispatcher) = outbox();
        let handed_out = Arc::new(Mutex::new(Vec::new()));
        let (to_publisher, mut confirms) = mpsc::unbounded_channel();
        let (to_consumer, mut deliveries) = mpsc::unbounded_channel();
        let opened = |offset| ConsumerEvent::Opened {
            tag: String::new(),
            offset: Some(offset),
        };
        outbox.put(confirm(&to_publisher, 1));
        outbox.put(Post::Consumer(to_consumer.clone(), opened(1)));
        outbox.put(confirm(&to_publisher, 2));
        outbox.put(Post::Consumer(to_consumer.clone(), opened(2)));
        drop((outbox, to_publisher, to_consumer));
        let (seen, heard) = (handed_out.clone(), handed_out.clone());
        let publisher = tokio::spawn(async move {
            while let Some(PublisherEvent::Confirm { first, .. }) = confirms.recv().await {
                seen.lock().unwrap().push(("confirm", first));
            }
        });
        let consumer = tokio::spawn(async move {
            while let Some(ConsumerEvent::Opened { offset, .. }) = deliveries.recv().await {
                heard.lock().unwrap().push(("delivery", offset.unwrap()));
            }
        });
        // Both wait before anything is handed out.
        tokio::task::yield_now().await;
        dispatcher.run().await;
        publisher.await.unwrap();
        consumer.await.unwrap();
        let expected = [("delivery", 1), ("delivery", 2), ("confirm", 1), ("confirm", 2)];
        assert_eq!(*handed_out.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_parcel_that_comes_while_another_is_handed_out_is_not_left() {
        let (mut outbox, dispatcher) = outbox();
        let (to, mut events) = mpsc::unbounded_channel();
        let handing_out = tokio::spawn(dispatcher.run());
        for first in 0..100 {
            outbox.put(confirm(&to, first));
            outbox.send();
            assert!(events.recv().await.is_some());
        }
        drop(outbox);
        handing_out.await.unwrap();
    }
}
