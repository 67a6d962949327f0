//! What is declared and deleted.

use std::time::Duration;

use pointsman_protocol::admin::{BindingSpec, ExchangeKind, ExchangeSpec, Interface, QueueSpec};

use super::*;
use crate::catalog::{Definition, DefinitionKey, Digest, VersionSpec};

fn declare(bench: &mut Bench, spec: ExchangeSpec) -> Result<Reply, ErrorBody> {
    bench.request(Request::DeclareExchange(spec))
}

fn declare_queue(bench: &mut Bench, spec: QueueSpec) {
    bench.request(Request::DeclareQueue(spec)).unwrap();
}

fn load(bench: &mut Bench, name: &str, module: u8, activate: bool) -> Commit {
    let spec = VersionSpec {
        digest: Digest([module; 32]),
        size: 1,
        interface: Interface::Packed,
        config: Vec::new(),
        loaded_at: NOW,
    };
    bench.turn([Input::RouterLoaded {
        connection: ConnectionId(1),
        id: 0,
        name: name.to_owned(),
        spec,
        module: Some(Bytes::from_static(b"m")),
        activate,
    }])
}

fn active(bench: &Bench, name: &str) -> (Option<u32>, Option<u32>) {
    let topology = bench.broker.topology();
    let router = &topology.routers[&topology.vhosts["/"].routers[name]];
    (router.active, router.previous)
}

fn exists(bench: &Bench, exchange: &str) -> bool {
    bench.broker.topology().vhosts["/"]
        .exchanges
        .contains_key(exchange)
}

#[test]
fn declaring_again_as_it_is_is_fine_and_otherwise_names_the_difference() {
    let mut bench = Bench::new();
    declare(&mut bench, ExchangeSpec::topic("e")).unwrap();
    assert_eq!(declare(&mut bench, ExchangeSpec::topic("e")), Ok(Reply::Done));
    let error = declare(&mut bench, ExchangeSpec::fanout("e")).unwrap_err();
    assert_eq!(error.code, ErrorCode::PreconditionFailed);
    assert_eq!(
        error.message,
        "exchange 'e' exists with kind \"topic\", but \"fanout\" was declared"
    );
    declare_queue(&mut bench, QueueSpec::new("q"));
    let error = bench.refusal(Request::DeclareQueue(QueueSpec::new("q").transient()));
    assert_eq!(
        error.message,
        "queue 'q' exists with durable true, but false was declared"
    );
}

#[test]
fn the_topology_comes_before_the_reply_that_made_it() {
    let mut bench = Bench::new();
    let (reply, commit) = bench.request_of(1, Request::DeclareExchange(ExchangeSpec::topic("e")));
    assert_eq!(reply, Ok(Reply::Done));
    assert!(matches!(
        &commit.effects[..],
        [Effect::Topology(_), Effect::Reply { .. }]
    ));
    assert_eq!(commit.sync, Some(Duration::ZERO));
}

#[test]
fn a_queue_without_a_name_gets_one_of_its_own() {
    let mut bench = Bench::new();
    let mut name = || match bench.request(Request::DeclareQueue(QueueSpec::new(""))) {
        Ok(Reply::Queues(queues)) => queues[0].spec.name.clone(),
        other => panic!("{other:?}"),
    };
    let (first, second) = (name(), name());
    assert!(first.starts_with("q.") && first != second);
}

#[test]
fn an_exclusive_queue_is_its_connections_and_goes_with_it() {
    let mut bench = Bench::new();
    bench.connect(2);
    let (reply, commit) = bench.request_of(2, Request::DeclareQueue(QueueSpec::new("mine").exclusive()));
    reply.unwrap();
    let on_disk = |record: &Record| match record {
        Record::Define { key, .. } => matches!(**key, DefinitionKey::Queue(_)),
        _ => false,
    };
    assert!(!commit.records.iter().any(on_disk));
    for request in [
        Request::DeclareQueue(QueueSpec::new("mine").exclusive()),
        Request::PurgeQueue("mine".into()),
        Request::DeleteQueue {
            name: "mine".into(),
            if_unused: false,
            if_empty: false,
        },
    ] {
        assert_eq!(bench.refusal(request).code, ErrorCode::ResourceLocked);
    }
    bench.turn([Input::Disconnected {
        connection: ConnectionId(2),
    }]);
    assert!(bench.broker.topology().queues.is_empty());
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut bench = Bench::new();
    declare_queue(&mut bench, QueueSpec::new("q").auto_delete());
    bench.open_consumer(1, "q");
    bench.open_consumer(2, "q");
    bench.turn([Input::CloseConsumer {
        consumer: ConsumerId(1),
    }]);
    assert_eq!(bench.broker.totals().queues, 1);
    bench.turn([Input::CloseConsumer {
        consumer: ConsumerId(2),
    }]);
    assert_eq!(bench.broker.totals().queues, 0);
}

