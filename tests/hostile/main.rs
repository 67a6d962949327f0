//! Modules that loop, trap, lie and grow: each ends in an error that names what it did, or with its messages in
//! quarantine, and nothing else notices.

mod broker;
mod guests;

use broker::{Broker, CALM, GOOD, QUARANTINE, ROUTER, limits, message, publish, queues};
use guests::{HONEST, Parts, lies_about_its_plan, loops_on_poison, module, traps_on_poison};
use pointsman_core::input::{Publish, Verdict};
use pointsman_protocol::{MessageMeta, Value};
use pointsman_router_host::{Incoming, ModuleError};

/// What a module's failure is called.
fn failure(result: Result<(), ModuleError>) -> String {
    match result {
        Err(ModuleError::Failed(reason)) => reason,
        other => panic!("expected a failure of the module, got {other:?}"),
    }
}

/// Why a message is in quarantine; it must be in the quarantine queue and nowhere else.
fn quarantined(publish: &Publish) -> &str {
    assert_eq!(queues(publish), [QUARANTINE]);
    match &publish.verdict {
        Verdict::Quarantine(reason) => reason,
        other => panic!("expected quarantine, got {other:?}"),
    }
}

async fn reason_for_one(module: &str) -> String {
    let broker = Broker::new();
    let routes = broker.routes(module);
    let routed = publish(&routes, "in", &["a"]).await;
    let calm = publish(&routes, "calm", &["a"]).await;
    assert_eq!(queues(&calm[0]), [CALM], "another exchange routes on");
    quarantined(&routed[0]).to_owned()
}

#[tokio::test]
async fn an_honest_module_routes_a_batch_of_any_length() {
    let broker = Broker::new();
    let routes = broker.routes(&module(&HONEST));
    for length in [1, 64, 65, 200] {
        let routed = publish(&routes, "in", &vec!["a"; length]).await;
        assert!(
            routed
                .iter()
                .all(|publish| queues(publish) == [GOOD] && publish.verdict == Verdict::Deliver)
        );
        assert!(
            routed
                .iter()
                .all(|publish| publish.copies[0].decided_by.unwrap().version == 1)
        );
    }
    assert_eq!(broker.host.counters(ROUTER).routed, 330);
}

#[tokio::test]
async fn an_endless_loop_in_route_ends_in_quarantine() {
    let reason = reason_for_one(&module(&Parts {
        route: "(loop $l (br $l))",
        ..HONEST
    }))
    .await;
    assert!(
        reason.contains("hostile@1") && reason.contains("longer than 5 ms"),
        "{reason}"
    );
}

#[tokio::test]
async fn an_endless_loop_lets_other_work_run_on_the_same_thread() {
    let broker = Broker::new();
    let routes = broker.routes(&module(&Parts {
        route: "(loop $l (br $l))",
        ..HONEST
    }));
    let ended = std::cell::Cell::new(false);
    let looping = async {
        publish(&routes, "in", &["a"; 8]).await;
        ended.set(true);
    };
    let calm = async {
        let routed = publish(&routes, "calm", &["a"; 64]).await;
        assert!(routed.iter().all(|publish| queues(publish) == [CALM]));
        assert!(!ended.get(), "the other exchange had to wait for the loop to end");
    };
    tokio::join!(looping, calm);
}

#[test]
fn an_endless_loop_in_configure_is_refused_when_the_module_is_loaded() {
    let looping = module(&Parts {
        configure: "(loop $l (br $l))",
        ..HONEST
    });
    assert!(failure(Broker::new().load(&looping)).contains("longer than 5 ms"));
}

#[tokio::test]
async fn a_memory_bomb_is_told_how_much_it_may_have() {
    let bomb = "(loop $l (drop (memory.grow (i32.const 16))) (br $l))";
    let reason = reason_for_one(&module(&Parts {
        route: bomb,
        ..HONEST
    }))
    .await;
    assert!(reason.contains("more than 8 MiB of memory"), "{reason}");
}

#[tokio::test]
async fn a_deep_recursion_traps() {
    let head = "(func $deeper (param i32) (result i32)
        (i32.add (i32.const 1) (call $deeper (i32.add (i32.const 1) (local.get 0)))))";
    let parts = module(&Parts {
        route: "(drop (call $deeper (i32.const 0)))",
        ..HONEST
    });
    let text = parts.replacen(
        "(func (export \"alloc\")",
        &format!("{head} (func (export \"alloc\")"),
        1,
    );
    let reason = reason_for_one(&text).await;
    assert!(reason.contains("call stack exhausted"), "{reason}");
}

