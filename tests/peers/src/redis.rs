//! Redis streams: an append-only stream, and a consumer group for each queue.
//!
//! RESP 2 by hand, pipelined: a batch of XADD is one write. What a group acknowledged stays in the stream, as Redis
//! recommends to trim it by length elsewhere; nobody trims here, which is in favour of Redis.

use std::ops::Range;

use bytes::{Buf, BufMut, BytesMut};
use pointsman_load::{Arrivals, Broker, Consumer, Error, Outgoing, Publisher, Scenario, Shape};

use crate::wire::{self, Wire};

const STREAM: &[u8] = b"bench";

/// A Redis server.
pub(crate) struct Redis {
    pub(crate) port: u16,
}

impl Broker for Redis {
    type Publisher = RedisPublisher;
    type Consumer = RedisConsumer;

    async fn set_up(&self, scenario: &Scenario) -> Result<(), Error> {
        let mut wire = Wire::connect(self.port).await?;
        if matches!(scenario.shape, Shape::Topic { .. }) {
            return Err(Error::Broker("Redis streams do not route by topic".into()));
        }
        for queue in 0..scenario.shape.queues() {
            command(
                &mut wire.output,
                &[b"XGROUP", b"CREATE", STREAM, &group(queue), b"0", b"MKSTREAM"],
            );
            wire.flush().await?;
            expect_ok(&mut wire).await?;
        }
        Ok(())
    }

    async fn publisher(&self, _: &Scenario) -> Result<RedisPublisher, Error> {
        Ok(RedisPublisher {
            wire: Wire::connect(self.port).await?,
            confirmed: 0,
        })
    }

    async fn consumer(&self, scenario: &Scenario, queue: usize) -> Result<RedisConsumer, Error> {
        let mut consumer = RedisConsumer {
            wire: Wire::connect(self.port).await?,
            group: group(queue),
            count: scenario.window.to_string().into_bytes(),
            name: Vec::new(),
            received: Vec::new(),
        };
        // Each has to be known by a name of its own.
        command(&mut consumer.wire.output, &[b"CLIENT", b"ID"]);
        consumer.wire.flush().await?;
        consumer.name = consumer.wire.line().await?.into_bytes();
        consumer.ask();
        consumer.wire.flush().await?;
        Ok(consumer)
    }

    async fn tear_down(&self) -> Result<(), Error> {
        let mut wire = Wire::connect(self.port).await?;
        command(&mut wire.output, &[b"DEL", STREAM]);
        wire.flush().await?;
        wire.line().await.map(drop)
    }
}

fn group(queue: usize) -> Vec<u8> {
    format!("group{queue}").into_bytes()
}

/// Appends a command: an array of bulk strings.
fn command(out: &mut BytesMut, parts: &[&[u8]]) {
    header(out, b'*', parts.len());
    parts.iter().for_each(|part| bulk(out, part));
}

fn bulk(out: &mut BytesMut, part: &[u8]) {
    header(out, b'$', part.len());
    out.put_slice(part);
    out.put_slice(b"\r\n");
}

fn header(out: &mut BytesMut, kind: u8, n: usize) {
    out.put_u8(kind);
    out.put_slice(n.to_string().as_bytes());
    out.put_slice(b"\r\n");
}

async fn expect_ok(wire: &mut Wire) -> Result<(), Error> {
    match wire.line().await?.as_str() {
        "+OK" => Ok(()),
        other => Err(Error::Broker(format!("Redis says {other}"))),
    }
}

/// Publishes with XADD.
pub(crate) struct RedisPublisher {
    wire: Wire,
    confirmed: u64,
}

impl Publisher for RedisPublisher {
    async fn send(&mut self, messages: Vec<Outgoing>) -> Result<(), Error> {
        for message in messages {
            self.wire
                .output
                .put_slice(b"*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\nb\r\n");
            bulk(&mut self.wire.output, &message.body);
        }
        self.wire.flush().await
    }