#[test]
fn deleting_a_queue_closes_its_consumers_drops_its_bindings_and_releases_its_messages() {
    let mut bench = Bench::new();
    declare_queue(&mut bench, QueueSpec::new("q"));
    declare(&mut bench, ExchangeSpec::fanout("e")).unwrap();
    declare(&mut bench, ExchangeSpec::fanout("auto").auto_delete()).unwrap();
    bench
        .request(Request::Bind(BindingSpec::to_queue("e", "q", "")))
        .unwrap();
    bench
        .request(Request::Bind(BindingSpec::to_queue("auto", "q", "")))
        .unwrap();
    bench.open_publisher(1, 1);
    let queue = bench.queue_id("q");
    bench.turn([publish(
        1,
        vec![message(1, "a", &[queue]), message(2, "b", &[queue])],
    )]);
    bench.open_consumer(1, "q");
    bench.grant(1, 1);
    let delete = |if_unused, if_empty| Request::DeleteQueue {
        name: "q".into(),
        if_unused,
        if_empty,
    };
    assert_eq!(bench.refusal(delete(true, false)).code, ErrorCode::InUse);
    assert_eq!(bench.refusal(delete(false, true)).code, ErrorCode::InUse);
    let (reply, commit) = bench.request_of(1, delete(false, false));
    assert_eq!(reply, Ok(Reply::Purged(2)));
    assert_eq!(consumer_closed(&commit), Some(ErrorCode::NotFound));
    let release = Record::Release {
        lane: Lane::Queues,
        base: Offset(0),
        record: 0,
        count: 2,
    };
    assert!(commit.records.contains(&release));
    assert!(commit.records.contains(&Record::QueueGone { queue }));
    assert_eq!(bench.broker.totals().bindings, 0);
    assert!(exists(&bench, "e") && !exists(&bench, "auto"));
}

#[test]
fn binding_twice_is_one_binding_and_unbinding_twice_is_no_error() {
    let mut bench = Bench::new();
    declare_queue(&mut bench, QueueSpec::new("q"));
    declare(&mut bench, ExchangeSpec::direct("e")).unwrap();
    let binding = BindingSpec::to_queue("e", "q", "k")
        .argument("b", 1)
        .argument("a", 2);
    for _ in 0..2 {
        bench.request(Request::Bind(binding.clone())).unwrap();
        assert_eq!(
            bench.request(Request::ListBindings),
            Ok(Reply::Bindings(vec![binding.clone()]))
        );
    }
    for _ in 0..2 {
        bench.request(Request::Unbind(binding.clone())).unwrap();
        assert_eq!(bench.broker.totals().bindings, 0);
    }
}

#[test]
fn a_consistent_hash_binding_key_is_a_positive_weight() {
    let mut bench = Bench::new();
    declare_queue(&mut bench, QueueSpec::new("q"));
    declare(&mut bench, ExchangeSpec::consistent_hash("e")).unwrap();
    for key in ["", "0", "-1", "x", "10001"] {
        let error = bench.refusal(Request::Bind(BindingSpec::to_queue("e", "q", key)));
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{key:?}");
    }
    bench
        .request(Request::Bind(BindingSpec::to_queue("e", "q", "10000")))
        .unwrap();
}

