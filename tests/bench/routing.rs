//! What deciding costs: a topic exchange in plain Rust beside modules of each of the three interfaces.
//!
//! Only [`Routes::route`] is timed, on one thread: from the bytes of a publish frame to the queues it goes to. No
//! network, no core, no store. Every exchange has 16 bindings and sends a message to exactly one queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pointsman_core::catalog::VersionSpec;
use pointsman_core::input::{Publish, Verdict};
use pointsman_core::topology::{Binding, Exchange, Router, Target, Topology, Vhost};
use pointsman_core::{ExchangeId, QueueId, RouterId, VhostId};
use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec};
use pointsman_protocol::{MessageMeta, Value};
use pointsman_router_host::{CompileMode, Host, HostOptions, Incoming, ModuleInfo, ModuleLimits, Routes};
use pointsman_tests::guests;

use crate::report::{Figure, Row};

/// Messages handed to [`Routes::route`] at once.
const BATCHES: [usize; 3] = [1, 16, 64];

/// How long each figure is measured for.
const MEASURED: Duration = Duration::from_millis(1_000);

/// Messages that are made ready before the clock runs.
const READY: usize = 1 << 14;

/// Targets `t0` to `tf`; each is a binding key and the second and last character of it a hexadecimal digit.
const TARGETS: usize = 16;

/// Half of the messages to each of two targets, by routing key.
const WEIGHTS: &[u8] = br#"{ "weights": { "t0": 1, "tf": 1 } }"#;

/// Measures every way of deciding at every length of a batch, the topic exchange first.
///
/// # Panics
/// When a module does not build, or sends a message elsewhere than it should.
pub(crate) fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let host = Host::new(HostOptions {
        cache_dir: folder.path().into(),
        mac_key: [7; 32],
        compile: CompileMode::InProcess,
        limits: ModuleLimits::default(),
    });
    let routes = routes(host.expect("the sandbox can be set up"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be made");
    let mut rows = Vec::new();
    for (name, exchange, is_split) in [
        ("topic, 16 bindings", "topic", false),
        ("core module (.wat)", "core", false),
        ("packed (router-weighted)", "packed", true),
        ("typed (router-typed-example)", "typed", false),
    ] {
        runtime.block_on(check(&routes, exchange, is_split));
        for batch in BATCHES {
            let (figure, topic) = runtime.block_on(measure(&routes, exchange, batch));
            let row = Row::of(format!("{name}, batch {batch}"), figure, ("topic", topic));
            rows.push(row.detail("times topic", format!("{:.1}", figure.value() / topic.value())));
        }
    }
    rows
}

/// Every message must be in the queue of its target or, when the exchange splits, in one of two.
async fn check(routes: &Routes, exchange: &str, is_split: bool) {
    let entry = routes.find("/", exchange).expect("it is declared");
    let mut out = Vec::new();
    routes.route(entry, messages(TARGETS), &mut out).await;
    for (at, publish) in out.iter().enumerate() {
        let queue = only_queue(publish);
        let expected = if is_split {
            queue == 0 || queue == TARGETS as u32 - 1
        } else {
            queue == at as u32
        };
        assert!(expected, "{exchange}: message {at} is in queue {queue}");
    }
    assert_eq!(out.len(), TARGETS, "{exchange}");
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

/// The time of a message when `batch` of them come at once, and that of the topic exchange: the middle ones of several
/// rounds, which take turns, so that a slow moment of the machine is slow for both.
async fn measure(routes: &Routes, exchange: &str, batch: usize) -> (Figure, Figure) {
    let (mut rounds, mut topic) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < MEASURED || rounds.len() < 5 {
        rounds.push(round(routes, exchange, batch).await);
        topic.push(round(routes, "topic", batch).await);
    }
    (middle(rounds), middle(topic))
}

/// Nanoseconds a message.
async fn round(routes: &Routes, exchange: &str, batch: usize) -> f64 {
    let entry = routes.find("/", exchange).expect("it is declared");
    let mut out = Vec::with_capacity(batch);
    let ready = messages(READY);
    let batches: Vec<Vec<Incoming>> = ready.chunks(batch).map(<[Incoming]>::to_vec).collect();
    let start = Instant::now();
    for batch in batches {
        routes.route(entry.clone(), batch, &mut out).await;
        out.clear();
    }
    start.elapsed().as_nanos() as f64 / READY as f64
}

fn middle(mut rounds: Vec<f64>) -> Figure {
    rounds.sort_unstable_by(f64::total_cmp);
    Figure::Nanoseconds(rounds[rounds.len() / 2])
}

/// Messages for one target after the other, by routing key and by header.
fn messages(count: usize) -> Vec<Incoming> {
    let contents: Vec<(Bytes, u32)> = (0..TARGETS).map(content).collect();
    let message = |at: usize| {
        let (content, meta_len) = &contents[at % TARGETS];
        Incoming {
            sequence: at as u64,
            content: content.clone(),
            meta_len: *meta_len,
        }
    };
    (0..count).map(message).collect()
}

fn content(target: usize) -> (Bytes, u32) {
    let kind = target_name(target);
    let meta = MessageMeta {
        routing_key: &format!("{kind}.orders.eu.new"),
        persistent: true,
        headers: vec![("kind", Value::Str(&kind))],
        ..Default::default()
    };
    let mut content = postcard::to_stdvec(&meta).expect("metadata encodes");
    let meta_len = content.len() as u32;
    content.extend_from_slice(&[b'x'; 256]);
    (Bytes::from(content), meta_len)
}

fn target_name(target: usize) -> String {
    format!("t{target:x}")
}

/// Four exchanges with the same queues behind them.
fn routes(host: Arc<Host>) -> Arc<Routes> {
    let mut topology = Topology::default();
    let mut vhost = Vhost::default();
    declare(
        &mut topology,
        &mut vhost,
        ExchangeSpec::new("topic", ExchangeKind::Topic),
        None,
    );
    let core = guests::wat(CORE);
    for (name, module, config) in [
        ("core", core, &b""[..]),
        ("packed", guests::module("wasm-routers/weighted"), WEIGHTS),
        ("typed", guests::module("wasm-routers/typed-example"), &b""[..]),
    ] {
        let info = host.load(&module).expect("the module is a router");
        let router = router(name, topology.routers.len() as u32 + 1, &info, config);
        let id = router.id;
        topology.routers.insert(id, Arc::new(router));
        declare(
            &mut topology,
            &mut vhost,
            ExchangeSpec::router(name, name),
            Some(id),
        );
    }
    topology.vhosts.insert("/".into(), Arc::new(vhost));
    Routes::new(host, Arc::new(topology))
}

fn declare(topology: &mut Topology, vhost: &mut Vhost, spec: ExchangeSpec, router: Option<RouterId>) {
    let id = ExchangeId(topology.exchanges.len() as u32 + 1);
    vhost.exchanges.insert(spec.name.clone(), id);
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
        spec,
        alternate: None,
        router,
        quarantine: None,
        bindings: (0..TARGETS).map(|target| (binding(target), ())).collect(),
    };
    topology.exchanges.insert(id, Arc::new(exchange));
}

fn router(name: &str, id: u32, info: &ModuleInfo, config: &[u8]) -> Router {
    let version = VersionSpec {
        digest: info.digest,
        size: info.size,
        interface: info.interface,
        config: config.to_vec(),
        loaded_at: 0,
    };
    Router {
        id: RouterId(id),
        vhost: VhostId(0),
        name: name.to_owned(),
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
