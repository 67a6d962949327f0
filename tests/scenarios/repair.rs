//! A damaged data folder: refused, looked at, repaired, served again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pointsman_sdk::QueueSpec;
use pointsman_tests::{Broker, broker, cli};

use crate::{publish, take_all};

/// Larger than a page, so that a zeroed page hits one message.
fn body(n: usize) -> String {
    format!("message {n:04} ").repeat(500)
}

/// A stopped broker with 20 messages in `orders`, of which number 10 is damaged.
async fn damaged() -> Broker {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("orders")).await.unwrap();
    for n in 0..20 {
        publish(&client, "", "orders", body(n)).await;
    }
    client.close().await;
    broker.kill9();
    zero_a_page(
        &broker.data_dir().join("store/wal/0.wal"),
        &body(10).as_bytes()[..1_000],
    );
    broker
}

/// Zeroes a page from within `content` on.
fn zero_a_page(path: &Path, content: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(content.len()).position(|window| window == content);
    let at = at.expect("the log holds the message") as u64 + 100;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[0; 4_096], at).unwrap();
}

#[tokio::test]
async fn a_broker_that_refuses_its_folder_says_how_to_repair_it() {
    let broker = damaged().await;
    let mut refused = broker.serve_command().spawn().unwrap();
    let status = broker::wait(&mut refused).expect("it does not start");
    assert!(!status.success());
    let output = refused.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("pointsman repair --dry-run"), "{error}");
}

#[tokio::test]
async fn a_repair_keeps_the_damaged_store_and_the_broker_serves_what_was_saved() {
    let mut broker = damaged().await;
    let data_dir = broker.data_dir();
    let data_dir = data_dir.to_str().unwrap();
    let error = cli::fails(&broker, &["verify", "--data-dir", data_dir]);
    assert!(
        error.contains("19 messages there and whole, 1 message lost"),
        "{error}"
    );

    let foretold = cli::json(&broker, &["repair", "--dry-run", "--data-dir", data_dir]);
    let orders = &foretold["queues"][0];
    assert_eq!(
        (&orders["vhost"], &orders["queue"]),
        (&"/".into(), &"orders".into())
    );
    assert_eq!((&orders["saved"], &orders["lost"]), (&19.into(), &1.into()));
    assert_eq!(orders["lost_positions"][0][0], 10);
    assert!(foretold["kept"].is_null());

    let repaired = cli::json(&broker, &["repair", "--data-dir", data_dir]);
    assert_eq!(repaired["queues"], foretold["queues"]);
    assert!(
        Path::new(repaired["kept"].as_str().unwrap())
            .join("wal/0.wal")
            .exists()
    );
    broker.restart();
    let expected: Vec<_> = (0..20).filter(|n| *n != 10).map(body).collect();
    let client = broker.client().await;
    assert!(
        take_all(&client, "orders").await == expected,
        "another message is gone"
    );
    assert_eq!(publish(&client, "", "orders", "new").await, crate::routed(1));
}

#[test]
fn a_folder_in_use_is_neither_looked_at_nor_repaired() {
    let broker = Broker::start();
    let data_dir = broker.data_dir();
    for command in ["verify", "repair"] {
        let error = cli::fails(&broker, &[command, "--data-dir", data_dir.to_str().unwrap()]);
        assert!(error.contains(&broker.pid().to_string()), "{error}");
        assert!(error.contains("stop the broker first"), "{error}");
    }
}

#[tokio::test]
async fn a_sound_folder_is_found_sound_and_left_alone() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("orders")).await.unwrap();
    publish(&client, "", "orders", "one").await;
    client.close().await;
    assert!(broker.terminate().success());
    let data_dir = broker.data_dir();
    let data_dir = data_dir.to_str().unwrap();
    let report = cli::json(&broker, &["verify", "--data-dir", data_dir]);
    assert_eq!((&report["sound"], &report["saved"]), (&true.into(), &1.into()));
    let repaired = cli::run(&broker, &["repair", "--data-dir", data_dir]);
    assert!(repaired.contains("nothing was changed"), "{repaired}");
    broker.restart();
    assert_eq!(take_all(&broker.client().await, "orders").await, ["one"]);
}
