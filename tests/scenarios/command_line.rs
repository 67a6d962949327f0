//! The client commands against a real broker, in a pipe: what `-o json` writes can be read by programs, and what fails
//! says what to do.

use pointsman_tests::{Broker, cli, guests};
use serde_json::Value;

/// Runs a command whose results come one by one, as JSON Lines.
fn lines(broker: &Broker, args: &[&str]) -> Vec<Value> {
    let text = cli::run(broker, &[args, &["-o", "json"]].concat());
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The members of this name, of all objects of a list.
fn members<'a>(list: &'a Value, name: &str) -> Vec<&'a str> {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|item| item[name].as_str().expect("a text"))
        .collect()
}

#[test]
fn an_exchange_a_queue_and_a_binding_are_declared_listed_shown_and_deleted() {
    let broker = Broker::start();
    cli::json(&broker, &["exchange", "declare", "orders", "--kind", "topic"]);
    cli::json(&broker, &["queue", "declare", "eu"]);
    cli::json(&broker, &["bind", "orders", "eu", "--key", "order.#"]);

    assert_eq!(
        members(&cli::json(&broker, &["exchange", "list"]), "name"),
        ["orders"]
    );
    assert_eq!(members(&cli::json(&broker, &["queue", "list"]), "name"), ["eu"]);
    let bindings = cli::json(&broker, &["binding", "list"]);
    assert_eq!(members(&bindings, "key"), ["order.#"]);
    assert_eq!(
        cli::json(&broker, &["exchange", "show", "orders"])["kind"],
        "topic"
    );
    assert_eq!(cli::json(&broker, &["queue", "show", "eu"])["ready"], 0);
    assert_eq!(
        members(
            &cli::json(&broker, &["binding", "show", "orders", "eu"]),
            "destination"
        ),
        ["eu"]
    );

    cli::json(&broker, &["unbind", "orders", "eu", "--key", "order.#"]);
    cli::json(&broker, &["queue", "delete", "eu"]);
    cli::json(&broker, &["exchange", "delete", "orders"]);
    for kind in ["exchange", "queue", "binding"] {
        assert_eq!(
            cli::json(&broker, &[kind, "list"]),
            Value::Array(Vec::new()),
            "{kind}"
        );
    }
}

#[test]
fn what_is_published_is_confirmed_and_consumed_line_by_line() {
    let broker = Broker::start();
    cli::json(&broker, &["queue", "declare", "q"]);
    let published = lines(
        &broker,
        &[
            "publish",
            "",
            "hello",
            "--key",
            "q",
            "-H",
            "region=eu",
            "-H",
            "attempt=3",
        ],
    );
    assert_eq!(published[0]["outcome"], "routed");
    assert_eq!(published[0]["queues"], 1);
    let nowhere = cli::command(
        &broker,
        &["publish", "", "hello", "--key", "nowhere", "-o", "json"],
    )
    .output()
    .unwrap();
    assert!(String::from_utf8_lossy(&nowhere.stdout).contains("unroutable"));

    let consumed = lines(&broker, &["consume", "q", "--count", "1"]);
    assert_eq!(consumed[0]["body"], "hello");
    assert_eq!(consumed[0]["headers"]["region"], "eu");
    assert_eq!(consumed[0]["headers"]["attempt"], 3);
    assert_eq!(lines(&broker, &["consume", "q"]), Vec::<Value>::new());
}

#[test]
fn a_file_of_json_lines_is_published_by_a_field() {
    let broker = Broker::start();
    for queue in ["de", "fr"] {
        cli::json(&broker, &["queue", "declare", queue]);
    }
    let file = broker.work_dir().join("orders.jsonl");
    let orders: String = (0..100)
        .map(|n| format!("{{\"n\":{n},\"at\":{{\"land\":\"{}\"}}}}\n", ["de", "fr"][n % 2]))
        .collect();
    std::fs::write(&file, orders).unwrap();
    let published = lines(
        &broker,
        &[
            "publish",
            "",
            "--jsonl",
            file.to_str().unwrap(),
            "--key-field",
            "at.land",
        ],
    );
    assert_eq!(
        published
            .iter()
            .filter(|line| line["outcome"] == "routed")
            .count(),
        100
    );
    assert_eq!(lines(&broker, &["consume", "fr"]).len(), 50);
    assert_eq!(cli::json(&broker, &["queue", "show", "de"])["ready"], 50);
    cli::json(&broker, &["queue", "purge", "de"]);
    assert_eq!(cli::json(&broker, &["queue", "show", "de"])["ready"], 0);
}

