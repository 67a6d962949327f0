//! A consumer's stream: deliveries out under credit, settlements in.

use std::pin::pin;

use bytes::BytesMut;
use pointsman_core::chunk::StoredMessage;
use pointsman_core::{ConsumerId, DecidedBy, DeliveryTag, ExchangeId, Input};
use pointsman_protocol::consume::{
    ConsumerOpened, Credit, DeliveryMeta, FLAG_REDELIVERED, Settle, StreamPlace, put_delivery,
};
use pointsman_protocol::frame::{self, Frame, Kind};
use tokio::sync::mpsc;

use super::framing::{FrameReader, FrameWriter, StreamEnd};
use super::{Session, going_away, shutting_down, unexpected};
use crate::mailbox::{ConsumerEvent, Delivery, Mail};

/// Bytes of deliveries that may wait to be written to one consumer, whatever credit the client gives: a client that
/// does not read must not make the broker keep messages in memory.
const UNWRITTEN_MAX: i64 = 8 * 1024 * 1024;

/// Length of the place in a [`DeliveryMeta`] that has none, in bytes.
const NO_PLACE: usize = 1;

/// Serves a consumer until its stream ends.
pub(super) async fn run(
    session: &Session,
    first: &Frame,
    reader: FrameReader,
    writer: &mut FrameWriter,
) -> StreamEnd {
    let served = async { open(session, first, reader, writer).await?.serve(writer).await };
    served.await.err().unwrap_or(StreamEnd::Finished)
}

/// A consumer's stream once it is open.
struct Consumer<'a> {
    session: &'a Session,
    id: ConsumerId,
    reader: FrameReader,
    events: mpsc::UnboundedReceiver<ConsumerEvent>,
    /// Credit in bytes the client gave that the core does not have yet.
    withheld: u64,
    /// Credit in bytes the core has; negative once a delivery was larger than what was left of it.
    granted: i64,
    labels: Labels,
}

async fn open<'a>(
    session: &'a Session,
    first: &Frame,
    reader: FrameReader,
    writer: &mut FrameWriter,
) -> Result<Consumer<'a>, StreamEnd> {
    let id = ConsumerId(session.shared.id());
    let (sink, events) = mpsc::unbounded_channel();
    let mail = Mail::OpenConsumer {
        connection: session.id,
        consumer: id,
        open: first.decode()?,
        sink,
    };
    session.shared.mailbox.send(mail).await?;
    // From here on dropping the consumer tells the core.
    let mut consumer = Consumer {
        session,
        id,
        reader,
        events,
        withheld: 0,
        granted: 0,
        labels: Labels::default(),
    };
    match consumer.events.recv().await {
        Some(ConsumerEvent::Opened { tag, offset }) => {
            writer.put(Kind::ConsumerOpened, 0, &ConsumerOpened { tag, offset });
        }
        Some(ConsumerEvent::Closed(error)) => return Err(error.into()),
        Some(ConsumerEvent::Deliver(_)) | None => return Err(shutting_down().into()),
    }
    writer.flush().await?;
    Ok(consumer)
}

