//! What is declared, and the requests that change it.
//!
//! [`Definitions`] holds the topology and its reverse indexes and keeps them in step; it neither checks nor writes.
//! The requests, one file a kind, check, change the definitions and write the records.

mod binding;
mod exchange;
mod names;
mod queue;
mod router;
mod vhost;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pointsman_protocol::admin::{BindingSpec, Destination, ExchangeSpec, QueueSpec};

use crate::catalog::{Definition, DefinitionKey, Digest, NextIds, VersionSpec};
use crate::commit::{Commit, Effect, Record};
use crate::ids::*;
use crate::topology::{Binding, Exchange, Queue, Router, Target, Topology, Vhost};

pub(crate) use queue::{is_durable, message_ttl};
pub(crate) use router::Loaded;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// As it is now; [`Definitions::snapshot`] is as it was told last.
    pub(crate) topology: Topology,
    pub(crate) snapshot: Arc<Topology>,
    changed: bool,
    next: NextIds,
    next_changed: bool,
    vhost_names: BTreeMap<VhostId, String>,
    /// Bindings by where they lead.
    inbound: BTreeMap<Target, BTreeSet<(ExchangeId, Binding)>>,
    bindings: usize,
    /// Exchanges by the name of their alternate, there or not.
    by_alternate: BTreeMap<(VhostId, String), BTreeSet<ExchangeId>>,
    by_router: BTreeMap<RouterId, BTreeSet<ExchangeId>>,
    /// How many versions use a module.
    modules: BTreeMap<Digest, usize>,
}

impl Definitions {
    /// How many bindings there are.
    pub(crate) fn bindings(&self) -> usize {
        self.bindings
    }

    /// Goes on counting ids from there.
    pub(crate) fn restore_ids(&mut self, next: NextIds) {
        self.next = next;
    }

    /// What was restored is what the next snapshot would say.
    pub(crate) fn restored(&mut self) {
        self.changed = false;
        self.snapshot = Arc::new(self.topology.clone());
    }

    /// The next unused ids.
    pub(crate) fn next_ids(&self) -> NextIds {
        self.next
    }

    /// A vhost by number.
    pub(crate) fn vhost(&self, id: VhostId) -> Option<&Vhost> {
        let name = self.vhost_names.get(&id)?;
        self.topology.vhosts.get(name).map(Arc::as_ref)
    }

    fn vhost_mut(&mut self, id: VhostId) -> Option<&mut Vhost> {
        self.changed = true;
        let name = self.vhost_names.get(&id)?;
        self.topology.vhosts.get_mut(name).map(Arc::make_mut)
    }

    /// An exchange by name.
    pub(crate) fn exchange(&self, vhost: VhostId, name: &str) -> Option<&Arc<Exchange>> {
        let id = self.vhost(vhost)?.exchanges.get(name)?;
        self.topology.exchanges.get(id)
    }

