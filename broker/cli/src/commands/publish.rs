//! `pointsman publish`: send messages and wait until the broker confirms them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use clap::{ArgGroup, Args};
use pointsman_protocol::admin::{ExplainStep, Explanation, Reply, Request};
use pointsman_protocol::frame;
use pointsman_protocol::publish::Outcome;
use pointsman_sdk::{Confirmation, HeaderValue, Message, Publisher};
use serde::Serialize;
use serde_json::Value as Json;
use tokio::sync::mpsc;

use super::binding::BindingView;
use crate::amounts;
use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::signals::Stop;
use crate::values::{self, Pair, Scalar};

/// What to send where.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("content").required(true).args(["body", "file", "jsonl"])))]
pub(crate) struct PublishArgs {
    /// The exchange; "" is the default exchange, whose routing key is a queue's name
    exchange: String,
    /// The message's body
    body: Option<String>,
    /// A file whose contents are the body, - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A JSON Lines file, each line of which is a message, - for standard input
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// The JSON field whose value is the routing key, with dots into objects, such as customer.region
    #[arg(long, value_name = "FIELD", requires = "jsonl", conflicts_with_all = ["key", "body", "file"])]
    key_field: Option<String>,
    /// The routing key
    #[arg(short, long, default_value = "", hide_default_value = true)]
    key: String,
    /// A header; whole numbers, fractions, true and false are taken as such, text in double quotes never
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = values::pair)]
    headers: Vec<Pair>,
    /// Show where the message would go and why, without sending it
    #[arg(long, conflicts_with_all = ["jsonl", "count"])]
    explain: bool,
    /// Send the message so many times
    #[arg(short = 'n', long, default_value_t = 1, conflicts_with = "jsonl")]
    count: u64,
    #[command(flatten)]
    properties: Properties,
}

/// Properties of the message.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Message properties")]
struct Properties {
    /// The application's own id
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// What this message answers
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Where an answer should go
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// MIME type of the body [default with --jsonl: application/json]
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Encoding of the body, such as gzip
    #[arg(long, value_name = "NAME")]
    content_encoding: Option<String>,
    /// 0 to 255
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    priority: u8,
    /// How long the message is worth delivering, such as 10s; then it leaves the queues where it still waits
    #[arg(long, value_name = "SPAN", value_parser = amounts::lasting_span)]
    expiration: Option<Duration>,
    /// How long the message waits before it enters its queues, such as 5s
    #[arg(long, value_name = "SPAN", value_parser = amounts::span)]
    delay: Option<Duration>,
    /// Keep it in memory only, even in durable queues
    #[arg(long)]
    transient: bool,
}

/// The JSON form of one confirm, a line each.
#[derive(Debug, Serialize)]
struct PublishedView<'a> {
    /// Numbered from 1 in the order of sending.
    number: u64,
    /// `routed`, `unroutable`, `rejected`, `quarantined`, `refused` or `duplicate`.
    outcome: &'static str,
    /// In how many queues it is.
    queues: Option<u32>,
    /// Why, for outcomes that have a reason.
    reason: Option<&'a str>,
}

/// What became of all messages.
#[derive(Debug, Default)]
struct Tally {
    outcomes: BTreeMap<&'static str, u64>,
    /// The first outcome that was not a success, as a sentence.
    trouble: Option<String>,
}

pub(crate) async fn run(app: &App, args: PublishArgs) -> Result<(), CliError> {
    if let Some(path) = &args.jsonl {
        // Opened here so that a missing file is told before anything is connected.
        drop(open(path)?);
        let (path, exchange) = (path.clone(), args.exchange.clone());
        let lines = source(move || {
            Ok(JsonLines {
                lines: open(&path)?.lines(),
                args,
                number: 0,
            })
        });
        return send(app, &exchange, lines, None).await;
    }
    let body = match (&args.body, &args.file) {
        (Some(text), _) => Bytes::from(text.clone()),
        (None, Some(path)) => read_all(path)?,
        (None, None) => unreachable!("clap asks for a body, a file or JSON Lines"),
    };
    let message = args.message(body, args.key.clone());
    if args.explain {
        return explain(app, args.exchange, &message).await;
    }
    let copies = source(move || Ok((0..args.count).map(move |_| Ok(message.clone()))));
    send(app, &args.exchange, copies, Some(args.count)).await
}

