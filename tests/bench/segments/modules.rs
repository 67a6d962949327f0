//! Routing by modules, one for each of the three interfaces, beside a topic exchange.
//!
//! Every exchange has 16 bindings and sends a message to exactly one queue.

use std::sync::Arc;

use pointsman_core::catalog::VersionSpec;
use pointsman_core::input::{Publish, Verdict};
use pointsman_core::topology::{Binding, Exchange, Router, Target, Topology, Vhost};
use pointsman_core::{ExchangeId, QueueId, RouterId, VhostId};
use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec};
use pointsman_protocol::{MessageMeta, Value};
use pointsman_router_host::{Host, Incoming, ModuleInfo, Routes};
use pointsman_tests::guests;

use crate::exchanges::{Route, host};
use crate::segment::{BODY, Limit, Segment, content, run};

/// Messages handed to [`Routes::route`] at once.
const BATCHES: [usize; 3] = [1, 16, 64];

/// Targets `t0` to `tf`; each is a binding key and the second and last character of it a hexadecimal digit.
const TARGETS: usize = 16;

/// Half of the messages to each of two targets, by routing key.
const WEIGHTS: &[u8] = br#"{ "weights": { "t0": 1, "tf": 1 } }"#;

/// The ways of deciding. The last is the typed module whose decisions are remembered; elsewhere none is.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Topic,
    Core,
    Packed,
    Typed,
    Remembered,
}

pub(crate) fn segments() -> Vec<Segment> {
    let ways = [
        (Way::Topic, "route topic, 16 bindings"),
        (Way::Core, "route by core module (.wat)"),
        (Way::Packed, "route by packed (router-weighted)"),
        (Way::Typed, "route by typed (router-typed-example)"),
        (Way::Remembered, "route by decision cache"),
    ];
    let segments = ways.into_iter().flat_map(|(way, name)| {
        BATCHES.map(|batch| {
            let name = format!("{name}, batch {batch}");
            let segment = Segment::new(name, batch, Limit::Copy(BODY), move || make(way, batch));
            if way == Way::Topic {
                segment
            } else {
                segment.by_module()
            }
        })
    });
    segments.collect()
}

fn make(way: Way, batch: usize) -> Route {
    let (host, folder) = host(if way == Way::Remembered { 1 << 20 } else { 0 });
    let routes = routes(way, host);
    check(&routes, way == Way::Packed);
    Route::of(routes, EXCHANGE, messages(batch), folder)
}

const EXCHANGE: &str = "measured";

/// Every message must be in the queue of its target or, when the exchange splits, in one of two.
///
/// # Panics
/// When one is elsewhere.
fn check(routes: &Routes, is_split: bool) {
    let entry = routes.find("/", EXCHANGE).expect("it is declared");
    let mut out = Vec::new();
    run(routes.route(entry, messages(TARGETS), &mut out));
    for (at, publish) in out.iter().enumerate() {
        let queue = only_queue(publish);
        let expected = if is_split {
            queue == 0 || queue == TARGETS as u32 - 1
        } else {
            queue == at as u32
        };
        assert!(expected, "message {at} is in queue {queue}");
    }
    assert_eq!(out.len(), TARGETS);
}

fn only_queue(publish: &Publish) -> u32 {
    assert_eq!(publish.verdict, Verdict::Deliver);
    let queues: Vec<u32> = publish
        .copies
        .iter()
        .flat_map(|copy| copy.queues.iter().map(|queue| queue.0))
        .collect();
    assert_eq!(queues.len(), 1, "one queue, not {queues:?}");
    queues[0]
}

/// Messages for one target after the other, by routing key and by header.
fn messages(count: usize) -> Vec<Incoming> {
    (0..count).map(message).collect()
}

fn message(at: usize) -> Incoming {
    let kind = target_name(at % TARGETS);
    let meta = MessageMeta {
        routing_key: &format!("{kind}.orders.eu.new"),
        persistent: true,
        headers: vec![("kind", Value::Str(&kind))],
        ..Default::default()
    };
    let (content, meta_len) = content(&meta, BODY);
    Incoming {
        sequence: at as u64 + 1,
        content,
        meta_len,
    }
}