#[test]
fn a_headers_binding_matches_in_a_way_that_is_known() {
    let mut bench = Bench::new();
    declare_queue(&mut bench, QueueSpec::new("q"));
    declare(&mut bench, ExchangeSpec::headers("e")).unwrap();
    let matching = |how: &str| Request::Bind(BindingSpec::to_queue("e", "q", "").argument("x-match", how));
    let error = bench.refusal(matching("some"));
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.hint.contains("any-with-x"), "{error}");
    bench.request(matching("any")).unwrap();
}

#[test]
fn an_alternate_exchange_must_exist_and_is_found_again_when_it_comes_back() {
    let mut bench = Bench::new();
    let spec = ExchangeSpec::direct("e").alternate("fallback");
    assert_eq!(
        declare(&mut bench, spec.clone()).unwrap_err().code,
        ErrorCode::NotFound
    );
    declare(&mut bench, ExchangeSpec::fanout("fallback")).unwrap();
    declare(&mut bench, spec).unwrap();
    let alternate = |bench: &Bench| {
        let topology = bench.broker.topology();
        topology.exchanges[&topology.vhosts["/"].exchanges["e"]].alternate
    };
    let first = alternate(&bench);
    assert!(first.is_some());
    bench
        .request(Request::DeleteExchange {
            name: "fallback".into(),
            if_unused: false,
        })
        .unwrap();
    assert_eq!(alternate(&bench), None);
    declare(&mut bench, ExchangeSpec::fanout("fallback")).unwrap();
    assert!(alternate(&bench).is_some() && alternate(&bench) != first);
}

#[test]
fn a_router_exchange_has_a_quarantine_queue_that_stays_while_it_holds_messages() {
    let mut bench = Bench::new();
    assert_eq!(
        declare(&mut bench, ExchangeSpec::router("e", "r"))
            .unwrap_err()
            .code,
        ErrorCode::NotFound
    );
    load(&mut bench, "r", 1, false);
    declare(&mut bench, ExchangeSpec::router("e", "r")).unwrap();
    let name = "pointsman.quarantine.e";
    let queue = bench.queue_id(name);
    let delete = Request::DeleteQueue {
        name: name.into(),
        if_unused: false,
        if_empty: false,
    };
    assert_eq!(bench.refusal(delete).code, ErrorCode::InUse);
    bench.open_publisher(1, 1);
    bench.turn([publish(1, vec![message(1, "poison", &[queue])])]);
    let delete_exchange = Request::DeleteExchange {
        name: "e".into(),
        if_unused: false,
    };
    bench.request(delete_exchange.clone()).unwrap();
    assert_eq!(bench.queue_id(name), queue);
    declare(&mut bench, ExchangeSpec::router("e", "r")).unwrap();
    assert_eq!(bench.queue_id(name), queue, "it is used again");
    bench.request(Request::PurgeQueue(name.into())).unwrap();
    bench.request(delete_exchange).unwrap();
    assert!(bench.broker.topology().queues.is_empty());
}

#[test]
fn the_first_version_is_active_at_once_and_rollback_swaps() {
    let mut bench = Bench::new();
    load(&mut bench, "r", 1, false);
    assert_eq!(active(&bench, "r"), (Some(1), None));
    assert_eq!(
        bench.refusal(Request::RouterRollback("r".into())).code,
        ErrorCode::PreconditionFailed
    );
    load(&mut bench, "r", 2, false);
    assert_eq!(active(&bench, "r"), (Some(1), None));
    load(&mut bench, "r", 3, true);
    assert_eq!(active(&bench, "r"), (Some(3), Some(1)));
    bench.request(Request::RouterRollback("r".into())).unwrap();
    assert_eq!(active(&bench, "r"), (Some(1), Some(3)));
    bench.request(Request::RouterRollback("r".into())).unwrap();
    assert_eq!(active(&bench, "r"), (Some(3), Some(1)));
}

