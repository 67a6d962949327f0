//! A publisher's stream: publishes in, routed at once, confirms out.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use pointsman_core::input::{Publish, Verdict};
use pointsman_core::limits::PUBLISHER_WINDOW_BYTES;
use pointsman_core::{Input, PublisherId, PublisherIdentity};
use pointsman_protocol::frame::{Frame, Kind};
use pointsman_protocol::limits::PUBLISH_WINDOW_MAX;
use pointsman_protocol::publish::{Confirm, OpenPublisher, PublisherOpened};
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_router_host::{Entry, Incoming, Routes};
use tokio::sync::mpsc;

use super::framing::{FrameReader, FrameWriter, StreamEnd};
use super::{Session, going_away, shutting_down, unexpected};
use crate::mailbox::{Mail, PublisherEvent};

/// Serves a publisher until its stream ends.
pub(super) async fn run(
    session: &Session,
    first: &Frame,
    reader: FrameReader,
    writer: &mut FrameWriter,
) -> StreamEnd {
    let served = async { open(session, first, reader, writer).await?.serve(writer).await };
    served.await.err().unwrap_or(StreamEnd::Finished)
}

/// A publisher's stream once it is open.
struct Publisher<'a> {
    session: &'a Session,
    id: PublisherId,
    exchange: String,
    /// The routes that `entry` belongs to.
    routes: Arc<Routes>,
    entry: Entry,
    reader: FrameReader,
    events: mpsc::UnboundedReceiver<PublisherEvent>,
    last_sequence: u64,
    unconfirmed: Unconfirmed,
}

