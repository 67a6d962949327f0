//! The way into the driver: one queue of mail, with room that sessions wait for.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pointsman_core::commit::Place;
use pointsman_core::input::Publish;
use pointsman_core::{Chunk, ConnectionId, ConsumerId, DeliveryTag, Input, PublisherId, PublisherIdentity};
use pointsman_protocol::ErrorBody;
use pointsman_protocol::admin::Reply;
use pointsman_protocol::consume::OpenConsumer;
use pointsman_protocol::publish::Outcome;
use pointsman_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::driver::now;

/// Mails of sessions that may wait for the driver, over all sessions.
const ROOM: usize = 4_096;

/// KiB of publishes that may be between a session's buffer and the disk, over all sessions.
const PUBLISH_ROOM_KIB: u32 = 256 * 1024;

/// What the driver is told.
#[derive(Debug)]
pub(crate) enum Mail {
    /// For the core, with nobody to answer but those who are known already.
    Input(Input),
    /// A connection authenticated; its replies go to `sink`.
    Connected {
        connection: ConnectionId,
        vhost: String,
        sink: mpsc::UnboundedSender<Answer>,
    },
    /// A publisher's stream opened.
    OpenPublisher {
        connection: ConnectionId,
        publisher: PublisherId,
        identity: PublisherIdentity,
        sink: mpsc::UnboundedSender<PublisherEvent>,
    },
    /// Routed messages. The permit is given back once they are committed.
    Publish {
        publisher: PublisherId,
        messages: Vec<Publish>,
        permit: OwnedSemaphorePermit,
    },
    /// A consumer's stream opened.
    OpenConsumer {
        connection: ConnectionId,
        consumer: ConsumerId,
        open: OpenConsumer,
        sink: mpsc::UnboundedSender<ConsumerEvent>,
    },
    /// How the broker stands.
    Totals(oneshot::Sender<crate::driver::Figures>),
    /// Every commit up to this number is durable.
    Durable { through: u64 },
    /// The store cannot go on.
    StoreFailed(StoreError),
    /// Finish what has come and stop.
    Stop,
}

/// The answer to a request, for a connection's control stream.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The request's number.
    pub(crate) id: u64,
    pub(crate) reply: Reply,
}

/// What the driver tells a publisher's stream.
#[derive(Debug)]
pub(crate) enum PublisherEvent {
    /// It may publish.
    Opened { last_sequence: u64 },
    /// Publishes are done.
    Confirm {
        first: u64,
        count: u32,
        outcome: Outcome,
    },
    /// It is closed.
    Closed(ErrorBody),
}

/// What the driver tells a consumer's stream.
#[derive(Debug)]
pub(crate) enum ConsumerEvent {
    /// It is there.
    Opened { tag: String, offset: Option<u64> },
    /// Messages for it.
    Deliver(Delivery),
    /// It is closed.
    Closed(ErrorBody),
}

/// Consecutive records of a chunk, for one consumer.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) first: DeliveryTag,
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) record: u32,
    pub(crate) count: u32,
    pub(crate) redelivered: bool,
    pub(crate) delivery_count: u32,
    /// Where the first is in its stream.
    pub(crate) place: Option<Place>,
}

/// The senders' end.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    publish_room: Arc<Semaphore>,
}

/// The driver's end.
pub(crate) struct Inbox {
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    mails: VecDeque<Mail>,
    /// What the driver sleeps for, if it sleeps and nothing has woken it yet.
    sleeps_for: Option<Wake>,
    /// There is no driver any more.
    closed: bool,
}

/// What wakes a driver that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Whatever comes.
    AnyMail,
    /// News of the store and the word to stop, but nothing that only a turn can handle: it lies there until one can be
    /// made, and waking up for it costs more than handling it.
    Urgent,
}

/// A mailbox and its inbox.
pub(crate) fn mailbox() -> (Mailbox, Inbox) {
    let queue = Arc::new(Queue::default());
    let room = Arc::new(Semaphore::new(ROOM));
    let publish_room = Arc::new(Semaphore::new(PUBLISH_ROOM_KIB as usize));
    (
        Mailbox {
            queue: queue.clone(),
            room: room.clone(),
            publish_room,
        },
        Inbox { queue, room },
    )
}

/// The driver is gone: the broker is stopping or its store failed.
#[derive(Debug)]
pub(crate) struct DriverGone;

impl Mailbox {
    /// Sends what a client caused, once there is room. Waiting here is what slows a client that floods.
    pub(crate) async fn send(&self, mail: Mail) -> Result<(), DriverGone> {
        self.room.acquire().await.map_err(|_| DriverGone)?.forget();
        self.queue.put(mail)
    }

    /// Sends what must not wait: ends of streams, answers of the store. As many as there are streams and reads.
    pub(crate) fn send_now(&self, mail: Mail) {
        // Without a driver there is nobody left who would care.
        let _ = self.queue.put(mail);
    }

