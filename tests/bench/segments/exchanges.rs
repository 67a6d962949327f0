//! Routing by the built-in kinds of exchange, from a frame's content to queues, with few and with many bindings.

use std::sync::Arc;

use pointsman_core::input::Publish;
use pointsman_core::topology::{Binding, Exchange, Target, Topology, Vhost};
use pointsman_core::{ExchangeId, QueueId, VhostId};
use pointsman_protocol::admin::{Argument, ExchangeKind, ExchangeSpec};
use pointsman_protocol::{MessageMeta, Value};
use pointsman_router_host::{CompileMode, Host, HostOptions, Incoming, ModuleLimits, Routes};
use tempfile::TempDir;

use crate::segment::{BODY, Limit, Segment, Work, content, run};

/// Messages of a batch.
const MESSAGES: usize = 64;

/// Bindings of the exchange; each leads to a queue of its own.
const BINDINGS: [usize; 3] = [1, 1_000, 100_000];

const KINDS: [ExchangeKind; 5] = [
    ExchangeKind::Direct,
    ExchangeKind::Fanout,
    ExchangeKind::Topic,
    ExchangeKind::Headers,
    ExchangeKind::ConsistentHash,
];

pub(crate) fn segments() -> Vec<Segment> {
    let default = BINDINGS.map(|queues| {
        let name = format!("route by queue name, {queues} queues");
        Segment::new(name, MESSAGES, Limit::Copy(BODY), move || {
            Route::new(None, queues, MESSAGES)
        })
    });
    let kinds = KINDS.into_iter().flat_map(|kind| {
        BINDINGS.map(|bindings| {
            // A message that goes to every queue is work enough alone.
            let messages = if kind == ExchangeKind::Fanout {
                MESSAGES.div_ceil(bindings)
            } else {
                MESSAGES
            };
            let name = format!("route {}, {bindings} bindings", kind.name());
            Segment::new(name, messages, Limit::Copy(BODY), move || {
                Route::new(Some(kind), bindings, messages)
            })
        })
    });
    default.into_iter().chain(kinds).collect()
}

/// A host with room for one instance and for so many bytes of remembered decisions, and its folder.
pub(crate) fn host(remembered: usize) -> (Arc<Host>, TempDir) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let host = Host::new(HostOptions {
        cache_dir: folder.path().into(),
        mac_key: [7; 32],
        compile: CompileMode::InProcess,
        limits: ModuleLimits {
            instances: 1,
            remembered,
            ..ModuleLimits::default()
        },
    });
    (host.expect("the sandbox can be set up"), folder)
}

/// A batch through [`Routes::route`].
pub(crate) struct Route {
    routes: Arc<Routes>,
    exchange: &'static str,
    batch: Vec<Incoming>,
    next: Vec<Incoming>,
    out: Vec<Publish>,
    _folder: TempDir,
}

impl Route {
    fn new(kind: Option<ExchangeKind>, bindings: usize, messages: usize) -> Route {
        let (host, folder) = host(0);
        let routes = Routes::new(host, Arc::new(topology(kind, bindings)));
        let exchange = if kind.is_some() { "measured" } else { "" };
        let batch = (0..messages)
            .map(|at| message(at, at * 7_919 % bindings))
            .collect();
        let mut route = Route::of(routes, exchange, batch, folder);
        route.prepare();
        route.run();
        let queues = if kind == Some(ExchangeKind::Fanout) {
            bindings
        } else {
            1
        };
        for publish in &route.out {
            let found: usize = publish.copies.iter().map(|copy| copy.queues.len()).sum();
            assert_eq!(found, queues, "queues of {publish:?}");
        }
        route
    }

    pub(crate) fn of(
        routes: Arc<Routes>,
        exchange: &'static str,
        batch: Vec<Incoming>,
        folder: TempDir,
    ) -> Route {
        Route {
            routes,
            exchange,
            out: Vec::with_capacity(batch.len()),
            next: Vec::new(),
            batch,
            _folder: folder,
        }
    }
}

impl Work for Route {
    fn prepare(&mut self) {
        self.out.clear();
        self.next.clone_from(&self.batch);
    }
    fn run(&mut self) {
        let entry = self.routes.find("/", self.exchange).expect("it is declared");
        let batch = std::mem::take(&mut self.next);
        run(self.routes.route(entry, batch, &mut self.out));
    }
}

fn message(at: usize, binding: usize) -> Incoming {
    let kind = format!("k{binding}");
    let meta = MessageMeta {
        routing_key: &format!("{kind}.orders.eu.new"),
        persistent: true,
        headers: vec![("kind", Value::Str(&kind)), ("region", Value::Str("eu"))],
        ..Default::default()
    };
    let (content, meta_len) = content(&meta, BODY);
    Incoming {
        sequence: at as u64 + 1,
        content,
        meta_len,
    }
}

/// One exchange or, without a kind, none; and queues.
fn topology(kind: Option<ExchangeKind>, bindings: usize) -> Topology {
    let mut topology = Topology::default();
    let mut vhost = Vhost::default();
    if let Some(kind) = kind {
        let id = ExchangeId(1);
        let exchange = Exchange {
            id,
            vhost: VhostId(0),
            spec: ExchangeSpec::new("measured", kind),
            alternate: None,
            router: None,
            quarantine: None,
            bindings: (0..bindings).map(|number| (binding(kind, number), ())).collect(),
        };
        vhost.exchanges.insert("measured".into(), id);
        topology.exchanges.insert(id, Arc::new(exchange));
    } else {
        vhost.queues = (0..bindings)
            .map(|number| (format!("k{number}.orders.eu.new"), QueueId(number as u32)))
            .collect();
    }
    topology.vhosts.insert("/".into(), Arc::new(vhost));
    topology
}

fn binding(kind: ExchangeKind, number: usize) -> Binding {
    let arguments = match kind {
        ExchangeKind::Headers => vec![("kind".to_owned(), Argument::Str(format!("k{number}")))],
        _ => Vec::new(),
    };
    Binding {
        key: match kind {
            ExchangeKind::Direct => format!("k{number}.orders.eu.new"),
            ExchangeKind::Topic => format!("k{number}.orders.*.new"),
            ExchangeKind::ConsistentHash => "1".to_owned(),
            _ => String::new(),
        },
        target: Target::Queue(QueueId(number as u32)),
        arguments,
    }
}
