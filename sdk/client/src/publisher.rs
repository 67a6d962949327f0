//! Publishers: pipelined, confirmed, restored over connections.

use std::sync::{Arc, Mutex};

use pointsman_protocol::frame::Kind;
use pointsman_protocol::limits;
use pointsman_protocol::publish::{Confirm, OpenPublisher, PublisherOpened};
use quinn::SendStream;
use tokio::sync::{Notify, Semaphore};

use crate::confirm::{Batch, BatchConfirmation, Confirmation, Waiter};
use crate::link::{Leaving, Link};
use crate::reconnect::{Backoff, Links};
use crate::window::Window;
use crate::wire::{self, FrameReader};
use crate::{Client, Error, Message, lock};

/// Messages of a batch that are taken in at once.
const BATCH_STEP: usize = 128;

/// Publishes to one exchange. Clones share the stream and its order.
///
/// A message is numbered when `publish` returns, and the broker keeps that order. It is safe once its
/// [`Confirmation`] resolves. Over a lost connection the publisher keeps its identity and numbers, so that the broker
/// recognises what it had taken and answers [`crate::Outcome::Duplicate`].
///
/// When the last clone is dropped, what is unconfirmed is still sent in the background.
#[derive(Clone)]
pub struct Publisher {
    handle: Arc<Handle>,
}

/// Closes the publisher when the last clone goes, and keeps the client alive until then.
struct Handle {
    shared: Arc<Shared>,
    _client: Client,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop_taking();
    }
}

/// Settings of a publisher. See [`Client::publisher_builder`].
pub struct PublisherBuilder {
    client: Client,
    exchange: String,
    window: u32,
}

impl PublisherBuilder {
    pub(crate) fn new(client: Client, exchange: String) -> PublisherBuilder {
        PublisherBuilder {
            client,
            exchange,
            window: 4096,
        }
    }

    /// Most messages from the oldest unconfirmed to the newest; 4,096 otherwise, at least 1. The broker may grant
    /// fewer.
    pub fn window(mut self, messages: u32) -> PublisherBuilder {
        self.window = messages.clamp(1, limits::PUBLISH_WINDOW_MAX);
        self
    }

    /// Opens the publisher.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such exchange, and what ended the connection when it is lost meanwhile.
    pub async fn open(self) -> Result<Publisher, Error> {
        let mut identity = [0; 16];
        getrandom::fill(&mut identity)
            .map_err(|e| Error::Protocol(format!("the system gives no random numbers: {e}")))?;
        let links = self.client.links().clone();
        let open = OpenPublisher {
            exchange: self.exchange,
            identity: u128::from_le_bytes(identity),
            window: self.window,
        };
        let opening = async {
            let link = links.current().await?;
            let (stream, opened) = Stream::open(&link, &open).await?;
            Ok((link, stream, opened))
        };
        let (link, stream, opened) = self.client.within_time("opening a publisher", opening).await?;
        let window = opened.window.clamp(1, self.window);
        // A single message may be larger than the window, never larger than this.
        let window_bytes = opened.window_bytes.clamp(1, u64::from(u32::MAX >> 1)) as u32;
        let shared = Arc::new(Shared {
            open: OpenPublisher { window, ..open },
            body_max: link.welcome.body_max,
            window_bytes,
            room: Semaphore::new(window as usize),
            room_bytes: Semaphore::new(window_bytes as usize),
            state: Mutex::new(PublisherState {
                window: Window::new(),
                ended: None,
            }),
            wake: Notify::new(),
            progress: Notify::new(),
            closing: Notify::new(),
        });
        tokio::spawn(shared.clone().run(links, link, stream));
        Ok(Publisher {
            handle: Arc::new(Handle {
                shared,
                _client: self.client,
            }),
        })
    }
}

impl Publisher {
    /// Takes a message for sending. Waits only while the window is full, which is the back-pressure; the broker's
    /// word comes with the [`Confirmation`].
    ///
    /// Dropping this future before it is ready publishes nothing.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a message over a limit; otherwise what ended the publisher.
    pub async fn publish(&self, message: Message) -> Result<Confirmation, Error> {
        let shared = &self.handle.shared;
        let charge = shared.charge(&message)?;
        shared.reserve(charge).await?;
        let (waiter, confirmation) = Waiter::one();
        lock(&shared.state).push(&message, charge, waiter)?;
        shared.wake.notify_one();
        Ok(confirmation)
    }

