//! RabbitMQ: durable queues, classic or quorum, persistent messages, publisher confirms, acks.
//!
//! AMQP 0-9-1 by hand, the dozen methods that are needed: a batch of publishes is one write, and a consumer acknowledges
//! all it has taken with one method.

use std::ops::Range;

use bytes::{Buf, BufMut, BytesMut};
use pointsman_load::{Arrivals, BINDINGS, Broker, Consumer, Error, Outgoing, Publisher, Scenario, Shape};

use crate::wire::Wire;

const EXCHANGE: &str = "bench";
/// The channel of every connection.
const CHANNEL: u16 = 1;
/// What a frame has beside its payload, in bytes.
const FRAME_EXTRA: usize = 8;
/// The last byte of a frame.
const FRAME_END: u8 = 0xCE;

// Methods by class and number, from the protocol's definition.
const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_START_OK: (u16, u16) = (10, 11);
const CONNECTION_TUNE: (u16, u16) = (10, 30);
const CONNECTION_TUNE_OK: (u16, u16) = (10, 31);
const CONNECTION_OPEN: (u16, u16) = (10, 40);
const CONNECTION_OPEN_OK: (u16, u16) = (10, 41);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN: (u16, u16) = (20, 10);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const EXCHANGE_DECLARE: (u16, u16) = (40, 10);
const EXCHANGE_DECLARE_OK: (u16, u16) = (40, 11);
const EXCHANGE_DELETE: (u16, u16) = (40, 20);
const EXCHANGE_DELETE_OK: (u16, u16) = (40, 21);
const QUEUE_DECLARE: (u16, u16) = (50, 10);
const QUEUE_DECLARE_OK: (u16, u16) = (50, 11);
const QUEUE_BIND: (u16, u16) = (50, 20);
const QUEUE_BIND_OK: (u16, u16) = (50, 21);
const QUEUE_DELETE: (u16, u16) = (50, 40);
const QUEUE_DELETE_OK: (u16, u16) = (50, 41);
const BASIC_QOS: (u16, u16) = (60, 10);
const BASIC_QOS_OK: (u16, u16) = (60, 11);
const BASIC_CONSUME: (u16, u16) = (60, 20);
const BASIC_CONSUME_OK: (u16, u16) = (60, 21);
const BASIC_PUBLISH: (u16, u16) = (60, 40);
const BASIC_DELIVER: (u16, u16) = (60, 60);
const BASIC_ACK: (u16, u16) = (60, 80);
const CONFIRM_SELECT: (u16, u16) = (85, 10);
const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);

/// A RabbitMQ server.
pub(crate) struct RabbitMq {
    pub(crate) port: u16,
    /// `classic` or `quorum`.
    pub(crate) queue_type: &'static str,
}

