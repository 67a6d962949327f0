//! The routing part of a broker without the rest: a host, and a topology made by hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pointsman_core::catalog::VersionSpec;
use pointsman_core::input::Publish;
use pointsman_core::topology::{Binding, Exchange, Queue, Router, Target, Topology, Vhost};
use pointsman_core::{ExchangeId, QueueId, RouterId, VhostId};
use pointsman_protocol::MessageMeta;
use pointsman_protocol::admin::{ExchangeKind, ExchangeSpec, QueueSpec};
use pointsman_router_host::{
    CompileMode, Host, HostOptions, Incoming, ModuleError, ModuleInfo, ModuleLimits, Routes,
};

/// The queue bound to the router exchange.
pub(crate) const GOOD: QueueId = QueueId(1);
/// The queue bound to the fanout exchange `calm`.
pub(crate) const CALM: QueueId = QueueId(2);
/// Where messages go on which the module failed.
pub(crate) const QUARANTINE: QueueId = QueueId(3);

pub(crate) const ROUTER: RouterId = RouterId(1);

pub(crate) struct Broker {
    pub(crate) host: Arc<Host>,
    pub(crate) folder: tempfile::TempDir,
}

/// Limits that make a hostile module fail soon.
pub(crate) fn limits() -> ModuleLimits {
    ModuleLimits {
        call_time: Duration::from_millis(5),
        memory: 8 * 1024 * 1024,
        output: 1024 * 1024,
        instances: 16,
        ..ModuleLimits::default()
    }
}

impl Broker {
    pub(crate) fn new() -> Broker {
        Broker::in_folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_folder(folder: tempfile::TempDir) -> Broker {
        let host = Host::new(HostOptions {
            cache_dir: folder.path().into(),
            mac_key: [7; 32],
            compile: CompileMode::InProcess,
            limits: limits(),
        });
        Broker {
            host: host.unwrap(),
            folder,
        }
    }

    /// Routes with a router exchange `in` that this module decides, and a fanout exchange `calm` beside it.
    pub(crate) fn routes(&self, module: &str) -> Arc<Routes> {
        let info = self.host.load(module.as_bytes()).unwrap();
        Routes::new(self.host.clone(), Arc::new(topology(&info)))
    }

    /// What loading and configuring a module answers.
    pub(crate) fn load(&self, module: &str) -> Result<(), ModuleError> {
        let info = self.host.load(module.as_bytes())?;
        self.host.try_configure(info.digest, b"", &["good"]).map(drop)
    }
}

fn topology(info: &ModuleInfo) -> Topology {
    let mut topology = Topology::default();
    let mut vhost = Vhost::default();
    for (id, name) in [(GOOD, "good"), (CALM, "calm"), (QUARANTINE, "quarantine")] {
        let queue = Queue {
            id,
            vhost: VhostId(0),
            spec: QueueSpec::new(name),
        };
        topology.queues.insert(id, Arc::new(queue));
        vhost.queues.insert(name.into(), id);
    }
    let exchanges = [
        (ExchangeId(1), ExchangeSpec::router("in", "hostile"), GOOD),
        (
            ExchangeId(2),
            ExchangeSpec::new("calm", ExchangeKind::Fanout),
            CALM,
        ),
    ];
    for (id, spec, queue) in exchanges {
        vhost.exchanges.insert(spec.name.clone(), id);
        let is_router = spec.kind == ExchangeKind::Router;
        let mut exchange = Exchange {
            id,
            vhost: VhostId(0),
            spec,
            alternate: None,
            router: is_router.then_some(ROUTER),
            quarantine: is_router.then_some(QUARANTINE),
            bindings: Default::default(),
        };
        let binding = Binding {
            key: "good".into(),
            target: Target::Queue(queue),
            arguments: Vec::new(),
        };
        exchange.bindings.insert(binding, ());
        topology.exchanges.insert(id, Arc::new(exchange));
    }
    let version = VersionSpec {
        digest: info.digest,
        size: info.size,
        interface: info.interface,
        config: Vec::new(),
        loaded_at: 0,
    };
    let mut router = Router {
        id: ROUTER,
        vhost: VhostId(0),
        name: "hostile".into(),
        active: Some(1),
        previous: None,
        next_version: 2,
        versions: Default::default(),
    };
    router.versions.insert(1, Arc::new(version));
    topology.routers.insert(ROUTER, Arc::new(router));
    topology.vhosts.insert("/".into(), Arc::new(vhost));
    topology
}

/// A message with that routing key.
pub(crate) fn message(sequence: u64, routing_key: &str) -> Incoming {
    let meta = MessageMeta {
        routing_key,
        persistent: true,
        ..Default::default()
    };
    let mut content = postcard::to_stdvec(&meta).unwrap();
    let meta_len = content.len() as u32;
    content.extend_from_slice(b"body");
    Incoming {
        sequence,
        content: Bytes::from(content),
        meta_len,
    }
}

/// Publishes messages with these routing keys to an exchange.
pub(crate) async fn publish(routes: &Routes, exchange: &str, keys: &[&str]) -> Vec<Publish> {
    let entry = routes.find("/", exchange).unwrap();
    let batch = (1..)
        .zip(keys)
        .map(|(sequence, key)| message(sequence, key))
        .collect();
    let mut out = Vec::new();
    routes.route(entry, batch, &mut out).await;
    let sequences: Vec<u64> = out.iter().map(|publish| publish.sequence).collect();
    assert_eq!(sequences, (1..=keys.len() as u64).collect::<Vec<_>>());
    out
}

/// The queues a message is in.
pub(crate) fn queues(publish: &Publish) -> Vec<QueueId> {
    publish
        .copies
        .iter()
        .flat_map(|copy| copy.queues.iter().copied())
        .collect()
}