    /// Takes many messages for sending, with one confirmation for all: the fastest way to publish. Waits whenever
    /// the window is full.
    ///
    /// # Errors
    /// As [`Publisher::publish`], at the first message that fails; those before it are published.
    pub async fn publish_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Result<BatchConfirmation, Error> {
        let shared = &self.handle.shared;
        let (batch, confirmation) = Batch::new();
        let mut step = Vec::with_capacity(BATCH_STEP);
        for message in messages {
            let charge = match shared.charge(&message) {
                Ok(charge) => charge,
                Err(error) => {
                    shared.push_step(&mut step, &batch)?;
                    return Err(error);
                }
            };
            if step.len() == BATCH_STEP || !shared.try_reserve(charge) {
                shared.push_step(&mut step, &batch)?;
                shared.reserve(charge).await?;
            }
            step.push((message, charge));
        }
        shared.push_step(&mut step, &batch)?;
        Ok(confirmation)
    }

    /// Waits until everything published before is confirmed, over reconnects if need be.
    ///
    /// # Errors
    /// What ended the publisher before that.
    pub async fn flush(&self) -> Result<(), Error> {
        let shared = &self.handle.shared;
        let target = lock(&shared.state).window.next();
        loop {
            let progress = shared.progress.notified();
            {
                let state = lock(&shared.state);
                if state.window.oldest() >= target {
                    return Ok(());
                }
                if let Some(error) = &state.ended {
                    return Err(error.clone());
                }
            }
            progress.await;
        }
    }

    /// Takes no more messages, on any clone, and waits until everything is confirmed.
    ///
    /// # Errors
    /// As [`Publisher::flush`].
    pub async fn close(self) -> Result<(), Error> {
        self.handle.shared.stop_taking();
        self.flush().await
    }
}

/// What handles and the task of a publisher share.
struct Shared {
    open: OpenPublisher,
    body_max: u32,
    window_bytes: u32,
    /// Permits for messages that the window still has room for.
    room: Semaphore,
    /// The same in bytes.
    room_bytes: Semaphore,
    state: Mutex<PublisherState>,
    /// Something waits to be written.
    wake: Notify,
    /// Something was confirmed, or the publisher ended.
    progress: Notify,
    /// No more messages will come.
    closing: Notify,
}

struct PublisherState {
    window: Window,
    ended: Option<Error>,
}

impl PublisherState {
    fn push(&mut self, message: &Message, charge: u32, waiter: Waiter) -> Result<(), Error> {
        match &self.ended {
            Some(error) => Err(error.clone()),
            None => self.window.push(message, charge, waiter),
        }
    }
}

impl Shared {
    /// Checks a message and says what it counts against the window, in bytes: at least what the broker counts.
    fn charge(&self, message: &Message) -> Result<u32, Error> {
        let len = message.check(self.body_max)?;
        Ok(u32::try_from(len).unwrap_or(u32::MAX).min(self.window_bytes))
    }

    async fn reserve(&self, charge: u32) -> Result<(), Error> {
        if self.try_reserve(charge) {
            return Ok(());
        }
        match (
            self.room.acquire().await,
            self.room_bytes.acquire_many(charge).await,
        ) {
            (Ok(message), Ok(bytes)) => {
                message.forget();
                bytes.forget();
                Ok(())
            }
            _ => Err(self.why_ended()),
        }
    }

    fn try_reserve(&self, charge: u32) -> bool {
        match (self.room.try_acquire(), self.room_bytes.try_acquire_many(charge)) {
            (Ok(message), Ok(bytes)) => {
                message.forget();
                bytes.forget();
                true
            }
            _ => false,
        }
    }