impl Consumer<'_> {
    async fn serve(&mut self, writer: &mut FrameWriter) -> Result<(), StreamEnd> {
        let mut draining = self.session.shared.draining.clone();
        let mut going_away = pin!(going_away(&mut draining));
        loop {
            // In this order, as to ask QUIC for input costs more than most deliveries do. Input is never starved: deliveries end
            // with the credit that is read from it.
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    let event = event.ok_or_else(shutting_down)?;
                    self.deliver(event, writer).await?;
                }
                () = &mut going_away => return Ok(()),
                filled = self.reader.fill() => {
                    filled?;
                    self.receive().await?;
                }
            }
        }
    }

    /// Takes credit and settlements of every whole frame that was received.
    async fn receive(&mut self) -> Result<(), StreamEnd> {
        let mut messages = 0u32;
        while let Some(frame) = self.reader.next()? {
            match frame.header.kind {
                Kind::Credit => {
                    let credit: Credit = frame.decode()?;
                    messages = messages.saturating_add(credit.messages);
                    self.withheld = self.withheld.saturating_add(credit.bytes);
                }
                Kind::Settle => {
                    let settle: Settle = frame.decode()?;
                    let input = Input::Settle {
                        consumer: self.id,
                        first: DeliveryTag(frame.header.id),
                        settle,
                    };
                    self.session.shared.mailbox.send(Mail::Input(input)).await?;
                }
                kind => return Err(unexpected(kind, "on a consumer's stream").into()),
            }
        }
        self.grant(messages).await
    }

    /// Passes credit on to the core, but of bytes only as many as may wait to be written.
    async fn grant(&mut self, messages: u32) -> Result<(), StreamEnd> {
        let room = UNWRITTEN_MAX.saturating_sub(self.granted).max(0) as u64;
        let bytes = room.min(self.withheld);
        // Small steps would cost a mail each.
        if messages == 0 && (bytes == 0 || (bytes < UNWRITTEN_MAX as u64 / 4 && bytes < self.withheld)) {
            return Ok(());
        }
        self.withheld -= bytes;
        self.granted += bytes as i64;
        let credit = Credit { messages, bytes };
        let input = Input::Credit {
            consumer: self.id,
            credit,
        };
        Ok(self.session.shared.mailbox.send(Mail::Input(input)).await?)
    }

    /// Writes this event and those behind it as one.
    async fn deliver(&mut self, event: ConsumerEvent, writer: &mut FrameWriter) -> Result<(), StreamEnd> {
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                ConsumerEvent::Deliver(delivery) => self.write(&delivery, writer).await?,
                ConsumerEvent::Closed(error) => {
                    writer.flush().await?;
                    return Err(error.into());
                }
                ConsumerEvent::Opened { .. } => {}
            }
            next = self.events.try_recv().ok();
        }
        writer.flush().await?;
        self.grant(0).await
    }

    async fn write(&mut self, delivery: &Delivery, writer: &mut FrameWriter) -> Result<(), StreamEnd> {
        let flags = if delivery.redelivered { FLAG_REDELIVERED } else { 0 };
        for n in 0..delivery.count {
            let Some(message) = delivery.chunk.get(delivery.record + n) else {
                return Err(StreamEnd::Lost(format!(
                    "chunk {:?} has no such record",
                    delivery.chunk.base
                )));
            };
            let place = delivery.place.map(|place| StreamPlace {
                offset: place.offset.0 + u64::from(n),
                time: place.time,
            });
            let label = self
                .labels
                .get(self.session, delivery.delivery_count, place, &message);
            let (tag, body_len) = (delivery.first.0 + u64::from(n), message.body_len() as u32);
            put_delivery(writer.buffer(), flags, tag, label, message.meta, body_len);
            self.granted -= (message.meta.len() + message.body_len()) as i64;
            writer.put_body(&delivery.chunk, message.body).await?;
            for piece in message.more {
                writer.hand_over(piece.clone()).await?;
            }
            writer.flush_if_full().await?;
        }
        Ok(())
    }
}

impl Drop for Consumer<'_> {
    fn drop(&mut self) {
        self.session
            .shared
            .mailbox
            .send_now(Mail::Input(Input::CloseConsumer { consumer: self.id }));
    }
}

/// The encoded [`DeliveryMeta`] of the last message: the next one mostly has the same, but for its place in a stream,
/// which stands last.
#[derive(Default)]
struct Labels {
    key: Option<(u32, ExchangeId, Option<DecidedBy>)>,
    bytes: BytesMut,
    /// Length of what does not name the place.
    same: usize,
}

impl Labels {
    fn get(
        &mut self,
        session: &Session,
        delivery_count: u32,
        place: Option<StreamPlace>,
        message: &StoredMessage<'_>,
    ) -> &[u8] {
        let key = (delivery_count, message.exchange, message.decided_by);
        if self.key != Some(key) {
            self.key = Some(key);
            self.bytes.clear();
            let routes = session.shared.routes.load();
            let topology = routes.topology();
            let exchange = topology
                .exchanges
                .get(&message.exchange)
                .map_or("", |e| &e.spec.name);
            let decided_by = message.decided_by.map_or_else(String::new, |by| {
                let router = topology.routers.get(&by.router).map_or("", |r| &r.name);
                format!("{router}@{}", by.version)
            });
            let meta = DeliveryMeta {
                delivery_count,
                exchange,
                decided_by: &decided_by,
                place: None,
            };
            frame::put_postcard(&mut self.bytes, &meta);
            self.same = self.bytes.len() - NO_PLACE;
        }
        self.bytes.truncate(self.same);
        frame::put_postcard(&mut self.bytes, &place);
        &self.bytes
    }
}
