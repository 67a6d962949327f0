//! ZeroMQ: what moving messages costs where nothing takes them in between, stores or confirms them. A mark, not a peer.
//!
//! libzmq itself, through the sockets that lose nothing: each publisher has a PUSH socket for each queue, to which the PULL
//! sockets of that queue's consumers connect over TCP. So a fan-out sends each message once for each queue, all of it from
//! the generator's thread, which a broker spares its publishers. PUB and SUB are how ZeroMQ fans out elsewhere, but PUB
//! drops what a subscriber is too slow for unless told otherwise, which the crate `zmq` cannot, and here every message has
//! to arrive. Prefixes of SUB are no match for patterns: the row of topics is left out, and so are the rows where messages
//! wait for a consumer, because nobody would hold them.
//!
//! A message counts as published once libzmq has taken it, which says nothing of its arrival; publishers are held back by
//! the high-water marks, a window of messages at either end, and by what the kernel buffers in between. Nothing is
//! acknowledged. There is no server whose CPU, memory or syncs could be told: all of it happens in the generator, on its
//! one thread and libzmq's.

use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pointsman_load::{Arrivals, Broker, Consumer, Error, Order, Outgoing, Publisher, Scenario, Shape};
use tokio::io::unix::AsyncFd;
use zmq::{Context, DONTWAIT, Message, PollEvents, SocketType};

/// How long libzmq goes on to send after a socket was closed, in milliseconds: as long as the generator waits for messages.
const LINGER: i32 = 15_000;

/// No broker: only where the publishers are.
pub(crate) struct ZeroMq {
    context: Context,
    /// Of each queue, where to connect to.
    queues: Mutex<Vec<Vec<String>>>,
}

/// The version of the library.
pub(crate) fn version() -> String {
    let (major, minor, patch) = zmq::version();
    format!("libzmq {major}.{minor}.{patch}")
}

