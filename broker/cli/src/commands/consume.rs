//! `pointsman consume`: take messages from a queue and print them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use pointsman_protocol::Value;
use pointsman_protocol::admin::{QueueInfo, Reply, Request};
use pointsman_protocol::consume::StartAt;
use pointsman_protocol::limits::PREFETCH_MAX;
use pointsman_sdk::{Client, Consumer, Delivery};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::amounts;
use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::{self, Format};
use crate::signals::Stop;
use crate::values;

/// What to take from where.
#[derive(Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// The queue
    queue: String,
    /// Stop after so many messages
    #[arg(short = 'n', long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Where to start in a stream: `first`, `last`, `next`, an offset, a time (2026-01-31T12:00:00Z) or how long ago
    /// (10m); `first` otherwise, or `next` with --follow
    #[arg(long, value_name = "START", value_parser = amounts::start)]
    from: Option<StartAt>,
    /// Wait for more when the queue is empty, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Let the broker count messages as acknowledged once they are sent: faster, but what is on the way when you stop
    /// is lost; with --count they are acknowledged one by one, so that no more than that leave the queue
    #[arg(long)]
    no_ack: bool,
    /// Only look: print the messages, at most 65,535, and put them back
    #[arg(long, conflicts_with_all = ["no_ack", "follow"])]
    peek: bool,
}

/// The JSON form of a message, a line each.
#[derive(Debug, Serialize)]
struct MessageView {
    /// In a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// When it was put into the stream, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_at: Option<u64>,
    exchange: String,
    routing_key: String,
    /// The router version that decided, such as `orders@2`.
    decided_by: Option<String>,
    redelivered: bool,
    delivery_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<u64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
    priority: u8,
    headers: BTreeMap<String, Json>,
    /// The body when it is UTF-8 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64 when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// Messages asked for ahead of printing.
const PREFETCH: u32 = 256;

/// How long a silent queue is given before it is asked whether it is empty.
const SILENCE: Duration = Duration::from_millis(200);

pub(crate) async fn run(app: &App, args: ConsumeArgs) -> Result<(), CliError> {
    let client = app.client().await?;
    let result = consume(app, &client, &args).await;
    // Closing writes the settlements; what is not settled goes back to the queue.
    client.close().await;
    let taken = match result {
        // The reader of our output has gone, as `head` does: what it has read is acknowledged.
        Err(CliError::OutputClosed) => return Ok(()),
        other => other?,
    };
    if app.output.format == Format::Table && output::stderr_is_terminal() {
        let did = if args.peek { "shown and put back" } else { "taken" };
        output::note(&format!("{} {did}", human::counted(taken, "message")));
    }
    Ok(())
}

/// Prints messages until there are enough, or no more, or we are asked to stop; returns how many.
async fn consume(app: &App, client: &Client, args: &ConsumeArgs) -> Result<u64, CliError> {
    let mut stop = Stop::listen()?;
    let no_ack = args.no_ack && args.count.is_none();
    // A look keeps all it prints until the end, so it can show no more than a consumer may keep.
    let prefetch = if args.peek { PREFETCH_MAX } else { PREFETCH };
    let most = if args.peek {
        u64::from(PREFETCH_MAX)
    } else {
        u64::MAX
    };
    let wanted = args.count.unwrap_or(most).min(most);
    let prefetch = u32::try_from(wanted).map_or(prefetch, |wanted| wanted.clamp(1, prefetch));
    let mut consumer = client.consumer(&args.queue).prefetch(prefetch).no_ack(no_ack);
    if let Some(start) = start(client, args).await? {
        consumer = consumer.offset(start);
    }
    let mut consumer = consumer.open().await?;
    let mut printer = Printer {
        app,
        peek: args.peek,
        kept: Vec::new(),
    };
    let mut taken = 0;
    while taken < wanted {
        let next = tokio::select! {
            next = next(client, &mut consumer, args) => next?,
            () = stop.asked() => None,
        };
        let Some(delivery) = next else { break };
        printer.print(delivery)?;
        taken += 1;
    }
    for delivery in printer.kept {
        delivery.nack(true);
    }
    Ok(taken)
}

/// Where to start: in a stream, what was asked for or what fits best.
async fn start(client: &Client, args: &ConsumeArgs) -> Result<Option<StartAt>, CliError> {
    if args.from.is_some() {
        return Ok(args.from);
    }
    let queue = info(client, &args.queue).await?;
    Ok(queue.and_then(|queue| queue.stream).map(|_| match args.follow {
        true => StartAt::Next,
        false => StartAt::First,
    }))
}

/// The next delivery, or `None` when the queue is empty and we do not follow it.
async fn next(
    client: &Client,
    consumer: &mut Consumer,
    args: &ConsumeArgs,
) -> Result<Option<Delivery>, CliError> {
    match args.follow {
        true => consumer
            .recv()
            .await
            .ok_or_else(ended)?
            .map(Some)
            .map_err(CliError::from),
        false => next_until_empty(client, consumer, &args.queue).await,
    }
}

/// The next delivery, or `None` when the queue has no more for us.
pub(crate) async fn next_until_empty(
    client: &Client,
    consumer: &mut Consumer,
    queue: &str,
) -> Result<Option<Delivery>, CliError> {
    loop {
        match tokio::time::timeout(SILENCE, consumer.recv()).await {
            Ok(Some(delivery)) => return Ok(Some(delivery?)),
            Ok(None) => return Err(ended()),
            // Silence alone proves nothing on a slow way: the queue itself says whether it has more for us.
            Err(_) if is_empty(client, consumer, queue).await? => return Ok(None),
            Err(_) => {}
        }
    }
}

fn ended() -> CliError {
    CliError::failed("Disconnected", "the broker ended the consumer")
}

async fn is_empty(client: &Client, consumer: &Consumer, queue: &str) -> Result<bool, CliError> {
    let info = info(client, queue).await?;
    Ok(
        info.is_none_or(|queue| match (queue.stream, consumer.next_offset()) {
            (Some(stream), Some(next)) => {
                next >= stream.next_offset || stream.first_offset == stream.next_offset
            }
            _ => queue.ready == 0,
        }),
    )
}

async fn info(client: &Client, queue: &str) -> Result<Option<QueueInfo>, CliError> {
    let request = Request::ListQueues(Some(queue.to_owned()));
    match client.request(request, Bytes::new()).await? {
        Reply::Queues(queues) => Ok(queues.into_iter().next()),
        other => Err(CliError::unexpected(&other)),
    }
}

/// Prints a message, then settles it: what was not printed is not acknowledged.
struct Printer<'a> {
    app: &'a App,
    peek: bool,
    kept: Vec<Delivery>,
}