    /// Waits for room for `bytes` of publishes.
    pub(crate) async fn publish_room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, DriverGone> {
        let kib = u32::try_from(bytes / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(PUBLISH_ROOM_KIB);
        self.publish_room
            .clone()
            .acquire_many_owned(kib)
            .await
            .map_err(|_| DriverGone)
    }
}

impl Mail {
    /// Whether its sender waited for room, which is free again once the mail is handled.
    pub(crate) fn took_room(&self) -> bool {
        match self {
            Mail::Input(input) => matches!(
                input,
                Input::Request { .. }
                    | Input::RouterLoaded { .. }
                    | Input::Credit { .. }
                    | Input::Settle { .. }
            ),
            Mail::Connected { .. }
            | Mail::OpenPublisher { .. }
            | Mail::Publish { .. }
            | Mail::OpenConsumer { .. }
            | Mail::Totals(_) => true,
            Mail::Durable { .. } | Mail::StoreFailed(_) | Mail::Stop => false,
        }
    }
}

impl Wake {
    fn comes_with(self, mail: &Mail) -> bool {
        let urgent = matches!(mail, Mail::Durable { .. } | Mail::StoreFailed(_) | Mail::Stop);
        self == Wake::AnyMail || urgent
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, mail: Mail) -> Result<(), DriverGone> {
        let mut state = self.lock();
        if state.closed {
            return Err(DriverGone);
        }
        let wakes = state.sleeps_for.is_some_and(|wake| wake.comes_with(&mail));
        state.mails.push_back(mail);
        if wakes {
            // Once is enough, however much comes until it is awake.
            state.sleeps_for = None;
            drop(state);
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Sleeps until a mail took the wish to be woken, or until the time.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, until: Option<u64>) -> MutexGuard<'a, State> {
        while state.sleeps_for.is_some() {
            state = match until {
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(time) => {
                    let left = time.saturating_sub(now());
                    if left == 0 {
                        break;
                    }
                    self.arrived
                        .wait_timeout(state, Duration::from_millis(left))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        state
    }
}

impl Inbox {
    /// Moves all mail that is there to the end of `mails`. With a `wake` and no mail it sleeps on this thread until such
    /// mail comes, or until a time in milliseconds since the Unix epoch.
    pub(crate) fn take(&self, mails: &mut VecDeque<Mail>, wake: Option<Wake>, until: Option<u64>) {
        let mut state = self.queue.lock();
        if let Some(wake) = wake
            && !state.mails.iter().any(|mail| wake.comes_with(mail))
        {
            state.sleeps_for = Some(wake);
            state = self.queue.sleep(state, until);
            state.sleeps_for = None;
        }
        mails.append(&mut state.mails);
    }

    /// Whether no mail is there.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().mails.is_empty()
    }

    /// Makes room for `count` mails more.
    pub(crate) fn free(&self, count: usize) {
        self.room.add_permits(count);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.room.close();
        let mut state = self.queue.lock();
        state.closed = true;
        // Whoever waits for an answer hears that there is none; not under the lock, as each may wake a task.
        let unread = std::mem::take(&mut state.mails);
        drop(state);
        drop(unread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn for_a_turn() -> Mail {
        Mail::Input(Input::Disconnected {
            connection: ConnectionId(1),
        })
    }

    fn sleeps_for(wake: Wake) -> (Mailbox, Inbox) {
        let (mailbox, inbox) = mailbox();
        inbox.queue.lock().sleeps_for = Some(wake);
        (mailbox, inbox)
    }

    fn is_woken(inbox: &Inbox) -> bool {
        inbox.queue.lock().sleeps_for.is_none()
    }

    #[test]
    fn a_driver_that_cannot_make_a_turn_sleeps_until_the_store_has_news() {
        let (mailbox, inbox) = sleeps_for(Wake::Urgent);
        mailbox.send_now(for_a_turn());
        assert!(!is_woken(&inbox));
        mailbox.send_now(Mail::Durable { through: 7 });
        assert!(is_woken(&inbox));
        let mut mails = VecDeque::new();
        inbox.take(&mut mails, None, None);
        assert!(matches!(
            mails.make_contiguous(),
            [Mail::Input(_), Mail::Durable { through: 7 }]
        ));
    }

    #[test]
    fn a_driver_without_work_wakes_up_for_any_mail() {
        let (mailbox, inbox) = sleeps_for(Wake::AnyMail);
        mailbox.send_now(for_a_turn());
        assert!(is_woken(&inbox));
    }

    #[test]
    fn mail_that_is_there_already_is_not_slept_over() {
        let (mailbox, inbox) = mailbox();
        mailbox.send_now(Mail::Stop);
        let mut mails = VecDeque::new();
        inbox.take(&mut mails, Some(Wake::Urgent), None);
        assert_eq!(mails.len(), 1);
    }

    #[test]
    fn the_wait_ends_at_its_time_with_what_came_meanwhile() {
        let (mailbox, inbox) = mailbox();
        mailbox.send_now(for_a_turn());
        let mut mails = VecDeque::new();
        inbox.take(&mut mails, Some(Wake::Urgent), Some(now()));
        assert_eq!(mails.len(), 1);
        inbox.take(&mut mails, Some(Wake::AnyMail), Some(now()));
        assert_eq!(mails.len(), 1);
    }

    #[test]
    fn a_sleeping_driver_is_woken_from_another_thread() {
        let (mailbox, inbox) = mailbox();
        let driver = std::thread::spawn(move || {
            let mut mails = VecDeque::new();
            inbox.take(&mut mails, Some(Wake::Urgent), None);
            mails.len()
        });
        mailbox.send_now(Mail::Stop);
        assert_eq!(driver.join().unwrap(), 1);
    }

    #[tokio::test]
    async fn without_a_driver_nobody_can_send() {
        let (mailbox, inbox) = mailbox();
        mailbox.send_now(for_a_turn());
        drop(inbox);
        assert!(mailbox.send(for_a_turn()).await.is_err());
        assert!(mailbox.queue.put(for_a_turn()).is_err());
    }
}
