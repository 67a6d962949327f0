//! Routers: loaded, switched and rolled back while messages flow; one that misbehaves harms nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pointsman_sdk::{
    BindingSpec, Client, Consumer, Delivery, ErrorCode, ExchangeSpec, Interface, Message, Outcome, QueueSpec,
    Value,
};
use pointsman_tests::{Broker, guests};

use crate::{publish, receive, routed, send, soon, take_all, text};

/// Built before a test connects: a build takes longer than a broker waits for a silent client.
const CONTENT: &str = "wasm-routers/content";

/// A configuration of the content router that sends everything to one target.
fn all_to(target: &str) -> String {
    format!(r#"{{ "rules": [], "default": "{target}" }}"#)
}

/// An exchange `orders` decided by the router `orders`, whose targets are these queues.
async fn router_exchange(client: &Client, queues: &[&str]) {
    client
        .declare_exchange(ExchangeSpec::router("orders", "orders"))
        .await
        .unwrap();
    for queue in queues {
        client.declare_queue(QueueSpec::new(*queue)).await.unwrap();
        client
            .bind(BindingSpec::to_queue("orders", *queue, *queue))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_router_sends_each_message_where_its_rules_say() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    let rules = r#"{ "rules": [
        { "when": "body.kind", "eq": "paid", "to": "paid" },
        { "when": "body.kind", "eq": "spam", "reject": "no spam here" }
    ] }"#;
    let version = client.router_load("orders", module, rules, true).await.unwrap();
    assert_eq!((version.version, version.active), (1, true));
    router_exchange(&client, &["paid"]).await;
    assert_eq!(
        publish(&client, "orders", "", r#"{"kind":"paid"}"#).await,
        routed(1)
    );
    assert_eq!(
        publish(&client, "orders", "", r#"{"kind":"new"}"#).await,
        Outcome::Unroutable
    );
    let Outcome::Rejected { reason } = publish(&client, "orders", "", r#"{"kind":"spam"}"#).await else {
        panic!("spam is rejected")
    };
    assert_eq!(reason, "no spam here");
    let mut consumer = client.consumer("paid").open().await.unwrap();
    assert_eq!(receive(&mut consumer, 1).await[0].decided_by(), "orders@1");
}

#[tokio::test]
async fn versions_are_activated_rolled_back_and_unloaded() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .router_load("orders", module, all_to("one"), true)
        .await
        .unwrap();
    router_exchange(&client, &["one", "two"]).await;
    // The same module with another configuration; not active yet.
    let second = client
        .router_load("orders", "", all_to("two"), false)
        .await
        .unwrap();
    assert_eq!((second.version, second.active), (2, false));
    publish(&client, "orders", "", "first").await;
    client.router_activate("orders", 2).await.unwrap();
    publish(&client, "orders", "", "second").await;
    assert_eq!(client.router_rollback("orders").await.unwrap().version, 1);
    publish(&client, "orders", "", "third").await;
    assert_eq!(take_all(&client, "one").await, ["first", "third"]);
    assert_eq!(take_all(&client, "two").await, ["second"]);

    let error = client.router_unload("orders", Some(1)).await.unwrap_err();
    assert_eq!(
        error.code(),
        Some(ErrorCode::InUse),
        "the active version stays: {error}"
    );
    client.router_unload("orders", Some(2)).await.unwrap();
    let error = client.router_activate("orders", 2).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotFound), "{error}");
    let error = client.router_unload("orders", None).await.unwrap_err();
    assert_eq!(
        error.code(),
        Some(ErrorCode::InUse),
        "an exchange uses it: {error}"
    );
}

#[tokio::test]
async fn routers_and_their_active_version_survive_a_crash() {
    let module = guests::module(CONTENT);
    let mut broker = Broker::start();
    let client = broker.client().await;
    client
        .router_load("orders", module, all_to("one"), true)
        .await
        .unwrap();
    client
        .router_load("orders", "", all_to("two"), true)
        .await
        .unwrap();
    router_exchange(&client, &["one", "two"]).await;
    broker.kill9();
    broker.restart();
    let client = broker.client().await;
    publish(&client, "orders", "", "m").await;
    assert_eq!(take_all(&client, "two").await, ["m"]);
    assert_eq!(client.router_rollback("orders").await.unwrap().version, 1);
    publish(&client, "orders", "", "n").await;
    assert_eq!(take_all(&client, "one").await, ["n"]);
}

