//! Consumers: a stream of deliveries under credit, restored over connections.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;
use pointsman_protocol::consume::{ConsumerOpened, OpenConsumer, Settlement, StartAt};
use pointsman_protocol::frame::Kind;
use pointsman_protocol::limits;
use quinn::SendStream;
use tokio::sync::Notify;

use crate::link::{Leaving, Link};
use crate::reconnect::{Backoff, Links};
use crate::settle::{CreditAccount, Settlements};
use crate::settler::Settler;
use crate::wire::{self, FrameReader};
use crate::{Client, Delivery, Error, lock};

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
                credit: CreditAccount::new(self.prefetch, self.prefetch_bytes),
                settler: None,
                queued: None,
                flush: false,
                writing: false,
                waiting: None,
                abandoned: false,
                failed: None,
                ended: None,
            }),
            outgoing: Mutex::new(None),
            flushed: Notify::new(),
            leave: Notify::new(),
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
                self.shared.speak_up(&mut state);
            }
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
            self.shared.speak_up(&mut state);
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
        self.shared.speak_up(state);
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
        self.shared.leave.notify_one();
    }
}

/// What the handle, its deliveries and the task of a consumer share with the connection's settler.
pub(crate) struct Shared {
    open: OpenConsumer,
    state: Mutex<ConsumerState>,
    /// What the settler writes to while there is a stream. It is locked before the state, if both are.
    outgoing: Mutex<Option<Outgoing>>,
    /// What there was is written, or the consumer ended.
    flushed: Notify,
    /// The handle is gone, or writing failed.
    leave: Notify,
}

struct ConsumerState {
    /// Counts the streams; what belongs to an earlier one is stale.
    generation: u64,
    /// In a stream of the broker, the offset behind the last delivery that was taken.
    next_offset: Option<u64>,
    arrived: VecDeque<Delivery>,
    settlements: Settlements,
    credit: CreditAccount,
    /// Who writes settlements and credit while there is a stream.
    settler: Option<Arc<Settler>>,
    /// How the settler has been told that there is something to write.
    queued: Option<Urgency>,
    /// Somebody waits until the settlements are written.
    flush: bool,
    /// The settler has taken settlements and not yet written them.
    writing: bool,
    /// Who waits for a delivery.
    waiting: Option<Waker>,
    /// The handle is gone, so nobody reads what arrives.
    abandoned: bool,
    /// Why the stream can no longer be written to.
    failed: Option<Error>,
    /// Set when the consumer has ended: with the error until that is handed out.
    ended: Option<Option<Error>>,
}

/// Whether somebody waits for what is not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Patient,
    Urgent,
}

/// The sending end of a consumer's stream.
struct Outgoing {
    send: SendStream,
    /// What QUIC had no room for.
    rest: Bytes,
}

impl ConsumerState {
    /// Whether there is something to write. Somebody waits for it if it is credit, if messages are given back, or if it is
    /// flushed.
    fn urgency(&self) -> Option<Urgency> {
        if self.flush || self.settlements.gives_back() || self.credit.is_due(self.waiting.is_some()) {
            return Some(Urgency::Urgent);
        }
        (!self.settlements.is_empty()).then_some(Urgency::Patient)
    }

    /// Appends what there is to write.
    fn take_unwritten(&mut self, out: &mut BytesMut) {
        self.queued = None;
        self.settlements.write(out);
        if self.credit.is_due(self.waiting.is_some()) {
            self.credit.write(out);
        }
        self.writing = !out.is_empty();
    }
}

impl Shared {
    /// Notes a settlement for writing, unless the delivery is of an earlier stream.
    pub(crate) fn settle(self: &Arc<Self>, generation: u64, tag: u64, bytes: u64, how: Settlement) {
        if self.open.no_ack {
            return;
        }
        let mut state = lock(&self.state);
        if state.generation != generation || state.ended.is_some() {
            return;
        }
        state.settlements.push(tag, how);
        state.credit.came_back(bytes);
        self.speak_up(&mut state);
    }

