//! Who works the driver: a thread of its own, and for light mail the runtime's thread that it came in on.
//!
//! A message that comes alone takes less time to handle than a thread takes to wake up, and each way to another thread and
//! back is two of that. So while the driver's thread sleeps, light mail is worked off by a task of the runtime, sync and
//! all. What is more than that, or comes while the disk is slow, wakes the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crate::driver::{Driver, Ended};
use crate::mailbox::{Doorbell, Sleep};
use crate::outbox::Side;

/// Longest step on the runtime's thread after which the next may follow at once. Sessions wait meanwhile.
const STEP_MAX: Duration = Duration::from_millis(1);

/// How long the driver's thread does everything after a longer step, in times of that step.
const REST_TIMES: u32 = 9;

/// A driver, and those who work it.
pub(crate) struct Shard {
    driver: Mutex<Stage>,
    bell: Doorbell,
}

/// Keeps the runtime's thread from waiting for a slow disk more than a tenth of the time.
#[derive(Default)]
struct Pace {
    rests_until: Option<Instant>,
}

/// A driver's life.
enum Stage {
    Driving(Box<Driver>),
    /// Ended, on whichever thread; its own takes it apart.
    Ending(Box<Driver>, Ended),
    Gone,
}

impl Shard {
    pub(crate) fn new(driver: Driver, bell: Doorbell) -> Shard {
        Shard {
            driver: Mutex::new(Stage::Driving(Box::new(driver))),
            bell,
        }
    }

    /// Drives on this thread until the driver is told to stop or the store fails.
    pub(crate) fn run(&self) -> Ended {
        loop {
            let mut stage = self.lock();
            if let Some(sleep) = stage.step(Side::Outside) {
                self.bell.sleep(sleep, stage);
            } else if let Some((driver, ended)) = stage.take_ended() {
                drop(stage);
                driver.stop();
                return ended;
            }
        }
    }