impl PublishArgs {
    fn message(&self, body: Bytes, key: String) -> Message {
        let p = &self.properties;
        let mut message = Message::new(body)
            .key(key)
            .persistent(!p.transient)
            .priority(p.priority);
        if let Some(id) = &p.message_id {
            message = message.message_id(id.clone());
        }
        if let Some(id) = &p.correlation_id {
            message = message.correlation_id(id.clone());
        }
        if let Some(queue) = &p.reply_to {
            message = message.reply_to(queue.clone());
        }
        let json_lines = self.jsonl.as_ref().map(|_| "application/json".to_owned());
        if let Some(content_type) = p.content_type.clone().or(json_lines) {
            message = message.content_type(content_type);
        }
        if let Some(encoding) = &p.content_encoding {
            message = message.content_encoding(encoding.clone());
        }
        if let Some(after) = p.expiration {
            message = message.expiration(after);
        }
        if let Some(by) = p.delay {
            message = message.delay(by);
        }
        for Pair { name, value } in &self.headers {
            message = message.header(name.clone(), header_value(value));
        }
        message
    }
}

fn header_value(value: &Scalar) -> HeaderValue {
    match value {
        Scalar::Bool(value) => HeaderValue::from(*value),
        Scalar::Int(value) => HeaderValue::from(*value),
        Scalar::Float(value) => HeaderValue::from(*value),
        Scalar::Text(value) => HeaderValue::from(value.clone()),
    }
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    Ok(Box::new(BufReader::new(file)))
}

fn read_all(path: &Path) -> Result<Bytes, CliError> {
    let mut body = Vec::new();
    open(path)?
        .read_to_end(&mut body)
        .map_err(|error| CliError::file("read", path, &error))?;
    Ok(body.into())
}

/// Messages as they are read, or why one could not be.
type Source = mpsc::Receiver<Result<Message, CliError>>;

/// Reads on a thread of its own: a pipe may be silent for long while confirms come in.
fn source<I>(open: impl FnOnce() -> Result<I, CliError> + Send + 'static) -> Source
where
    I: Iterator<Item = Result<Message, CliError>>,
{
    /// Messages read ahead of the publisher.
    const READ_AHEAD: usize = 1_024;
    let (sender, source) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || match open() {
        Ok(messages) => {
            for message in messages {
                let is_end = message.is_err();
                if sender.blocking_send(message).is_err() || is_end {
                    break;
                }
            }
        }
        // Whoever publishes may be gone already.
        Err(error) => drop(sender.blocking_send(Err(error))),
    });
    source
}

/// The messages of a JSON Lines file; empty lines are passed over.
struct JsonLines<L> {
    lines: L,
    args: PublishArgs,
    number: u64,
}

impl<L: Iterator<Item = std::io::Result<String>>> Iterator for JsonLines<L> {
    type Item = Result<Message, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            match self.lines.next()? {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => return Some(self.message(line)),
                Err(error) => {
                    let text = format!("cannot read line {}: {error}", self.number);
                    return Some(Err(CliError::failed("File", text)));
                }
            }
        }
    }
}

impl<L> JsonLines<L> {
    fn message(&self, line: String) -> Result<Message, CliError> {
        let value: Json = serde_json::from_str(&line)
            .map_err(|error| CliError::usage(format!("line {} is not JSON: {error}", self.number)))?;
        let key = match &self.args.key_field {
            Some(field) => key_at(&value, field).ok_or_else(|| {
                CliError::usage(format!(
                    "line {} has no text, number or boolean at `{field}`",
                    self.number
                ))
                .hint("name a field that every line has, with dots into objects, such as customer.region")
            })?,
            None => self.args.key.clone(),
        };
        Ok(self.args.message(Bytes::from(line), key))
    }
}

