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

/// The driver's end. What was not sent when it is dropped is sent then.
pub(crate) struct Outbox {
    parcel: Vec<Post>,
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
    posts: Vec<Post>,
    /// Nothing more comes.
    closed: bool,
}

/// Both ends.
pub(crate) fn outbox() -> (Outbox, Dispatcher) {
    let shared = Arc::new(Shared::default());
    let parcel = Vec::new();
    (
        Outbox {
            parcel,
            shared: shared.clone(),
        },
        Dispatcher(shared),
    )
}

impl Outbox {
    /// Adds to the parcel.
    pub(crate) fn put(&mut self, post: Post) {
        self.parcel.push(post);
    }

    /// Sends the parcel.
    pub(crate) fn send(&mut self) {
        if self.parcel.is_empty() {
            return;
        }
        let mut waiting = self.shared.waiting();
        // Whoever has not been there yet has been woken already.
        let wakes = waiting.posts.is_empty();
        waiting.posts.append(&mut self.parcel);
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
        let mut posts = Vec::new();
        loop {
            self.0.arrived.notified().await;
            let closed = {
                let mut waiting = self.0.waiting();
                std::mem::swap(&mut posts, &mut waiting.posts);
                waiting.closed
            };
            for post in posts.drain(..) {
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