impl Broker for RabbitMq {
    type Publisher = RabbitMqPublisher;
    type Consumer = RabbitMqConsumer;

    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        let mut channel = Channel::open(self.port).await?;
        for number in 0..scenario.shape.queues() {
            let declare = |out: &mut BytesMut| {
                out.put_u16(0);
                short(out, &queue(number));
                // Durable.
                out.put_u8(0b10);
                queue_arguments(out, self.queue_type);
            };
            channel.ask(QUEUE_DECLARE, declare, QUEUE_DECLARE_OK).await?;
        }
        let (kind, bindings) = match scenario.shape {
            Shape::Queue => return Ok(()),
            Shape::FanOut { queues } => (
                "fanout",
                (0..queues).map(|queue| (String::new(), queue)).collect(),
            ),
            Shape::Topic { .. } => (
                "topic",
                (0..BINDINGS)
                    .map(|n| scenario.shape.binding(n))
                    .collect::<Vec<_>>(),
            ),
        };
        let declare = |out: &mut BytesMut| {
            out.put_u16(0);
            short(out, EXCHANGE);
            short(out, kind);
            out.put_u8(0b10);
            out.put_u32(0);
        };
        channel
            .ask(EXCHANGE_DECLARE, declare, EXCHANGE_DECLARE_OK)
            .await?;
        for (key, number) in bindings {
            let bind = |out: &mut BytesMut| {
                out.put_u16(0);
                short(out, &queue(number));
                short(out, EXCHANGE);
                short(out, &key);
                out.put_u8(0);
                out.put_u32(0);
            };
            channel.ask(QUEUE_BIND, bind, QUEUE_BIND_OK).await?;
        }
        Ok(())
    }

    async fn publisher(&self, scenario: &Scenario) -> Result<RabbitMqPublisher, Error> {
        let mut channel = Channel::open(self.port).await?;
        channel
            .ask(CONFIRM_SELECT, |out| out.put_u8(0), CONFIRM_SELECT_OK)
            .await?;
        let to = match scenario.shape {
            Shape::Queue => ("", Some(queue(0))),
            Shape::FanOut { .. } | Shape::Topic { .. } => (EXCHANGE, None),
        };
        Ok(RabbitMqPublisher {
            channel,
            to,
            confirmed: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, number: usize) -> Result<RabbitMqConsumer, Error> {
        let mut channel = Channel::open(self.port).await?;
        let window = u16::try_from(scenario.window).unwrap_or(u16::MAX);
        let qos = |out: &mut BytesMut| {
            out.put_u32(0);
            out.put_u16(window);
            out.put_u8(0);
        };
        channel.ask(BASIC_QOS, qos, BASIC_QOS_OK).await?;
        let consume = |out: &mut BytesMut| {
            out.put_u16(0);
            short(out, &queue(number));
            short(out, "");
            out.put_u8(0);
            out.put_u32(0);
        };
        channel.ask(BASIC_CONSUME, consume, BASIC_CONSUME_OK).await?;
        Ok(RabbitMqConsumer {
            channel,
            reading: 0,
            last: None,
            body: BytesMut::new(),
            missing: 0,
        })
    }

    async fn tear_down(&self) -> Result<(), Error> {
        let mut channel = Channel::open(self.port).await?;
        let delete = |name: &str| {
            let mut arguments = BytesMut::new();
            arguments.put_u16(0);
            short(&mut arguments, name);
            arguments.put_u8(0);
            arguments
        };
        for number in 0..4 {
            let arguments = delete(&queue(number));
            channel
                .ask(QUEUE_DELETE, |out| out.put_slice(&arguments), QUEUE_DELETE_OK)
                .await?;
        }
        let arguments = delete(EXCHANGE);
        channel
            .ask(
                EXCHANGE_DELETE,
                |out| out.put_slice(&arguments),
                EXCHANGE_DELETE_OK,
            )
            .await
    }
}

fn queue(number: usize) -> String {
    format!("bench{number}")
}

/// A text of up to 255 bytes.
fn short(out: &mut BytesMut, text: &str) {
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

fn queue_arguments(out: &mut BytesMut, queue_type: &str) {
    let name = "x-queue-type";
    out.put_u32((1 + name.len() + 1 + 4 + queue_type.len()) as u32);
    short(out, name);
    out.put_u8(b'S');
    out.put_u32(queue_type.len() as u32);
    out.put_slice(queue_type.as_bytes());
}

/// A connection with one channel.
struct Channel {
    wire: Wire,
    /// Largest frame, in bytes.
    frame_max: usize,
}

impl Channel {
    async fn open(port: u16) -> Result<Channel, Error> {
        let mut wire = Wire::connect(port).await?;
        wire.output.put_slice(b"AMQP\x00\x00\x09\x01");
        wire.flush().await?;
        let mut channel = Channel {
            wire,
            frame_max: 4_096,
        };
        channel.expect(CONNECTION_START).await?;
        let start_ok = |out: &mut BytesMut| {
            out.put_u32(0);
            short(out, "PLAIN");
            let login = b"\0guest\0guest";
            out.put_u32(login.len() as u32);
            out.put_slice(login);
            short(out, "en_US");
        };
        method(&mut channel.wire.output, 0, CONNECTION_START_OK, start_ok);
        channel.wire.flush().await?;
        let mut tune = channel.expect(CONNECTION_TUNE).await?;
        let (channels, frame_max) = (tune.get_u16(), tune.get_u32());
        channel.frame_max = frame_max as usize;
        let tune_ok = |out: &mut BytesMut| {
            out.put_u16(channels);
            out.put_u32(frame_max);
            // No heartbeats.
            out.put_u16(0);
        };
        method(&mut channel.wire.output, 0, CONNECTION_TUNE_OK, tune_ok);
        let open = |out: &mut BytesMut| {
            short(out, "/");
            short(out, "");
            out.put_u8(0);
        };
        method(&mut channel.wire.output, 0, CONNECTION_OPEN, open);
        channel.wire.flush().await?;
        channel.expect(CONNECTION_OPEN_OK).await?;
        channel
            .ask(CHANNEL_OPEN, |out| short(out, ""), CHANNEL_OPEN_OK)
            .await?;
        Ok(channel)
    }

    /// Calls a method and waits for its answer.
    async fn ask(
        &mut self,
        name: (u16, u16),
        arguments: impl FnOnce(&mut BytesMut),
        answer: (u16, u16),
    ) -> Result<(), Error> {
        method(&mut self.wire.output, CHANNEL, name, arguments);
        self.wire.flush().await?;
        self.expect(answer).await.map(drop)
    }

    /// Waits for a method, and returns its arguments.
    async fn expect(&mut self, name: (u16, u16)) -> Result<BytesMut, Error> {
        loop {
            if let Some(frame) = self.frame()? {
                return match frame {
                    Frame::Method(found, arguments) if found == name => Ok(arguments),
                    Frame::Method(found, arguments) => Err(unexpected(found, &arguments)),
                    Frame::Header(_) | Frame::Body(_) => {
                        Err(Error::Broker("RabbitMQ sent content early".into()))
                    }
                };
            }
            self.wire.fill().await?;
        }
    }

    /// Takes the next frame, once it is all there.
    fn frame(&mut self) -> Result<Option<Frame>, Error> {
        let input = &mut self.wire.input;
        let Some(head) = input.first_chunk::<7>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let kind = head[0];
        if input.len() < len + FRAME_EXTRA {
            return Ok(None);
        }
        input.advance(7);
        let mut payload = input.split_to(len);
        input.advance(1);
        match kind {
            1 => {
                let name = (payload.get_u16(), payload.get_u16());
                Ok(Some(Frame::Method(name, payload)))
            }
            2 => {
                payload.advance(4);
                Ok(Some(Frame::Header(payload.get_u64() as usize)))
            }
            3 => Ok(Some(Frame::Body(payload))),
            _ => Err(Error::Broker(format!("RabbitMQ sent a frame of kind {kind}"))),
        }
    }
}

/// What the server sends. A payload that is too short panics, which a bench may.
enum Frame {
    Method((u16, u16), BytesMut),
    /// The length of the content.
    Header(usize),
    Body(BytesMut),
}

fn method(out: &mut BytesMut, channel: u16, name: (u16, u16), arguments: impl FnOnce(&mut BytesMut)) {
    let at = begin_frame(out, 1, channel);
    out.put_u16(name.0);
    out.put_u16(name.1);
    arguments(out);
    end_frame(out, at);
}

fn begin_frame(out: &mut BytesMut, kind: u8, channel: u16) -> usize {
    out.put_u8(kind);
    out.put_u16(channel);
    out.put_u32(0);
    out.len()
}

fn end_frame(out: &mut BytesMut, at: usize) {
    let len = (out.len() - at) as u32;
    out[at - 4..at].copy_from_slice(&len.to_be_bytes());
    out.put_u8(FRAME_END);
}

/// A close says why; anything else is out of place.
fn unexpected(name: (u16, u16), arguments: &[u8]) -> Error {
    if name == CONNECTION_CLOSE || name == CHANNEL_CLOSE {
        let len = arguments.get(2).map_or(0, |len| usize::from(*len));
        let text = arguments.get(3..3 + len).unwrap_or_default();
        return Error::Broker(format!("RabbitMQ closed: {}", String::from_utf8_lossy(text)));
    }
    Error::Broker(format!("RabbitMQ sent the method {name:?} out of place"))
}

/// Publishes persistent messages.
pub(crate) struct RabbitMqPublisher {
    channel: Channel,
    /// The exchange, and the routing key where it is not the message's own.
    to: (&'static str, Option<String>),
    /// All messages before this one are confirmed.
    confirmed: u64,
}

impl Publisher for RabbitMqPublisher {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        let out = &mut self.channel.wire.output;
        for message in messages {
            let (exchange, key) = (self.to.0, self.to.1.as_deref().unwrap_or(message.key));
            method(out, CHANNEL, BASIC_PUBLISH, |out| {
                out.put_u16(0);
                short(out, exchange);
                short(out, key);
                out.put_u8(0);
            });
            let at = begin_frame(out, 2, CHANNEL);
            out.put_u16(60);
            out.put_u16(0);
            out.put_u64(message.body.len() as u64);
            // Only the delivery mode: persistent.
            out.put_u16(0x1000);
            out.put_u8(2);
            end_frame(out, at);
            for part in message.body.chunks(self.channel.frame_max - FRAME_EXTRA) {
                let at = begin_frame(out, 3, CHANNEL);
                out.put_slice(part);
                end_frame(out, at);
            }
        }
        self.channel.wire.flush().await
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        loop {
            while let Some(frame) = self.channel.frame()? {
                match frame {
                    Frame::Method(BASIC_ACK, mut arguments) => {
                        // Tags count from 1.
                        let (tag, multiple) = (arguments.get_u64(), arguments.get_u8() != 0);
                        if multiple {
                            numbers.push(self.confirmed..tag);
                            self.confirmed = tag;
                        } else {
                            numbers.push(tag - 1..tag);
                        }
                    }
                    Frame::Method(name, arguments) => return Err(unexpected(name, &arguments)),
                    Frame::Header(_) | Frame::Body(_) => {}
                }
            }
            if !numbers.is_empty() {
                return Ok(());
            }
            self.channel.wire.fill().await?;
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Consumes with a prefetch of the window.
pub(crate) struct RabbitMqConsumer {
    channel: Channel,
    /// The tag of the delivery that is being read.
    reading: u64,
    /// The tag of the last delivery that was read and is not acknowledged.
    last: Option<u64>,
    /// A body that came in several frames, and what is missing of it.
    body: BytesMut,
    missing: usize,
}

impl Consumer for RabbitMqConsumer {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        loop {
            let mut taken = false;
            while let Some(frame) = self.channel.frame()? {
                match frame {
                    Frame::Method(BASIC_DELIVER, mut arguments) => {
                        let tag_len = arguments.get_u8();
                        arguments.advance(tag_len.into());
                        self.reading = arguments.get_u64();
                    }
                    Frame::Method(name, arguments) => return Err(unexpected(name, &arguments)),
                    Frame::Header(len) => self.missing = len,
                    Frame::Body(part) => {
                        self.body.put_slice(&part);
                        self.missing -= part.len();
                        if self.missing == 0 {
                            arrivals.push(&self.body)?;
                            self.body.clear();
                            self.last = Some(self.reading);
                            taken = true;
                        }
                    }
                }
            }
            if taken {
                return Ok(());
            }
            self.channel.wire.fill().await?;
        }
    }

    async fn ack(&mut self) -> Result<(), Error> {
        if let Some(tag) = self.last.take() {
            method(&mut self.channel.wire.output, CHANNEL, BASIC_ACK, |out| {
                out.put_u64(tag);
                // And all before it.
                out.put_u8(1);
            });
        }
        self.channel.wire.flush().await
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