#[test]
fn a_module_goes_with_the_last_version_that_uses_it() {
    let mut bench = Bench::new();
    for module in [1, 2, 2, 3] {
        load(&mut bench, "r", module, true);
    }
    let unload = |version| Request::RouterUnload {
        name: "r".into(),
        version,
    };
    let gone = |commit: &Commit, module: u8| {
        let record = Record::Module {
            digest: Digest([module; 32]),
            bytes: None,
        };
        commit.records.contains(&record)
    };
    assert_eq!(bench.refusal(unload(Some(4))).code, ErrorCode::InUse);
    assert_eq!(bench.refusal(unload(Some(9))).code, ErrorCode::NotFound);
    assert!(!gone(&bench.request_of(1, unload(Some(2))).1, 2));
    assert!(gone(&bench.request_of(1, unload(Some(3))).1, 2));
    declare(&mut bench, ExchangeSpec::router("e", "r")).unwrap();
    assert_eq!(bench.refusal(unload(None)).code, ErrorCode::InUse);
    bench
        .request(Request::DeleteExchange {
            name: "e".into(),
            if_unused: false,
        })
        .unwrap();
    let (reply, commit) = bench.request_of(1, unload(None));
    assert_eq!(reply, Ok(Reply::Done));
    assert!(gone(&commit, 1) && gone(&commit, 3));
}

#[test]
fn a_vhost_is_deleted_only_when_it_is_empty_and_not_the_default() {
    let mut bench = Bench::new();
    bench.request(Request::DeclareVhost("other".into())).unwrap();
    bench.turn([Input::Connected {
        connection: ConnectionId(2),
        vhost: "other".into(),
    }]);
    bench
        .request_of(2, Request::DeclareQueue(QueueSpec::new("q")))
        .0
        .unwrap();
    let delete = Request::DeleteVhost("other".into());
    assert_eq!(bench.refusal(delete.clone()).code, ErrorCode::InUse);
    let delete_queue = Request::DeleteQueue {
        name: "q".into(),
        if_unused: false,
        if_empty: false,
    };
    bench.request_of(2, delete_queue).0.unwrap();
    bench.request(delete).unwrap();
    let (reply, _) = bench.request_of(2, Request::ListQueues(None));
    assert_eq!(reply.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(
        bench.refusal(Request::DeleteVhost("/".into())).code,
        ErrorCode::InvalidArgument
    );
}

#[test]
fn definitions_are_restored_in_whatever_order_they_come_and_a_gap_is_named() {
    let mut bench = Bench::new();
    let mut records = Vec::new();
    let mut fresh = Commit::default();
    let mut broker = Broker::new();
    broker.bootstrap(&mut fresh);
    broker.finish(NOW, &mut fresh);
    records.extend(fresh.records);
    records.extend(load(&mut bench, "r", 1, true).records);
    for request in [
        Request::DeclareQueue(QueueSpec::new("q")),
        Request::DeclareExchange(ExchangeSpec::new("e", ExchangeKind::Topic)),
        Request::DeclareExchange(ExchangeSpec::router("x", "r").alternate("e")),
        Request::Bind(BindingSpec::to_queue("x", "q", "target")),
    ] {
        records.extend(bench.request_of(1, request).1.records);
    }
    let mut definitions = std::collections::BTreeMap::<DefinitionKey, Definition>::new();
    for record in records {
        if let Record::Define {
            key,
            definition: Some(definition),
        } = record
        {
            definitions.insert(*key, *definition);
        }
    }
    let restored = |definitions: Vec<_>| {
        Broker::restore(Restored {
            definitions,
            ..Restored::default()
        })
    };
    let all: Vec<_> = definitions.into_iter().collect();
    let backwards = all.iter().rev().cloned().collect();
    let broker = restored(backwards).unwrap();
    assert_eq!(
        format!("{:?}", broker.topology()),
        format!("{:?}", bench.broker.topology())
    );
    let without = |drop: fn(&DefinitionKey) -> bool| {
        let kept = all.iter().filter(|(key, _)| !drop(key)).cloned().collect();
        restored(kept).unwrap_err().to_string()
    };
    assert_eq!(
        without(|key| matches!(key, DefinitionKey::Router(_))),
        "the definition of version 1 of router number 0 names router number 0, which is not there"
    );
    assert_eq!(
        without(|key| matches!(key, DefinitionKey::RouterVersion(..))),
        "the definition of router number 0 names version 1, which is not there"
    );
    assert!(without(|key| matches!(key, DefinitionKey::Ids)).ends_with("a number that was never given"));
}
