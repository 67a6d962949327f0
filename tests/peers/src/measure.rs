//! One row: all brokers in turn, several times, so that a slow moment of the machine is slow for all.

use std::time::Duration;

use pointsman_load::{Amount, Order, Scenario, Shape};

use crate::peers::{Peer, Running};
use crate::results::{BrokerFigures, Measured, Round, Syncs};
use crate::rows::Row;
use crate::syncs::Trace;

/// Messages that are published one by one while syncs are counted.
const COUNTED: u64 = 50;
/// How long a broker has to come to rest before it is another's turn.
const REST: Duration = Duration::from_millis(200);

/// A broker of a row.
struct Turn<'a> {
    peer: &'a Peer,
    running: Option<Running>,
    syncs: Option<Syncs>,
    rounds: Vec<Round>,
    fault: Option<String>,
}

/// Measures a row. Each broker starts on an empty folder, and is paused while it is not its turn.
pub(crate) async fn row(row: &Row, peers: &[&Peer], rounds: usize, seconds: f64) -> Measured {
    let mut turns = Vec::new();
    for peer in peers.iter().filter(|peer| peer.takes(&row.scenario)) {
        say(&format!("{}: starting {}", row.name, peer.name));
        turns.push(Turn::start(peer).await);
    }
    for turn in &mut turns {
        turn.count_syncs(&row.scenario).await;
    }
    for turn in &mut turns {
        turn.warm_up(&row.scenario).await;
    }
    for round in 1..=rounds {
        for turn in &mut turns {
            say(&format!(
                "{}: round {round} of {rounds}, {}",
                row.name, turn.peer.name
            ));
            turn.round(&row.scenario).await;
        }
    }
    Measured {
        row: row.name.to_owned(),
        date: crate::machine::now(),
        rounds,
        seconds,
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
        };
        turn.pause();
        turn
    }

    fn pause(&self) {
        if let Some(running) = &self.running {
            running.server.pause();
        }
    }

    /// Publishes one by one under strace: a broker that syncs before it confirms has a sync for each. Those of the acks count
    /// as well, so that what is proven is only that fewer syncs than messages are no promise.
    async fn count_syncs(&mut self, scenario: &Scenario) {
        let Some(running) = &self.running else { return };
        let server = &running.server;
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

    /// Does some of the work beforehand: a virtual machine compiles what runs often, and that takes its time.
    async fn warm_up(&mut self, scenario: &Scenario) {
        let Some(running) = &self.running else { return };
        let server = &running.server;
        let scenario = Scenario {
            rate: None,
            amount: Amount::Time(self.peer.warm_up()),
            ..scenario.clone()
        };
        server.resume();
        if let Err(error) = running.run(&scenario).await {
            self.fault = Some(error.to_string());
        }
        self.pause();
    }

    async fn round(&mut self, scenario: &Scenario) {
        let (Some(running), None) = (&self.running, &self.fault) else {
            return;
        };
        let server = &running.server;
        server.resume();
        let before = server.cpu();
        match running.run(scenario).await {
            Ok(report) => {
                let cpu = server.cpu().saturating_sub(before);
                self.rounds.push(Round::of(&report, cpu));
            }
            Err(error) => self.fault = Some(error.to_string()),
        }
        tokio::time::sleep(REST).await;
        self.pause();
    }

    fn end(self) -> BrokerFigures {
        if let Some(fault) = &self.fault {
            say(&format!("{}: {fault}", self.peer.name));
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
            peak_memory: self.running.as_ref().map(|running| running.server.peak_memory()),
            rounds: self.rounds,
            fault: self.fault,
        }
    }
}

fn say(text: &str) {
    eprintln!("{text}");
}
