//! `make bench`: what the broker does, beside what the machine could do at best, in the same run.
//!
//! The broker is a process of its own, the client this one. `--json` writes JSON instead of a table; a word runs only
//! the parts whose title has it: `messages`, `scale` or `curves`, of which `--full` measures the long ends too.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a benchmark")]

mod crowd;
mod curves;
mod limits;
mod report;
mod scale;
mod traffic;

use std::time::Duration;

use pointsman_tests::{Broker, proc};

use limits::Quic;
use report::{Figure, Report, Row};

/// Bodies that are measured, in bytes.
const BODIES: [(usize, &str); 3] = [(100, "100 B"), (1024, "1 KiB"), (16 * 1024, "16 KiB")];

#[expect(clippy::print_stdout, reason = "the report is what a bench is for")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let json = args.iter().any(|arg| arg == "--json");
    let full = args.iter().any(|arg| arg == "--full");
    let only = args.iter().find(|arg| !arg.starts_with('-'));
    let wanted = |title: &str| only.is_none_or(|word| title.contains(word.as_str()));

    let mut parts = Vec::new();
    // The raw limits stand beside the whole and are not worth their time beside a single other part.
    if wanted("messages") {
        let machine = Machine::start();
        parts.push(("raw limits of this machine", machine.limits()));
        parts.push(("messages: confirmed on disk", machine.traffic()));
    }
    if wanted("scale") {
        parts.push(("scale: what waits in queues", scale::rows()));
    }
    if wanted("curves") {
        parts.push(("curves: more of one thing", curves::rows(full)));
    }
    let report = Report {
        machine: proc::machine(),
        command: format!("cargo bench --workspace --bench bench -- {}", args.join(" "))
            .trim()
            .to_owned(),
        parts,
    };
    match json {
        true => println!("{:#}", report.json()),
        false => print!("{report}"),
    }
}

/// The broker and what its machine could do at best.
struct Machine {
    broker: Broker,
    quic: Quic,
}

impl Machine {
    fn start() -> Machine {
        let broker = Broker::start();
        let quic = Quic::start(
            &certificate(&broker, "ca"),
            &certificate(&broker, "server"),
            &certificate(&broker, "server-key"),
        );
        Machine { broker, quic }
    }

    /// Measured in the broker's own folder, on its disk.
    fn limits(&self) -> Vec<Row> {
        let folder = self.broker.work_dir();
        let synced = BODIES.map(|(body, name)| {
            Row::limit(
                format!("append {name}, fdatasync every {}", limits::GROUP),
                written(limits::grouped_sync(folder, body)),
            )
        });
        let overwritten = BODIES.map(|(body, name)| {
            Row::limit(
                format!("write {name} over others, fdatasync every {}", limits::GROUP),
                written(limits::grouped_overwrite(folder, body)),
            )
        });
        let others = [
            Row::limit(
                "append 100 B, fdatasync each",
                written(limits::one_sync(folder, 100)),
            ),
            Row::limit(
                "write a file from front to end",
                written(limits::sequential_write(folder)),
            ),
            Row::limit("QUIC, one stream of 64 KiB writes", self.quic.bulk()),
            Row::limit("QUIC, echo of 100 B", self.quic.echo(100)),
            Row::limit("copy memory", limits::copy()),
        ];
        synced.into_iter().chain(overwritten).chain(others).collect()
    }

    fn traffic(&self) -> Vec<Row> {
        let broker = &self.broker;
        let runtime = limits::runtime();
        runtime.block_on(async { traffic::warm_up(&broker.client().await).await });
        let mut rows = Vec::new();
        for (body, size) in BODIES {
            rows.push(self.beside_syncs(body, |limit| {
                let name = format!("publish and confirm, {size}");
                runtime.block_on(traffic::confirmed_publish(broker, &name, body, limit))
            }));
            rows.push(self.beside_syncs(body, |limit| {
                let name = format!("publish to ack, {size}");
                runtime.block_on(traffic::end_to_end(broker, &name, body, limit))
            }));
            rows.push(self.beside_echoes(body, |limit| {
                let name = format!("time to confirm, {size}, one at a time");
                runtime.block_on(traffic::confirm_latency(broker, &name, body, limit))
            }));
            rows.push(self.beside_echoes(body, |limit| {
                let name = format!("time to confirm, {size}, 2000 msg/s");
                // A minute of this size sees memtables written to tables.
                let time = Duration::from_secs(if body == 1024 { 60 } else { 3 });
                runtime.block_on(traffic::steady_latency(broker, &name, body, time, limit))
            }));
        }
        rows
    }

    /// Measures between two looks at how fast messages of that size are synced in groups: a machine that others use
    /// as well is not the same from one second to the next.
    fn beside_syncs(&self, body: usize, measure: impl FnOnce(Limit) -> Row) -> Row {
        let limit = || written(limits::grouped_sync(self.broker.work_dir(), body));
        beside("the same synced in groups of 256", limit, measure)
    }

    /// The same beside the time of an echo and a sync of such a message, one after the other.
    fn beside_echoes(&self, body: usize, measure: impl FnOnce(Limit) -> Row) -> Row {
        let limit = || {
            let sync = written(limits::one_sync(self.broker.work_dir(), body));
            Figure::Nanoseconds(self.quic.echo(body).value() + sync.value())
        };
        beside("an echo and a sync", limit, measure)
    }
}

/// What a row is compared with.
type Limit = (&'static str, Figure);

/// Measures a row between two looks at its limit, which is their mean.
fn beside(name: &'static str, limit: impl Fn() -> Figure, measure: impl FnOnce(Limit) -> Row) -> Row {
    let before = limit();
    let mut row = measure((name, before));
    row.limit = Some((name, before.mean(limit())));
    row
}

fn certificate(broker: &Broker, name: &str) -> std::path::PathBuf {
    broker.data_dir().join(name).with_extension("pem")
}

fn written(result: std::io::Result<Figure>) -> Figure {
    result.expect("the broker's folder can be written")
}
