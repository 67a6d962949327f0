//! The way into the driver: one queue of mail, with room that sessions wait for, and what wakes who works it off.

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
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::driver::now;

/// Mails of sessions that may wait for the driver, over all sessions.
const ROOM: usize = 4_096;

/// KiB of publishes that may be between a session's buffer and the disk, over all sessions.
const PUBLISH_ROOM_KIB: u32 = 256 * 1024;

/// Most messages of a publish that is light.
const LIGHT_MESSAGES: usize = 16;

/// Most KiB of room that a light publish has: enough for one message of 16 KiB.
const LIGHT_KIB: usize = 32;

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
    /// Consumers' sessions have written most of what they were handed: they may get more.
    Written,
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

/// The end of those who work the driver: they sleep here until there is mail.
#[derive(Clone)]
pub(crate) struct Doorbell(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Wakes the driver's thread.
    arrived: Condvar,
    /// Wakes the task that works off light mail while the thread sleeps, where there is one.
    light: Option<Notify>,
}

#[derive(Debug, Default)]
struct State {
    mails: VecDeque<Mail>,
    /// How the driver's thread sleeps, if it sleeps and nothing has woken it yet.
    sleep: Option<Sleep>,
    /// There is no driver any more.
    closed: bool,
}

/// How long the driver's thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sleep {
    /// What wakes it.
    pub(crate) wake: Wake,
    /// When it wakes up at the latest, in milliseconds since the Unix epoch.
    pub(crate) until: Option<u64>,
}

/// What wakes a driver's thread that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Whatever comes, but light mail only where no task works it off.
    AnyMail,
    /// News of the store and the word to stop, but nothing that only a turn can handle: it lies there until one can be
    /// made, and waking up for it costs more than handling it.
    Urgent,
}

/// A mailbox, its inbox and the bell. With `light_apart`, somebody waits for [`Doorbell::light_mail`].
pub(crate) fn mailbox(light_apart: bool) -> (Mailbox, Inbox, Doorbell) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        arrived: Condvar::new(),
        light: light_apart.then(Notify::new),
    });
    let room = Arc::new(Semaphore::new(ROOM));
    let publish_room = Arc::new(Semaphore::new(PUBLISH_ROOM_KIB as usize));
    (
        Mailbox {
            queue: queue.clone(),
            room: room.clone(),
            publish_room,
        },
        Inbox {
            queue: queue.clone(),
            room,
        },
        Doorbell(queue),
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
            Mail::Durable { .. } | Mail::Written | Mail::StoreFailed(_) | Mail::Stop => false,
        }
    }
}

