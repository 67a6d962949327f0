//! The worst case of reclaim: one consumer settles all but every 1,000th of many messages. Prints what is on disk on the
//! way, and until reclaim has caught up.
//!
//! `cargo run --release -p pointsman-store --example reclaim [millions of messages]`

#![allow(clippy::print_stdout, reason = "it is a report")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_core::commit::{IndexEntry, QueueState, Run};
use pointsman_core::{ChunkBuilder, ExchangeId, Lane, Offset, Position, QueueId, Record, References};
use pointsman_store::{Options, Reclaimer, Store};

const QUEUE: QueueId = QueueId(1);

/// Messages in a commit and in a chunk, as when a busy publisher's messages are collected.
const GROUP: u64 = 1_000;

/// Bytes in a message.
const LEN: usize = 100;

/// One in so many stays.
const STAYS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let millions: u64 = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let messages = millions * 1_000_000;
    let dir = tempfile::tempdir()?;
    let (store, _) = Store::open(dir.path(), Options::default())?;
    let reclaimer = Reclaimer::start(store.clone())?;
    let began = Instant::now();
    let report = |what: &str| report(what, began, &store, dir.path());

    for first in (0..messages).step_by(GROUP as usize) {
        store.apply(&[&publish(first)], true)?;
    }
    report("published");
    for first in (0..messages).step_by(GROUP as usize) {
        store.apply(&[&settle(first)], false)?;
    }
    report("settled all but every 1,000th");
    let mut before = 0;
    while before != on_disk(dir.path()) {
        before = on_disk(dir.path());
        std::thread::sleep(Duration::from_secs(5));
        report("waiting");
    }
    let kept = (0..messages).step_by(STAYS as usize);
    for offset in kept {
        let chunk = store.read_chunk(Lane::Queues, Offset(offset / GROUP * GROUP))?;
        let message = chunk.get((offset % GROUP) as u32).ok_or("a message is lost")?;
        assert_eq!(message.body, [offset as u8; LEN]);
    }
    report("read what stays");
    for first in (0..messages).step_by(GROUP as usize) {
        store.apply(&[&[release(first, 0, 1)]], false)?;
    }
    report("settled the rest");
    std::thread::sleep(Duration::from_secs(5));
    report("drained");
    reclaimer.stop();
    Ok(())
}

fn publish(first: u64) -> [Record; 3] {
    let mut builder = ChunkBuilder::new(Lane::Queues, Offset(first), 1_000);
    for offset in first..first + GROUP {
        builder.push(ExchangeId(1), None, b"", &[offset as u8; LEN]);
    }
    let run = Run {
        lane: Lane::Queues,
        chunk: Offset(first),
        record: 0,
        count: GROUP as u32,
    };
    let entry = IndexEntry {
        first: Position(first),
        runs: vec![run],
        time: 0,
        bytes: 0,
        expires: 0,
    };
    let state = QueueState {
        tail: Position(first + GROUP),
        ..QueueState::default()
    };
    [
        Record::Append {
            chunk: Arc::new(builder.finish()),
            references: References::uniform(GROUP as u32, 1),
        },
        Record::Index { queue: QUEUE, entry },
        Record::QueueState { queue: QUEUE, state },
    ]
}

fn settle(first: u64) -> [Record; 2] {
    let block = first >> 16;
    let settled = (block << 16..first + GROUP).filter(|position| position % STAYS != 0);
    [
        release(first, 1, GROUP as u32 - 1),
        Record::AckBlock {
            queue: QUEUE,
            block,
            settled: Some(settled.map(|position| u32::from(position as u16)).collect()),
        },
    ]
}

fn release(first: u64, record: u32, count: u32) -> Record {
    Record::Release {
        lane: Lane::Queues,
        base: Offset(first),
        record,
        count,
    }
}

fn report(what: &str, began: Instant, store: &Store, dir: &Path) {
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    let figures = store.figures();
    let figure = |name: &str| {
        figures
            .iter()
            .find(|(n, _)| n == name)
            .map_or(0, |(_, value)| *value)
    };
    println!(
        "{:>6.1} s  {what:<30} disk {:>7.1} MiB: journals {:>6.1}, log {:>6.1}, live {:>6.1}, dead {:>6.1}, \
         rewritten {} chunks, {} compactions",
        began.elapsed().as_secs_f64(),
        mib(on_disk(dir)),
        mib(figure("journal_bytes")),
        mib(figure("log_table_bytes")),
        mib(figure("log_bytes") - figure("dead_bytes")),
        mib(figure("dead_bytes")),
        figure("chunks_rewritten"),
        figure("log_compactions"),
    );
}

/// Bytes of a folder's files, as `ls` shows them: what is allocated ahead counts.
fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => on_disk(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