fn target_name(target: usize) -> String {
    format!("t{target:x}")
}

/// One exchange, and its router if it has one.
fn routes(way: Way, host: Arc<Host>) -> Arc<Routes> {
    let mut topology = Topology::default();
    let module = match way {
        Way::Topic => None,
        Way::Core => Some((guests::wat(CORE), &b""[..])),
        Way::Packed => Some((guests::module("wasm-routers/weighted"), WEIGHTS)),
        Way::Typed | Way::Remembered => Some((guests::module("wasm-routers/typed-example"), &b""[..])),
    };
    let router = module.map(|(module, config)| {
        let info = host.load(&module).expect("the module is a router");
        let router = router(&info, config);
        let id = router.id;
        topology.routers.insert(id, Arc::new(router));
        id
    });
    declare(&mut topology, router);
    Routes::new(host, Arc::new(topology))
}

fn declare(topology: &mut Topology, router: Option<RouterId>) {
    let id = ExchangeId(1);
    let mut vhost = Vhost::default();
    vhost.exchanges.insert(EXCHANGE.to_owned(), id);
    topology.vhosts.insert("/".into(), Arc::new(vhost));
    let binding = |target: usize| Binding {
        key: match router {
            Some(_) => target_name(target),
            None => format!("{}.orders.*.new", target_name(target)),
        },
        target: Target::Queue(QueueId(target as u32)),
        arguments: Vec::new(),
    };
    let exchange = Exchange {
        id,
        vhost: VhostId(0),
        spec: match router {
            Some(_) => ExchangeSpec::router(EXCHANGE, "module"),
            None => ExchangeSpec::new(EXCHANGE, ExchangeKind::Topic),
        },
        alternate: None,
        router,
        quarantine: None,
        bindings: (0..TARGETS).map(|target| (binding(target), ())).collect(),
    };
    topology.exchanges.insert(id, Arc::new(exchange));
}

fn router(info: &ModuleInfo, config: &[u8]) -> Router {
    let version = VersionSpec {
        digest: info.digest,
        size: info.size,
        interface: info.interface,
        config: config.to_vec(),
        loaded_at: 0,
    };
    Router {
        id: RouterId(1),
        vhost: VhostId(0),
        name: "module".to_owned(),
        active: Some(1),
        previous: None,
        next_version: 2,
        versions: [(1_u32, Arc::new(version))].into_iter().collect(),
    }
}

/// A module without an allocator or a library: the target's number is the hexadecimal digit that is the second
/// character of the routing key. Its plan is at 16, the batch at 4096, decisions from 65536 on.
const CORE: &str = r#"(module
    (memory (export "memory") 2)
    (data (i32.const 16) "\00" "\01\00" "\00\00" "\01\00\00\00" "\00\00\00\00" "\00\00")
    (func (export "alloc") (param i32) (result i32) (i32.const 4096))
    (func (export "configure") (param i32 i32 i32 i32) (result i64)
        (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 15)))
    (func (export "route") (param $batch i32) (param i32) (result i64)
        (local $at i32) (local $count i32) (local $out i32) (local $digit i32)
        (local.set $count (i32.load offset=4 (local.get $batch)))
        (i32.store (i32.const 65536) (i32.const 1))
        (i32.store (i32.const 65540) (local.get $count))
        (local.set $out (i32.const 65544))
        (block $done (loop $next
            (br_if $done (i32.ge_u (local.get $at) (local.get $count)))
            (local.set $digit (i32.load8_u offset=1 (i32.add (local.get $batch)
                (i32.load offset=8 (i32.add (local.get $batch) (i32.mul (local.get $at) (i32.const 8)))))))
            (i32.store8 (local.get $out) (i32.const 1))
            (i32.store offset=1 (local.get $out) (i32.add
                (i32.and (local.get $digit) (i32.const 15))
                (i32.mul (i32.shr_u (local.get $digit) (i32.const 6)) (i32.const 9))))
            (local.set $out (i32.add (local.get $out) (i32.const 5)))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next)))
        (i64.or (i64.shl (i64.const 65536) (i64.const 32))
            (i64.extend_i32_u (i32.sub (local.get $out) (i32.const 65536))))))"#;