#[tokio::test]
async fn a_module_that_traps_on_every_seventh_message_loses_none() {
    let counting = module(&Parts {
        head: "(global $seen (mut i32) (i32.const 0))",
        message: "(global.set $seen (i32.add (global.get $seen) (i32.const 1)))
            (if (i32.eqz (i32.rem_u (global.get $seen) (i32.const 7))) (then unreachable))",
        ..HONEST
    });
    let broker = Broker::new();
    let routes = broker.routes(&counting);
    let routed = publish(&routes, "in", &["a"; 100]).await;
    assert!(
        routed
            .iter()
            .all(|publish| queues(publish) == [GOOD] && publish.verdict == Verdict::Deliver)
    );
    assert!(broker.host.counters(ROUTER).failures > 0);
}

#[tokio::test]
async fn only_the_poison_messages_of_a_batch_go_to_quarantine() {
    for hostile in [traps_on_poison(), loops_on_poison()] {
        let broker = Broker::new();
        let routes = broker.routes(&hostile);
        let mut keys = ["a"; 130];
        for poison in [0, 40, 41, 129] {
            keys[poison] = "poison";
        }
        let routed = publish(&routes, "in", &keys).await;
        for (publish, key) in routed.iter().zip(keys) {
            match key {
                "poison" => assert!(!quarantined(publish).is_empty()),
                _ => assert_eq!(
                    (queues(publish), &publish.verdict),
                    (vec![GOOD], &Verdict::Deliver)
                ),
            }
        }
    }
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_refused_alone_and_the_module_never_sees_it() {
    let broker = Broker::new();
    let routes = broker.routes(&module(&HONEST));
    let mut batch: Vec<Incoming> = (1..=3).map(|sequence| message(sequence, "a")).collect();
    batch[1].meta_len = 1;
    let mut out = Vec::new();
    let entry = routes.find("/", "in").unwrap();
    routes.route(entry, batch, &mut out).await;
    assert!(
        matches!(out[1].verdict, Verdict::Refuse(_)),
        "{:?}",
        out[1].verdict
    );
    let queues: Vec<_> = out.iter().map(queues).collect();
    assert_eq!(queues, [vec![GOOD], vec![], vec![GOOD]]);
    assert_eq!(broker.host.counters(ROUTER).routed, 2);
}

#[tokio::test]
async fn a_message_in_quarantine_says_who_failed_and_how() {
    let broker = Broker::new();
    let routes = broker.routes(&traps_on_poison());
    let routed = publish(&routes, "in", &["poison"]).await;
    let copy = &routed[0].copies[0];
    let (meta, body) = copy.content.split_at(copy.meta_len as usize);
    let meta = MessageMeta::decode(meta).unwrap();
    assert_eq!(
        meta.header("x-pointsman-failed-router"),
        Some(&Value::Str("hostile@1"))
    );
    assert_eq!(meta.header("x-pointsman-exchange"), Some(&Value::Str("in")));
    let Some(Value::Str(reason)) = meta.header("x-pointsman-failure") else {
        panic!("no reason in {meta:?}")
    };
    assert!(reason.contains("unreachable"), "{reason}");
    assert_eq!(
        (meta.routing_key, meta.persistent, body),
        ("poison", true, &b"body"[..])
    );
    let events = broker.host.logs(ROUTER, 10);
    assert!(
        events
            .iter()
            .any(|event| event.version == 1 && event.text.contains("unreachable")),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_wrong_number_of_decisions_is_a_failure() {
    let reason = reason_for_one(&module(&Parts {
        miscount: 1,
        ..HONEST
    }))
    .await;
    assert!(reason.contains("2 decisions answer a batch of 1"), "{reason}");
}

#[tokio::test]
async fn a_target_that_nobody_bound_is_a_failure() {
    let reason = reason_for_one(&module(&Parts { target: 7, ..HONEST })).await;
    assert!(reason.contains("target 7 does not exist"), "{reason}");
}

#[tokio::test]
async fn an_answer_over_its_limit_or_outside_of_memory_is_a_failure() {
    let long = "(return (i64.const 2097152))";
    let reason = reason_for_one(&module(&Parts {
        route: long,
        ..HONEST
    }))
    .await;
    assert!(reason.contains("over the limit of 1048576"), "{reason}");
    let outside = "(return (i64.const -4294967288))";
    let reason = reason_for_one(&module(&Parts {
        route: outside,
        ..HONEST
    }))
    .await;
    assert!(reason.contains("outside of its memory"), "{reason}");
}

#[tokio::test]
async fn a_module_that_keeps_failing_is_left_alone_and_its_messages_are_kept() {
    let broker = Broker::new();
    let routes = broker.routes(&module(&Parts {
        route: "unreachable",
        ..HONEST
    }));
    let routed = publish(&routes, "in", &["a"; 200]).await;
    assert!(quarantined(&routed[199]).contains("left alone"));
    for publish in &routed {
        quarantined(publish);
    }
    assert_eq!(broker.host.counters(ROUTER).failures, 16);
}

#[tokio::test]
async fn a_module_that_lies_about_its_plan_is_found_out_and_asked_about_every_message_from_then_on() {
    let broker = Broker::new();
    let routes = broker.routes(&lies_about_its_plan());
    let mut remembered = 0;
    while broker.host.counters(ROUTER).cache_off.is_none() {
        publish(&routes, "in", &["a"]).await;
        let counters = broker.host.counters(ROUTER);
        assert_eq!(
            counters.routed.min(3),
            counters.routed,
            "it is asked seldom: {counters:?}"
        );
        remembered = counters.cached;
    }
    assert!(remembered > 0);
    let events = broker.host.logs(ROUTER, 10);
    assert!(
        events
            .iter()
            .any(|event| event.version == 1 && event.text.contains("cacheable")),
        "{events:?}"
    );
    // Also after its exchange was changed.
    for routes in [routes, broker.routes(&lies_about_its_plan())] {
        let before = broker.host.counters(ROUTER);
        publish(&routes, "in", &["a"; 100]).await;
        let after = broker.host.counters(ROUTER);
        assert_eq!((after.cached, after.routed), (before.cached, before.routed + 100));
    }
}

#[tokio::test]
async fn an_honest_module_is_seldom_asked_about_what_it_decided_before() {
    let broker = Broker::new();
    let routes = broker.routes(&module(&Parts {
        cacheable: true,
        ..HONEST
    }));
    for _ in 0..10 {
        let routed = publish(&routes, "in", &["a"; 100]).await;
        assert!(routed.iter().all(|publish| queues(publish) == [GOOD]));
        assert!(
            routed
                .iter()
                .all(|publish| publish.copies[0].decided_by.unwrap().version == 1)
        );
    }
    let counters = broker.host.counters(ROUTER);
    assert_eq!(
        (counters.routed + counters.cached, counters.cache_off),
        (1000, None)
    );
    assert!(counters.cached >= 890, "{counters:?}");
}

#[test]
fn an_import_that_is_not_granted_is_named() {
    let curious = module(&Parts {
        head: r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))"#,
        ..HONEST
    });
    let error = Broker::new().load(&curious).unwrap_err();
    assert_eq!(
        error,
        ModuleError::Imports(vec!["wasi_snapshot_preview1.random_get".into()])
    );
}

#[test]
fn a_component_that_imports_wasi_is_refused_by_name() {
    let component = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let error = Broker::new().load(component).unwrap_err();
    assert_eq!(
        error,
        ModuleError::Imports(vec!["wasi:cli/environment@0.2.0".into()])
    );
}

#[test]
fn a_module_without_the_exports_of_a_router_is_told_which_are_missing() {
    let error = Broker::new()
        .load(r#"(module (memory (export "memory") 1))"#)
        .unwrap_err();
    let ModuleError::Invalid(reason) = error else {
        panic!("got {error:?}")
    };
    assert!(
        reason.contains("alloc") && reason.contains("route") && !reason.contains("memory"),
        "{reason}"
    );
}

#[test]
fn garbage_and_files_over_the_size_limit_are_refused() {
    let broker = Broker::new();
    for garbage in [
        &b"\0asm\x01\0\0\0\xff\xff\xff"[..],
        b"\x7fELF",
        b"",
        b"(module",
        &[0xff; 1000],
    ] {
        let error = broker.host.load(garbage).unwrap_err();
        assert!(matches!(error, ModuleError::Invalid(_)), "{garbage:?}: {error:?}");
    }
    let size = limits().module_size + 1;
    let error = broker.host.load(&vec![0; size]).unwrap_err();
    assert!(matches!(error, ModuleError::TooLarge { size: got, .. } if got == size as u64));
}

#[test]
fn a_module_that_wants_more_memory_than_the_limit_from_the_start_does_not_start() {
    let big = module(&HONEST).replacen(
        "(memory (export \"memory\") 2)",
        "(memory (export \"memory\") 1000)",
        1,
    );
    let error = Broker::new().load(&big).unwrap_err();
    let ModuleError::DoesNotFit(reason) = error else {
        panic!("got {error:?}")
    };
    assert!(reason.contains("65536000"), "{reason}");
}

#[test]
fn a_compiled_module_that_was_changed_on_disk_is_compiled_again() {
    let broker = Broker::new();
    let text = module(&HONEST);
    broker.load(&text).unwrap();
    let file = std::fs::read_dir(broker.folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read(&file).unwrap();
    for at in [0, 40, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, &bad).unwrap();
        let again = Broker::in_folder(tempfile::tempdir_in(broker.folder.path()).unwrap());
        let copied = again.folder.path().join(file.file_name().unwrap());
        std::fs::copy(&file, &copied).unwrap();
        again.load(&text).unwrap();
        assert_ne!(
            std::fs::read(&copied).unwrap(),
            bad,
            "byte {at} was changed and nobody noticed"
        );
    }
}