/// The value of a field as a routing key; a dot in `field` goes into an object unless a field is named so.
fn key_at(value: &Json, field: &str) -> Option<String> {
    let found = match value.get(field) {
        Some(found) => found,
        None => field.split('.').try_fold(value, |value, part| value.get(part))?,
    };
    scalar_text(found)
}

/// A text, number or truth value as text.
pub(crate) fn scalar_text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(yes) => Some(yes.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Publishes everything, then tells what became of it. An unreadable message or Ctrl-C ends the sending, and what was
/// sent is still confirmed.
async fn send(app: &App, exchange: &str, messages: Source, total: Option<u64>) -> Result<(), CliError> {
    let client = app.client().await?;
    let sent = async {
        let publisher = client.publisher(exchange).await?;
        let mut sending = Sending {
            app,
            publisher,
            waiting: VecDeque::new(),
            tally: Tally::default(),
            // A single message needs no progress.
            progress: (total != Some(1)).then(|| Progress::new(app.output, "publishing", total)),
        };
        sending.run(messages).await
    };
    let result = sent.await;
    client.close().await;
    result
}

/// Publishes that are on their way.
struct Sending<'a> {
    app: &'a App,
    publisher: Publisher,
    /// Oldest first; the publisher's window bounds how many there are.
    waiting: VecDeque<Confirmation>,
    tally: Tally,
    progress: Option<Progress>,
}

impl Sending<'_> {
    async fn run(&mut self, mut messages: Source) -> Result<(), CliError> {
        let start = Instant::now();
        let mut stop = Stop::listen()?;
        let mut unsent = None;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Ok(message)) => self.publish(message).await?,
                    Some(Err(error)) => { unsent = Some(error); break }
                    None => break,
                },
                confirmed = oldest(&mut self.waiting), if !self.waiting.is_empty() => self.take(confirmed?)?,
                () = stop.asked() => {
                    unsent = Some(CliError::failed("Interrupted", "stopped before everything was sent"));
                    break;
                }
            }
        }
        while !self.waiting.is_empty() {
            let confirmed = oldest(&mut self.waiting).await?;
            self.take(confirmed)?;
        }
        self.progress = None;
        self.app.output.say(&self.tally.sentence(start.elapsed()))?;
        match (unsent, self.tally.trouble.take()) {
            (Some(error), _) => Err(error),
            (None, Some(trouble)) => Err(CliError::failed("NotRouted", trouble)
                .hint("`pointsman publish --explain` shows where a message would go and why")),
            (None, None) => Ok(()),
        }
    }

    /// Sends one message; while the window is full, confirms are taken.
    async fn publish(&mut self, message: Message) -> Result<(), CliError> {
        let publisher = self.publisher.clone();
        let mut sent = std::pin::pin!(publisher.publish(message));
        loop {
            tokio::select! {
                confirmation = &mut sent => {
                    self.waiting.push_back(confirmation?);
                    return Ok(());
                }
                confirmed = oldest(&mut self.waiting), if !self.waiting.is_empty() => self.take(confirmed?)?,
            }
        }
    }

    fn take(&mut self, outcome: Outcome) -> Result<(), CliError> {
        if let Some(progress) = &mut self.progress {
            progress.add(1);
        }
        let view = self.tally.take(&outcome);
        match self.app.output.format {
            Format::Json => output::write_text(&output::json_line(&view)?),
            Format::Table => Ok(()),
        }
    }
}

/// The outcome of the publish that waits for longest. Can be dropped and asked again.
async fn oldest(waiting: &mut VecDeque<Confirmation>) -> Result<Outcome, pointsman_sdk::Error> {
    let outcome = match waiting.front_mut() {
        Some(confirmation) => confirmation.await,
        None => std::future::pending().await,
    };
    waiting.pop_front();
    outcome
}

