//! Routes over topologies made by hand.

use pointsman_core::input::Verdict;
use pointsman_core::topology::{Binding, Exchange, Queue, Target};
use pointsman_core::{QueueId, VhostId};
use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec, QueueSpec};
use pointsman_protocol::{ErrorCode, MessageMeta};

use super::*;
use crate::host::{CompileMode, HostOptions};
use crate::limits::ModuleLimits;

/// A vhost `/` in which queues and exchanges go by their place in these lists, from 1.
struct Declared<'a> {
    queues: &'a [&'a str],
    /// Name, kind, and the number of the alternate exchange.
    exchanges: &'a [(&'a str, ExchangeKind, Option<u32>)],
    /// Number of the source exchange, key, target.
    bindings: &'a [(u32, &'a str, Target)],
}

fn topology(declared: &Declared<'_>) -> Arc<Topology> {
    let mut topology = Topology::default();
    let mut vhost = Vhost::default();
    for (id, name) in (1..).map(QueueId).zip(declared.queues) {
        let spec = QueueSpec::new(*name);
        topology.queues.insert(
            id,
            Arc::new(Queue {
                id,
                vhost: VhostId(0),
                spec,
            }),
        );
        vhost.queues.insert(name.to_string(), id);
    }
    for (number, (name, kind, alternate)) in (1..).zip(declared.exchanges) {
        let mut exchange = Exchange {
            id: ExchangeId(number),
            vhost: VhostId(0),
            spec: ExchangeSpec::new(*name, *kind),
            alternate: alternate.map(ExchangeId),
            router: None,
            quarantine: None,
            bindings: Default::default(),
        };
        for (_, key, target) in declared.bindings.iter().filter(|(source, ..)| *source == number) {
            let binding = Binding {
                key: key.to_string(),
                target: *target,
                arguments: Vec::new(),
            };
            exchange.bindings.insert(binding, ());
        }
        vhost.exchanges.insert(name.to_string(), exchange.id);
        topology.exchanges.insert(exchange.id, Arc::new(exchange));
    }
    topology.vhosts.insert("/".into(), Arc::new(vhost));
    Arc::new(topology)
}

fn routes(declared: &Declared<'_>) -> Arc<Routes> {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(HostOptions {
        cache_dir: folder.path().into(),
        mac_key: [0; 32],
        compile: CompileMode::InProcess,
        limits: ModuleLimits {
            instances: 1,
            ..ModuleLimits::default()
        },
    });
    Routes::new(host.unwrap(), topology(declared))
}

fn message(routing_key: &str) -> Incoming {
    let meta = MessageMeta {
        routing_key,
        ..Default::default()
    };
    let content = Bytes::from(postcard::to_stdvec(&meta).unwrap());
    Incoming {
        sequence: 1,
        meta_len: content.len() as u32,
        content,
    }
}

fn publish(routes: &Routes, exchange: &str, message: Incoming) -> Publish {
    let mut out = Vec::new();
    let entry = routes.find("/", exchange).unwrap();
    crate::host::run(routes.route(entry, vec![message], &mut out));
    out.swap_remove(0)
}

/// The numbers of the queues a message is in; a message that no module changed is in one copy.
fn queues(routes: &Routes, exchange: &str, key: &str) -> Vec<u32> {
    let publish = publish(routes, exchange, message(key));
    assert_eq!(publish.verdict, Verdict::Deliver);
    assert!(publish.copies.len() <= 1);
    publish
        .copies
        .iter()
        .flat_map(|copy| &copy.queues)
        .map(|queue| queue.0)
        .collect()
}

fn queue(number: u32) -> Target {
    Target::Queue(QueueId(number))
}

fn exchange(number: u32) -> Target {
    Target::Exchange(ExchangeId(number))
}

#[test]
fn the_default_exchange_routes_by_the_name_of_a_queue() {
    let routes = routes(&Declared {
        queues: &["a", "b"],
        exchanges: &[],
        bindings: &[],
    });
    assert_eq!(queues(&routes, "", "b"), [2]);
    assert!(queues(&routes, "", "c").is_empty());
}

#[test]
fn a_queue_that_is_reached_twice_gets_the_message_once() {
    let routes = routes(&Declared {
        queues: &["q"],
        exchanges: &[
            ("topic", ExchangeKind::Topic, None),
            ("behind", ExchangeKind::Fanout, None),
        ],
        bindings: &[
            (1, "#", queue(1)),
            (1, "a", queue(1)),
            (1, "a", exchange(2)),
            (2, "", queue(1)),
        ],
    });
    assert_eq!(queues(&routes, "topic", "a"), [1]);
}

#[test]
fn bindings_in_a_circle_end() {
    let routes = routes(&Declared {
        queues: &["q"],
        exchanges: &[
            ("a", ExchangeKind::Fanout, None),
            ("b", ExchangeKind::Fanout, Some(1)),
        ],
        bindings: &[(1, "", exchange(2)), (2, "", exchange(1)), (2, "", queue(1))],
    });
    assert_eq!(queues(&routes, "a", ""), [1]);
    assert_eq!(queues(&routes, "b", ""), [1]);
}

