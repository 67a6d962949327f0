//! The demo's two rounds: all messages under version 1, then all of them twice while version 2 takes over.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use pointsman_protocol::Value;
use pointsman_sdk::{BatchOutcome, Client, Delivery, Message, Publisher};

use super::ORDERS;
use super::plan::{Plan, Planned};
use crate::commands::App;
use crate::commands::consume::next_until_empty;
use crate::error::CliError;
use crate::progress::Progress;

/// The header that numbers the messages of a round, so that each can be told from its copies.
const NUMBER: &str = "demo-number";

/// Messages given to the publisher at once.
const BATCH: usize = 256;

/// What a round sent and what came out of the queues.
pub(crate) struct Round {
    pub(crate) sent: u64,
    pub(crate) outcome: BatchOutcome,
    /// From the first publish to the last confirm.
    pub(crate) publish_time: Duration,
    /// From opening the consumers to the last delivery.
    pub(crate) consume_time: Duration,
    pub(crate) received: Vec<Received>,
}

/// A message that came out of a queue.
pub(crate) struct Received {
    /// Index of its target.
    pub(crate) target: usize,
    /// Its number in the round, if it has one.
    pub(crate) number: Option<usize>,
    /// The version that decided, if one did.
    pub(crate) version: Option<u32>,
}

/// Publishes everything under version 1, then empties the queues.
pub(crate) async fn steady(app: &App, client: &Client, plan: &Plan) -> Result<Round, CliError> {
    let publisher = client.publisher(ORDERS).await?;
    let messages: Vec<Message> = numbered(plan, 0..plan.messages.len());
    let start = Instant::now();
    let outcome = publish(app, "publishing", &publisher, messages).await?;
    let publish_time = start.elapsed();
    publisher.close().await?;
    drain(client, plan, plan.messages.len() as u64, outcome, publish_time).await
}

/// Publishes everything twice. Version 2 is loaded beforehand and activated after the first half of the messages, while
/// the rest goes on being published. Whatever the timing, what is sent after the broker's answer is decided by version
/// 2, so both versions decide some.
pub(crate) async fn swapped(app: &App, client: &Client, plan: &Plan) -> Result<Round, CliError> {
    let second = client
        .router_load(ORDERS, Vec::new(), plan.configs[1].clone(), false)
        .await?;
    let publisher = client.publisher(ORDERS).await?;
    let all = plan.messages.len();
    let start = Instant::now();
    let mut outcome = publish(
        app,
        "publishing before the swap",
        &publisher,
        numbered(plan, 0..all / 2),
    )
    .await?;
    let (during, activated) = tokio::join!(
        publish(
            app,
            "publishing during the swap",
            &publisher,
            numbered(plan, all / 2..all + all / 2)
        ),
        client.router_activate(ORDERS, second.version),
    );
    activated?;
    add(&mut outcome, &during?);
    let after = publish(
        app,
        "publishing after the swap",
        &publisher,
        numbered(plan, all + all / 2..2 * all),
    )
    .await?;
    add(&mut outcome, &after);
    let publish_time = start.elapsed();
    publisher.close().await?;
    drain(client, plan, 2 * all as u64, outcome, publish_time).await
}

/// The messages of these numbers; beyond the last one it begins anew.
fn numbered(plan: &Plan, numbers: std::ops::Range<usize>) -> Vec<Message> {
    let message = |(number, planned): (usize, &Planned)| {
        Message::new(planned.body.clone())
            .key(planned.kind.chars().take(60).collect::<String>())
            .content_type("application/json")
            .header(NUMBER, number as i64)
    };
    let skipped = plan
        .messages
        .iter()
        .cycle()
        .skip(numbers.start % plan.messages.len());
    numbers.zip(skipped).map(message).collect()
}

async fn publish(
    app: &App,
    label: &str,
    publisher: &Publisher,
    messages: Vec<Message>,
) -> Result<BatchOutcome, CliError> {
    let mut progress = Progress::new(app.output, label, Some(messages.len() as u64));
    let mut total = BatchOutcome::default();
    let mut messages = messages.into_iter().peekable();
    let mut last = None;
    while messages.peek().is_some() {
        let batch: Vec<Message> = messages.by_ref().take(BATCH).collect();
        let size = batch.len() as u64;
        let confirmation = publisher.publish_all(batch).await?;
        // One batch is on its way while the next is handed over.
        if let Some(before) = last.replace(confirmation) {
            add(&mut total, &before.await?);
        }
        progress.add(size);
    }
    if let Some(confirmation) = last {
        add(&mut total, &confirmation.await?);
    }
    Ok(total)
}

fn add(total: &mut BatchOutcome, more: &BatchOutcome) {
    total.routed += more.routed;
    total.duplicates += more.duplicates;
    total.unroutable += more.unroutable;
    total.rejected += more.rejected;
    total.quarantined += more.quarantined;
    total.refused += more.refused;
    if total.first_failure.is_none() {
        total.first_failure.clone_from(&more.first_failure);
    }
}

/// Empties all queues at the same time.
async fn drain(
    client: &Client,
    plan: &Plan,
    sent: u64,
    outcome: BatchOutcome,
    publish_time: Duration,
) -> Result<Round, CliError> {
    let start = Instant::now();
    let queues = plan
        .targets
        .iter()
        .enumerate()
        .map(|(target, queue)| empty(client, target, queue));
    let mut received = Vec::new();
    let mut last = start;
    for (messages, at) in try_join_all(queues).await? {
        received.extend(messages);
        last = last.max(at);
    }
    Ok(Round {
        sent,
        outcome,
        publish_time,
        consume_time: last.duration_since(start),
        received,
    })
}

/// Takes everything from one queue; answers with the time of the last delivery.
async fn empty(client: &Client, target: usize, queue: &str) -> Result<(Vec<Received>, Instant), CliError> {
    let mut consumer = client.consumer(queue).prefetch(1_024).open().await?;
    let mut received = Vec::new();
    let mut last = Instant::now();
    while let Some(delivery) = next_until_empty(client, &mut consumer, queue).await? {
        last = Instant::now();
        received.push(Received {
            target,
            number: number(&delivery),
            version: version(&delivery),
        });
        delivery.ack();
    }
    consumer.flush().await?;
    Ok((received, last))
}

fn number(delivery: &Delivery) -> Option<usize> {
    match delivery.header(NUMBER)? {
        Value::Int(number) => usize::try_from(number).ok(),
        _ => None,
    }
}

/// The version in `orders@2`.
fn version(delivery: &Delivery) -> Option<u32> {
    delivery.decided_by().rsplit_once('@')?.1.parse().ok()
}
