//! `pointsman bench`: put a broker under load and say what it did with it.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pointsman_load::{Amount, Broker, Error, Latency, Order, Pointsman, Report, Scenario, Shape};
use serde::Serialize;

use crate::amounts;
use crate::commands::{App, variable};
use crate::connect;
use crate::error::CliError;
use crate::human;
use crate::progress::Progress;
use crate::signals::Stop;
use crate::target;

/// How often the progress is brought up to date.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What load, and for how long.
#[derive(Debug, Args)]
#[command(
    after_help = "Everything it makes has a name that starts with --name, and is removed in the end. Every confirmed \
                  message must arrive, or the command fails and tells no rate.\n\nWithout --rate each publisher keeps \
                  --window messages unconfirmed and sends more as confirms come. With --rate messages are due at fixed \
                  times, and latency counts from then, however late a message could be sent."
)]
pub(crate) struct BenchArgs {
    /// What is done with the messages
    #[arg(value_enum, default_value_t)]
    scenario: Kind,
    /// Length of a body, such as 100B or 16KiB
    #[arg(short, long, value_name = "SIZE", default_value = "1KiB", value_parser = amounts::size)]
    size: u64,
    /// How many publish at once, each on a connection of its own
    #[arg(short, long, value_name = "COUNT", default_value_t = 1)]
    publishers: usize,
    /// How many consume at once, each on a connection of its own [default: one for each queue]
    #[arg(short, long, value_name = "COUNT")]
    consumers: Option<usize>,
    /// How many queues [default: 4 for fanout and topic, 1 otherwise]
    #[arg(long, value_name = "COUNT")]
    queues: Option<usize>,
    /// Most messages that a publisher has unconfirmed and a consumer unacknowledged
    #[arg(short, long, value_name = "COUNT", default_value_t = 1_000)]
    window: usize,
    /// Messages a second of all publishers together, whatever the broker does [default: as many as it takes]
    #[arg(short, long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// How long it is measured [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = amounts::span, conflicts_with = "count")]
    duration: Option<Duration>,
    /// How many messages are measured
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// How long it runs before that
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = amounts::span)]
    warm_up: Duration,
    /// Keep queues and messages out of what a restart brings back, and do not sync them
    #[arg(long)]
    transient: bool,
    /// What the names of its queues and its exchange start with; none of them may exist
    #[arg(long, value_name = "NAME", default_value = "bench")]
    name: String,
}

/// What is done with the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Through a queue to consumers, which acknowledge them
    #[default]
    Consume,
    /// Into a queue, and counted there once all are confirmed
    Publish,
    /// Into a queue, a million unless told otherwise, and then out of it
    Backlog,
    /// Each to all of several queues
    Fanout,
    /// Over a topic exchange with 1,000 bindings to several queues
    Topic,
}

/// The JSON form of a run.
#[derive(Debug, Serialize)]
struct BenchView {
    /// What was asked for.
    scenario: Scenario,
    /// What came of it; times in seconds, latencies in microseconds.
    #[serde(flatten)]
    report: Report,
}

pub(crate) async fn run(app: &App, args: BenchArgs) -> Result<(), CliError> {
    let scenario = args.scenario()?;
    scenario.check().map_err(load_error)?;
    let target = target::resolve(&app.global, variable)?;
    let broker = Pointsman::new(connect::builder(&target), args.name);
    let mut stop = Stop::listen()?;
    let measured = tokio::select! {
        measured = measure(app, &broker, &scenario) => measured.map_err(load_error),
        () = stop.asked() => Err(CliError::failed("Interrupted", "stopped before the end, so there are no figures")),
    };
    let removed = broker.tear_down().await.map_err(load_error);
    let report = measured?;
    removed?;
    let lines = lines(&scenario, &report);
    app.output.one(&BenchView { scenario, report }, &lines)
}

async fn measure(app: &App, broker: &Pointsman, scenario: &Scenario) -> Result<Report, Error> {
    broker.set_up(scenario).await?;
    let counts = Arc::default();
    let mut running = std::pin::pin!(pointsman_load::run(broker, scenario, &counts));
    let mut progress = Progress::new(app.output, "messages confirmed and arrived", None);
    let mut shown = 0;
    loop {
        tokio::select! {
            report = &mut running => return report,
            () = tokio::time::sleep(LOOK_EVERY) => {
                let (confirmed, arrived) = counts.counts();
                progress.add(confirmed + arrived - shown);
                shown = confirmed + arrived;
            }
        }
    }
}

