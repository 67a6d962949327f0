//! NATS with JetStream: a work-queue stream for each queue, an interest stream with a consumer a queue for a fan-out,
//! and pull consumers with explicit acks.
//!
//! The text protocol by hand; a batch of PUB is one write. Publishes carry a reply subject that ends in their number, so
//! that the answers, which are the confirms, may come in any order.

use std::ops::Range;

use bytes::{Buf, BufMut};
use pointsman_load::{Arrivals, BINDINGS, Broker, Consumer, Error, Outgoing, Publisher, Scenario, Shape};
use serde_json::{Value, json};

use crate::wire::{self, Wire};

/// Where answers to requests go.
const INBOX: &str = "_INBOX.bench";

/// A NATS server.
pub(crate) struct Nats {
    pub(crate) port: u16,
}

impl Broker for Nats {
    type Publisher = NatsPublisher;
    type Consumer = NatsConsumer;

    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        let mut wire = connect(self.port).await?;
        subscribe(&mut wire, INBOX);
        for (name, retention, subjects) in streams(scenario.shape) {
            let config = json!({
                "name": name, "subjects": subjects, "retention": retention, "storage": "file",
                "num_replicas": 1, "discard": "old",
            });
            request(&mut wire, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await?;
        }
        for queue in 0..scenario.shape.queues() {
            let (stream, durable) = place(scenario.shape, queue);
            let config = json!({ "stream_name": stream, "config": {
                "durable_name": durable, "ack_policy": "explicit", "deliver_policy": "all",
                "max_ack_pending": scenario.window * scenario.consumers, "max_waiting": 512,
            } });
            let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}");
            request(&mut wire, &subject, &config).await?;
        }
        Ok(())
    }

    async fn publisher(&self, scenario: &Scenario) -> Result<NatsPublisher, Error> {
        let mut wire = connect(self.port).await?;
        let inbox = own_inbox(&wire)?;
        subscribe(&mut wire, &format!("{inbox}.*"));
        wire.flush().await?;
        Ok(NatsPublisher {
            wire,
            inbox,
            subject: match scenario.shape {
                Shape::Queue | Shape::FanOut { .. } => Some("bench.all"),
                Shape::Topic { .. } => None,
            },
            sent: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, queue: usize) -> Result<NatsConsumer, Error> {
        let mut wire = connect(self.port).await?;
        let inbox = own_inbox(&wire)?;
        subscribe(&mut wire, &inbox);
        let (stream, durable) = place(scenario.shape, queue);
        let mut consumer = NatsConsumer {
            wire,
            pull: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable} {inbox}"),
            window: scenario.window,
            asked: 0,
            received: Vec::new(),
        };
        consumer.ask();
        consumer.wire.flush().await?;
        Ok(consumer)
    }

    async fn tear_down(&self) -> Result<(), Error> {
        let mut wire = connect(self.port).await?;
        subscribe(&mut wire, INBOX);
        let names = request(&mut wire, "$JS.API.STREAM.NAMES", &json!({})).await?;
        for name in names["streams"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            request(&mut wire, &format!("$JS.API.STREAM.DELETE.{name}"), &json!({})).await?;
        }
        Ok(())
    }
}

/// The streams of a shape: name, retention and subjects.
fn streams(shape: Shape) -> Vec<(String, &'static str, Vec<String>)> {
    match shape {
        Shape::Queue => vec![("bench0".into(), "workqueue", vec!["bench.all".into()])],
        Shape::FanOut { .. } => vec![("bench0".into(), "interest", vec!["bench.all".into()])],
        Shape::Topic { queues } => {
            let subjects = |queue| {
                let bindings = (0..BINDINGS).map(|number| shape.binding(number));
                bindings
                    .filter(|(_, q)| *q == queue)
                    .map(|(pattern, _)| pattern)
                    .collect()
            };
            (0..queues)
                .map(|queue| (format!("bench{queue}"), "workqueue", subjects(queue)))
                .collect()
        }
    }
}

