//! The rows of the comparison: the same scenario for every broker.

use std::time::Duration;

use pointsman_load::{Amount, Order, Scenario, Shape};
use serde::Serialize;

/// Messages in flight, for every broker.
const WINDOW: usize = 1_000;
/// Messages per second where latency is measured.
const RATE: f64 = 2_000.0;

/// One row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What filters and files call it.
    pub(crate) name: &'static str,
    /// Rows that are plotted together.
    pub(crate) group: &'static str,
    /// What is shown of it, each a line of the table under what is special about it in the group.
    pub(crate) lines: Vec<(&'static str, Figure)>,
    /// What is done.
    pub(crate) scenario: Scenario,
}

/// What the figure of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Confirmed messages a second.
    Published,
    /// Messages a second that arrived and were acknowledged.
    Consumed,
    /// Time to confirm.
    ConfirmLatency,
    /// Time to deliver.
    DeliveryLatency,
}

/// How long a row is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Messages of the backlog.
    pub(crate) backlog: u64,
}

const PUBLISH: &str = "Confirmed publish";
const CONSUME: &str = "Publish to consume with acks";
const FAN_OUT: &str = "Fan-out to 4 queues";
const TOPIC: &str = "Topic routing over 1,000 bindings";
const LATENCY: &str = "Latency at 2,000 messages/s of 1 KiB";
const BACKLOG: &str = "Backlog of 1 M messages of 100 B";

/// All rows, in the order they are shown.
pub(crate) fn all(times: Times) -> Vec<Row> {
    let base = Scenario {
        shape: Shape::Queue,
        durable: true,
        publishers: 1,
        consumers: 1,
        order: Order::Together,
        body: 1_024,
        window: WINDOW,
        rate: None,
        warm_up: times.warm_up,
        amount: Amount::Time(times.measured),
    };
    let publish = |publishers, body| Scenario {
        publishers,
        body,
        order: Order::After,
        ..base.clone()
    };
    let consume = |tasks, body| Scenario {
        publishers: tasks,
        consumers: tasks,
        body,
        ..base.clone()
    };
    let shape = |shape, body| Scenario {
        shape,
        consumers: 4,
        body,
        ..base.clone()
    };
    let latency = Scenario {
        rate: Some(RATE),
        ..base.clone()
    };
    let backlog = Scenario {
        body: 100,
        order: Order::After,
        warm_up: Duration::ZERO,
        amount: Amount::Messages(times.backlog),
        ..base.clone()
    };
    let row = |name, group, lines: &[(&'static str, Figure)], scenario| Row {
        name,
        group,
        lines: lines.to_vec(),
        scenario,
    };
    use Figure::{ConfirmLatency, Consumed, DeliveryLatency, Published};
    let published = |name, title, scenario| row(name, PUBLISH, &[(title, Published)], scenario);
    let consumed = |name, title, scenario| row(name, CONSUME, &[(title, Consumed)], scenario);
    let (fan_out, topic) = (Shape::FanOut { queues: 4 }, Shape::Topic { queues: 4 });
    let latencies = [
        ("to the confirm", ConfirmLatency),
        ("to the delivery", DeliveryLatency),
    ];
    let both = [("publish", Published), ("drain", Consumed)];
    vec![
        published("publish-1-100B", "1 publisher, 100 B", publish(1, 100)),
        published("publish-1-1KiB", "1 publisher, 1 KiB", publish(1, 1_024)),
        published("publish-1-16KiB", "1 publisher, 16 KiB", publish(1, 16_384)),
        published("publish-4-100B", "4 publishers, 100 B", publish(4, 100)),
        published("publish-4-1KiB", "4 publishers, 1 KiB", publish(4, 1_024)),
        consumed("consume-1-100B", "1 to 1, 100 B", consume(1, 100)),
        consumed("consume-1-1KiB", "1 to 1, 1 KiB", consume(1, 1_024)),
        consumed("consume-1-16KiB", "1 to 1, 16 KiB", consume(1, 16_384)),
        consumed("consume-4-100B", "4 to 4, 100 B", consume(4, 100)),
        consumed("consume-4-1KiB", "4 to 4, 1 KiB", consume(4, 1_024)),
        row(
            "fanout-100B",
            FAN_OUT,
            &[("published, 100 B", Published)],
            shape(fan_out, 100),
        ),
        row(
            "fanout-1KiB",
            FAN_OUT,
            &[("published, 1 KiB", Published)],
            shape(fan_out, 1_024),
        ),
        row(
            "topic-1KiB",
            TOPIC,
            &[("1 to 4 queues, 1 KiB", Consumed)],
            shape(topic, 1_024),
        ),
        row("latency", LATENCY, &latencies, latency),
        row("backlog", BACKLOG, &both, backlog),
    ]
}