impl BenchArgs {
    fn scenario(&self) -> Result<Scenario, CliError> {
        let queues = self.queues.unwrap_or(4);
        let shape = match self.scenario {
            Kind::Consume | Kind::Publish | Kind::Backlog
                if self.queues.is_some_and(|queues| queues != 1) =>
            {
                return Err(CliError::usage("several queues are for fanout and topic"));
            }
            Kind::Consume | Kind::Publish | Kind::Backlog => Shape::Queue,
            Kind::Fanout => Shape::FanOut { queues },
            Kind::Topic => Shape::Topic { queues },
        };
        let usual = match self.scenario {
            Kind::Backlog => Amount::Messages(1_000_000),
            _ => Amount::Time(Duration::from_secs(10)),
        };
        let asked = self
            .duration
            .map(Amount::Time)
            .or(self.count.map(Amount::Messages));
        Ok(Scenario {
            shape,
            durable: !self.transient,
            publishers: self.publishers,
            consumers: self.consumers.unwrap_or(shape.queues()),
            order: match self.scenario {
                Kind::Publish | Kind::Backlog => Order::After,
                Kind::Consume | Kind::Fanout | Kind::Topic => Order::Together,
            },
            body: usize::try_from(self.size).unwrap_or(usize::MAX),
            window: self.window,
            rate: self.rate,
            warm_up: self.warm_up,
            amount: asked.unwrap_or(usual),
        })
    }
}

fn lines(scenario: &Scenario, report: &Report) -> Vec<(&'static str, String)> {
    let flow = |flow: &pointsman_load::Flow| {
        let bytes = flow.per_second * scenario.body as f64;
        format!(
            "{} a second, {} a second ({} in {:.2} s)",
            human::counted(flow.per_second as u64, "message"),
            human::bytes(bytes as u64),
            human::count(flow.messages),
            flow.seconds
        )
    };
    let mut lines = vec![
        ("published", flow(&report.published)),
        ("consumed", flow(&report.consumed)),
        ("time to confirm", times(&report.confirm)),
    ];
    if let Some(delivery) = &report.delivery {
        lines.push(("time to deliver", times(delivery)));
    }
    let lost = format!(
        "none of {}; {} arrived more than once",
        human::count(report.sent),
        human::count(report.duplicates)
    );
    lines.push(("lost", lost));
    lines
}

fn times(latency: &Latency) -> String {
    let shown = |us: f64| match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us => format!("{:.2} ms", us / 1e3),
    };
    let quantiles = [
        ("p50", latency.p50),
        ("p99", latency.p99),
        ("p99.9", latency.p999),
        ("max", latency.max),
    ];
    quantiles
        .map(|(name, us)| format!("{name} {}", shown(us)))
        .join(", ")
}

fn load_error(error: Error) -> CliError {
    match error {
        Error::Client(error) => error.into(),
        Error::Scenario(message) => CliError::usage(message),
        Error::Exists { .. } => CliError::failed("Exists", error.to_string())
            .hint("choose another --name; if an earlier bench was killed, delete what it left"),
        Error::Lost { .. } => CliError::failed("Lost", error.to_string()),
        other => CliError::failed("Bench", other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn scenario(args: &[&str]) -> Result<Scenario, CliError> {
        Line::try_parse_from([&["bench"], args].concat())
            .unwrap()
            .bench
            .scenario()
    }

    #[test]
    fn each_kind_has_its_queues_and_its_order() {
        let consume = scenario(&[]).unwrap();
        assert_eq!((consume.shape, consume.order), (Shape::Queue, Order::Together));
        assert_eq!((consume.body, consume.durable), (1_024, true));
        let fanout = scenario(&["fanout", "--queues", "8", "--transient"]).unwrap();
        assert_eq!((fanout.shape, fanout.consumers), (Shape::FanOut { queues: 8 }, 8));
        assert!(!fanout.durable);
        let backlog = scenario(&["backlog", "-c", "2"]).unwrap();
        assert_eq!(
            (backlog.order, backlog.amount),
            (Order::After, Amount::Messages(1_000_000))
        );
        assert!(scenario(&["publish", "--queues", "2"]).is_err());
    }

    #[test]
    fn latencies_are_shown_in_a_unit_that_fits() {
        let latency = Latency {
            p50: 84.3,
            p99: 999.0,
            p999: 2_345.0,
            max: 120_000.0,
        };
        assert_eq!(
            times(&latency),
            "p50 84 us, p99 999 us, p99.9 2.35 ms, max 120.00 ms"
        );
    }
}
