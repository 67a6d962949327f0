//! Exchanges route by their kind; bindings lead to queues and to exchanges.

use pointsman_sdk::{
    Argument, BindingSpec, Client, Destination, ErrorCode, ExchangeKind, ExchangeSpec, Message, Outcome,
    QueueSpec,
};
use pointsman_tests::Broker;

use crate::{publish, routed, send, take, take_all};

async fn queues<const N: usize>(client: &Client, names: [&str; N]) {
    for name in names {
        client.declare_queue(QueueSpec::new(name)).await.unwrap();
    }
}

fn to_exchange(source: &str, destination: &str, key: &str) -> BindingSpec {
    BindingSpec {
        source: source.into(),
        destination: Destination::Exchange(destination.into()),
        key: key.into(),
        arguments: Vec::new(),
    }
}

#[tokio::test]
async fn the_default_exchange_sends_to_the_queue_named_by_the_key() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a", "b"]).await;
    assert_eq!(publish(&client, "", "b", "for b").await, routed(1));
    assert_eq!(take_all(&client, "b").await, ["for b"]);
    assert_eq!(client.queue("a").await.unwrap().published, 0);
}

#[tokio::test]
async fn a_direct_exchange_sends_to_the_bindings_of_that_key() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a", "b", "c"]).await;
    client.declare_exchange(ExchangeSpec::direct("x")).await.unwrap();
    for (queue, key) in [("a", "red"), ("b", "red"), ("c", "blue")] {
        client.bind(BindingSpec::to_queue("x", queue, key)).await.unwrap();
    }
    assert_eq!(publish(&client, "x", "red", "r").await, routed(2));
    assert_eq!(publish(&client, "x", "blue", "b").await, routed(1));
    assert_eq!(publish(&client, "x", "re", "none").await, Outcome::Unroutable);
    assert_eq!(take_all(&client, "a").await, ["r"]);
    assert_eq!(take_all(&client, "c").await, ["b"]);
}

#[tokio::test]
async fn a_fanout_exchange_sends_to_all_bindings() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a", "b"]).await;
    client.declare_exchange(ExchangeSpec::fanout("x")).await.unwrap();
    client
        .bind(BindingSpec::to_queue("x", "a", "ignored"))
        .await
        .unwrap();
    client.bind(BindingSpec::to_queue("x", "b", "")).await.unwrap();
    assert_eq!(publish(&client, "x", "anything", "m").await, routed(2));
}

#[tokio::test]
async fn a_queue_that_several_bindings_match_gets_the_message_once() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a"]).await;
    client.declare_exchange(ExchangeSpec::topic("x")).await.unwrap();
    for key in ["#", "order.*", "order.new"] {
        client.bind(BindingSpec::to_queue("x", "a", key)).await.unwrap();
    }
    assert_eq!(publish(&client, "x", "order.new", "m").await, routed(1));
    assert_eq!(client.queue("a").await.unwrap().ready, 1);
}

#[tokio::test]
async fn a_topic_exchange_matches_words() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_exchange(ExchangeSpec::topic("x")).await.unwrap();
    let patterns = ["order.*.eu", "order.#", "#.eu", "*", "order.new"];
    for pattern in patterns {
        queues(&client, [pattern]).await;
        client
            .bind(BindingSpec::to_queue("x", pattern, pattern))
            .await
            .unwrap();
    }
    let cases: [(&str, &[&str]); 6] = [
        ("order.new.eu", &["order.*.eu", "order.#", "#.eu"]),
        ("order.eu", &["order.#", "#.eu"]),
        ("order", &["order.#", "*"]),
        ("order.new", &["order.#", "order.new"]),
        ("eu", &["#.eu", "*"]),
        ("invoice.new", &[]),
    ];
    for (key, matching) in cases {
        let expected = if matching.is_empty() {
            Outcome::Unroutable
        } else {
            routed(matching.len() as u32)
        };
        assert_eq!(publish(&client, "x", key, key).await, expected, "{key}");
    }
    for pattern in patterns {
        let mut expected: Vec<_> = cases
            .iter()
            .filter(|(_, matching)| matching.contains(&pattern))
            .map(|(key, _)| *key)
            .collect();
        expected.sort_unstable();
        assert_eq!(take_all(&client, pattern).await, expected, "{pattern}");
    }
}

#[tokio::test]
async fn a_headers_exchange_matches_all_or_any_of_the_arguments() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["all", "any"]).await;
    client.declare_exchange(ExchangeSpec::headers("x")).await.unwrap();
    for mode in ["all", "any"] {
        let mut binding = BindingSpec::to_queue("x", mode, "");
        binding.arguments = vec![
            ("region".into(), Argument::Str("eu".into())),
            ("urgent".into(), Argument::Bool(true)),
            ("x-match".into(), Argument::Str(mode.into())),
        ];
        client.bind(binding).await.unwrap();
    }
    let both = Message::new("both")
        .header("region", "eu")
        .header("urgent", true)
        .header("more", 1);
    let one = Message::new("one").header("region", "eu").header("urgent", false);
    let none = Message::new("none").header("region", "us");
    assert_eq!(send(&client, "x", both).await, routed(2));
    assert_eq!(send(&client, "x", one).await, routed(1));
    assert_eq!(send(&client, "x", none).await, Outcome::Unroutable);
    assert_eq!(take_all(&client, "all").await, ["both"]);
    assert_eq!(take_all(&client, "any").await, ["both", "one"]);
}

