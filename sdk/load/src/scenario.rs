//! What is sent where and how fast.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Serialize;

use crate::Error;
use crate::body::STAMP_LEN;

/// Bindings of [`Shape::Topic`].
pub const BINDINGS: usize = 1_000;
/// Different routing keys that match one of them.
const KEYS_PER_BINDING: usize = 16;
/// Most publishers, and most consumers.
const TASKS_MAX: usize = 1_000;
/// Fewest and most messages a second of an open loop.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=10_000_000.0;

/// What is sent where and how fast.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// What messages go through.
    pub shape: Shape,
    /// Whether queues and messages are to survive a restart of the broker.
    pub durable: bool,
    /// How many publish at once.
    pub publishers: usize,
    /// How many consume at once, shared out over the queues.
    pub consumers: usize,
    /// When they consume.
    pub order: Order,
    /// Length of a body, in bytes; the first 16 say which message it is and when it was due.
    pub body: usize,
    /// Most messages that one publisher has unconfirmed, and one consumer unacknowledged.
    pub window: usize,
    /// Messages per second of all publishers together; `None` for as many as the window allows.
    pub rate: Option<f64>,
    /// How long it runs before anything is measured.
    pub warm_up: Duration,
    /// How much is sent after that.
    pub amount: Amount,
}

/// What messages go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// One queue.
    Queue,
    /// An exchange that gives each message to all queues.
    FanOut {
        /// How many queues.
        queues: usize,
    },
    /// An exchange with [`BINDINGS`] patterns, of which each message matches one.
    Topic {
        /// How many queues; the patterns are shared out over them.
        queues: usize,
    },
}

/// When messages are consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// While they are published.
    Together,
    /// Once all are published.
    After,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// Messages for so long.
    Time(Duration),
    /// So many messages.
    Messages(u64),
}

impl Shape {
    /// How many queues there are.
    pub fn queues(self) -> usize {
        match self {
            Shape::Queue => 1,
            Shape::FanOut { queues } | Shape::Topic { queues } => queues,
        }
    }

    /// How many queues get each message.
    pub fn copies(self) -> usize {
        match self {
            Shape::FanOut { queues } => queues,
            Shape::Queue | Shape::Topic { .. } => 1,
        }
    }

    /// The pattern of one of the [`BINDINGS`], and which queue it belongs to. In words between dots, `*` for any one.
    pub fn binding(self, number: usize) -> (String, usize) {
        (format!("area.{number}.*"), number % self.queues())
    }

    /// The routing key of the message of that number: no broker can know the few next ones from those before.
    pub(crate) fn key(self, sequence: u64) -> &'static str {
        static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let key = |n: usize| format!("area.{}.{}", n % BINDINGS, n / BINDINGS);
            (0..BINDINGS * KEYS_PER_BINDING).map(key).collect()
        });
        match self {
            // A step that has no divisor in common with the number of keys visits all of them.
            Shape::Topic { .. } => &KEYS[(sequence.wrapping_mul(6_007) % KEYS.len() as u64) as usize],
            Shape::Queue | Shape::FanOut { .. } => "",
        }
    }
}

impl Scenario {
    /// Checks that it makes sense.
    ///
    /// # Errors
    /// [`Error::Scenario`], naming what does not.
    pub fn check(&self) -> Result<(), Error> {
        let within = |what: &str, n: usize, min: usize, max: usize| match (min..=max).contains(&n) {
            true => Ok(()),
            false => Err(Error::Scenario(format!(
                "{what} of {n} is not within {min} to {max}"
            ))),
        };
        within("a number of publishers", self.publishers, 1, TASKS_MAX)?;
        within("a number of queues", self.shape.queues(), 1, TASKS_MAX)?;
        within(
            "a number of consumers",
            self.consumers,
            self.shape.queues(),
            TASKS_MAX,
        )?;
        within("a window", self.window, 1, 65_536)?;
        within("a body in bytes", self.body, STAMP_LEN, 128 << 20)?;
        match self.rate {
            Some(rate) if !RATES.contains(&rate) => Err(Error::Scenario(format!(
                "a rate of {rate} is not within {} to {} messages a second",
                RATES.start(),
                RATES.end()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
impl Scenario {
    /// A small scenario for tests.
    pub(crate) fn small(shape: Shape, order: Order) -> Scenario {
        Scenario {
            shape,
            durable: true,
            publishers: 2,
            consumers: shape.queues(),
            order,
            body: 100,
            window: 50,
            rate: None,
            warm_up: Duration::ZERO,
            amount: Amount::Messages(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_visit_every_binding_and_repeat_late() {
        let shape = Shape::Topic { queues: 4 };
        let keys: BTreeSet<&str> = (0..16_000).map(|n| shape.key(n)).collect();
        assert_eq!(keys.len(), BINDINGS * KEYS_PER_BINDING);
        let (pattern, queue) = shape.binding(17);
        assert_eq!((pattern.as_str(), queue), ("area.17.*", 1));
        assert!(keys.contains("area.17.0"));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let fault = |change: fn(&mut Scenario)| {
            let mut scenario = Scenario::small(Shape::FanOut { queues: 2 }, Order::Together);
            change(&mut scenario);
            scenario.check().unwrap_err().to_string()
        };
        assert!(fault(|s| s.publishers = 0).contains("publishers of 0"));
        assert!(fault(|s| s.consumers = 1).contains("consumers of 1 is not within 2"));
        assert!(fault(|s| s.body = 8).contains("body in bytes of 8"));
        assert!(fault(|s| s.rate = Some(0.0)).contains("rate of 0"));
        assert!(Scenario::small(Shape::Queue, Order::After).check().is_ok());
    }
}
