//! One row: all brokers in turn, several times, so that a slow moment of the machine is slow for all.

use std::time::Duration;

use pointsman_load::{Amount, Order, Report, Scenario, Shape};

use crate::peers::{Peer, Running};
use crate::results::{BrokerFigures, Measured, Round, Syncs};
use crate::rows::Row;
use crate::syncs::Trace;

/// Messages that are published one by one while syncs are counted.
const COUNTED: u64 = 50;
/// How long a broker has to come to rest before it is another's turn.
const REST: Duration = Duration::from_millis(200);

/// How a row is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each broker has its turn.
    pub(crate) rounds: usize,
    /// How long a turn is measured, in seconds, where the row does not count messages.
    pub(crate) seconds: f64,
    /// Longest that a turn may be expected to take where it does.
    pub(crate) longest: Duration,
}

/// A broker of a row.
struct Turn<'a> {
    peer: &'a Peer,
    running: Option<Running>,
    syncs: Option<Syncs>,
    rounds: Vec<Round>,
    fault: Option<String>,
    left_out: Option<String>,
}

/// Measures a row. Each broker starts on an empty folder, and is paused while it is not its turn.
pub(crate) async fn row(row: &Row, peers: &[&Peer], plan: Plan) -> Measured {
    let mut turns = Vec::new();
    for peer in peers.iter().filter(|peer| peer.takes(&row.scenario)) {
        say(&format!("{}: starting {}", row.name, peer.name));
        turns.push(Turn::start(peer).await);
    }
    for turn in &mut turns {
        turn.count_syncs(&row.scenario).await;
    }
    for turn in &mut turns {
        turn.warm_up(&row.scenario, plan.longest).await;
    }
    for round in 1..=plan.rounds {
        for turn in &mut turns {
            say(&format!(
                "{}: round {round} of {}, {}",
                row.name, plan.rounds, turn.peer.name
            ));
            turn.round(&row.scenario).await;
        }
    }
    Measured {
        row: row.name.to_owned(),
        date: crate::machine::now(),
        rounds: plan.rounds,
        seconds: plan.seconds,
        brokers: turns.into_iter().map(Turn::end).collect(),
    }
}

