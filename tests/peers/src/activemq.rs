//! ActiveMQ: persistent messages in KahaDB, receipts as confirms, cumulative acks; a virtual topic for a fan-out.
//!
//! STOMP 1.2 by hand: a batch of SEND is one write, and a consumer acknowledges all it has taken with one ACK.

use std::ops::Range;

use bytes::{Buf, BufMut, BytesMut};
use pointsman_load::{Arrivals, Broker, Consumer, Error, Outgoing, Publisher, Scenario, Shape};

use crate::wire::{self, Wire};

/// An ActiveMQ server.
pub(crate) struct ActiveMq {
    pub(crate) port: u16,
}

impl Broker for ActiveMq {
    type Publisher = StompPublisher;
    type Consumer = StompConsumer;

    /// Queues come to be when they are used.
    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        match scenario.shape {
            Shape::Topic { .. } => Err(Error::Broker("ActiveMQ has no bindings".into())),
            Shape::Queue | Shape::FanOut { .. } => Ok(()),
        }
    }

    async fn publisher(&self, scenario: &Scenario) -> Result<StompPublisher, Error> {
        let to = match scenario.shape {
            Shape::FanOut { .. } => "/topic/VirtualTopic.bench",
            Shape::Queue | Shape::Topic { .. } => "/queue/bench",
        };
        Ok(StompPublisher {
            wire: connect(self.port).await?,
            to,
            sent: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, queue: usize) -> Result<StompConsumer, Error> {
        let mut wire = connect(self.port).await?;
        let from = match scenario.shape {
            Shape::FanOut { .. } => format!("/queue/Consumer.queue{queue}.VirtualTopic.bench"),
            Shape::Queue | Shape::Topic { .. } => "/queue/bench".into(),
        };
        let subscribe = format!(
            "SUBSCRIBE\nid:0\ndestination:{from}\nack:client\nactivemq.prefetchSize:{}\nreceipt:0\n\n\0",
            scenario.window
        );
        wire.output.put_slice(subscribe.as_bytes());
        wire.flush().await?;
        // A delivery may be faster than the receipt.
        while wire::find(&wire.input, b"RECEIPT").is_none() {
            wire.fill().await?;
        }
        Ok(StompConsumer {
            wire,
            last: Vec::new(),
        })
    }

    async fn tear_down(&self) -> Result<(), Error> {
        Ok(())
    }
}

async fn connect(port: u16) -> Result<Wire, Error> {
    let mut wire = Wire::connect(port).await?;
    wire.output
        .put_slice(b"CONNECT\naccept-version:1.2\nhost:localhost\nheart-beat:0,0\n\n\0");
    wire.flush().await?;
    loop {
        if let Some((frame, end)) = Frame::read(&wire.input)? {
            let command = frame.command.to_vec();
            wire.input.advance(end);
            return match &command[..] {
                b"CONNECTED" => Ok(wire),
                other => Err(Error::Broker(format!(
                    "ActiveMQ says {}",
                    String::from_utf8_lossy(other)
                ))),
            };
        }
        wire.fill().await?;
    }
}

/// Publishes with SEND and a receipt.
pub(crate) struct StompPublisher {
    wire: Wire,
    to: &'static str,
    sent: u64,
}

impl Publisher for StompPublisher {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        use std::io::Write;
        for message in messages {
            let out = &mut self.wire.output;
            let (to, number, len) = (self.to, self.sent, message.body.len());
            // Writing into memory does not fail.
            let _ = write!(
                out.writer(),
                "SEND\ndestination:{to}\npersistent:true\nreceipt:{number}\ncontent-length:{len}\n\n"
            );
            out.put_slice(&message.body);
            out.put_u8(0);
            self.sent += 1;
        }
        self.wire.flush().await
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        loop {
            let mut at = 0;
            while let Some((frame, len)) = Frame::read(&self.wire.input[at..])? {
                at += len;
                let number = frame.header(b"receipt-id").and_then(wire::number);
                match (frame.command, number) {
                    (b"RECEIPT", Some(n)) => numbers.push(n..n + 1),
                    _ => return Err(frame.unexpected()),
                }
            }
            self.wire.input.advance(at);
            if !numbers.is_empty() {
                return Ok(());
            }
            self.wire.fill().await?;
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Consumes with a prefetch of the window.
pub(crate) struct StompConsumer {
    wire: Wire,
    /// The last delivery that is not acknowledged.
    last: Vec<u8>,
}

impl Consumer for StompConsumer {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        loop {
            let (mut at, mut taken) = (0, false);
            while let Some((frame, len)) = Frame::read(&self.wire.input[at..])? {
                at += len;
                match (frame.command, frame.header(b"ack")) {
                    (b"MESSAGE", Some(id)) => {
                        arrivals.push(frame.body)?;
                        self.last.clear();
                        self.last.extend_from_slice(id);
                        taken = true;
                    }
                    (b"RECEIPT", _) => {}
                    _ => return Err(frame.unexpected()),
                }
            }
            self.wire.input.advance(at);
            if taken {
                return Ok(());
            }
            self.wire.fill().await?;
        }
    }

    async fn ack(&mut self) -> Result<(), Error> {
        put_ack(&mut self.wire.output, &self.last);
        self.last.clear();
        self.wire.flush().await
    }

    /// The receipt of DISCONNECT says that everything before it was taken.
    async fn close(mut self) -> Result<(), Error> {
        self.wire.output.put_slice(b"DISCONNECT\nreceipt:1\n\n\0");
        self.wire.flush().await?;
        while wire::find(&self.wire.input, b"RECEIPT").is_none() {
            self.wire.fill().await?;
        }
        Ok(())
    }
}

fn put_ack(out: &mut BytesMut, id: &[u8]) {
    out.put_slice(b"ACK\nid:");
    out.put_slice(id);
    out.put_slice(b"\n\n\0");
}

/// A STOMP frame.
struct Frame<'a> {
    command: &'a [u8],
    headers: &'a [u8],
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the first frame, with its length; `None` while it is not all there.
    fn read(input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Error> {
        // Ends of lines may stand between frames.
        let skipped = input
            .iter()
            .take_while(|byte| matches!(byte, b'\n' | b'\r'))
            .count();
        let input = &input[skipped..];
        let Some(head) = wire::find(input, b"\n\n") else {
            return Ok(None);
        };
        let command_end = wire::find(&input[..head], b"\n").unwrap_or(head);
        let mut frame = Frame {
            command: &input[..command_end],
            headers: &input[command_end..head],
            body: b"",
        };
        let start = head + 2;
        let len = match frame.header(b"content-length").and_then(wire::number) {
            Some(len) => len as usize,
            None => match wire::find(&input[start..], b"\0") {
                Some(len) => len,
                None => return Ok(None),
            },
        };
        let Some(body) = input.get(start..start + len + 1) else {
            return Ok(None);
        };
        frame.body = &body[..len];
        Ok(Some((frame, skipped + start + len + 1)))
    }

    fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut lines = self.headers.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(b":"))
    }

    fn unexpected(&self) -> Error {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Error::Broker(format!(
            "ActiveMQ sent {} {}",
            text(self.command),
            text(self.headers)
        ))
    }
}
