//! One connection to a broker: its greeting, its control stream, and who works on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::frame::{Frame, Kind};
use pointsman_protocol::limits;
use pointsman_protocol::session::{Hello, Notice, Welcome};
use quinn::{Endpoint, SendStream};
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::AbortHandle;

use crate::settler::Settler;
use crate::transport::Target;
use crate::wire::{self, FrameReader};
use crate::{Error, lock};

/// A live connection. Its streams and requests work on it until it is lost or asks them to leave.
pub(crate) struct Link {
    /// Counts the connections of a client, from 1.
    pub(crate) generation: u64,
    pub(crate) connection: quinn::Connection,
    pub(crate) welcome: Welcome,
    endpoint: Endpoint,
    control: Control,
    /// Writes for the consumers, in a task that ends with the link.
    pub(crate) settler: Arc<Settler>,
    settling: AbortHandle,
    leaving: watch::Sender<Leaving>,
    /// How many streams work on it.
    streams: watch::Sender<usize>,
}

/// Whether streams should finish what is in flight and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    No,
    /// To the next connection, as the broker asked for.
    Asked,
    /// For good, as the client is being closed.
    Closed,
}

/// The control stream's ends, which one task drives.
pub(crate) struct ControlStream {
    send: SendStream,
    receive: FrameReader,
}

#[derive(Default)]
struct Control {
    state: Mutex<ControlState>,
    /// Something waits to be written.
    wake: Notify,
}

#[derive(Default)]
struct ControlState {
    last_id: u64,
    unwritten: Vec<Bytes>,
    waiting: HashMap<u64, oneshot::Sender<Result<Reply, Error>>>,
    lost: Option<Error>,
}

/// Keeps a link from being closed while a stream works on it.
pub(crate) struct StreamGuard<'a>(&'a Link);

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.0.streams.send_modify(|streams| *streams -= 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.settling.abort();
    }
}

impl Link {
    /// Connects and greets.
    pub(crate) async fn establish(
        target: &Target,
        hello: &Hello,
        generation: u64,
    ) -> Result<(Link, ControlStream), Error> {
        let (endpoint, connection) = target.connect().await?;
        let greeting = async {
            let (send, mut receive) =
                wire::open(&connection, Kind::Hello, hello, limits::FRAME_BODY_MAX).await?;
            let welcome: Welcome = receive.expect(Kind::Welcome).await?;
            Ok::<_, Error>((ControlStream { send, receive }, welcome))
        };
        let (stream, welcome) = match tokio::time::timeout(target.timeout, greeting).await {
            Ok(greeted) => greeted?,
            Err(_) => {
                return Err(Error::Timeout {
                    what: "the greeting",
                    after: target.timeout,
                });
            }
        };
        tracing::debug!(
            connection = welcome.connection,
            server = welcome.server,
            "connected"
        );
        let settler = Arc::<Settler>::default();
        let link = Link {
            generation,
            connection,
            welcome,
            endpoint,
            control: Control::default(),
            settling: tokio::spawn(settler.clone().run()).abort_handle(),
            settler,
            leaving: watch::Sender::new(Leaving::No),
            streams: watch::Sender::new(0),
        };
        Ok((link, stream))
    }

