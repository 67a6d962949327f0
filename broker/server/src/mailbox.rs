//! The way into the driver: one queue of mail, with room that sessions wait for.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
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
    sender: mpsc::UnboundedSender<Mail>,
    room: Arc<Semaphore>,
    publish_room: Arc<Semaphore>,
}

/// The driver's end.
pub(crate) struct Inbox {
    receiver: mpsc::UnboundedReceiver<Mail>,
    room: Arc<Semaphore>,
}

/// A mailbox and its inbox.
pub(crate) fn mailbox() -> (Mailbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(ROOM));
    let publish_room = Arc::new(Semaphore::new(PUBLISH_ROOM_KIB as usize));
    (
        Mailbox {
            sender,
            room: room.clone(),
            publish_room,
        },
        Inbox { receiver, room },
    )
}

/// The driver is gone: the broker is stopping or its store failed.
#[derive(Debug)]
pub(crate) struct DriverGone;

impl Mailbox {
    /// Sends what a client caused, once there is room. Waiting here is what slows a client that floods.
    pub(crate) async fn send(&self, mail: Mail) -> Result<(), DriverGone> {
        self.room.acquire().await.map_err(|_| DriverGone)?.forget();
        self.sender.send(mail).map_err(|_| DriverGone)
    }

    /// Sends what must not wait: ends of streams, answers of the store. As many as there are streams and reads.
    pub(crate) fn send_now(&self, mail: Mail) {
        // Without a driver there is nobody left who would care.
        let _ = self.sender.send(mail);
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

impl Inbox {
    /// The next mail; waits for one on this thread. `None` when all senders are gone.
    pub(crate) fn wait(&mut self) -> Option<Mail> {
        self.receiver.blocking_recv()
    }

    /// As [`Inbox::wait`], but no longer than until a time in milliseconds since the Unix epoch; `Some(None)` then.
    pub(crate) fn wait_until(&mut self, time: u64) -> Option<Option<Mail>> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            if let Poll::Ready(mail) = self.receiver.poll_recv(&mut Context::from_waker(&waker)) {
                return mail.map(Some);
            }
            let left = time.saturating_sub(now());
            if left == 0 {
                return Some(None);
            }
            std::thread::park_timeout(Duration::from_millis(left));
        }
    }

    /// The next mail if one is there.
    pub(crate) fn poll(&mut self) -> Option<Mail> {
        self.receiver.try_recv().ok()
    }

    /// Makes room for `count` mails more.
    pub(crate) fn free(&self, count: usize) {
        self.room.add_permits(count);
    }
}

/// Wakes a thread that waits for mail. The runtime's timer would do as well, but not while the runtime ends.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.room.close();
    }
}