impl Tally {
    fn take<'a>(&mut self, outcome: &'a Outcome) -> PublishedView<'a> {
        let (name, queues, reason) = match outcome {
            Outcome::Routed { queues } => ("routed", Some(*queues), None),
            Outcome::Unroutable => ("unroutable", None, None),
            Outcome::Rejected { reason } => ("rejected", None, Some(reason.as_str())),
            Outcome::Quarantined { reason } => ("quarantined", None, Some(reason.as_str())),
            Outcome::Refused(error) => ("refused", None, Some(error.message.as_str())),
            Outcome::Duplicate => ("duplicate", None, None),
        };
        *self.outcomes.entry(name).or_default() += 1;
        let number = self.outcomes.values().sum();
        if !outcome.is_success() && self.trouble.is_none() {
            self.trouble = Some(format!("message {number} is {outcome}"));
        }
        PublishedView {
            number,
            outcome: name,
            queues,
            reason,
        }
    }

    /// Such as `published 3,000 messages in 120 ms (25,000/s): 2,990 routed, 10 unroutable`.
    fn sentence(&self, took: Duration) -> String {
        let all: u64 = self.outcomes.values().sum();
        let each: Vec<String> = self
            .outcomes
            .iter()
            .map(|(name, n)| format!("{} {name}", human::count(*n)))
            .collect();
        let rate = if all > 1 {
            format!(" ({}/s)", human::count(human::rate(all, took)))
        } else {
            String::new()
        };
        let each = if each.is_empty() {
            "nothing to send".to_owned()
        } else {
            each.join(", ")
        };
        format!(
            "published {} in {}{rate}: {each}",
            human::counted(all, "message"),
            human::span(took)
        )
    }
}

/// The JSON form of an explanation.
#[derive(Debug, Serialize)]
struct ExplanationView {
    queues: Vec<String>,
    rejected: Option<String>,
    steps: Vec<StepView>,
}

/// What one exchange would do.
#[derive(Debug, Serialize)]
struct StepView {
    exchange: String,
    kind: &'static str,
    decided_by: Option<String>,
    matched: Vec<BindingView>,
    remark: String,
}

async fn explain(app: &App, exchange: String, message: &Message) -> Result<(), CliError> {
    let mut meta = BytesMut::new();
    frame::put_postcard(&mut meta, &message.meta());
    let mut body = BytesMut::with_capacity(4 + meta.len() + message.body().len());
    body.put_u32_le(u32::try_from(meta.len()).unwrap_or(u32::MAX));
    body.put_slice(&meta);
    body.put_slice(message.body());
    match app.ask(Request::Explain { exchange }, body.freeze()).await? {
        Reply::Explanation(explanation) => {
            let view = ExplanationView::from(explanation);
            app.output.done(&view, &view.text())
        }
        other => Err(CliError::unexpected(&other)),
    }
}

impl From<Explanation> for ExplanationView {
    fn from(explanation: Explanation) -> ExplanationView {
        ExplanationView {
            queues: explanation.queues,
            rejected: explanation.rejected,
            steps: explanation.steps.into_iter().map(StepView::from).collect(),
        }
    }
}

impl From<ExplainStep> for StepView {
    fn from(step: ExplainStep) -> StepView {
        StepView {
            exchange: step.exchange,
            kind: step.kind.name(),
            decided_by: Some(step.decided_by).filter(|by| !by.is_empty()),
            matched: step.matched.into_iter().map(BindingView::from).collect(),
            remark: step.remark,
        }
    }
}

impl ExplanationView {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for step in &self.steps {
            let by = step
                .decided_by
                .as_ref()
                .map_or(String::new(), |by| format!(", decided by {by}"));
            let name = if step.exchange.is_empty() {
                "(default)"
            } else {
                &step.exchange
            };
            lines.push(format!("exchange {name} ({}{by})", step.kind));
            lines.extend(
                step.matched
                    .iter()
                    .map(|binding| format!("  to {}", binding.sentence())),
            );
            if !step.remark.is_empty() {
                lines.push(format!("  {}", step.remark));
            }
        }
        lines.push(match (&self.rejected, self.queues.as_slice()) {
            (Some(reason), _) => format!("it would be rejected: {reason}"),
            (None, []) => "it would be unroutable: no queue takes it".to_owned(),
            (None, queues) => format!("it would be in: {}", queues.join(", ")),
        });
        lines
            .iter()
            .map(|line| output::printable(line))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use pointsman_protocol::Value;