impl ZeroMq {
    pub(crate) fn new() -> ZeroMq {
        ZeroMq {
            context: Context::new(),
            queues: Mutex::default(),
        }
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Vec<String>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker for ZeroMq {
    type Publisher = Push;
    type Consumer = Pull;

    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        if scenario.order == Order::After {
            return Err(Error::Broker(
                "ZeroMQ holds no messages until somebody comes".into(),
            ));
        }
        if matches!(scenario.shape, Shape::Topic { .. }) {
            return Err(Error::Broker("ZeroMQ has no patterns".into()));
        }
        *self.queues() = vec![Vec::new(); scenario.shape.queues()];
        Ok(())
    }

    async fn publisher(&self, scenario: &Scenario) -> Result<Push, Error> {
        let mut sockets = Vec::new();
        for addresses in self.queues().iter_mut() {
            let socket = Socket::open(&self.context, zmq::PUSH, scenario)?;
            socket.zmq.bind("tcp://127.0.0.1:*").map_err(fault)?;
            let address = socket.zmq.get_last_endpoint().map_err(fault)?;
            addresses.push(address.map_err(|_| Error::Broker("libzmq bound to no text".into()))?);
            sockets.push(socket);
        }
        Ok(Push {
            sockets,
            sent: 0,
            told: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, queue: usize) -> Result<Pull, Error> {
        let socket = Socket::open(&self.context, zmq::PULL, scenario)?;
        for address in self.queues().get(queue).into_iter().flatten() {
            socket.zmq.connect(address).map_err(fault)?;
        }
        Ok(Pull {
            socket,
            message: Message::new(),
            most: scenario.window,
        })
    }

    async fn tear_down(&self) -> Result<(), Error> {
        self.queues().clear();
        Ok(())
    }
}

/// Sends each message to every queue.
pub(crate) struct Push {
    /// One for each queue.
    sockets: Vec<Socket>,
    sent: u64,
    /// Those of them that the generator knows of.
    told: u64,
}

impl Publisher for Push {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        for message in messages {
            for socket in &mut self.sockets {
                socket.send(&message.body).await?;
            }
            self.sent += 1;
        }
        Ok(())
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        if self.told == self.sent {
            return std::future::pending().await;
        }
        // Nobody is waited for, so that the other tasks would never have their turn.
        tokio::task::yield_now().await;
        numbers.push(self.told..self.sent);
        self.told = self.sent;
        Ok(())
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Receives from all publishers.
pub(crate) struct Pull {
    socket: Socket,
    message: Message,
    /// Most messages that are taken in at once.
    most: usize,
}

impl Consumer for Pull {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        loop {
            let mut taken = 0;
            while taken < self.most && self.socket.take(&mut self.message)? {
                arrivals.push(&self.message)?;
                taken += 1;
            }
            match taken {
                0 => self.socket.ready(zmq::POLLIN).await?,
                _ => return Ok(()),
            }
        }
    }

    async fn ack(&mut self) -> Result<(), Error> {
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// A socket of libzmq, and what wakes a task of the generator for it.
struct Socket {
    /// Readable when something has changed, and only then (`ZMQ_FD` in `zmq_getsockopt(3)`). It goes before its socket does.
    changes: AsyncFd<RawFd>,
    zmq: zmq::Socket,
}

impl Socket {
    fn open(context: &Context, kind: SocketType, scenario: &Scenario) -> Result<Socket, Error> {
        let zmq = context.socket(kind).map_err(fault)?;
        let most = i32::try_from(scenario.window).unwrap_or(i32::MAX);
        zmq.set_sndhwm(most).map_err(fault)?;
        zmq.set_rcvhwm(most).map_err(fault)?;
        zmq.set_linger(LINGER).map_err(fault)?;
        let changes = zmq.get_fd().map_err(fault)?;
        #[expect(
            deprecated,
            reason = "libzmq gives a number, from which only unsafe code makes more; it is of the socket, which lives longer"
        )]
        let changes = AsyncFd::new(changes)?;
        Ok(Socket { changes, zmq })
    }

    async fn send(&mut self, body: &[u8]) -> Result<(), Error> {
        loop {
            match self.zmq.send(body, DONTWAIT) {
                Ok(()) => return Ok(()),
                Err(zmq::Error::EAGAIN) => self.ready(zmq::POLLOUT).await?,
                Err(error) => return Err(fault(error)),
            }
        }
    }

    /// Takes the next message; false when there is none now.
    fn take(&mut self, message: &mut Message) -> Result<bool, Error> {
        match self.zmq.recv(message, DONTWAIT) {
            Ok(()) => Ok(true),
            Err(zmq::Error::EAGAIN) => Ok(false),
            Err(error) => Err(fault(error)),
        }
    }

    /// Waits until it can be read from or written to. A change that libzmq has seen wakes nobody again, so that is asked
    /// for first, and again after every change.
    async fn ready(&mut self, what: PollEvents) -> Result<(), Error> {
        while !self.zmq.get_events().map_err(fault)?.contains(what) {
            self.changes.readable().await?.clear_ready();
        }
        Ok(())
    }
}

fn fault(error: zmq::Error) -> Error {
    Error::Broker(format!("libzmq: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use pointsman_load::{Amount, Report};

    use super::*;

    fn scenario(shape: Shape, publishers: usize, consumers: usize) -> Scenario {
        Scenario {
            shape,
            durable: false,
            publishers,
            consumers,
            order: Order::Together,
            body: 100,
            // Fewer than messages, so that publishers have to wait for room.
            window: 1_000,
            rate: None,
            warm_up: Duration::ZERO,
            amount: Amount::Messages(20_000),
        }
    }

    async fn run(scenario: &Scenario) -> Report {
        let zeromq = ZeroMq::new();
        zeromq.set_up(scenario).await.unwrap();
        let report = pointsman_load::run(&zeromq, scenario, &Arc::default()).await;
        report.unwrap()
    }

    #[tokio::test]
    async fn what_libzmq_has_taken_arrives_once_though_its_publisher_is_gone() {
        let report = run(&scenario(Shape::Queue, 4, 4)).await;
        assert_eq!(
            (report.sent, report.arrived, report.duplicates),
            (20_000, 20_000, 0)
        );
    }

    #[tokio::test]
    async fn every_queue_of_a_fan_out_gets_every_message() {
        let report = run(&scenario(Shape::FanOut { queues: 4 }, 1, 4)).await;
        assert_eq!(
            (report.sent, report.arrived, report.duplicates),
            (20_000, 80_000, 0)
        );
    }

    #[tokio::test]
    async fn messages_that_would_have_to_wait_or_to_match_are_refused() {
        let zeromq = ZeroMq::new();
        let topic = scenario(Shape::Topic { queues: 4 }, 1, 4);
        let waiting = Scenario {
            order: Order::After,
            ..scenario(Shape::Queue, 1, 1)
        };
        assert!(zeromq.set_up(&topic).await.is_err());
        assert!(zeromq.set_up(&waiting).await.is_err());
    }
}
