//! `make peers`: other brokers and this one, side by side, on the same work.
//!
//! Each broker is a process on loopback with an empty folder, driven by the one generator of `pointsman bench`. Brokers
//! take turns within a row, and those that wait are paused. What a confirm promises is checked by counting sync calls.
//! Results are kept in `results/`: a run replaces the rows it measured.

#![forbid(unsafe_code)]

// What is measured, who takes part, how it is done, what came of it.
mod rows;
mod peers;

mod server;
mod wire;
mod activemq;
mod nats;
mod rabbitmq;
mod redis;
#[cfg(feature = "zeromq")]
mod zeromq;

mod measure;
mod syncs;

mod results;
mod table;
mod plot;

mod machine;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use measure::Plan;
use peers::Peer;
use results::Results;
use rows::{Row, Times};

/// Other brokers and this one, side by side, on the same work.
#[derive(Debug, Parser)]
struct Args {
    /// Only rows whose name has one of these in it
    #[arg(short, long, value_name = "TEXT", value_delimiter = ',')]
    rows: Vec<String>,
    /// Only brokers whose name has one of these in it
    #[arg(short, long, value_name = "TEXT", value_delimiter = ',')]
    brokers: Vec<String>,
    /// How often each broker has its turn in a row; figures are medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long a turn is measured, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Leave out who would take longer for a turn of a row that counts messages, in seconds
    #[arg(long, default_value_t = 180)]
    longest: u64,
    /// A short look: one turn of half a second, a backlog of 100,000, and the results are not kept
    #[arg(long)]
    quick: bool,
    /// Show which rows and brokers there are
    #[arg(long)]
    list: bool,
    /// Draw and write anew what is kept, and measure nothing
    #[arg(long)]
    render: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(async {
            // Dropping what runs stops the servers and removes their folders.
            tokio::select! {
                done = run(&args) => done,
                () = asked_to_stop() => Err("interrupted".to_owned()),
            }
        }),
        Err(error) => Err(error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Resolves on Ctrl-C and on SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        // Without signals there is nothing to wait for, and the run goes on to its end.
        _ => std::future::pending().await,
    }
}

async fn run(args: &Args) -> Result<(), String> {
    let (rounds, seconds) = if args.quick {
        (1, 0.5)
    } else {
        (args.rounds.max(1), args.seconds)
    };
    let all = rows::all(Times {
        warm_up: Duration::from_secs_f64(seconds / 4.0),
        measured: Duration::from_secs_f64(seconds),
        backlog: if args.quick { 100_000 } else { 1_000_000 },
    });
    let chosen = |name: &str, words: &[String]| {
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    let rows: Vec<&Row> = all.iter().filter(|row| chosen(row.name, &args.rows)).collect();
    let peers: Vec<&Peer> = peers::ALL
        .iter()
        .filter(|peer| chosen(peer.name, &args.brokers))
        .collect();
    if args.list {
        rows.iter()
            .for_each(|row| println!("row     {:<20} {}", row.name, row.group));
        peers
            .iter()
            .for_each(|peer| println!("broker  {:<20} {}", peer.name, peer.title));
        return Ok(());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let file = folder.join("results.json");
    let mut results = if args.quick {
        Results::default()
    } else {
        Results::read(&file)?
    };
    if args.render {
        return write(&results, &all, &folder);
    }
    let peers = installed(peers, &mut results);
    results.machine = machine::describe();
    let plan = Plan {
        rounds,
        seconds,
        longest: Duration::from_secs(args.longest),
    };
    for row in rows {
        let measured = measure::row(row, &peers, plan).await;
        results.replace(&all, measured);
        if args.quick {
            continue;
        }
        results.write(&file)?;
        write(&results, &all, &folder)?;
    }
    print!("{}", table::page(&results, &all));
    Ok(())
}

/// Those that are there; how to install the others is said.
fn installed<'a>(peers: Vec<&'a Peer>, results: &mut Results) -> Vec<&'a Peer> {
    let is_there = |peer: &&Peer| match peer.version() {
        Ok(version) => {
            results.versions.insert(peer.name.to_owned(), version);
            true
        }
        Err(how) => {
            eprintln!("{} is left out; to have it: {how}", peer.title);
            false
        }
    };
    peers.into_iter().filter(is_there).collect()
}

fn write(results: &Results, rows: &[Row], folder: &Path) -> Result<(), String> {
    let write =
        |name: &str, text: &str| std::fs::write(folder.join(name), text).map_err(|error| error.to_string());
    write("README.md", &table::page(results, rows))?;
    plot::all(results, rows)
        .iter()
        .try_for_each(|(name, svg)| write(name, svg))
}