    fn parsed(args: &[&str]) -> Result<PublishArgs, clap::Error> {
        match Cli::try_parse_from(["pointsman", "publish"].iter().chain(args))?.command {
            Command::Publish(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn messages(args: &[&str], text: &'static str) -> Vec<Result<Message, CliError>> {
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        JsonLines {
            lines,
            args: parsed(args).unwrap(),
            number: 0,
        }
        .collect()
    }

    #[test]
    fn a_message_has_exactly_one_source() {
        assert!(parsed(&["e"]).is_err());
        assert!(parsed(&["e", "body", "--file", "f"]).is_err());
        assert!(parsed(&["e", ""]).is_ok());
        assert!(parsed(&["e", "--jsonl", "f", "--explain"]).is_err());
        assert!(parsed(&["e", "body", "--key-field", "k"]).is_err());
    }

    #[test]
    fn an_expiration_of_nothing_is_refused() {
        assert!(parsed(&["e", "body", "--expiration", "0ms"]).is_err());
        assert!(parsed(&["e", "body", "--expiration", "1ms"]).is_ok());
    }

    #[test]
    fn properties_and_typed_headers_reach_the_message() {
        let args = parsed(&[
            "e",
            "b",
            "-k",
            "key",
            "-H",
            "n=5",
            "-H",
            "t=\"5\"",
            "--delay",
            "2s",
            "--expiration",
            "9ms",
            "--transient",
        ]);
        let message = args.unwrap().message(Bytes::from("b"), "key".into());
        let meta = message.meta();
        assert_eq!(
            (meta.routing_key, meta.persistent, meta.delay, meta.expiration),
            ("key", false, Some(2_000), Some(9))
        );
        assert_eq!(meta.headers, [("n", Value::Int(5)), ("t", Value::Str("5"))]);
    }

    #[test]
    fn each_line_is_a_message_keyed_by_its_field() {
        let text = "{\"a\":{\"b\":\"x\"}}\n\n{\"a\":{\"b\":7}}\n";
        let messages = messages(&["e", "--jsonl", "-", "--key-field", "a.b"], text);
        let keys: Vec<&str> = messages
            .iter()
            .map(|m| m.as_ref().unwrap().routing_key())
            .collect();
        assert_eq!(keys, ["x", "7"]);
        assert_eq!(
            messages[0].as_ref().unwrap().body().as_ref(),
            b"{\"a\":{\"b\":\"x\"}}"
        );
        assert_eq!(
            messages[0].as_ref().unwrap().meta().content_type,
            Some("application/json")
        );
    }

    #[test]
    fn a_line_that_does_not_fit_is_named_by_its_number() {
        let sentence = |text| match messages(&["e", "--jsonl", "-", "--key-field", "k"], text).pop() {
            Some(Err(CliError::Usage(problem))) => problem.message,
            other => panic!("{other:?}"),
        };
        assert!(sentence("{\"k\":1}\n{oops").starts_with("line 2 is not JSON"));
        assert!(sentence("\n{\"k\":null}").starts_with("line 2 has no text"));
    }

    #[test]
    fn the_tally_counts_outcomes_and_keeps_the_first_trouble() {
        let mut tally = Tally::default();
        tally.take(&Outcome::Routed { queues: 2 });
        tally.take(&Outcome::Unroutable);
        let view = tally.take(&Outcome::Unroutable);
        assert_eq!((view.number, view.outcome), (3, "unroutable"));
        assert!(
            tally
                .trouble
                .as_ref()
                .unwrap()
                .starts_with("message 2 is unroutable")
        );
        let sentence = tally.sentence(Duration::from_secs(1));
        assert_eq!(
            sentence,
            "published 3 messages in 1.0 s (3/s): 1 routed, 2 unroutable"
        );
    }
}