impl Mail {
    /// Whether it is worked off in less time than it takes to wake a thread for it, but for a sync.
    fn is_light(&self) -> bool {
        match self {
            Mail::Publish { messages, permit, .. } => {
                messages.len() <= LIGHT_MESSAGES && permit.num_permits() <= LIGHT_KIB
            }
            Mail::Input(Input::Settle { .. } | Input::Credit { .. }) => true,
            _ => false,
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
        let wakes = state.sleep.is_some_and(|sleep| sleep.wake.comes_with(&mail));
        let task = self.light.as_ref().filter(|_| mail.is_light());
        state.mails.push_back(mail);
        if !wakes {
            return Ok(());
        }
        if let Some(task) = task {
            drop(state);
            task.notify_one();
        } else {
            // Once is enough, however much comes until it is awake.
            state.sleep = None;
            drop(state);
            self.arrived.notify_one();
        }
        Ok(())
    }
}

impl Inbox {
    /// Moves all mail that is there to the end of `mails`.
    pub(crate) fn take(&self, mails: &mut VecDeque<Mail>) {
        mails.append(&mut self.queue.lock().mails);
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
        if let Some(task) = &self.queue.light {
            task.notify_one();
        }
    }
}

impl Doorbell {
    /// Sleeps on this thread until mail or time ends it, and not at all when such mail is there. `held` is given back once
    /// mail can end the sleep, so that whoever gets it next finds a thread that sleeps or knows what it must know.
    pub(crate) fn sleep<G>(&self, sleep: Sleep, held: G) {
        let mut state = self.0.lock();
        if state.mails.iter().any(|mail| sleep.wake.comes_with(mail)) {
            return;
        }
        state.sleep = Some(sleep);
        drop(held);
        while let Some(Sleep { until, .. }) = state.sleep {
            let Some(time) = until else {
                state = self.0.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = time.saturating_sub(now());
            if left == 0 {
                state.sleep = None;
                return;
            }
            state = self
                .0
                .arrived
                .wait_timeout(state, Duration::from_millis(left))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until light mail came while the driver's thread slept. Answers whether more may come: not when there is no
    /// driver any more, or light mail is like any other here.
    pub(crate) async fn light_mail(&self) -> bool {
        let Some(task) = &self.0.light else {
            return false;
        };
        task.notified().await;
        !self.0.lock().closed
    }

    /// Whether the driver's thread sleeps and would wake up for any mail.
    pub(crate) fn is_idle(&self) -> bool {
        self.0
            .lock()
            .sleep
            .is_some_and(|sleep| sleep.wake == Wake::AnyMail)
    }

    /// Wakes the driver's thread, if it sleeps.
    pub(crate) fn wake(&self) {
        self.0.lock().sleep = None;
        self.0.arrived.notify_one();
    }

    /// Changes how the driver's thread sleeps. One that is awake finds out by itself.
    pub(crate) fn change(&self, sleep: Sleep) {
        let mut state = self.0.lock();
        let Some(before) = state.sleep.replace(sleep) else {
            state.sleep = None;
            return;
        };
        drop(state);
        let is_sooner = sleep
            .until
            .is_some_and(|until| before.until.is_none_or(|before| until < before));
        if is_sooner {
            // It goes on sleeping, until then.
            self.0.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use pointsman_core::input::Verdict;
    use pointsman_protocol::consume::Credit;

    use super::*;

    fn for_a_turn() -> Mail {
        Mail::Input(Input::Disconnected {
            connection: ConnectionId(1),
        })
    }

    fn light() -> Mail {
        let credit = Credit {
            messages: 1,
            bytes: 1,
        };
        Mail::Input(Input::Credit {
            consumer: ConsumerId(1),
            credit,
        })
    }

    async fn publish(mailbox: &Mailbox, messages: usize, bytes: usize) -> Mail {
        let message = Publish {
            sequence: 1,
            verdict: Verdict::Deliver,
            copies: Default::default(),
        };
        Mail::Publish {
            publisher: PublisherId(1),
            messages: vec![message; messages],
            permit: mailbox.publish_room(bytes).await.unwrap(),
        }
    }

    const fn until(wake: Wake, until: Option<u64>) -> Sleep {
        Sleep { wake, until }
    }

    const IDLE: Sleep = until(Wake::AnyMail, None);
    const BUSY: Sleep = until(Wake::Urgent, None);

    /// What is there while the driver's thread sleeps.
    fn asleep(sleep: Sleep, light_apart: bool) -> (Mailbox, Inbox, Doorbell) {
        let (mailbox, inbox, bell) = mailbox(light_apart);
        bell.0.lock().sleep = Some(sleep);
        (mailbox, inbox, bell)
    }

    fn sleep_of(bell: &Doorbell) -> Option<Sleep> {
        bell.0.lock().sleep
    }

    fn take(inbox: &Inbox) -> Vec<Mail> {
        let mut mails = VecDeque::new();
        inbox.take(&mut mails);
        mails.into()
    }

    /// Whether the task for light mail would wake up.
    fn is_rung(bell: &Doorbell) -> bool {
        let mut wait = std::pin::pin!(bell.light_mail());
        wait.as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_driver_that_cannot_make_a_turn_sleeps_until_the_store_has_news() {
        let (mailbox, inbox, bell) = asleep(BUSY, true);
        mailbox.send_now(for_a_turn());
        mailbox.send_now(light());
        assert_eq!(sleep_of(&bell), Some(BUSY));
        assert!(!is_rung(&bell));
        mailbox.send_now(Mail::Durable { through: 7 });
        assert_eq!(sleep_of(&bell), None);
        assert!(matches!(
            take(&inbox)[..],
            [Mail::Input(_), Mail::Input(_), Mail::Durable { through: 7 }]
        ));
    }

    #[test]
    fn a_driver_without_work_wakes_up_for_any_mail() {
        for mail in [for_a_turn(), light()] {
            let (mailbox, _inbox, bell) = asleep(IDLE, false);
            mailbox.send_now(mail);
            assert_eq!(sleep_of(&bell), None);
        }
    }

    #[tokio::test]
    async fn light_mail_rings_for_the_task_where_there_is_one_and_lets_the_thread_sleep() {
        let (mailbox, inbox, bell) = asleep(IDLE, true);
        for mail in [
            light(),
            publish(&mailbox, LIGHT_MESSAGES, LIGHT_KIB * 1024 - 1).await,
        ] {
            mailbox.send_now(mail);
            assert!(bell.is_idle());
            assert!(is_rung(&bell) && !is_rung(&bell));
        }
        let heavy = [
            publish(&mailbox, LIGHT_MESSAGES + 1, 100).await,
            publish(&mailbox, 1, LIGHT_KIB * 1024).await,
            for_a_turn(),
        ];
        for mail in heavy {
            bell.0.lock().sleep = Some(IDLE);
            mailbox.send_now(mail);
            assert!(!bell.is_idle() && !is_rung(&bell));
            assert_eq!(sleep_of(&bell), None);
        }
        assert_eq!(take(&inbox).len(), 5);
        drop(inbox);
        assert!(is_rung(&bell), "the task must hear that the driver is gone");
    }

    #[test]
    fn mail_that_is_there_already_is_not_slept_over() {
        for (mail, sleep) in [(Mail::Stop, BUSY), (light(), IDLE)] {
            let (mailbox, _inbox, bell) = mailbox(true);
            mailbox.send_now(mail);
            bell.sleep(sleep, ());
            assert_eq!(sleep_of(&bell), None);
        }
    }

    #[test]
    fn a_sleep_ends_at_its_time_though_mail_lies_there() {
        let (mailbox, inbox, bell) = mailbox(true);
        mailbox.send_now(for_a_turn());
        bell.sleep(until(Wake::Urgent, Some(now())), ());
        assert_eq!(sleep_of(&bell), None);
        assert_eq!(take(&inbox).len(), 1);
    }

    #[test]
    fn a_sleeping_driver_is_woken_from_another_thread() {
        let (mailbox, inbox, bell) = mailbox(true);
        let driver = std::thread::spawn(move || {
            bell.sleep(BUSY, ());
            take(&inbox).len()
        });
        mailbox.send_now(Mail::Stop);
        assert_eq!(driver.join().unwrap(), 1);
    }

    #[test]
    fn what_is_held_is_given_back_once_the_thread_sleeps() {
        let (_mailbox, _inbox, bell) = mailbox(true);
        let held = Arc::new(Mutex::new(()));
        let (sleeper, lock) = (bell.clone(), held.clone());
        let (is_held, began) = std::sync::mpsc::channel();
        let driver = std::thread::spawn(move || {
            let guard = lock.lock().unwrap();
            is_held.send(()).unwrap();
            sleeper.sleep(IDLE, guard);
        });
        began.recv().unwrap();
        let guard = held.lock().unwrap();
        assert!(bell.is_idle());
        bell.wake();
        drop(guard);
        driver.join().unwrap();
    }

    #[test]
    fn a_change_of_a_sleep_holds_from_then_on_and_an_earlier_end_is_kept_to() {
        let (_mailbox, _inbox, bell) = asleep(IDLE, true);
        bell.change(BUSY);
        assert_eq!(sleep_of(&bell), Some(BUSY));
        bell.wake();
        bell.change(IDLE);
        assert_eq!(sleep_of(&bell), None, "it is awake");

        let sleeper = bell.clone();
        let driver = std::thread::spawn(move || sleeper.sleep(IDLE, ()));
        while !bell.is_idle() {
            std::thread::yield_now();
        }
        bell.change(until(Wake::AnyMail, Some(now())));
        driver.join().unwrap();
    }

    #[tokio::test]
    async fn without_a_driver_nobody_can_send() {
        let (mailbox, inbox, _bell) = mailbox(true);
        mailbox.send_now(for_a_turn());
        drop(inbox);
        assert!(mailbox.send(for_a_turn()).await.is_err());
        assert!(mailbox.queue.put(for_a_turn()).is_err());
    }
}