/// What was handed to the driver and not confirmed: per batch its last sequence number, messages and bytes.
#[derive(Default)]
struct Unconfirmed {
    batches: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Unconfirmed {
    fn add(&mut self, last: u64, bytes: u64) {
        self.batches.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `sequence` is confirmed.
    fn confirmed(&mut self, sequence: u64) {
        while let Some(&(last, bytes)) = self.batches.front()
            && last <= sequence
        {
            self.batches.pop_front();
            self.bytes -= bytes;
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= PUBLISHER_WINDOW_BYTES || self.batches.len() >= PUBLISH_WINDOW_MAX as usize
    }
}

async fn open<'a>(
    session: &'a Session,
    first: &Frame,
    reader: FrameReader,
    writer: &mut FrameWriter,
) -> Result<Publisher<'a>, StreamEnd> {
    let open: OpenPublisher = first.decode()?;
    let routes = session.shared.routes.load_full();
    let entry = find(&routes, &session.vhost, &open.exchange)?;
    let id = PublisherId(session.shared.id());
    let (sink, mut events) = mpsc::unbounded_channel();
    let identity = PublisherIdentity(open.identity);
    let mail = Mail::OpenPublisher {
        connection: session.id,
        publisher: id,
        identity,
        sink,
    };
    session.shared.mailbox.send(mail).await?;
    // From here on dropping the publisher tells the core.
    let last_sequence = match events.recv().await {
        Some(PublisherEvent::Opened { last_sequence }) => last_sequence,
        Some(PublisherEvent::Closed(error)) => return Err(error.into()),
        Some(PublisherEvent::Confirm { .. }) | None => return Err(shutting_down().into()),
    };
    let opened = PublisherOpened {
        last_sequence,
        window: open.window.clamp(1, PUBLISH_WINDOW_MAX),
        window_bytes: PUBLISHER_WINDOW_BYTES,
    };
    writer.put(Kind::PublisherOpened, 0, &opened);
    writer.flush().await?;
    Ok(Publisher {
        session,
        id,
        exchange: open.exchange,
        routes,
        entry,
        reader,
        events,
        last_sequence: 0,
        unconfirmed: Unconfirmed::default(),
    })
}

fn find(routes: &Arc<Routes>, vhost: &str, exchange: &str) -> Result<Entry, ErrorBody> {
    routes.find(vhost, exchange).ok_or_else(|| {
        ErrorBody::new(
            ErrorCode::NotFound,
            format!("there is no exchange `{exchange}` in vhost `{vhost}`"),
        )
        .hint("`pointsman exchange list` shows the exchanges, `pointsman exchange declare` makes one")
    })
}

impl Publisher<'_> {
    async fn serve(&mut self, writer: &mut FrameWriter) -> Result<(), StreamEnd> {
        let mut draining = self.session.shared.draining.clone();
        let mut going_away = pin!(going_away(&mut draining));
        let mut blocked = self.session.shared.blocked.subscribe();
        let mut finished = false;
        loop {
            let is_blocked = blocked.borrow_and_update().is_some();
            if finished && self.unconfirmed.batches.is_empty() {
                return Ok(());
            }
            // In this order, as to ask QUIC for input costs more than most confirms do. Input is never starved: confirms end with
            // the publishes that are read from it.
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let event = event.ok_or_else(shutting_down)?;
                    self.confirm(event, writer).await?;
                }
                // What is on its way is still confirmed; nothing new is taken.
                () = &mut going_away, if !finished => finished = true,
                // While this does not read, the client waits: that is the back-pressure.
                filled = self.reader.fill(), if !finished && !is_blocked && !self.unconfirmed.is_full() => match filled {
                    Ok(()) => self.publish().await?,
                    Err(StreamEnd::Finished) => finished = true,
                    Err(end) => return Err(end),
                },
                // To be told when it begins costs each message more than it is worth: what comes then is taken as if it had
                // come the moment before.
                Ok(()) = blocked.changed(), if is_blocked => {}
            }
        }
    }

    /// Writes this event and those behind it as one.
    async fn confirm(&mut self, event: PublisherEvent, writer: &mut FrameWriter) -> Result<(), StreamEnd> {
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                PublisherEvent::Confirm {
                    first,
                    count,
                    outcome,
                } => {
                    self.unconfirmed.confirmed(first + u64::from(count) - 1);
                    writer.put(Kind::Confirm, first, &Confirm { count, outcome });
                    writer.flush_if_full().await?;
                }
                PublisherEvent::Closed(error) => {
                    writer.flush().await?;
                    return Err(error.into());
                }
                PublisherEvent::Opened { .. } => {}
            }
            next = self.events.try_recv().ok();
        }
        writer.flush().await
    }

    /// Routes every whole frame that was received and hands the batch to the driver.
    async fn publish(&mut self) -> Result<(), StreamEnd> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(frame) = self.reader.next()? {
            if frame.header.kind != Kind::Publish {
                return Err(unexpected(frame.header.kind, "on a publisher's stream").into());
            }
            let sequence = frame.header.id;
            if sequence <= self.last_sequence {
                let message = format!("sequence number {sequence} came after {}", self.last_sequence);
                return Err(ErrorBody::new(ErrorCode::SequenceOutOfOrder, message).into());
            }
            self.last_sequence = sequence;
            bytes += frame.header.frame_len();
            batch.push(Incoming {
                sequence,
                content: frame.content,
                meta_len: frame.header.meta_len,
            });
        }
        if batch.is_empty() {
            return Ok(());
        }
        let permit = match self.reader.take_permit() {
            Some(permit) => permit,
            None => self.session.shared.mailbox.publish_room(bytes).await?,
        };
        self.follow_routes()?;
        let mut messages = Vec::with_capacity(batch.len());
        self.routes.route(self.entry.clone(), batch, &mut messages).await;
        let malformed = cut_malformed(&mut messages);
        self.unconfirmed.add(self.last_sequence, bytes as u64);
        let mail = Mail::Publish {
            publisher: self.id,
            messages,
            permit,
        };
        self.session.shared.mailbox.send(mail).await?;
        malformed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Routes by what is declared now: one snapshot for the whole batch.
    fn follow_routes(&mut self) -> Result<(), StreamEnd> {
        let current = self.session.shared.routes.load();
        if Arc::ptr_eq(&self.routes, &current) {
            return Ok(());
        }
        self.routes = current.clone();
        self.entry = find(&self.routes, &self.session.vhost, &self.exchange)?;
        Ok(())
    }
}

/// Cuts a batch before the first frame that did not decode, which closes the stream: what came before it is taken.
fn cut_malformed(messages: &mut Vec<Publish>) -> Option<ErrorBody> {
    let at = messages.iter().position(
        |message| matches!(&message.verdict, Verdict::Refuse(error) if error.code == ErrorCode::MalformedFrame),
    )?;
    match messages.drain(at..).next()?.verdict {
        Verdict::Refuse(error) => Some(error),
        _ => None,
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.session
            .shared
            .mailbox
            .send_now(Mail::Input(Input::ClosePublisher { publisher: self.id }));
    }
}