#[test]
fn a_router_is_loaded_switched_shown_and_explained() {
    let broker = Broker::start();
    let module = broker.work_dir().join("content.wasm");
    std::fs::write(&module, guests::module("wasm-routers/content")).unwrap();
    let module = module.to_str().unwrap();
    let to = |target: &str| format!(r#"{{"rules":[],"default":"{target}"}}"#);
    cli::json(
        &broker,
        &[
            "router",
            "load",
            "orders",
            "--module",
            module,
            "--config-text",
            &to("a"),
            "--activate",
        ],
    );
    cli::json(
        &broker,
        &[
            "router",
            "load",
            "orders",
            "--from-latest",
            "--config-text",
            &to("b"),
        ],
    );
    cli::json(&broker, &["exchange", "declare", "orders", "--router", "orders"]);
    cli::json(&broker, &["queue", "declare", "a"]);
    cli::json(&broker, &["bind", "orders", "a", "--key", "a"]);

    assert_eq!(
        members(&cli::json(&broker, &["router", "list"]), "name"),
        ["orders"]
    );
    assert_eq!(cli::json(&broker, &["router", "show", "orders"])["active"], 1);
    let explained = cli::json(&broker, &["publish", "orders", "{}", "--explain"]);
    assert_eq!(explained["queues"][0], "a");
    cli::json(&broker, &["router", "activate", "orders@2"]);
    assert_eq!(cli::json(&broker, &["router", "show", "orders"])["active"], 2);
    cli::json(&broker, &["router", "rollback", "orders"]);
    assert_eq!(cli::json(&broker, &["router", "show", "orders"])["active"], 1);
    cli::json(&broker, &["router", "unload", "orders@2"]);
    assert!(cli::json(&broker, &["router", "logs", "orders"]).is_array());
}

#[test]
fn status_vhosts_and_contexts_are_json_on_request() {
    let broker = Broker::start();
    assert!(cli::json(&broker, &["status"])["uptime_ms"].is_u64());
    cli::json(&broker, &["vhost", "declare", "other"]);
    assert!(
        cli::json(&broker, &["vhost", "list"])
            .as_array()
            .is_some_and(|list| list.len() == 2)
    );
    let contexts = cli::json(&broker, &["context", "list"]);
    assert!(
        !contexts.to_string().contains(broker.password()),
        "a context shows no password"
    );
}

#[test]
fn an_error_names_what_is_missing_and_what_to_do() {
    let broker = Broker::start();
    let error = cli::fails(&broker, &["queue", "show", "gone"]);
    assert!(error.contains("gone"), "{error}");
    let error: Value =
        serde_json::from_str(&cli::fails(&broker, &["queue", "show", "gone", "-o", "json"])).unwrap();
    assert!(error.to_string().contains("NotFound"), "{error}");
    // A remote broker has another CA than any context here.
    let address = broker.address().to_string();
    let none = broker.work_dir().join("none.toml");
    let remote = [
        "--contexts-file",
        none.to_str().unwrap(),
        "--server",
        &address,
        "--user",
        "admin",
        "--password",
        "x",
    ];
    let output = std::process::Command::new(pointsman_tests::binary::pointsman())
        .args(remote)
        .arg("status")
        .output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.contains("--ca"), "{error}");
}

#[test]
fn the_shell_completions_name_the_commands() {
    let broker = Broker::start();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            cli::run(&broker, &["completions", shell]).contains("router"),
            "{shell}"
        );
    }
}
