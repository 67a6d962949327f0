//! Consumers: a stream of deliveries under credit, restored over connections.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use futures_core::Stream;
use pointsman_protocol::consume::{ConsumerOpened, OpenConsumer, Settlement, StartAt};
use pointsman_protocol::frame::Kind;
use pointsman_protocol::limits;
use quinn::SendStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::link::Link;
use crate::reconnect::{Backoff, Links};
use crate::settle::{CreditAccount, Settlements};
use crate::wire::{self, FrameReader};
use crate::{Client, Delivery, Error, lock};

/// How long an acknowledgement may wait for others: nobody waits for it, and a packet costs both sides more than it does.
const ACK_PAUSE: Duration = Duration::from_millis(5);

/// Settings of a consumer. See [`Client::consumer`].
pub struct ConsumerBuilder {
    client: Client,
    open: OpenConsumer,
    prefetch: u32,
    prefetch_bytes: u64,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client, queue: String) -> ConsumerBuilder {
        ConsumerBuilder {
            client,
            open: OpenConsumer {
                queue,
                tag: String::new(),
                exclusive: false,
                no_ack: false,
                start: None,
            },
            prefetch: 256,
            prefetch_bytes: 16 << 20,
        }
    }

    /// Most deliveries that are here and unsettled; 256 otherwise.
    pub fn prefetch(mut self, messages: u32) -> ConsumerBuilder {
        self.prefetch = messages.clamp(1, limits::PREFETCH_MAX);
        self
    }

    /// Most bytes that are here and unsettled, where a single message may go beyond; 16 MiB otherwise.
    pub fn prefetch_bytes(mut self, bytes: u64) -> ConsumerBuilder {
        self.prefetch_bytes = bytes.clamp(1, 1 << 40);
        self
    }

    /// The broker counts a delivery as acknowledged once it is sent: faster, and lost with the connection.
    /// Settling does nothing then; prefetch bounds what waits here for the program.
    pub fn no_ack(mut self, no_ack: bool) -> ConsumerBuilder {
        self.open.no_ack = no_ack;
        self
    }

    /// Refuse any other consumer of the queue while this one is there.
    pub fn exclusive(mut self, exclusive: bool) -> ConsumerBuilder {
        self.open.exclusive = exclusive;
        self
    }

    /// Where to start in a stream: an offset, a time, or one of [`StartAt`]; at the next message otherwise. A work queue
    /// refuses it.
    pub fn offset(mut self, start: impl Into<StartAt>) -> ConsumerBuilder {
        self.open.start = Some(start.into());
        self
    }

    /// Name of the consumer; the broker chooses one otherwise.
    pub fn tag(mut self, tag: impl Into<String>) -> ConsumerBuilder {
        self.open.tag = tag.into();
        self
    }

    /// Opens the consumer.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such queue or it is another's, and what ended the connection when it is
    /// lost meanwhile.
    pub async fn open(self) -> Result<Consumer, Error> {
        let links = self.client.links().clone();
        let opening = async {
            let link = links.current().await?;
            let (stream, opened) = ConsumerStream::open(&link, &self.open).await?;
            Ok((link, stream, opened))
        };
        let (link, stream, opened) = self.client.within_time("opening a consumer", opening).await?;
        let shared = Arc::new(Shared {
            open: OpenConsumer {
                tag: opened.tag,
                ..self.open
            },
            state: Mutex::new(ConsumerState {
                generation: 1,
                next_offset: opened.offset,
                arrived: VecDeque::new(),
                settlements: Settlements::default(),
                flush: false,
                credit: CreditAccount::new(self.prefetch, self.prefetch_bytes),
                writing: false,
                waiting: None,
                abandoned: false,
                ended: None,
            }),
            wake: Notify::new(),
            flushed: Notify::new(),
            closing: Notify::new(),
        });
        tokio::spawn(shared.clone().run(links, link, stream));
        Ok(Consumer {
            shared,
            _client: self.client,
        })
    }
}