#[tokio::test]
async fn a_consistent_hash_exchange_keeps_a_key_on_one_queue_and_spreads_keys_by_weight() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["light", "heavy"]).await;
    client
        .declare_exchange(ExchangeSpec::consistent_hash("x"))
        .await
        .unwrap();
    client
        .bind(BindingSpec::to_queue("x", "light", "1"))
        .await
        .unwrap();
    client
        .bind(BindingSpec::to_queue("x", "heavy", "4"))
        .await
        .unwrap();
    let publisher = client.publisher("x").await.unwrap();
    // Every key twice: both of a key must be in one queue.
    let messages = (0..1000).map(|n| Message::new((n % 500).to_string()).key(format!("key-{}", n % 500)));
    let outcome = publisher.publish_all(messages).await.unwrap().await.unwrap();
    assert_eq!(outcome.routed, 1000);
    let light = take_all(&client, "light").await;
    let heavy = take_all(&client, "heavy").await;
    assert_eq!(light.len() + heavy.len(), 1000);
    for bodies in [&light, &heavy] {
        assert!(
            bodies.chunks(2).all(|pair| pair[0] == pair[1]),
            "a key is in two queues"
        );
    }
    // Of 500 keys a fifth is 100; the hash spreads them at random, with a deviation of about 9.
    assert!(
        (55..=145).contains(&(light.len() / 2)),
        "{} of 500 keys",
        light.len() / 2
    );
}

#[tokio::test]
async fn a_message_passes_from_exchange_to_exchange() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["eu", "all"]).await;
    client
        .declare_exchange(ExchangeSpec::topic("first"))
        .await
        .unwrap();
    client
        .declare_exchange(ExchangeSpec::fanout("second"))
        .await
        .unwrap();
    client.bind(to_exchange("first", "second", "*.eu")).await.unwrap();
    client
        .bind(BindingSpec::to_queue("second", "eu", ""))
        .await
        .unwrap();
    client
        .bind(BindingSpec::to_queue("first", "all", "#"))
        .await
        .unwrap();
    assert_eq!(publish(&client, "first", "new.eu", "1").await, routed(2));
    assert_eq!(publish(&client, "first", "new.us", "2").await, routed(1));
    assert_eq!(take_all(&client, "eu").await, ["1"]);
    assert_eq!(take_all(&client, "all").await, ["1", "2"]);
}

#[tokio::test]
async fn a_cycle_of_exchanges_delivers_once_and_ends() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a", "b"]).await;
    for (exchange, queue) in [("x", "a"), ("y", "b")] {
        client
            .declare_exchange(ExchangeSpec::fanout(exchange))
            .await
            .unwrap();
        client
            .bind(BindingSpec::to_queue(exchange, queue, ""))
            .await
            .unwrap();
    }
    client.bind(to_exchange("x", "y", "")).await.unwrap();
    client.bind(to_exchange("y", "x", "")).await.unwrap();
    client.bind(to_exchange("x", "x", "")).await.unwrap();
    assert_eq!(publish(&client, "y", "", "m").await, routed(2));
    assert_eq!(take_all(&client, "a").await, ["m"]);
    assert_eq!(take_all(&client, "b").await, ["m"]);
}

#[tokio::test]
async fn an_alternate_exchange_takes_what_no_binding_takes() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["known", "rest"]).await;
    client
        .declare_exchange(ExchangeSpec::fanout("unrouted"))
        .await
        .unwrap();
    client
        .declare_exchange(ExchangeSpec::direct("x").alternate("unrouted"))
        .await
        .unwrap();
    client
        .bind(BindingSpec::to_queue("unrouted", "rest", ""))
        .await
        .unwrap();
    client
        .bind(BindingSpec::to_queue("x", "known", "k"))
        .await
        .unwrap();
    assert_eq!(publish(&client, "x", "k", "1").await, routed(1));
    assert_eq!(publish(&client, "x", "?", "2").await, routed(1));
    assert_eq!(take_all(&client, "known").await, ["1"]);
    assert_eq!(take_all(&client, "rest").await, ["2"]);
}

#[tokio::test]
async fn what_is_unbound_gets_no_more() {
    let broker = Broker::start();
    let client = broker.client().await;
    queues(&client, ["a"]).await;
    client.declare_exchange(ExchangeSpec::fanout("x")).await.unwrap();
    let binding = BindingSpec::to_queue("x", "a", "");
    client.bind(binding.clone()).await.unwrap();
    // The same publisher stays open over the change.
    let publisher = client.publisher("x").await.unwrap();
    assert_eq!(
        publisher.publish(Message::new("1")).await.unwrap().await.unwrap(),
        routed(1)
    );
    client.unbind(binding).await.unwrap();
    assert_eq!(
        publisher.publish(Message::new("2")).await.unwrap().await.unwrap(),
        Outcome::Unroutable
    );
    assert_eq!(take(&client, "a", 1).await, ["1"]);
}

#[tokio::test]
async fn declaring_again_is_fine_with_the_same_properties_and_refused_with_others() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_exchange(ExchangeSpec::direct("x")).await.unwrap();
    client.declare_exchange(ExchangeSpec::direct("x")).await.unwrap();
    let error = client
        .declare_exchange(ExchangeSpec::new("x", ExchangeKind::Topic))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PreconditionFailed), "{error}");
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    let error = client
        .declare_queue(QueueSpec::new("q").transient())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::PreconditionFailed), "{error}");
}

#[tokio::test]
async fn vhosts_do_not_see_each_other() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.declare_vhost("other").await.unwrap();
    let other = broker.client_builder().vhost("other").connect().await.unwrap();
    queues(&client, ["q"]).await;
    queues(&other, ["q"]).await;
    publish(&other, "", "q", "theirs").await;
    assert_eq!(client.queue("q").await.unwrap().ready, 0);
    assert_eq!(take_all(&other, "q").await, ["theirs"]);
}
