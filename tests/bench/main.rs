//! `make bench`: what the broker does, beside what the machine could do at best, in the same run.
//!
//! The broker is a process of its own, the client this one. `--json` writes JSON instead of a table; a word runs only
//! the parts whose title has it.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a benchmark")]

mod limits;
mod report;
mod routing;
mod traffic;

use std::path::Path;

use pointsman_tests::Broker;

use report::{Figure, Report, Row};
use traffic::Limits;

/// Bodies that are measured, in bytes.
const BODIES: [(usize, &str); 3] = [(100, "100 B"), (1024, "1 KiB"), (16 * 1024, "16 KiB")];

#[expect(clippy::print_stdout, reason = "the report is what a bench is for")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let json = args.iter().any(|arg| arg == "--json");
    let only = args.iter().find(|arg| !arg.starts_with('-'));
    let wanted = |title: &str| only.is_none_or(|word| title.contains(word.as_str()));

    let broker = Broker::start();
    let machine = Machine::measure(&broker);
    let mut parts = vec![("raw limits of this machine", machine.rows())];
    if wanted("messages") {
        parts.push(("messages: confirmed on disk", machine.traffic(&broker)));
    }
    if wanted("routing") {
        parts.push((
            "routing: one thread, from a frame's bytes to queues",
            routing::rows(),
        ));
    }
    let report = Report {
        machine: describe(),
        command: format!(
            "cargo bench -p pointsman-tests --bench bench -- {}",
            args.join(" ")
        )
        .trim()
        .to_owned(),
        parts,
    };
    match json {
        true => println!("{:#}", report.json()),
        false => print!("{report}"),
    }
}

/// The raw limits.
struct Machine {
    grouped_sync: Vec<Figure>,
    one_sync: Figure,
    sequential_write: Figure,
    copy: Figure,
    quic_bulk: Figure,
    quic_echo: Figure,
}

impl Machine {
    /// Measured in the broker's own folder, on its disk, and with its certificate.
    fn measure(broker: &Broker) -> Machine {
        let folder = broker.work_dir();
        let (quic_bulk, quic_echo) = limits::quic(
            &certificate(broker, "ca"),
            &certificate(broker, "server"),
            &certificate(broker, "server-key"),
        );
        Machine {
            grouped_sync: BODIES
                .iter()
                .map(|(body, _)| written(limits::grouped_sync(folder, *body)))
                .collect(),
            one_sync: written(limits::one_sync(folder)),
            sequential_write: written(limits::sequential_write(folder)),
            copy: limits::copy(),
            quic_bulk,
            quic_echo,
        }
    }

    fn rows(&self) -> Vec<Row> {
        let synced = BODIES.iter().zip(&self.grouped_sync);
        let synced = synced.map(|((_, name), figure)| {
            Row::limit(
                format!("append {name}, fdatasync every {}", limits::GROUP),
                *figure,
            )
        });
        synced
            .chain([
                Row::limit("append 100 B, fdatasync each", self.one_sync),
                Row::limit("write a file from front to end", self.sequential_write),
                Row::limit("QUIC, one stream of 64 KiB writes", self.quic_bulk),
                Row::limit("QUIC, echo of 100 B", self.quic_echo),
                Row::limit("copy memory", self.copy),
            ])
            .collect()
    }

    fn limits(&self, size: usize) -> Limits {
        let nanoseconds = |figure| match figure {
            Figure::Nanoseconds(value) => value,
            Figure::PerSecond(_) | Figure::BytesPerSecond(_) => unreachable!("it is a time"),
        };
        Limits {
            grouped_sync: self.grouped_sync[size],
            echo_and_sync: Figure::Nanoseconds(nanoseconds(self.quic_echo) + nanoseconds(self.one_sync)),
        }
    }

    fn traffic(&self, broker: &Broker) -> Vec<Row> {
        limits::runtime().block_on(async {
            traffic::warm_up(&broker.client().await).await;
            let mut rows = Vec::new();
            for (size, (body, name)) in BODIES.into_iter().enumerate() {
                let limits = self.limits(size);
                rows.push(
                    traffic::confirmed_publish(
                        broker,
                        &format!("publish and confirm, {name}"),
                        body,
                        &limits,
                    )
                    .await,
                );
                rows.push(
                    traffic::end_to_end(broker, &format!("publish to ack, {name}"), body, &limits).await,
                );
                rows.push(
                    traffic::confirm_latency(
                        broker,
                        &format!("time to confirm, {name}, one at a time"),
                        body,
                        &limits,
                    )
                    .await,
                );
                rows.push(
                    traffic::delivery_latency(
                        broker,
                        &format!("time to deliver, {name}, 2000 msg/s"),
                        body,
                        &limits,
                    )
                    .await,
                );
            }
            rows
        })
    }
}

fn certificate(broker: &Broker, name: &str) -> std::path::PathBuf {
    broker.data_dir().join(name).with_extension("pem")
}

fn written(result: std::io::Result<Figure>) -> Figure {
    result.expect("the broker's folder can be written")
}

/// The machine, in one line.
fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} x {}, {} GiB, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kib / 1024 / 1024,
        kernel.trim()
    )
}
