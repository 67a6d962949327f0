//! Backups while publishing, restored to a broker that goes on; definitions from one broker to another.

use std::path::Path;

use pointsman_sdk::{BindingSpec, ExchangeSpec, Message, QueueSpec};
use pointsman_tests::{Broker, cli, guests};

use crate::{publish, routed, soon, take, take_all};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_backup_made_while_publishing_is_restored_to_a_broker_that_clients_know_again() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let before: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    let publisher = client.publisher("").await.unwrap();
    let messages = before.iter().map(|body| Message::new(body.clone()).key("q"));
    soon(publisher.publish_all(messages).await.unwrap())
        .await
        .unwrap();

    let backup = broker.work_dir().join("backup");
    let made = cli::command(&broker, &["backup", text(&backup), "-o", "json"])
        .spawn()
        .unwrap();
    let made = tokio::task::spawn_blocking(move || made.wait_with_output().unwrap());
    let mut meanwhile = 0;
    while !made.is_finished() {
        assert_eq!(
            publish(&client, "", "q", format!("later {meanwhile}")).await,
            routed(1)
        );
        meanwhile += 1;
    }
    let made = made.await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(!broker.data_dir().join("backup.tmp").exists());
    assert!(!broker.work_dir().join("backup.partial").exists());
    let report = cli::json(&broker, &["verify", "--data-dir", text(&backup)]);
    assert_eq!(report["sound"], true);

    let data_dir = broker.work_dir().join("restored");
    cli::json(
        &broker,
        &["restore", text(&backup), "--data-dir", text(&data_dir)],
    );
    let restored = Broker::on(&data_dir, broker.password());
    // The same certificate: what clients know of the first broker is good for the other.
    let client = restored
        .client_builder()
        .ca_file(broker.ca())
        .connect()
        .await
        .unwrap();
    let kept = client.queue("q").await.unwrap().ready as usize;
    let kept = take(&client, "q", kept).await;
    assert_eq!(kept[..500], before);
    let later: Vec<_> = (0..kept.len() - 500).map(|n| format!("later {n}")).collect();
    assert_eq!(kept[500..], later, "a moment between two publishes");
    assert!(later.len() <= meanwhile);
    assert_eq!(publish(&client, "", "q", "new").await, routed(1));
}

#[test]
fn a_backup_and_a_restore_overwrite_nothing() {
    let broker = Broker::start();
    let full = broker.work_dir().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("photo.jpg"), "x").unwrap();
    let error = cli::fails(&broker, &["backup", text(&full)]);
    assert!(error.contains("not an empty folder"), "{error}");
    let backup = broker.work_dir().join("backup");
    cli::json(&broker, &["backup", text(&backup)]);
    let error = cli::fails(&broker, &["restore", text(&backup), "--data-dir", text(&full)]);
    assert!(error.contains("not an empty folder"), "{error}");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
    let error = cli::fails(&broker, &["restore", text(&full), "--data-dir", text(&backup)]);
    assert!(error.contains("is no backup"), "{error}");
}

#[tokio::test]
async fn what_is_declared_goes_from_one_broker_to_another_by_a_file() {
    let (one, other) = (Broker::start(), Broker::start());
    let module = one.work_dir().join("content.wasm");
    std::fs::write(&module, guests::module("wasm-routers/content")).unwrap();
    let config = r#"{"rules":[],"default":"a"}"#;
    cli::json(
        &one,
        &[
            "router",
            "load",
            "shop",
            "--module",
            text(&module),
            "--config-text",
            config,
            "--activate",
        ],
    );
    cli::json(&one, &["vhost", "declare", "other"]);
    cli::json(&one, &["queue", "declare", "there", "--vhost", "other"]);
    cli::json(&one, &["exchange", "declare", "shop", "--router", "shop"]);
    let client = one.client().await;
    client.declare_exchange(ExchangeSpec::direct("z")).await.unwrap();
    let mut first = ExchangeSpec::direct("a");
    first.alternate = Some("z".to_owned());
    client.declare_exchange(first).await.unwrap();
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for source in ["shop", "a"] {
        client
            .bind(BindingSpec::to_queue(source, "q", "a"))
            .await
            .unwrap();
    }

    for ending in ["json", "toml"] {
        let file = one.work_dir().join(format!("definitions.{ending}"));
        cli::json(&one, &["export", text(&file)]);
        for _ in 0..2 {
            let done = cli::json(&other, &["import", text(&file)]);
            assert_eq!(done["conflicts"].as_array().unwrap().len(), 0, "{done}");
        }
        let again = other.work_dir().join(format!("again.{ending}"));
        cli::json(&other, &["export", text(&again)]);
        let (file, again) = (std::fs::read(&file).unwrap(), std::fs::read(&again).unwrap());
        assert!(file == again, "{ending}: another thing is declared");
    }
    let client = other.client().await;
    assert_eq!(publish(&client, "shop", "", "{}").await, routed(1));
    assert_eq!(take_all(&client, "q").await, ["{}"]);
}

#[tokio::test]
async fn an_import_changes_nothing_that_is_there_and_names_it() {
    let (one, other) = (Broker::start(), Broker::start());
    let (from, to) = (one.client().await, other.client().await);
    from.declare_exchange(ExchangeSpec::direct("x")).await.unwrap();
    from.declare_queue(QueueSpec::new("q")).await.unwrap();
    to.declare_exchange(ExchangeSpec::fanout("x")).await.unwrap();
    let file = one.work_dir().join("definitions.toml");
    cli::json(&one, &["export", text(&file)]);
    let output = cli::command(&other, &["import", text(&file)]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("conflict: exchange `x` of vhost `/`"), "{said}");
    let exchange = cli::json(&other, &["exchange", "show", "x"]);
    assert_eq!(exchange["kind"], "fanout");
    assert!(to.queue("q").await.is_ok(), "the rest is declared");
}
