//! Writing what consumers have to say, settlements and credit: one task for all consumers of a connection.
//!
//! A task's turn and a timer for each would be most of what a consumer costs that gets a message now and then.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::consumer::Shared;
use crate::lock;

/// How long an acknowledgement may wait for others: nobody waits for it, and a packet costs both sides more than it does.
const ACK_PAUSE: Duration = Duration::from_millis(5);

/// How many consumers are written for before other tasks have their turn.
const TURN: usize = 64;

/// The consumers of a connection that have something to say.
#[derive(Default)]
pub(crate) struct Settler {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Somebody waits for what they say.
    urgent: Vec<Arc<Shared>>,
    /// Nobody does.
    patient: Vec<Arc<Shared>>,
    /// When the patient ones have waited long enough.
    until: Option<Instant>,
    /// Nobody writes any more.
    ended: bool,
}

impl Settler {
    /// Has a consumer's words written, at once or within [`ACK_PAUSE`]. Does nothing once nobody writes any more.
    pub(crate) fn add(&self, consumer: Arc<Shared>, urgent: bool) {
        let mut waiting = lock(&self.waiting);
        if waiting.ended {
            return;
        }
        let list = match urgent {
            true => &mut waiting.urgent,
            false => &mut waiting.patient,
        };
        list.push(consumer);
        // Whoever came before has woken the task.
        let wakes = list.len() == 1;
        if wakes && !urgent {
            waiting.until = Some(Instant::now() + ACK_PAUSE);
        }
        drop(waiting);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// Writes until this is dropped, and for nobody after that.
    pub(crate) async fn run(self: Arc<Self>) {
        let _end = End(&self);
        match self.write().await {}
    }

    async fn write(&self) -> Infallible {
        let mut buffer = BytesMut::new();
        let (mut due, mut blocked) = (Vec::new(), Vec::new());
        loop {
            poll_fn(|cx| {
                let turn = due.drain(due.len().saturating_sub(TURN)..);
                blocked.extend(
                    turn.filter(|consumer: &Arc<Shared>| consumer.poll_write(&mut buffer, cx).is_pending()),
                );
                Poll::Ready(())
            })
            .await;
            if !due.is_empty() {
                tokio::task::yield_now().await;
            } else {
                let unblock = |cx: &mut Context<'_>| {
                    blocked.retain(|consumer| consumer.poll_write(&mut buffer, cx).is_pending());
                    Poll::<Infallible>::Pending
                };
                tokio::select! {
                    biased;
                    never = poll_fn(unblock) => match never {},
                    () = self.wait() => {}
                }
            }
            lock(&self.waiting).take(&mut due);
        }
    }

    /// Waits for consumers whose words are to be written now.
    async fn wait(&self) {
        loop {
            let woken = self.wake.notified();
            let until = {
                let waiting = lock(&self.waiting);
                if !waiting.urgent.is_empty() || waiting.are_due() {
                    return;
                }
                waiting.until
            };
            match until {
                Some(until) => drop(tokio::time::timeout_at(until, woken).await),
                None => woken.await,
            }
        }
    }
}

impl Waiting {
    /// Whether the patient ones have waited long enough.
    fn are_due(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Moves those whose words are to be written now.
    fn take(&mut self, to: &mut Vec<Arc<Shared>>) {
        to.append(&mut self.urgent);
        if self.are_due() {
            self.until = None;
            to.append(&mut self.patient);
        }
    }
}

/// Lets go of the consumers, which have the settler themselves.
struct End<'a>(&'a Settler);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.0.waiting);
        waiting.ended = true;
        let left = (
            std::mem::take(&mut waiting.urgent),
            std::mem::take(&mut waiting.patient),
        );
        drop(waiting);
        // Each may be the last owner of a consumer.
        drop(left);
    }
}