    async fn confirmed(&mut self, numbers: &mut Vec<Range<u64>>) -> Result<(), Error> {
        loop {
            let (first, mut at) = (self.confirmed, 0);
            while let Some((value, end)) = Value::read(&self.wire.input, at)? {
                match value {
                    Value::Bulk(_) => self.confirmed += 1,
                    other => return Err(Error::Broker(format!("Redis answered XADD with {other:?}"))),
                }
                at = end;
            }
            self.wire.input.advance(at);
            if self.confirmed > first {
                numbers.push(first..self.confirmed);
                return Ok(());
            }
            self.wire.fill().await?;
        }
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// Consumes with XREADGROUP and XACK.
pub(crate) struct RedisConsumer {
    wire: Wire,
    group: Vec<u8>,
    name: Vec<u8>,
    count: Vec<u8>,
    /// Ids of what is not acknowledged.
    received: Vec<Vec<u8>>,
}

impl RedisConsumer {
    /// Asks for the next messages.
    fn ask(&mut self) {
        let parts: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            &self.group,
            &self.name,
            b"COUNT",
            &self.count,
            b"BLOCK",
            b"0",
            b"STREAMS",
            STREAM,
            b">",
        ];
        command(&mut self.wire.output, &parts);
    }

    /// Takes in the reply to XREADGROUP: streams, each with its name and entries of an id and pairs of fields.
    fn take(&mut self, streams: &[Value<'_>], arrivals: &mut Arrivals) -> Result<(), Error> {
        let malformed = || Error::Broker("Redis answered XREADGROUP with something else".into());
        for stream in streams {
            let [_, entries] = stream.array().ok_or_else(malformed)? else {
                return Err(malformed());
            };
            for entry in entries.array().ok_or_else(malformed)? {
                let [Value::Bulk(id), fields] = entry.array().ok_or_else(malformed)? else {
                    return Err(malformed());
                };
                let [_, Value::Bulk(body)] = fields.array().ok_or_else(malformed)? else {
                    return Err(malformed());
                };
                arrivals.push(body)?;
                self.received.push(id.to_vec());
            }
        }
        Ok(())
    }
}

impl Consumer for RedisConsumer {
    async fn receive(&mut self, arrivals: &mut Arrivals) -> Result<(), Error> {
        loop {
            let input = std::mem::take(&mut self.wire.input);
            let read = Value::read(&input, 0)?;
            let (is_entries, end) = match &read {
                None => (false, 0),
                Some((Value::Array(streams), end)) => {
                    self.take(streams, arrivals)?;
                    (true, *end)
                }
                // The reply to XACK.
                Some((Value::Integer, end)) => (false, *end),
                Some((other, _)) => return Err(Error::Broker(format!("Redis says {other:?}"))),
            };
            drop(read);
            self.wire.input = input;
            self.wire.input.advance(end);
            match (is_entries, end) {
                (true, _) => return Ok(()),
                (false, 0) => self.wire.fill().await?,
                (false, _) => {}
            }
        }
    }

    async fn ack(&mut self) -> Result<(), Error> {
        let out = &mut self.wire.output;
        header(out, b'*', self.received.len() + 3);
        for part in [b"XACK".as_slice(), STREAM, &self.group] {
            bulk(out, part);
        }
        self.received.drain(..).for_each(|id| bulk(out, &id));
        self.ask();
        self.wire.flush().await
    }

    async fn close(self) -> Result<(), Error> {
        Ok(())
    }
}

/// A RESP 2 value.
#[derive(Debug)]
enum Value<'a> {
    Simple,
    Integer,
    Bulk(&'a [u8]),
    Array(Vec<Value<'a>>),
    Null,
}

impl<'a> Value<'a> {
    /// Reads the value that begins at `at`; with where it ends, or `None` while it is not all there.
    fn read(input: &'a [u8], at: usize) -> Result<Option<(Value<'a>, usize)>, Error> {
        let Some(len) = wire::find(&input[at..], b"\r\n") else {
            return Ok(None);
        };
        let line = &input[at..at + len];
        let end = at + len + 2;
        let (kind, rest) = line
            .split_first()
            .ok_or_else(|| Error::Broker("Redis sent an empty line".into()))?;
        let value = match (kind, wire::number(rest)) {
            (b'+', _) => Value::Simple,
            (b':', _) => Value::Integer,
            (b'$' | b'*', None) => Value::Null,
            (b'$', Some(len)) => {
                let len = len as usize;
                let bulk = input.get(end..end + len + 2);
                return Ok(bulk.map(|bulk| (Value::Bulk(&bulk[..len]), end + len + 2)));
            }
            (b'*', Some(count)) => return Self::read_array(input, end, count),
            _ => {
                return Err(Error::Broker(format!(
                    "Redis sent {}",
                    String::from_utf8_lossy(line)
                )));
            }
        };
        Ok(Some((value, end)))
    }

    fn read_array(input: &'a [u8], mut at: usize, count: u64) -> Result<Option<(Value<'a>, usize)>, Error> {
        let mut values = Vec::new();
        for _ in 0..count {
            let Some((value, end)) = Value::read(input, at)? else {
                return Ok(None);
            };
            values.push(value);
            at = end;
        }
        Ok(Some((Value::Array(values), at)))
    }

    fn array(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }
}