    /// Tells the settler of what there is to write, unless it knows.
    fn speak_up(self: &Arc<Self>, state: &mut ConsumerState) {
        let urgency = state.urgency();
        if urgency > state.queued
            && let Some(settler) = &state.settler
        {
            settler.add(self.clone(), urgency == Some(Urgency::Urgent));
            state.queued = urgency;
        }
    }

    /// Writes what there is as far as QUIC has room, and wakes the caller when it has more. `buffer` is anybody's.
    pub(crate) fn poll_write(&self, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<()> {
        let mut outgoing = lock(&self.outgoing);
        let Some(stream) = &mut *outgoing else {
            return Poll::Ready(());
        };
        let mut written = stream.poll_rest(cx);
        if let Poll::Ready(Ok(())) = written {
            buffer.clear();
            lock(&self.state).take_unwritten(buffer);
            written = stream.poll_write(buffer, cx);
        }
        let failed = ready!(written).err();
        let mut state = lock(&self.state);
        state.writing = false;
        if std::mem::take(&mut state.flush) {
            self.flushed.notify_waiters();
        }
        if let Some(error) = failed {
            *outgoing = None;
            state.failed = Some(error.into());
            self.leave.notify_one();
        }
        Poll::Ready(())
    }

    /// The consumer's task: works on one stream after the other.
    async fn run(self: Arc<Self>, links: Links, mut link: Arc<Link>, mut stream: ConsumerStream) {
        let end = loop {
            let guard = link.enter();
            let end = self.work(&link, stream).await;
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
                _ = self.must_leave() => break None,
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
        state.settler = None;
        let waiting = state.waiting.take();
        drop(state);
        drop(unread);
        self.flushed.notify_waiters();
        waiting.inspect(Waker::wake_by_ref);
    }

    async fn work(self: &Arc<Self>, link: &Link, stream: ConsumerStream) -> End {
        let ConsumerStream { send, mut receive } = stream;
        self.begin(link, send);
        let left = tokio::select! {
            biased;
            error = self.read(&mut receive) => return End::Failed(error),
            leaving = link.left() => match leaving {
                Leaving::Closed => End::Done,
                _ => End::Failed(Error::disconnected("the broker asked to go away")),
            },
            end = self.must_leave() => end,
        };
        // From here on nobody else writes.
        let Some(Outgoing { mut send, rest }) = lock(&self.outgoing).take() else {
            return left;
        };
        let mut out = BytesMut::from(rest);
        lock(&self.state).settlements.write(&mut out);
        // The broker ends its side once it has taken the last settlement.
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

    /// From here on the link's settler writes to this stream, the first credit at once.
    fn begin(self: &Arc<Self>, link: &Link, send: SendStream) {
        let rest = Bytes::new();
        *lock(&self.outgoing) = Some(Outgoing { send, rest });
        let mut state = lock(&self.state);
        state.settler = Some(link.settler.clone());
        self.speak_up(&mut state);
    }

    /// Waits until the handle is gone or writing fails.
    async fn must_leave(&self) -> End {
        loop {
            self.leave.notified().await;
            let mut state = lock(&self.state);
            if state.abandoned {
                return End::Done;
            }
            if let Some(error) = state.failed.take() {
                return End::Failed(error);
            }
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
        *lock(&self.outgoing) = None;
        let mut state = lock(&self.state);
        state.generation += 1;
        state.settlements.clear();
        state.credit.reset();
        state.settler = None;
        state.queued = None;
        state.flush = false;
        state.writing = false;
        state.failed = None;
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

impl Outgoing {
    /// Writes what was left.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), quinn::WriteError>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut self.send).poll_write(cx, &self.rest))?;
            self.rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes `bytes`, and keeps what QUIC has no room for.
    fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<Result<(), quinn::WriteError>> {
        let mut left = bytes;
        while !left.is_empty() {
            match Pin::new(&mut self.send).poll_write(cx, left) {
                Poll::Ready(written) => left = &left[written?..],
                Poll::Pending => {
                    self.rest = Bytes::copy_from_slice(left);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
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