    fn push_step(&self, step: &mut Vec<(Message, u32)>, batch: &Arc<Batch>) -> Result<(), Error> {
        let mut state = lock(&self.state);
        for (message, charge) in step.drain(..) {
            state.push(&message, charge, Waiter::Batch(batch.clone()))?;
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    fn why_ended(&self) -> Error {
        let ended = lock(&self.state).ended.clone();
        ended.unwrap_or_else(|| Error::closed("publisher"))
    }

    fn stop_taking(&self) {
        self.room.close();
        self.room_bytes.close();
        self.closing.notify_one();
    }

    /// The publisher's task: works on one stream after the other.
    async fn run(self: Arc<Self>, links: Links, mut link: Arc<Link>, mut stream: Stream) {
        let end = loop {
            let guard = link.enter();
            let error = self.work(&link, stream).await;
            drop(guard);
            if !is_loss(&error) {
                break error;
            }
            match self.reopen(&links, &link).await {
                Ok(reopened) => (link, stream) = reopened,
                Err(error) => break error,
            }
        };
        self.stop_taking();
        let mut state = lock(&self.state);
        state.window.fail(&end);
        state.ended = Some(end);
        drop(state);
        self.progress.notify_waiters();
    }

    /// Works on a stream until it is lost, left or no longer needed, and returns which.
    async fn work(&self, link: &Link, stream: Stream) -> Error {
        let Stream {
            mut send,
            mut receive,
        } = stream;
        tokio::select! {
            biased;
            error = self.write(&mut send) => error,
            error = self.read(&mut receive) => error,
            error = self.leave(link) => {
                if matches!(error, Error::Closed { .. }) {
                    // Everything is confirmed, so there is nothing to wait for; it fails only on a stream that is gone.
                    let _ = send.finish();
                }
                error
            }
        }
    }

    async fn write(&self, send: &mut SendStream) -> Error {
        loop {
            let next = lock(&self.state).window.next_unwritten();
            let Some([frames, large_body]) = next else {
                self.wake.notified().await;
                continue;
            };
            let mut chunks = [frames, large_body];
            let count = if chunks[1].is_empty() { 1 } else { 2 };
            if let Err(error) = wire::write_chunks(send, &mut chunks[..count]).await {
                return error;
            }
        }
    }

    async fn read(&self, receive: &mut FrameReader) -> Error {
        loop {
            match receive.fill().await {
                Ok(true) => {}
                Ok(false) => return Error::disconnected("the broker ended the publisher's stream"),
                Err(error) => return error,
            }
            if let Err(error) = self.take_confirms(receive) {
                return error;
            }
        }
    }

    /// Resolves everything that was received in one go.
    fn take_confirms(&self, receive: &mut FrameReader) -> Result<(), Error> {
        let (mut messages, mut bytes) = (0, 0);
        let mut state = lock(&self.state);
        while let Some(frame) = receive.take()? {
            if frame.header.kind != Kind::Confirm {
                return Err(wire::refusal(&frame));
            }
            let confirm: Confirm = frame.decode()?;
            let room = state.window.confirm(frame.header.id, &confirm)?;
            messages += room.messages;
            bytes += room.bytes;
        }
        drop(state);
        self.room_bytes.add_permits(bytes);
        self.room.add_permits(messages);
        self.progress.notify_waiters();
        Ok(())
    }

    /// Waits until the stream is to be left and nothing is in flight on it, and says why.
    async fn leave(&self, link: &Link) -> Error {
        let closed = async {
            self.closing.notified().await;
            self.drain().await
        };
        tokio::select! {
            biased;
            leaving = link.left() => match leaving {
                Leaving::Asked => {
                    lock(&self.state).window.hold();
                    self.wait_until(Window::nothing_in_flight).await;
                    Error::disconnected("the broker asked to go away")
                }
                _ => self.drain().await,
            },
            error = closed => error,
        }
    }

    /// Takes no more messages and waits until all are confirmed.
    async fn drain(&self) -> Error {
        // This also tells the next stream, should this one be lost meanwhile.
        self.stop_taking();
        self.wait_until(Window::is_empty).await;
        Error::closed("publisher")
    }

    async fn wait_until(&self, holds: impl Fn(&Window) -> bool) {
        loop {
            let progress = self.progress.notified();
            if holds(&lock(&self.state).window) {
                return;
            }
            progress.await;
        }
    }

    async fn reopen(&self, links: &Links, lost: &Link) -> Result<(Arc<Link>, Stream), Error> {
        let mut backoff = Backoff::default();
        let mut after = lost.generation_to_follow();
        loop {
            let link = links.after(after).await?;
            let guard = link.enter();
            match Stream::open(&link, &self.open).await {
                Ok((_, opened)) if opened.window < self.open.window => {
                    return Err(Error::Protocol(format!(
                        "a publisher's window shrank from {} to {} messages",
                        self.open.window, opened.window
                    )));
                }
                Ok((stream, _)) => {
                    drop(guard);
                    lock(&self.state).window.rewind();
                    return Ok((link, stream));
                }
                Err(error) if !is_loss(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "the publisher is not open again yet"),
            }
            drop(guard);
            after = link.generation_to_follow();
            backoff.wait().await;
        }
    }
}

/// Whether the stream is gone but the publisher may go on with another.
fn is_loss(error: &Error) -> bool {
    error.is_temporary() || matches!(error, Error::Closed { what: "client" })
}

/// A publisher's stream.
struct Stream {
    send: SendStream,
    receive: FrameReader,
}

impl Stream {
    async fn open(link: &Link, open: &OpenPublisher) -> Result<(Stream, PublisherOpened), Error> {
        // Confirms have no body.
        let (send, mut receive) = wire::open(&link.connection, Kind::OpenPublisher, open, 0).await?;
        let opened = receive.expect(Kind::PublisherOpened).await?;
        Ok((Stream { send, receive }, opened))
    }
}