/// A stream of a queue's messages.
///
/// When the connection is lost the consumer is opened anew on the next one; what was not settled is redelivered, and
/// deliveries that came before can no longer be settled. In a stream of the broker it goes on behind the last delivery
/// that the program took. The stream yields an error only when it ends, and `None`
/// after that or after [`Client::close`].
///
/// Dropping it closes the consumer: settlements made before are still written, what is unsettled goes back to the
/// queue.
pub struct Consumer {
    shared: Arc<Shared>,
    /// Keeps the client alive.
    _client: Client,
}

impl Consumer {
    /// The next delivery, or `None` when the consumer has ended.
    ///
    /// # Errors
    /// Once, what ended the consumer: [`Error::Refused`] when the broker did, [`Error::Disconnected`] when the
    /// connection was lost and reconnecting is off.
    pub async fn recv(&mut self) -> Option<Result<Delivery, Error>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The name of the consumer.
    pub fn tag(&self) -> &str {
        &self.shared.open.tag
    }

    /// The offset of the next delivery, at least, when it consumes from a stream.
    pub fn next_offset(&self) -> Option<u64> {
        lock(&self.shared.state).next_offset
    }

    /// Waits until the settlements made so far are written. They reach the broker unless the connection is lost.
    ///
    /// # Errors
    /// What ended the consumer.
    pub async fn flush(&self) -> Result<(), Error> {
        loop {
            let flushed = self.shared.flushed.notified();
            {
                let mut state = lock(&self.shared.state);
                if let Some(Some(error)) = &state.ended {
                    return Err(error.clone());
                }
                if state.settlements.is_empty() && !state.writing {
                    return Ok(());
                }
                state.flush = true;
            }
            self.shared.wake.notify_one();
            flushed.await;
        }
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, Error>>> {
        let mut state = lock(&self.shared.state);
        let Some(delivery) = state.arrived.pop_front() else {
            return self.poll_empty(&mut state, cx);
        };
        if let Some(offset) = delivery.offset() {
            state.next_offset = Some(offset + 1);
        }
        if self.shared.open.no_ack {
            state.credit.came_back(delivery.bytes());
            if state.credit.is_due(false) {
                self.shared.wake.notify_one();
            }
        }
        Poll::Ready(Some(Ok(delivery)))
    }

    /// Nothing has arrived: the end, or a reason to wait and to give the broker what credit there is.
    fn poll_empty(
        &self,
        state: &mut ConsumerState,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery, Error>>> {
        if let Some(error) = &mut state.ended {
            return Poll::Ready(error.take().map(Err));
        }
        state.waiting = Some(cx.waker().clone());
        if state.credit.is_due(true) {
            self.shared.wake.notify_one();
        }
        Poll::Pending
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.abandoned = true;
        let unread = std::mem::take(&mut state.arrived);
        drop(state);
        // Each holds what is locked above.
        drop(unread);
        self.shared.closing.notify_one();
    }
}

/// What the handle, its deliveries and the task of a consumer share.
pub(crate) struct Shared {
    open: OpenConsumer,
    state: Mutex<ConsumerState>,
    /// There are settlements or credit to write.
    wake: Notify,
    /// What there was is written, or the consumer ended.
    flushed: Notify,
    /// The handle is gone.
    closing: Notify,
}

struct ConsumerState {
    /// Counts the streams; what belongs to an earlier one is stale.
    generation: u64,
    /// In a stream of the broker, the offset behind the last delivery that was taken.
    next_offset: Option<u64>,
    arrived: VecDeque<Delivery>,
    settlements: Settlements,
    /// Somebody waits until they are written.
    flush: bool,
    credit: CreditAccount,
    /// The task has taken settlements and not yet written them.
    writing: bool,
    /// Who waits for a delivery.
    waiting: Option<Waker>,
    /// The handle is gone, so nobody reads what arrives.
    abandoned: bool,
    /// Set when the consumer has ended: with the error until that is handed out.
    ended: Option<Option<Error>>,
}

impl ConsumerState {
    /// Whether somebody waits for what is not written: the broker for credit, others for what is given back, or whoever
    /// flushes.
    fn is_urgent(&self) -> bool {
        self.flush || self.settlements.gives_back() || self.credit.is_due(self.waiting.is_some())
    }
}

impl Shared {
    /// Notes a settlement for writing, unless the delivery is of an earlier stream.
    pub(crate) fn settle(&self, generation: u64, tag: u64, bytes: u64, how: Settlement) {
        if self.open.no_ack {
            return;
        }
        let mut state = lock(&self.state);
        if state.generation != generation || state.ended.is_some() {
            return;
        }
        let first = state.settlements.is_empty();
        state.settlements.push(tag, how);
        state.credit.came_back(bytes);
        let wakes = first || state.is_urgent();
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    /// The consumer's task: works on one stream after the other.
    async fn run(self: Arc<Self>, links: Links, mut link: Arc<Link>, mut stream: ConsumerStream) {
        let end = loop {
            let guard = link.enter();
            let end = self.work(&links, &link, stream).await;
            drop(guard);
            match end {
                End::Done => break None,
                End::Failed(error) if !is_loss(&error) => break Some(error),
                End::Failed(_) => {}
            }
            self.forget_stream();
            tokio::select! {
                reopened = self.reopen(&links, &link) => match reopened {
                    Ok(reopened) => (link, stream) = reopened,
                    Err(error) => break Some(error),
                },
                () = self.closing.notified() => break None,
            }
        };
        // Closing on purpose is not an error.
        let end = end.filter(|error| !matches!(error, Error::Closed { .. }));
        let mut state = lock(&self.state);
        // What arrived before an error can still be read; nobody settles what was closed on purpose.
        let unread = match state.abandoned || end.is_none() {
            true => std::mem::take(&mut state.arrived),
            false => VecDeque::new(),
        };
        state.ended = Some(end);
        state.settlements.clear();
        let waiting = state.waiting.take();
        drop(state);
        drop(unread);
        self.flushed.notify_waiters();
        waiting.inspect(Waker::wake_by_ref);
    }

    async fn work(self: &Arc<Self>, links: &Links, link: &Link, stream: ConsumerStream) -> End {
        let ConsumerStream {
            mut send,
            mut receive,
        } = stream;
        let left = tokio::select! {
            error = self.write(&mut send) => return End::Failed(error),
            error = self.read(&mut receive) => return End::Failed(error),
            () = link.leaving() => End::Failed(Error::disconnected("the broker asked to go away")),
            () = links.closing() => End::Done,
            () = self.closing.notified() => End::Done,
        };
        // The broker ends its side once it has taken the last settlement.
        let mut out = BytesMut::new();
        lock(&self.state).settlements.write(&mut out);
        let finished = async {
            send.write_chunk(out.freeze()).await?;
            let _ = send.finish();
            receive.skip_to_end().await
        };
        if let Err(error) = finished.await {
            tracing::debug!(%error, "the last settlements may not have reached the broker");
        }
        left
    }

    async fn write(&self, send: &mut SendStream) -> Error {
        let mut out = BytesMut::new();
        loop {
            self.gather().await;
            self.take_unwritten(&mut out);
            if !out.is_empty()
                && let Err(error) = send.write_chunk(out.split().freeze()).await
            {
                return error.into();
            }
            lock(&self.state).writing = false;
            self.flushed.notify_waiters();
        }
    }

    /// Waits until there is something to write that is urgent, or that has waited long enough for more.
    async fn gather(&self) {
        let mut until = None;
        loop {
            let woken = self.wake.notified();
            let (urgent, acks) = {
                let state = lock(&self.state);
                (state.is_urgent(), !state.settlements.is_empty())
            };
            if urgent {
                return;
            }
            if !acks {
                woken.await;
                continue;
            }
            let until = *until.get_or_insert_with(|| Instant::now() + ACK_PAUSE);
            if tokio::time::timeout_at(until, woken).await.is_err() {
                return;
            }
        }
    }

    fn take_unwritten(&self, out: &mut BytesMut) {
        let mut state = lock(&self.state);
        state.flush = false;
        state.settlements.write(out);
        state.writing = !out.is_empty();
        if state.credit.is_due(state.waiting.is_some()) {
            state.credit.write(out);
        }
    }

    async fn read(self: &Arc<Self>, receive: &mut FrameReader) -> Error {
        loop {
            match receive.fill().await {
                Ok(true) => {}
                Ok(false) => return Error::disconnected("the broker ended the consumer's stream"),
                Err(error) => return error,
            }
            if let Err(error) = self.take_deliveries(receive) {
                return error;
            }
        }
    }

    /// Hands over everything that was received in one go.
    fn take_deliveries(self: &Arc<Self>, receive: &mut FrameReader) -> Result<(), Error> {
        let mut state = lock(&self.state);
        while let Some(frame) = receive.take()? {
            if frame.header.kind != Kind::Deliver {
                return Err(wire::refusal(&frame));
            }
            let delivery = Delivery::new(frame, state.generation, self.clone())?;
            if !state.credit.used(delivery.bytes()) {
                return Err(Error::Protocol("a delivery came without credit".into()));
            }
            state.arrived.push_back(delivery);
        }
        let waiting = match state.arrived.is_empty() {
            true => None,
            false => state.waiting.take(),
        };
        drop(state);
        waiting.inspect(Waker::wake_by_ref);
        Ok(())
    }

    /// Makes everything that belongs to the stream so far stale.
    fn forget_stream(&self) {
        let mut state = lock(&self.state);
        state.generation += 1;
        state.settlements.clear();
        state.flush = false;
        state.credit.reset();
        state.writing = false;
        let stale = std::mem::take(&mut state.arrived);
        drop(state);
        drop(stale);
        self.flushed.notify_waiters();
    }

    /// What the next stream is opened with: it goes on where the program is.
    fn opening(&self) -> OpenConsumer {
        let mut open = self.open.clone();
        if let Some(next) = lock(&self.state).next_offset {
            open.start = Some(StartAt::Offset(next));
        }
        open
    }

    async fn reopen(&self, links: &Links, lost: &Link) -> Result<(Arc<Link>, ConsumerStream), Error> {
        let mut backoff = Backoff::default();
        let mut after = lost.generation_to_follow();
        loop {
            let link = links.after(after).await?;
            let guard = link.enter();
            match ConsumerStream::open(&link, &self.opening()).await {
                Ok((stream, _)) => {
                    drop(guard);
                    return Ok((link, stream));
                }
                Err(error) if !is_loss(&error) => return Err(error),
                Err(error) => tracing::debug!(%error, "the consumer is not open again yet"),
            }
            drop(guard);
            after = link.generation_to_follow();
            backoff.wait().await;
        }
    }
}

/// How the work on a stream ended.
enum End {
    /// The consumer is no longer needed.
    Done,
    /// The stream is.
    Failed(Error),
}

/// Whether the stream is gone but the consumer may go on with another.
fn is_loss(error: &Error) -> bool {
    error.is_temporary() || matches!(error, Error::Closed { what: "client" })
}

/// A consumer's stream.
struct ConsumerStream {
    send: SendStream,
    receive: FrameReader,
}

impl ConsumerStream {
    async fn open(link: &Link, open: &OpenConsumer) -> Result<(ConsumerStream, ConsumerOpened), Error> {
        let body_max = limits::FRAME_BODY_MAX;
        let (send, mut receive) = wire::open(&link.connection, Kind::OpenConsumer, open, body_max).await?;
        let opened = receive.expect(Kind::ConsumerOpened).await?;
        Ok((ConsumerStream { send, receive }, opened))
    }
}
