//! How fast groups of messages become durable, against writing the same bytes to a plain file.
//!
//! `cargo run --release -p pointsman-store --example commit_rate [seconds]`

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_core::commit::{IndexEntry, QueueState, Run};
use pointsman_core::{Chunk, ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References};
use pointsman_store::{Options, Store};

const QUEUE: QueueId = QueueId(1);

/// Bytes in a message, messages in a group.
const CASES: [(usize, u64); 4] = [(100, 1), (100, 256), (1_024, 256), (16_384, 64)];

/// Groups acknowledged behind the newest one.
const BEHIND: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3.0), |text| text.parse())?;
    let time = Duration::from_secs_f64(seconds);
    println!(
        "{:>7} {:>6} {:>12} {:>12} {:>6} {:>20} {:>9}",
        "bytes", "group", "raw msg/s", "store msg/s", "ratio", "sync p50/p99/max us", "CPU us"
    );
    for (len, messages) in CASES {
        let dir = tempfile::tempdir()?;
        let raw = raw(dir.path(), len, messages, time)?;
        let (store, cpu) = publish(&dir.path().join("store"), len, messages, time)?;
        println!(
            "{len:>7} {messages:>6} {:>12.0} {:>12.0} {:>6.2} {:>20} {:>9.2}",
            raw,
            store.0,
            store.0 / raw,
            store.1,
            cpu,
        );
    }
    Ok(())
}

/// Messages a second of writing and syncing a group's bytes at the end of a file.
fn raw(dir: &Path, len: usize, messages: u64, time: Duration) -> Result<f64, Box<dyn Error>> {
    let mut file = File::create(dir.join("raw"))?;
    let group = group(0, len, messages);
    let bytes = group.bytes();
    let began = Instant::now();
    let mut written = 0;
    while began.elapsed() < time {
        file.write_all(&bytes)?;
        file.sync_data()?;
        written += messages;
    }
    let rate = written as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(dir.join("raw"))?;
    Ok(rate)
}

/// Messages a second through the store, each group a synced batch, and a later unsynced one that settles it. Second,
/// CPU time of the whole process in microseconds a message.
fn publish(
    dir: &Path,
    len: usize,
    messages: u64,
    time: Duration,
) -> Result<((f64, String), f64), Box<dyn Error>> {
    let (store, _) = Store::open(dir, Options::default())?;
    let cpu = cpu_time();
    let began = Instant::now();
    let mut groups = 0;
    while began.elapsed() < time {
        let first = groups * messages;
        let chunk = Arc::new(group(first, len, messages));
        let mut records = vec![
            Record::Append {
                chunk,
                references: References::uniform(messages as u32, 1),
            },
            index(first, messages),
        ];
        let head = groups.saturating_sub(BEHIND) * messages;
        if groups >= BEHIND {
            let settled = head - messages.min(head);
            records.extend(settle(settled, messages));
        }
        let state = QueueState {
            head: Position(head),
            tail: Position(first + messages),
            delivered: Position(head),
            stream: None,
        };
        records.push(Record::QueueState { queue: QUEUE, state });
        store.apply(&[&records], true)?;
        groups += 1;
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / (groups * messages) as f64;
    let figures = store.figures();
    let figure = |name: &str| {
        figures
            .iter()
            .find(|(n, _)| n == name)
            .map_or(0, |(_, value)| *value)
    };
    let syncs = format!(
        "{}/{}/{}",
        figure("sync_p50_us"),
        figure("sync_p99_us"),
        figure("sync_max_us")
    );
    Ok((((groups * messages) as f64 / took, syncs), cpu))
}

fn group(first: u64, len: usize, messages: u64) -> Chunk {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(first), 1_000);
    let body = vec![b'x'; len];
    for _ in 0..messages {
        builder.push(ExchangeId(1), None, b"", &body);
    }
    builder.finish()
}

fn index(first: u64, messages: u64) -> Record {
    let run = Run {
        lane: Lane::Queues,
        chunk: Offset(first),
        record: 0,
        count: messages as u32,
    };
    let entry = IndexEntry {
        first: Position(first),
        runs: vec![run],
        time: 0,
        bytes: 0,
        expires: 0,
    };
    Record::Index { queue: QUEUE, entry }
}

fn settle(first: u64, messages: u64) -> [Record; 2] {
    let release = Record::Release {
        lane: Lane::Queues,
        base: Offset(first),
        record: 0,
        count: messages as u32,
    };
    let last = Position(first + messages - 1);
    [release, Record::IndexRemove { queue: QUEUE, last }]
}

/// CPU time of this process, from the system's tick counts.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(11)
        .take(2)
        .flat_map(str::parse::<u64>)
        .sum();
    Duration::from_millis(ticks * 10)
}