#[test]
fn alternates_follow_one_another_and_may_be_a_circle() {
    let direct = ExchangeKind::Direct;
    let routes = routes(&Declared {
        queues: &["first", "last"],
        exchanges: &[
            ("a", direct, Some(2)),
            ("b", direct, Some(3)),
            ("c", direct, Some(1)),
        ],
        bindings: &[(1, "known", queue(1)), (3, "lost", queue(2))],
    });
    assert_eq!(queues(&routes, "a", "known"), [1]);
    assert_eq!(queues(&routes, "a", "lost"), [2]);
    assert_eq!(queues(&routes, "b", "known"), [1]);
    assert!(queues(&routes, "a", "unknown").is_empty());
}

#[test]
fn a_batch_keeps_its_order_when_some_take_the_long_way() {
    let routes = routes(&Declared {
        queues: &["known", "rest"],
        exchanges: &[
            ("a", ExchangeKind::Direct, Some(2)),
            ("b", ExchangeKind::Fanout, None),
        ],
        bindings: &[(1, "known", queue(1)), (2, "", queue(2))],
    });
    let keys = ["known", "x", "known", "y", "z"];
    let batch = (1..)
        .zip(keys)
        .map(|(sequence, key)| Incoming {
            sequence,
            ..message(key)
        })
        .collect();
    let mut out = Vec::new();
    crate::host::run(routes.route(routes.find("/", "a").unwrap(), batch, &mut out));
    let got: Vec<(u64, u32)> = out
        .iter()
        .map(|p| (p.sequence, p.copies[0].queues[0].0))
        .collect();
    assert_eq!(got, [(1, 1), (2, 2), (3, 1), (4, 2), (5, 2)]);
}

#[test]
fn metadata_that_does_not_decode_is_refused_and_the_rest_of_the_batch_is_routed() {
    let routes = routes(&Declared {
        queues: &["q"],
        exchanges: &[
            ("short", ExchangeKind::Fanout, None),
            ("long", ExchangeKind::Fanout, None),
        ],
        bindings: &[(1, "", queue(1)), (2, "", exchange(1))],
    });
    for exchange in ["", "short", "long"] {
        let too_long = Incoming {
            meta_len: 1_000,
            ..message("q")
        };
        let cut = Incoming {
            meta_len: 2,
            ..message("q")
        };
        let mut out = Vec::new();
        let entry = routes.find("/", exchange).unwrap();
        crate::host::run(routes.route(entry, vec![too_long, cut, message("q")], &mut out));
        for refused in &out[..2] {
            let Verdict::Refuse(error) = &refused.verdict else {
                panic!("{:?}", refused.verdict)
            };
            assert_eq!((error.code, refused.copies.len()), (ErrorCode::MalformedFrame, 0));
        }
        assert_eq!(out[2].copies[0].queues[..], [QueueId(1)]);
    }
}

#[test]
fn a_router_exchange_without_a_router_refuses_with_a_hint() {
    let routes = routes(&Declared {
        queues: &[],
        exchanges: &[("in", ExchangeKind::Router, None)],
        bindings: &[],
    });
    let Verdict::Refuse(error) = publish(&routes, "in", message("a")).verdict else {
        panic!("not refused")
    };
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.hint.contains("router load"), "{error}");
}

#[test]
fn following_a_snapshot_keeps_what_did_not_change() {
    let declared = Declared {
        queues: &["q"],
        exchanges: &[
            ("a", ExchangeKind::Direct, None),
            ("b", ExchangeKind::Direct, None),
        ],
        bindings: &[(1, "x", queue(1))],
    };
    let before = routes(&declared);
    let mut topology = Topology::clone(before.topology());
    let mut changed = Exchange::clone(&topology.exchanges[&ExchangeId(2)]);
    changed.bindings.insert(
        Binding {
            key: "y".into(),
            target: queue(1),
            arguments: Vec::new(),
        },
        (),
    );
    topology.exchanges.insert(ExchangeId(2), Arc::new(changed));
    let after = before.next(Arc::new(topology));
    let table = |routes: &Routes, id| routes.table(ExchangeId(id)).unwrap().clone();
    assert!(Arc::ptr_eq(&table(&before, 1), &table(&after, 1)));
    assert!(!Arc::ptr_eq(&table(&before, 2), &table(&after, 2)));
    assert!(queues(&before, "b", "y").is_empty());
    assert_eq!(queues(&after, "b", "y"), [1]);
}

#[test]
fn an_explanation_names_each_exchange_and_the_bindings_that_matched() {
    let routes = routes(&Declared {
        queues: &["q"],
        exchanges: &[
            ("a", ExchangeKind::Direct, Some(2)),
            ("b", ExchangeKind::Topic, None),
        ],
        bindings: &[(1, "known", queue(1)), (2, "#", queue(1))],
    });
    let Incoming {
        content, meta_len, ..
    } = message("lost");
    let entry = routes.find("/", "a").unwrap();
    let explanation = crate::host::run(routes.explain(entry, content, meta_len));
    let steps: Vec<_> = explanation
        .steps
        .iter()
        .map(|s| (s.exchange.as_str(), s.matched.len()))
        .collect();
    assert_eq!(steps, [("a", 0), ("b", 1)]);
    assert_eq!(explanation.steps[1].matched[0].key, "#");
    assert_eq!(
        (explanation.queues, explanation.rejected),
        (vec!["q".to_owned()], None)
    );
}
