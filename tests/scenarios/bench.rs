//! `pointsman bench` accounts for every message, and leaves the broker as it found it.

use std::process::Stdio;

use pointsman_tests::{Broker, cli};
use serde_json::Value;

/// What a small run of a scenario wrote.
fn bench(broker: &Broker, args: &[&str]) -> Value {
    let small = ["--count", "2000", "--warm-up", "0s", "--size", "100B"];
    cli::json(broker, &[&["bench"], args, &small].concat())
}

#[track_caller]
fn assert_nothing_is_declared(broker: &Broker) {
    for kind in ["exchange", "queue", "binding"] {
        let left = cli::json(broker, &[kind, "list"]);
        assert_eq!(left, Value::Array(Vec::new()), "{kind}");
    }
}

#[test]
fn every_scenario_gives_figures_and_removes_what_it_made() {
    let broker = Broker::start();
    for (args, copies) in [
        (vec!["consume", "-p", "2", "-c", "2"], 1),
        (vec!["publish", "--transient"], 1),
        (vec!["backlog"], 1),
        (vec!["fanout", "--queues", "3"], 3),
        (vec!["topic"], 1),
        (vec!["consume", "--rate", "4000"], 1),
    ] {
        let view = bench(&broker, &args);
        assert_eq!(view["sent"], 2_000, "{args:?}");
        assert_eq!(view["arrived"], 2_000 * copies, "{args:?}");
        assert!(view["published"]["per_second"].as_f64() > Some(0.0), "{view}");
        assert!(view["confirm"]["p50"].as_f64() > Some(0.0), "{view}");
    }
    assert_nothing_is_declared(&broker);
}

#[test]
fn a_queue_that_is_there_already_is_left_alone() {
    let broker = Broker::start();
    cli::json(&broker, &["queue", "declare", "mine.queue.0"]);
    cli::run(&broker, &["publish", "", "hello", "--key", "mine.queue.0"]);
    let error = cli::fails(&broker, &["bench", "--name", "mine", "--count", "10"]);
    assert!(
        error.contains("`mine.queue.0`") && error.contains("--name"),
        "{error}"
    );
    assert_eq!(cli::json(&broker, &["queue", "show", "mine.queue.0"])["ready"], 1);
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupted_run_removes_what_it_made_and_tells_no_rate() {
    let broker = Broker::start();
    let mut bench = cli::command(&broker, &["bench", "topic", "--duration", "1h"]);
    let running = bench
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let client = broker.client().await;
    crate::eventually(async || {
        client
            .queues()
            .await
            .is_ok_and(|queues| queues.iter().any(|q| q.acked > 0))
    })
    .await;
    let id = running.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    client.close().await;
    assert_nothing_is_declared(&broker);
}