    /// Works off light mail while the driver's thread sleeps, until there is no driver any more.
    pub(crate) async fn work_off_light_mail(self: Arc<Shard>) {
        let mut pace = Pace::default();
        while self.bell.light_mail().await {
            let mut stage = match self.driver.try_lock() {
                Ok(stage) => stage,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The thread is at it, and looks again before it sleeps.
                Err(TryLockError::WouldBlock) => continue,
            };
            if !self.bell.is_idle() {
                continue;
            }
            let start = Instant::now();
            if !pace.allows(start) {
                self.bell.wake();
                continue;
            }
            match stage.step(Side::Inside) {
                Some(sleep) => self.bell.change(sleep),
                None => self.bell.wake(),
            }
            pace.note(start, Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
    /// Makes a step, and answers how long to sleep then: not at all when there is more to do, or the driver has ended.
    fn step(&mut self, side: Side) -> Option<Sleep> {
        let Stage::Driving(driver) = self else {
            return None;
        };
        match caught(|| driver.step(side)) {
            Ok(sleep) => sleep,
            Err(ended) => {
                if let Stage::Driving(driver) = std::mem::replace(self, Stage::Gone) {
                    *self = Stage::Ending(driver, ended);
                }
                None
            }
        }
    }

    fn take_ended(&mut self) -> Option<(Box<Driver>, Ended)> {
        match std::mem::replace(self, Stage::Gone) {
            Stage::Ending(driver, ended) => Some((driver, ended)),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// What a step says. A panic must not leave sessions waiting for ever, so it is an end.
fn caught(step: impl FnOnce() -> Result<Option<Sleep>, Ended>) -> Result<Option<Sleep>, Ended> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(Ended::Panicked))
}

impl Pace {
    fn allows(&self, now: Instant) -> bool {
        self.rests_until.is_none_or(|until| now >= until)
    }

    /// Notes how long a step took.
    fn note(&mut self, start: Instant, end: Instant) {
        let took = end.duration_since(start);
        self.rests_until = (took > STEP_MAX).then(|| end + took * REST_TIMES);
    }
}

#[cfg(test)]
mod tests {
    use std::thread::JoinHandle;

    use arc_swap::ArcSwap;
    use bytes::Bytes;
    use pointsman_core::input::{MessageCopy, Publish, Times, Verdict};
    use pointsman_core::{
        Broker, Commit, ConnectionId, ConsumerId, ExchangeId, Input, PublisherId, PublisherIdentity,
    };
    use pointsman_protocol::MessageMeta;
    use pointsman_protocol::admin::{QueueSpec, Request};
    use pointsman_protocol::consume::{Credit, OpenConsumer};
    use pointsman_router_host::{CompileMode, Host, HostOptions, ModuleLimits, Routes};
    use pointsman_store::{Committer, Options, Reader, Site, Store};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::driver::now;
    use crate::mailbox::{ConsumerEvent, Mail, Mailbox, PublisherEvent, Wake, mailbox};
    use crate::outbox::outbox;

    const PUBLISHER: PublisherId = PublisherId(2);

    /// A shard with a queue, a publisher and a thread that sleeps as the driver's does, but does no work when it wakes up.
    struct Bench {
        shard: Arc<Shard>,
        mailbox: Mailbox,
        store: Store,
        message: Publish,
        events: UnboundedReceiver<PublisherEvent>,
        sleeper: JoinHandle<()>,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let (store, restored) = Store::open(&folder.path().join("store"), Options::default()).unwrap();
            let mut broker = Broker::restore(restored).unwrap();
            let mut commit = Commit::default();
            broker.bootstrap(&mut commit);
            let connection = ConnectionId(1);
            let vhost = "/".to_owned();
            broker.handle(Input::Connected { connection, vhost }, now(), &mut commit);
            let declare = Input::Request {
                connection,
                id: 1,
                request: Request::DeclareQueue(QueueSpec::new("q")),
            };
            broker.handle(declare, now(), &mut commit);
            broker.finish(now(), &mut commit);
            store.apply(&[&commit.records], true).unwrap();
            let topology = broker.topology();
            let message = message(topology.vhosts["/"].queues["q"]);

            let (mailbox, inbox, bell) = mailbox(true);
            let committer = Committer::start(store.clone(), |_| {}).unwrap();
            let reader = Reader::start(store.clone(), |_| {}).unwrap();
            let (outbox, dispatcher) = outbox();
            tokio::spawn(dispatcher.run(mailbox.clone()));
            let host = Host::new(HostOptions {
                cache_dir: folder.path().join("modules"),
                mac_key: [0; 32],
                compile: CompileMode::InProcess,
                limits: ModuleLimits::default(),
            })
            .unwrap();
            let routes = Arc::new(ArcSwap::new(Routes::new(host.clone(), topology)));
            let (mail, disk) = ((inbox, outbox), (committer, reader));
            let mut driver = Driver::new(broker, commit.effects, mail, disk, host, routes);
            let (sink, events) = unbounded_channel();
            mailbox.send_now(Mail::OpenPublisher {
                connection,
                publisher: PUBLISHER,
                identity: PublisherIdentity(1),
                sink,
            });
            let idle = Sleep {
                wake: Wake::AnyMail,
                until: None,
            };
            assert_eq!(driver.step(Side::Outside).unwrap(), Some(idle));

            let sleeping = bell.clone();
            let sleeper = std::thread::spawn(move || sleeping.sleep(idle, ()));
            while !bell.is_idle() {
                std::thread::yield_now();
            }
            Bench {
                shard: Arc::new(Shard::new(driver, bell)),
                mailbox,
                store,
                message,
                events,
                sleeper,
                _folder: folder,
            }
        }

        fn syncs(&self) -> u64 {
            let figures = self.store.figures();
            figures.iter().find(|(name, _)| name == "syncs").unwrap().1
        }

        async fn publish(&self) {
            self.publish_many(1..2).await;
        }

        async fn publish_many(&self, sequences: std::ops::Range<u64>) {
            let message = |sequence| Publish {
                sequence,
                ..self.message.clone()
            };
            let mail = Mail::Publish {
                publisher: PUBLISHER,
                messages: sequences.map(message).collect(),
                permit: self.mailbox.publish_room(1).await.unwrap(),
            };
            self.mailbox.send(mail).await.unwrap();
        }

        /// A consumer that takes what it gets.
        fn consume(&self, consumer: ConsumerId) -> UnboundedReceiver<ConsumerEvent> {
            let (sink, events) = unbounded_channel();
            let open = OpenConsumer {
                queue: "q".to_owned(),
                tag: String::new(),
                exclusive: false,
                no_ack: false,
                start: None,
            };
            let connection = ConnectionId(1);
            self.mailbox.send_now(Mail::OpenConsumer {
                connection,
                consumer,
                open,
                sink,
            });
            let credit = Credit {
                messages: 1_000,
                bytes: 1 << 20,
            };
            self.mailbox
                .send_now(Mail::Input(Input::Credit { consumer, credit }));
            events
        }

        fn step(&self) -> Option<Sleep> {
            self.shard.lock().step(Side::Outside)
        }

        fn work_off_light_mail(&self) -> tokio::task::JoinHandle<()> {
            tokio::spawn(self.shard.clone().work_off_light_mail())
        }
    }

    fn message(queue: pointsman_core::QueueId) -> Publish {
        let meta = postcard_of(&MessageMeta::default());
        let copy = MessageCopy {
            meta_len: meta.len() as u32,
            content: meta,
            persistent: true,
            times: Times::default(),
            exchange: ExchangeId(0),
            decided_by: None,
            queues: [queue].as_slice().into(),
        };
        Publish {
            sequence: 1,
            verdict: Verdict::Deliver,
            copies: std::iter::once(copy).collect(),
        }
    }

    fn postcard_of(meta: &MessageMeta) -> Bytes {
        let mut bytes = bytes::BytesMut::new();
        pointsman_protocol::frame::put_postcard(&mut bytes, meta);
        bytes.freeze()
    }

    #[tokio::test]
    async fn light_mail_is_durable_and_confirmed_while_the_thread_sleeps() {
        let mut bench = Bench::new();
        let synced = bench.syncs();
        let task = bench.work_off_light_mail();
        bench.publish().await;
        assert!(matches!(
            bench.events.recv().await,
            Some(PublisherEvent::Opened { .. })
        ));
        let confirmed = bench.events.recv().await;
        assert!(matches!(
            confirmed,
            Some(PublisherEvent::Confirm { first: 1, .. })
        ));
        assert_eq!(bench.syncs(), synced + 1);
        assert!(bench.shard.bell.is_idle());
        bench.mailbox.send_now(Mail::Stop);
        bench.sleeper.join().unwrap();
        assert!(matches!(bench.shard.run(), Ended::Stopped));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_fails_under_light_mail_ends_the_driver_on_its_thread() {
        let bench = Bench::new();
        bench
            .store
            .faults()
            .fail(Site::Sync, 0, std::io::ErrorKind::Other);
        let task = bench.work_off_light_mail();
        bench.publish().await;
        tokio::task::spawn_blocking(|| bench.sleeper.join().unwrap())
            .await
            .unwrap();
        assert!(matches!(bench.shard.run(), Ended::StoreFailed(_)));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_withheld_while_sessions_are_busy_is_handed_out_once_they_have_written() {
        // More than are handed something at once.
        const CONSUMERS: u64 = 600;
        let bench = Bench::new();
        let mut all: Vec<_> = (0..CONSUMERS)
            .map(|n| bench.consume(ConsumerId(10 + n)))
            .collect();
        let mut delivered = || {
            let events = all
                .iter_mut()
                .flat_map(|events| std::iter::from_fn(|| events.try_recv().ok()));
            let counts = events.map(|event| match event {
                ConsumerEvent::Deliver(delivery) => u64::from(delivery.count),
                _ => 0,
            });
            counts.sum::<u64>()
        };
        let idle = Some(Sleep {
            wake: Wake::AnyMail,
            until: None,
        });
        while bench.step() != idle {}
        others_have_their_turn().await;
        for n in 0..2 {
            let first = 1 + n * CONSUMERS;
            bench.publish_many(first..first + CONSUMERS).await;
            assert_eq!(
                bench.step(),
                idle,
                "there is nothing to do until sessions have written"
            );
        }
        others_have_their_turn().await;
        assert_eq!(delivered(), CONSUMERS, "what came second was withheld");
        assert_eq!(bench.step(), idle);
        others_have_their_turn().await;
        assert_eq!(delivered(), CONSUMERS);
        bench.mailbox.send_now(Mail::Stop);
        bench.sleeper.join().unwrap();
        assert!(matches!(bench.shard.run(), Ended::Stopped));
    }

    /// Lets every task of this thread run until it waits for something.
    async fn others_have_their_turn() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_step_that_panics_is_an_end() {
        assert!(matches!(caught(|| panic!("in a test")), Err(Ended::Panicked)));
        assert!(matches!(caught(|| Err(Ended::Stopped)), Err(Ended::Stopped)));
        assert!(matches!(caught(|| Ok(None)), Ok(None)));
    }

    #[test]
    fn what_comes_after_a_slow_step_is_left_to_the_thread() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.note(start, start + STEP_MAX);
        assert!(pace.allows(start + STEP_MAX));
        let slow = STEP_MAX * 2;
        pace.note(start, start + slow);
        assert!(!pace.allows(start + slow * REST_TIMES));
        assert!(pace.allows(start + slow * (REST_TIMES + 1)));
    }
}