impl<'a> Turn<'a> {
    async fn start(peer: &'a Peer) -> Turn<'a> {
        let (running, fault) = match peer.start().await {
            Ok(running) => (Some(running), None),
            Err(fault) => (None, Some(fault)),
        };
        let turn = Turn {
            peer,
            running,
            syncs: None,
            rounds: Vec::new(),
            fault,
            left_out: None,
        };
        turn.pause();
        turn
    }

    fn pause(&self) {
        if let Some(running) = &self.running {
            running.pause();
        }
    }

    /// Publishes one by one under strace: a broker that syncs before it confirms has a sync for each. Those of the acks count
    /// as well, so that what is proven is only that fewer syncs than messages are no promise.
    async fn count_syncs(&mut self, scenario: &Scenario) {
        let Some(running) = &self.running else { return };
        let Some(server) = &running.server else { return };
        let one_by_one = Scenario {
            shape: match scenario.shape {
                // Bindings only take time here.
                Shape::Topic { .. } => Shape::Queue,
                shape => shape,
            },
            publishers: 1,
            order: match scenario.shape {
                // Consumers bring the queues of a virtual topic into being.
                Shape::FanOut { .. } => Order::Together,
                _ => Order::After,
            },
            window: 1,
            rate: None,
            warm_up: Duration::ZERO,
            amount: Amount::Messages(COUNTED),
            ..scenario.clone()
        };
        server.resume();
        let counted = async {
            let trace = Trace::start(server)?;
            running
                .run(&one_by_one)
                .await
                .map_err(|error| error.to_string())?;
            trace.stop()
        };
        match counted.await {
            Ok(calls) => {
                self.syncs = Some(Syncs {
                    messages: COUNTED,
                    calls,
                });
            }
            Err(fault) => say(&format!("{}: syncs were not counted: {fault}", self.peer.name)),
        }
        self.pause();
    }

    /// Does some of the work beforehand: a virtual machine compiles what runs often, and that takes its time. Who is too
    /// slow at it for the messages of the row is left out.
    async fn warm_up(&mut self, scenario: &Scenario, longest: Duration) {
        let Some(running) = &self.running else { return };
        let some = Scenario {
            rate: None,
            amount: Amount::Time(self.peer.warm_up()),
            ..scenario.clone()
        };
        running.resume();
        match running.run(&some).await {
            Ok(report) => self.left_out = too_slow(scenario, &report, longest),
            Err(error) => self.fault = Some(error.to_string()),
        }
        self.pause();
    }

    async fn round(&mut self, scenario: &Scenario) {
        let (Some(running), None, None) = (&self.running, &self.fault, &self.left_out) else {
            return;
        };
        running.resume();
        let before = running.cpu();
        match running.run(scenario).await {
            Ok(report) => {
                let cpu = before
                    .zip(running.cpu())
                    .map(|(before, after)| after.saturating_sub(before));
                self.rounds.push(Round::of(&report, cpu));
            }
            Err(error) => self.fault = Some(error.to_string()),
        }
        tokio::time::sleep(REST).await;
        self.pause();
    }

    fn end(self) -> BrokerFigures {
        if let Some(why) = self.fault.as_ref().or(self.left_out.as_ref()) {
            say(&format!("{}: {why}", self.peer.name));
        }
        BrokerFigures {
            broker: self.peer.name.to_owned(),
            title: self.peer.title.to_owned(),
            promise: self.peer.promise,
            syncs: self.syncs,
            median: self
                .fault
                .is_none()
                .then(|| Round::median(&self.rounds))
                .flatten(),
            // The warm-up alone tells nothing of the row.
            peak_memory: match (&self.running, &self.left_out) {
                (Some(running), None) => running.peak_memory(),
                _ => None,
            },
            rounds: self.rounds,
            fault: self.fault,
            left_out: self.left_out,
        }
    }
}

/// Why a broker that did so in its warm-up does not take its turn at a number of messages: how long it would need to
/// publish and to drain them, where that is too long.
fn too_slow(scenario: &Scenario, report: &Report, longest: Duration) -> Option<String> {
    let Amount::Messages(messages) = scenario.amount else {
        return None;
    };
    let seconds = |per_second: f64| messages as f64 / per_second;
    let publish = seconds(report.published.per_second);
    let all = match scenario.order {
        Order::Together => publish.max(seconds(report.consumed.per_second)),
        Order::After => publish + seconds(report.consumed.per_second),
    };
    let longest = longest.as_secs_f64();
    (all > longest).then(|| format!("a turn would take {all:.0} s, more than {longest:.0} s"))
}

fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use pointsman_load::{Flow, Latency};

    use super::*;

    fn report(published: f64, consumed: f64) -> Report {
        let flow = |per_second| Flow {
            per_second,
            ..Flow::default()
        };
        Report {
            published: flow(published),
            consumed: flow(consumed),
            confirm: Latency::default(),
            delivery: None,
            duplicates: 0,
            sent: 0,
            arrived: 0,
        }
    }

    fn backlog(amount: Amount) -> Scenario {
        Scenario {
            shape: Shape::Queue,
            durable: true,
            publishers: 1,
            consumers: 1,
            order: Order::After,
            body: 100,
            window: 1,
            rate: None,
            warm_up: Duration::ZERO,
            amount,
        }
    }

    #[test]
    fn who_would_publish_and_drain_for_too_long_is_left_out() {
        let scenario = backlog(Amount::Messages(1_000));
        let longest = Duration::from_secs(20);
        let why = |published, consumed| too_slow(&scenario, &report(published, consumed), longest);
        assert_eq!(why(100.0, 100.0), None);
        let told = why(100.0, 50.0).unwrap();
        assert_eq!(told, "a turn would take 30 s, more than 20 s");
        assert!(why(0.0, 100.0).is_some());
    }

    #[test]
    fn nobody_is_too_slow_for_a_time() {
        let scenario = backlog(Amount::Time(Duration::from_secs(2)));
        assert_eq!(too_slow(&scenario, &report(1.0, 1.0), Duration::ZERO), None);
    }
}