/// The stream and the consumer that stand for a queue.
fn place(shape: Shape, queue: usize) -> (String, String) {
    match shape {
        Shape::Queue | Shape::FanOut { .. } => ("bench0".into(), format!("queue{queue}")),
        Shape::Topic { .. } => (format!("bench{queue}"), "queue".into()),
    }
}

async fn connect(port: u16) -> Result<Wire, Error> {
    let mut wire = Wire::connect(port).await?;
    // The server's INFO comes first.
    wire.line().await?;
    wire.output.put_slice(
        b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\nPING\r\n",
    );
    wire.flush().await?;
    match wire.line().await?.as_str() {
        "PONG" => Ok(wire),
        other => Err(Error::Broker(format!("NATS says {other}"))),
    }
}

fn subscribe(wire: &mut Wire, subject: &str) {
    wire.output.put_slice(format!("SUB {subject} 1\r\n").as_bytes());
}

/// A subject that no other connection uses: made of the port, which is the connection's alone.
fn own_inbox(wire: &Wire) -> Result<String, Error> {
    Ok(format!("{INBOX}.{}", wire.local_port()?))
}

/// Asks JetStream and returns what it answers.
async fn request(wire: &mut Wire, subject: &str, body: &Value) -> Result<Value, Error> {
    let body = body.to_string();
    let head = format!("PUB {subject} {INBOX} {}\r\n", body.len());
    wire.output.put_slice(head.as_bytes());
    wire.output.put_slice(body.as_bytes());
    wire.output.put_slice(b"\r\n");
    wire.flush().await?;
    loop {
        if let Some((frame, end)) = Frame::read(&wire.input)? {
            let reply = match frame {
                Frame::Message { payload, .. } => Some(serde_json::from_slice::<Value>(payload)),
                Frame::Ping | Frame::Other => None,
            };
            wire.input.advance(end);
            match reply {
                Some(Ok(reply)) if reply.get("error").is_none() => return Ok(reply),
                Some(Ok(reply)) => {
                    return Err(Error::Broker(format!(
                        "NATS refused {subject}: {}",
                        reply["error"]
                    )));
                }
                Some(Err(_)) => return Err(Error::Broker(format!("NATS did not answer {subject} in JSON"))),
                None => {}
            }
        } else {
            wire.fill().await?;
        }
    }
}

/// Publishes with PUB and a reply subject.
pub(crate) struct NatsPublisher {
    wire: Wire,
    inbox: String,
    /// The subject of every message, where it is not the message's own.
    subject: Option<&'static str>,
    sent: u64,
}