    /// Counts the caller among the streams that work on this link.
    pub(crate) fn enter(&self) -> StreamGuard<'_> {
        self.streams.send_modify(|streams| *streams += 1);
        StreamGuard(self)
    }

    /// After which generation to look for a link, for a stream that ended on this one: after this one when it is
    /// gone, or this very one again when only the stream is.
    pub(crate) fn generation_to_follow(&self) -> u64 {
        match self.connection.close_reason().is_some() || *self.leaving.borrow() != Leaving::No {
            true => self.generation,
            false => self.generation - 1,
        }
    }

    /// Tells the streams to finish what is in flight and go.
    pub(crate) fn leave(&self, leaving: Leaving) {
        self.leaving.send_replace(leaving);
    }

    /// Waits until the streams are to go, and says where.
    pub(crate) async fn left(&self) -> Leaving {
        let mut leaving = self.leaving.subscribe();
        match leaving.wait_for(|leaving| *leaving != Leaving::No).await {
            Ok(leaving) => *leaving,
            Err(_) => unreachable!("the sender lives in self"),
        }
    }

    /// Waits until no stream works on this link.
    pub(crate) async fn deserted(&self) {
        let _ = self.streams.subscribe().wait_for(|streams| *streams == 0).await;
    }

    /// Closes the connection and waits until the broker has been told.
    pub(crate) async fn close(&self) {
        self.connection.close(0u32.into(), b"");
        self.endpoint.wait_idle().await;
    }

    /// Sends a request and waits for its reply. The caller bounds the time and the number of requests.
    pub(crate) async fn request(&self, request: &Request, body: Bytes) -> Result<Reply, Error> {
        let (id, reply) = self.control.enqueue(request, body)?;
        // Forgets the request when the caller stops waiting.
        let _forget = Forget(&self.control, id);
        reply
            .await
            .unwrap_or_else(|_| Err(Error::disconnected("the request was dropped")))
    }

    /// Drives the control stream until the connection is lost, which is what it returns.
    pub(crate) async fn drive(&self, stream: &mut ControlStream, notice: impl Fn(Notice)) -> Error {
        let ControlStream { send, receive } = stream;
        let error = tokio::select! {
            error = self.control.write(send) => error,
            error = self.control.read(receive, notice) => error,
            error = self.connection.closed() => error.into(),
        };
        self.control.fail(&error);
        error
    }
}

impl Control {
    fn enqueue(
        &self,
        request: &Request,
        body: Bytes,
    ) -> Result<(u64, oneshot::Receiver<Result<Reply, Error>>), Error> {
        let (sender, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        if let Some(error) = &state.lost {
            return Err(error.clone());
        }
        let id = state.last_id + 1;
        let mut head = BytesMut::new();
        wire::put_head(&mut head, Kind::Request, id, request, body.len() as u32)?;
        state.last_id = id;
        state.waiting.insert(id, sender);
        state.unwritten.push(head.freeze());
        if !body.is_empty() {
            state.unwritten.push(body);
        }
        drop(state);
        self.wake.notify_one();
        Ok((id, receiver))
    }

    async fn write(&self, send: &mut SendStream) -> Error {
        loop {
            let mut chunks = std::mem::take(&mut lock(&self.state).unwritten);
            if chunks.is_empty() {
                self.wake.notified().await;
            } else if let Err(error) = wire::write_chunks(send, &mut chunks).await {
                return error;
            }
        }
    }

    async fn read(&self, receive: &mut FrameReader, notice: impl Fn(Notice)) -> Error {
        loop {
            let frame = match receive.next().await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            let taken = match frame.header.kind {
                Kind::Reply => self.answer(&frame),
                Kind::Notice => frame.decode().map(&notice).map_err(Error::from),
                _ => Err(wire::refusal(&frame)),
            };
            if let Err(error) = taken {
                return error;
            }
        }
    }

    fn answer(&self, frame: &Frame) -> Result<(), Error> {
        let reply = match Reply::from_frame(frame)? {
            Reply::Error(body) => Err(Error::Refused(body)),
            reply => Ok(reply),
        };
        // Nobody waits when the request timed out.
        if let Some(waiting) = lock(&self.state).waiting.remove(&frame.header.id) {
            let _ = waiting.send(reply);
        }
        Ok(())
    }

    fn fail(&self, error: &Error) {
        let mut state = lock(&self.state);
        state.lost = Some(error.clone());
        state.unwritten.clear();
        for (_, waiting) in state.waiting.drain() {
            let _ = waiting.send(Err(error.clone()));
        }
    }
}

struct Forget<'a>(&'a Control, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).waiting.remove(&self.1);
    }
}

/// At most so many requests of a client wait for replies.
pub(crate) fn request_permits() -> Semaphore {
    Semaphore::new(limits::REQUESTS_MAX)
}