#[tokio::test]
async fn a_configuration_the_module_refuses_is_not_loaded() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    let error = client
        .router_load("orders", module, "not json", true)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::ModuleConfigRefused), "{error}");
    assert!(client.routers().await.unwrap().is_empty());
}

#[tokio::test]
async fn explaining_a_message_names_the_version_and_the_binding_and_sends_nothing() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .router_load("orders", module, all_to("one"), true)
        .await
        .unwrap();
    router_exchange(&client, &["one"]).await;
    let explanation = client.explain("orders", &Message::new("{}")).await.unwrap();
    assert_eq!(explanation.queues, ["one"]);
    assert_eq!(explanation.steps[0].decided_by, "orders@1");
    assert_eq!(
        explanation.steps[0].matched,
        [BindingSpec::to_queue("orders", "one", "one")]
    );
    assert_eq!(client.queue("one").await.unwrap().published, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_is_switched_50_times_under_load_decides_each_message_once_by_one_version() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    client
        .router_load("orders", module, all_to("one"), true)
        .await
        .unwrap();
    client
        .router_load("orders", "", all_to("two"), false)
        .await
        .unwrap();
    router_exchange(&client, &["one", "two"]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn(publish_until(broker.client().await, stop.clone()));
    // Version 1 decides now; each switch is to the other one.
    for switch in 1..=50 {
        let (version, queue) = if switch % 2 == 1 { (2, "two") } else { (1, "one") };
        client.router_activate("orders", version).await.unwrap();
        // What is published from now on is decided by the new version.
        let before = client.queue(queue).await.unwrap().published;
        assert_eq!(publish(&client, "orders", "", "after").await, routed(1));
        assert!(
            client.queue(queue).await.unwrap().published > before,
            "switch {switch}"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let sent = soon(publishing).await.unwrap();

    let mut numbers = Vec::new();
    for (queue, version) in [("one", "orders@1"), ("two", "orders@2")] {
        let part = numbers_of(&client, queue, version).await;
        assert!(part.is_sorted(), "{queue} is out of order");
        assert!(!part.is_empty(), "{version} decided nothing");
        numbers.extend(part);
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..sent), "something is lost or doubled");
}

/// Publishes numbers as fast as they are confirmed and returns how many.
async fn publish_until(client: Client, stop: Arc<AtomicBool>) -> u64 {
    let publisher = client
        .publisher_builder("orders")
        .window(256)
        .open()
        .await
        .unwrap();
    let mut sent = 0;
    let mut confirmations = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        confirmations.push(publisher.publish(Message::new(sent.to_string())).await.unwrap());
        sent += 1;
    }
    for confirmation in confirmations {
        assert_eq!(confirmation.await.unwrap(), routed(1));
    }
    sent
}

/// Empties a queue and returns the numbers that were in it, all of which that version must have decided.
async fn numbers_of(client: &Client, queue: &str, version: &str) -> Vec<u64> {
    let ready = client.queue(queue).await.unwrap().ready as usize;
    let mut consumer: Consumer = client.consumer(queue).prefetch(4096).open().await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..ready {
        let delivery: Delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(delivery.decided_by(), version, "in {queue}");
        // What was published to look at the switch is no number.
        numbers.extend(text(&delivery).parse::<u64>());
        delivery.ack();
    }
    numbers
}

#[tokio::test]
async fn a_component_of_the_typed_interface_routes_changes_and_rejects_like_any_other() {
    let module = guests::module("wasm-routers/typed-example");
    let broker = Broker::start();
    let client = broker.client().await;
    let version = client.router_load("orders", module, "", true).await.unwrap();
    assert_eq!(version.interface, Interface::Typed);
    router_exchange(&client, &["audit", "paid"]).await;
    let paid = Message::new("m").header("kind", "paid");
    assert_eq!(send(&client, "orders", paid).await, routed(2));
    // Only the copy in `audit` is marked.
    for (queue, marked) in [("paid", None), ("audit", Some(Value::Bool(true)))] {
        let mut consumer = client.consumer(queue).open().await.unwrap();
        let delivery = receive(&mut consumer, 1).await.remove(0);
        assert_eq!(
            (text(&delivery).as_str(), delivery.decided_by()),
            ("m", "orders@1")
        );
        assert_eq!(delivery.header("audited"), marked, "in {queue}");
        delivery.ack();
    }
    let Outcome::Rejected { reason } = publish(&client, "orders", "", "m").await else {
        panic!("a message without a kind is rejected")
    };
    assert_eq!(reason, "the header `kind` is missing");
}

/// A module whose `configure` declares that it needs nothing and whose `route` does this.
fn module_that(route: &str) -> pointsman_sdk::Bytes {
    guests::wat(&format!(
        r#"(module
            (memory (export "memory") 2)
            (data (i32.const 0) "\00\01\00\00\00\00\00\00\00\00\00\00\00\00\00")
            (func (export "alloc") (param i32) (result i32) (i32.const 1024))
            (func (export "configure") (param i32 i32 i32 i32) (result i64) (i64.const 15))
            (func (export "route") (param i32 i32) (result i64) {route}))"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_router_loops_for_ever_other_exchanges_are_served_and_its_messages_are_kept() {
    let broker = Broker::start();
    let client = broker.client().await;
    let looping = module_that("(loop $ever (br $ever)) (unreachable)");
    client.router_load("orders", looping, "", true).await.unwrap();
    router_exchange(&client, &["one"]).await;
    client.declare_queue(QueueSpec::new("other")).await.unwrap();

    let hostile = tokio::spawn({
        let client = broker.client().await;
        async move {
            let mut outcomes = Vec::new();
            for n in 0..5 {
                outcomes.push(publish(&client, "orders", "", format!("kept {n}")).await);
            }
            outcomes
        }
    });
    while !hostile.is_finished() {
        assert_eq!(publish(&client, "", "other", "served").await, routed(1));
    }
    for outcome in hostile.await.unwrap() {
        assert!(matches!(outcome, Outcome::Quarantined { .. }), "{outcome:?}");
    }
    assert_eq!(kept_in_quarantine(&client).await, 5);
    assert_eq!(client.queue("one").await.unwrap().published, 0);
}

#[tokio::test]
async fn messages_on_which_a_router_trapped_are_kept_over_a_crash() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client
        .router_load("orders", module_that("(unreachable)"), "", true)
        .await
        .unwrap();
    router_exchange(&client, &["one"]).await;
    let outcome = publish(&client, "orders", "", "precious").await;
    assert!(matches!(outcome, Outcome::Quarantined { .. }), "{outcome:?}");
    broker.kill9();
    broker.restart();
    assert_eq!(kept_in_quarantine(&broker.client().await).await, 1);
}

/// How many messages are in queues of the broker's own.
async fn kept_in_quarantine(client: &Client) -> u64 {
    let queues = client.queues().await.unwrap();
    queues
        .iter()
        .filter(|queue| queue.spec.name.starts_with("pointsman."))
        .map(|queue| queue.ready)
        .sum()
}

#[tokio::test]
async fn decisions_by_headers_alone_are_remembered_until_the_version_or_a_binding_changes() {
    let module = guests::module(CONTENT);
    let broker = Broker::start();
    let client = broker.client().await;
    let rules = |paid: &str| {
        format!(
            r#"{{ "rules": [{{ "when": "header.kind", "eq": "paid", "to": "{paid}" }}], "default": "rest" }}"#
        )
    };
    client
        .router_load("orders", module, rules("one"), true)
        .await
        .unwrap();
    router_exchange(&client, &["one", "two", "rest"]).await;
    let publisher = client.publisher("orders").await.unwrap();
    let publish_paid = async || {
        for _ in 0..20 {
            let message = Message::new("m").header("kind", "paid");
            let confirmed = publisher.publish(message).await.unwrap().await.unwrap();
            assert!(confirmed.is_success(), "{confirmed:?}");
        }
    };
    let counters = async || client.routers().await.unwrap()[0].counters;
    publish_paid().await;
    let before = counters().await;
    assert!(
        before.cached > 0 && before.routed + before.cached == 20,
        "{before:?}"
    );
    assert_eq!(take_all(&client, "one").await.len(), 20);

    client
        .router_load("orders", "", rules("two"), true)
        .await
        .unwrap();
    publish_paid().await;
    assert_eq!(take_all(&client, "two").await.len(), 20);
    assert!(counters().await.cached > before.cached);

    client
        .bind(BindingSpec::to_queue("orders", "rest", "two"))
        .await
        .unwrap();
    publish_paid().await;
    assert_eq!(take_all(&client, "two").await.len(), 20);
    assert_eq!(take_all(&client, "rest").await.len(), 20);
    assert_eq!(counters().await.cache_off, None);
}