impl Publisher for NatsPublisher {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        use std::io::Write;
        for message in messages {
            let out = &mut self.wire.output;
            let subject = self.subject.unwrap_or(message.key);
            let (inbox, number, len) = (&self.inbox, self.sent, message.body.len());
            // Writing into memory does not fail.
            let _ = write!(out.writer(), "PUB {subject} {inbox}.{number} {len}\r\n");
            out.put_slice(&message.body);
            out.put_slice(b"\r\n");
            self.sent += 1;
        }
        self.wire.flush().await
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        loop {
            let before = numbers.len();
            let mut at = 0;
            while let Some((frame, len)) = Frame::read(&self.wire.input[at..])? {
                at += len;
                match frame {
                    Frame::Message { subject, payload, .. } => {
                        let number = subject.get(self.inbox.len() + 1..).and_then(wire::number);
                        match number {
                            Some(n) if payload.starts_with(b"{\"stream\"") => numbers.push(n..n + 1),
                            _ => return Err(refused(payload)),
                        }
                    }
                    Frame::Ping => self.wire.output.put_slice(b"PONG\r\n"),
                    Frame::Other => {}
                }
            }
            self.wire.input.advance(at);
            self.wire.flush().await?;
            if numbers.len() > before {
                return Ok(());
            }
            self.wire.fill().await?;
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

fn refused(payload: &[u8]) -> Error {
    Error::Broker(format!(
        "NATS refused a message: {}",
        String::from_utf8_lossy(payload)
    ))
}

/// Consumes by pulling, and acknowledges each message.
pub(crate) struct NatsConsumer {
    wire: Wire,
    /// Subject and reply subject of a pull.
    pull: String,
    window: usize,
    /// Asked for and not received.
    asked: usize,
    /// Subjects to which the acks of what was received go.
    received: Vec<u8>,
}

impl NatsConsumer {
    /// Asks for as many as the window allows, once that is half of it.
    fn ask(&mut self) {
        let more = self.window - self.asked;
        if more >= self.window.div_ceil(2) {
            let body = format!("{{\"batch\":{more}}}");
            let pull = format!("PUB {} {}\r\n{body}\r\n", self.pull, body.len());
            self.wire.output.put_slice(pull.as_bytes());
            self.asked += more;
        }
    }

    fn take(&mut self, arrivals: &mut Arrivals) -> Result<usize, Error> {
        let (mut at, mut taken) = (0, 0);
        while let Some((frame, len)) = Frame::read(&self.wire.input[at..])? {
            at += len;
            match frame {
                Frame::Message {
                    reply: Some(reply),
                    payload,
                    ..
                } => {
                    arrivals.push(payload)?;
                    self.received.extend_from_slice(b"PUB ");
                    self.received.extend_from_slice(reply);
                    self.received.extend_from_slice(b" 4\r\n+ACK\r\n");
                    taken += 1;
                }
                Frame::Message { payload, .. } => return Err(refused(payload)),
                Frame::Ping => self.wire.output.put_slice(b"PONG\r\n"),
                Frame::Other => {}
            }
        }
        self.wire.input.advance(at);
        Ok(taken)
    }
}

impl Consumer for NatsConsumer {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        loop {
            let taken = self.take(arrivals)?;
            if taken > 0 {
                self.asked = self.asked.saturating_sub(taken);
                return Ok(());
            }
            self.wire.flush().await?;
            self.wire.fill().await?;
        }
    }

    async fn ack(&mut self) -> Result<(), Error> {
        self.wire.output.put_slice(&self.received);
        self.received.clear();
        self.ask();
        self.wire.flush().await
    }

    /// The answer to a PING says that everything before it was taken.
    async fn close(mut self) -> Result<(), Error> {
        self.wire.output.put_slice(b"PING\r\n");
        self.wire.flush().await?;
        loop {
            if wire::find(&self.wire.input, b"PONG\r\n").is_some() {
                return Ok(());
            }
            self.wire.fill().await?;
        }
    }
}

/// What the server sends.
enum Frame<'a> {
    Message {
        subject: &'a [u8],
        reply: Option<&'a [u8]>,
        payload: &'a [u8],
    },
    Ping,
    /// `+OK`, `PONG` and `INFO`.
    Other,
}

impl<'a> Frame<'a> {
    /// Reads the first frame, with its length; `None` while it is not all there.
    fn read(input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Error> {
        let Some(len) = wire::find(input, b"\r\n") else {
            return Ok(None);
        };
        let line = &input[..len];
        let end = len + 2;
        let mut words = line.split(|byte| *byte == b' ');
        let malformed = || Error::Broker(format!("NATS sent {}", String::from_utf8_lossy(line)));
        match words.next() {
            Some(b"MSG") => {
                let words: Vec<&[u8]> = words.collect();
                let (subject, reply, len) = match words[..] {
                    [subject, _, len] => (subject, None, len),
                    [subject, _, reply, len] => (subject, Some(reply), len),
                    _ => return Err(malformed()),
                };
                let len = wire::number(len).ok_or_else(malformed)? as usize;
                let payload = input.get(end..end + len + 2);
                Ok(payload.map(|payload| {
                    let payload = &payload[..len];
                    (
                        Frame::Message {
                            subject,
                            reply,
                            payload,
                        },
                        end + len + 2,
                    )
                }))
            }
            Some(b"PING") => Ok(Some((Frame::Ping, end))),
            Some(b"+OK" | b"PONG" | b"INFO") => Ok(Some((Frame::Other, end))),
            // A status in headers, such as the end of a pull or no responders, is not expected here.
            _ => Err(malformed()),
        }
    }
}