    fn exchange_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.changed = true;
        self.topology.exchanges.get_mut(&id).map(Arc::make_mut)
    }

    /// A queue by name.
    pub(crate) fn queue(&self, vhost: VhostId, name: &str) -> Option<&Arc<Queue>> {
        let id = self.vhost(vhost)?.queues.get(name)?;
        self.topology.queues.get(id)
    }

    /// A router by name.
    pub(crate) fn router(&self, vhost: VhostId, name: &str) -> Option<&Arc<Router>> {
        let id = self.vhost(vhost)?.routers.get(name)?;
        self.topology.routers.get(id)
    }

    /// Adds a vhost.
    pub(crate) fn insert_vhost(&mut self, id: VhostId, name: String) {
        self.changed = true;
        self.vhost_names.insert(id, name.clone());
        let vhost = Vhost {
            id,
            ..Vhost::default()
        };
        self.topology.vhosts.insert(name, Arc::new(vhost));
    }

    fn remove_vhost(&mut self, id: VhostId) {
        self.changed = true;
        if let Some(name) = self.vhost_names.remove(&id) {
            self.topology.vhosts.remove(&name);
        }
    }

    /// Adds an exchange without bindings. Exchanges that named it as their alternate find it now.
    pub(crate) fn insert_exchange(
        &mut self,
        id: ExchangeId,
        vhost: VhostId,
        spec: ExchangeSpec,
        quarantine: Option<QueueId>,
    ) {
        let alternate = spec.alternate.as_deref();
        let alternate = alternate.and_then(|name| self.exchange(vhost, name).map(|exchange| exchange.id));
        let router = spec.router.as_deref();
        let router = router.and_then(|name| self.router(vhost, name).map(|router| router.id));
        if let Some(name) = &spec.alternate {
            let users = self.by_alternate.entry((vhost, name.clone())).or_default();
            users.insert(id);
        }
        if let Some(router) = router {
            self.by_router.entry(router).or_default().insert(id);
        }
        if let Some(vhost) = self.vhost_mut(vhost) {
            vhost.exchanges.insert(spec.name.clone(), id);
        }
        self.set_alternate(vhost, &spec.name, Some(id));
        let exchange = Exchange {
            id,
            vhost,
            spec,
            alternate,
            router,
            quarantine,
            bindings: imbl::OrdMap::new(),
        };
        self.topology.exchanges.insert(id, Arc::new(exchange));
    }

    /// Removes an exchange that has no bindings, out or in.
    fn remove_exchange(&mut self, id: ExchangeId) {
        self.changed = true;
        let Some(exchange) = self.topology.exchanges.remove(&id) else {
            return;
        };
        if let Some(vhost) = self.vhost_mut(exchange.vhost) {
            vhost.exchanges.remove(&exchange.spec.name);
        }
        self.set_alternate(exchange.vhost, &exchange.spec.name, None);
        if let Some(name) = &exchange.spec.alternate {
            remove_from(&mut self.by_alternate, &(exchange.vhost, name.clone()), &id);
        }
        if let Some(router) = exchange.router {
            remove_from(&mut self.by_router, &router, &id);
        }
    }

    fn set_alternate(&mut self, vhost: VhostId, name: &str, alternate: Option<ExchangeId>) {
        let users = self.by_alternate.get(&(vhost, name.to_owned())).cloned();
        for user in users.into_iter().flatten() {
            if let Some(exchange) = self.exchange_mut(user) {
                exchange.alternate = alternate;
            }
        }
    }

    /// Adds a queue.
    pub(crate) fn insert_queue(&mut self, id: QueueId, vhost: VhostId, spec: QueueSpec) {
        if let Some(vhost) = self.vhost_mut(vhost) {
            vhost.queues.insert(spec.name.clone(), id);
        }
        let queue = Queue { id, vhost, spec };
        self.topology.queues.insert(id, Arc::new(queue));
    }

    /// Removes a queue that no binding leads to.
    fn remove_queue(&mut self, id: QueueId) {
        if let Some(queue) = self.topology.queues.remove(&id)
            && let Some(vhost) = self.vhost_mut(queue.vhost)
        {
            vhost.queues.remove(&queue.spec.name);
        }
    }

    /// Adds a binding. Returns whether it is new.
    pub(crate) fn insert_binding(&mut self, source: ExchangeId, binding: Binding) -> bool {
        let Some(exchange) = self.exchange_mut(source) else {
            return false;
        };
        if exchange.bindings.insert(binding.clone(), ()).is_some() {
            return false;
        }
        self.bindings += 1;
        self.inbound
            .entry(binding.target)
            .or_default()
            .insert((source, binding));
        true
    }

    /// Removes a binding. Returns whether it was there.
    fn remove_binding(&mut self, source: ExchangeId, binding: &Binding) -> bool {
        let Some(exchange) = self.exchange_mut(source) else {
            return false;
        };
        if exchange.bindings.remove(binding).is_none() {
            return false;
        }
        self.bindings -= 1;
        remove_from(&mut self.inbound, &binding.target, &(source, binding.clone()));
        true
    }

    /// Adds a router or changes its version numbers.
    pub(crate) fn put_router(&mut self, router: Router) {
        if let Some(vhost) = self.vhost_mut(router.vhost) {
            vhost.routers.insert(router.name.clone(), router.id);
        }
        self.topology.routers.insert(router.id, Arc::new(router));
    }

    /// Removes a router that has no versions and no users.
    fn remove_router(&mut self, id: RouterId) {
        if let Some(router) = self.topology.routers.remove(&id)
            && let Some(vhost) = self.vhost_mut(router.vhost)
        {
            vhost.routers.remove(&router.name);
        }
    }

    fn router_mut(&mut self, id: RouterId) -> Option<&mut Router> {
        self.changed = true;
        self.topology.routers.get_mut(&id).map(Arc::make_mut)
    }

    /// Adds a version to a router. Returns whether the router is there.
    pub(crate) fn insert_version(&mut self, id: RouterId, number: u32, spec: VersionSpec) -> bool {
        let digest = spec.digest;
        let Some(router) = self.router_mut(id) else {
            return false;
        };
        router.versions.insert(number, Arc::new(spec));
        *self.modules.entry(digest).or_insert(0) += 1;
        true
    }

    /// Removes a version. Returns its module when no other version uses it.
    fn remove_version(&mut self, id: RouterId, number: u32) -> Option<Digest> {
        let digest = self.router_mut(id)?.versions.remove(&number)?.digest;
        let users = self.modules.get_mut(&digest)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.modules.remove(&digest);
        Some(digest)
    }

    /// A binding with the names of its ends.
    fn binding_spec(&self, source: ExchangeId, binding: &Binding) -> Option<BindingSpec> {
        let destination = match binding.target {
            Target::Queue(id) => Destination::Queue(self.topology.queues.get(&id)?.spec.name.clone()),
            Target::Exchange(id) => {
                Destination::Exchange(self.topology.exchanges.get(&id)?.spec.name.clone())
            }
        };
        Some(BindingSpec {
            source: self.topology.exchanges.get(&source)?.spec.name.clone(),
            destination,
            key: binding.key.clone(),
            arguments: binding.arguments.clone(),
        })
    }

    /// Whether a binding is there after a restart: both its ends are.
    fn is_durable_binding(&self, source: ExchangeId, target: Target) -> bool {
        let durable = |id| self.topology.exchanges.get(&id).is_some_and(|e| e.spec.durable);
        durable(source)
            && match target {
                Target::Exchange(id) => durable(id),
                Target::Queue(id) => self.topology.queues.get(&id).is_some_and(|q| is_durable(&q.spec)),
            }
    }

    /// Ends a turn: writes the counters of ids, and tells the new topology before everything else.
    pub(crate) fn finish(&mut self, commit: &mut Commit) {
        if std::mem::take(&mut self.next_changed) {
            define(commit, DefinitionKey::Ids, Some(Definition::Ids(self.next)));
        }
        if std::mem::take(&mut self.changed) {
            self.snapshot = Arc::new(self.topology.clone());
            let effect = Effect::Topology(Arc::clone(&self.snapshot));
            commit.effects.insert(0, effect);
        }
    }
}

/// Writes a definition, or that it is deleted.
fn define(commit: &mut Commit, key: DefinitionKey, definition: Option<Definition>) {
    let (key, definition) = (Box::new(key), definition.map(Box::new));
    commit.records.push(Record::Define { key, definition });
}

/// As [`define`], for what a reply promises to be on disk.
fn define_synced(commit: &mut Commit, key: DefinitionKey, definition: Option<Definition>) {
    commit.sync_within(Some(Duration::ZERO));
    define(commit, key, definition);
}

fn remove_from<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}