impl Printer<'_> {
    fn print(&mut self, delivery: Delivery) -> Result<(), CliError> {
        let view = view(&delivery)?;
        output::write_text(&match self.app.output.format {
            Format::Json => output::json_line(&view)?,
            Format::Table => view.line(),
        })?;
        match self.peek {
            true => self.kept.push(delivery),
            false => delivery.ack(),
        }
        Ok(())
    }
}

fn view(delivery: &Delivery) -> Result<MessageView, CliError> {
    let meta = delivery.meta()?;
    let text = |value: Option<&str>| value.map(str::to_owned);
    let (body, body_base64) = match std::str::from_utf8(&delivery.body()) {
        Ok(body) => (Some(body.to_owned()), None),
        Err(_) => (None, Some(values::base64(&delivery.body()))),
    };
    Ok(MessageView {
        offset: delivery.offset(),
        stored_at: delivery.stored_at().map(amounts::ms),
        exchange: delivery.exchange().to_owned(),
        routing_key: meta.routing_key.to_owned(),
        decided_by: Some(delivery.decided_by())
            .filter(|by| !by.is_empty())
            .map(str::to_owned),
        redelivered: delivery.redelivered(),
        delivery_count: delivery.delivery_count(),
        message_id: text(meta.message_id),
        correlation_id: text(meta.correlation_id),
        reply_to: text(meta.reply_to),
        content_type: text(meta.content_type),
        content_encoding: text(meta.content_encoding),
        timestamp: meta.timestamp,
        expiration: meta.expiration,
        delay: meta.delay,
        priority: meta.priority,
        headers: meta
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), header(value)))
            .collect(),
        body,
        body_base64,
    })
}

fn header(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Str(value) => json!(value),
        Value::Bytes(value) => json!({ "base64": values::base64(value) }),
    }
}

impl MessageView {
    /// Routing key, body and headers in one line; the body last, as it may be long.
    fn line(&self) -> String {
        let body = match (&self.body, &self.body_base64) {
            (Some(text), _) => output::printable(text),
            (None, base64) => format!("base64:{}", base64.as_deref().unwrap_or_default()),
        };
        let mut about: Vec<String> = self
            .offset
            .iter()
            .map(|offset| format!("offset {offset}"))
            .collect();
        if !self.routing_key.is_empty() {
            about.push(output::printable(&self.routing_key));
        }
        about.extend(
            self.decided_by
                .iter()
                .map(|by| format!("by {}", output::printable(by))),
        );
        if self.redelivered {
            about.push("redelivered".to_owned());
        }
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| format!("{}={value}", output::printable(name)));
        about.extend(headers);
        if about.is_empty() {
            return format!("{body}\n");
        }
        format!("[{}] {body}\n", about.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn message(body: &[u8]) -> MessageView {
        MessageView {
            offset: None,
            stored_at: None,
            exchange: "e".into(),
            routing_key: "k".into(),
            decided_by: Some("orders@2".into()),
            redelivered: true,
            delivery_count: 1,
            message_id: None,
            correlation_id: None,
            reply_to: None,
            content_type: None,
            content_encoding: None,
            timestamp: None,
            expiration: None,
            delay: None,
            priority: 0,
            headers: [("n".to_owned(), json!(5))].into(),
            body: std::str::from_utf8(body).ok().map(str::to_owned),
            body_base64: std::str::from_utf8(body).is_err().then(|| values::base64(body)),
        }
    }

    #[test]
    fn a_line_tells_key_decider_redelivery_headers_and_body() {
        assert_eq!(
            message(b"hello").line(),
            "[k, by orders@2, redelivered, n=5] hello\n"
        );
    }

    #[test]
    fn a_body_cannot_drive_the_terminal_or_break_the_line() {
        assert_eq!(
            message(b"a\n\x1b[31m").line(),
            "[k, by orders@2, redelivered, n=5] a\\n\\u{1b}[31m\n"
        );
        assert_eq!(
            message(&[0xff]).line(),
            "[k, by orders@2, redelivered, n=5] base64:/w==\n"
        );
    }

    #[test]
    fn json_has_the_body_as_text_or_as_base64() {
        let text = serde_json::to_value(message(b"hello")).unwrap();
        assert_eq!((&text["body"], text.get("body_base64")), (&json!("hello"), None));
        let bytes = serde_json::to_value(message(&[0xff])).unwrap();
        assert_eq!((bytes.get("body"), &bytes["body_base64"]), (None, &json!("/w==")));
    }

    #[test]
    fn looking_excludes_taking() {
        assert!(Cli::try_parse_from(["pointsman", "consume", "q", "--peek", "--no-ack"]).is_err());
        assert!(Cli::try_parse_from(["pointsman", "consume", "q", "--peek", "--count", "3"]).is_ok());
    }
}
