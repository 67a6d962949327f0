//! One immutable routing table, and the way of a batch through it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use pointsman_core::input::Publish;
use pointsman_core::topology::{Router, Topology, Vhost};
use pointsman_core::{ExchangeId, RouterId};
use pointsman_protocol::admin::Explanation;

use crate::explain;
use crate::host::Host;
use crate::short;
use crate::table::Table;
use crate::walk;

/// A message as its publisher sent it.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its number on the publisher's stream.
    pub sequence: u64,
    /// Metadata (postcard) and body, one behind the other.
    pub content: Bytes,
    /// Length of the metadata, in bytes.
    pub meta_len: u32,
}

/// The exchange that messages are published to. Good for the [`Routes`] it was found in.
#[derive(Clone)]
pub struct Entry(pub(crate) Place);

#[derive(Clone)]
pub(crate) enum Place {
    /// The default exchange: a routing key is the name of a queue.
    Default(Arc<Vhost>),
    /// A declared exchange.
    Declared(Arc<Table>),
}

/// One immutable picture of what is declared, ready to route by. Cheap to follow: [`Routes::next`] costs what changed.
pub struct Routes {
    pub(crate) host: Arc<Host>,
    pub(crate) topology: Arc<Topology>,
    tables: OrdMap<ExchangeId, Arc<Table>>,
}

impl Routes {
    /// Routes by `topology`; modules are called through `host`.
    pub fn new(host: Arc<Host>, topology: Arc<Topology>) -> Arc<Routes> {
        let empty = Routes {
            host,
            topology: Arc::default(),
            tables: OrdMap::new(),
        };
        empty.next(topology)
    }

    /// The same for a later `topology`. What was arranged for exchanges that did not change is kept.
    pub fn next(&self, topology: Arc<Topology>) -> Arc<Routes> {
        let mut tables = self.tables.clone();
        for change in self.topology.exchanges.diff(&topology.exchanges) {
            match change {
                DiffItem::Add(id, exchange)
                | DiffItem::Update {
                    new: (id, exchange), ..
                } => {
                    tables.insert(*id, Arc::new(Table::new(exchange.clone(), &topology)));
                }
                DiffItem::Remove(id, _) => drop(tables.remove(id)),
            }
        }
        let changed: BTreeSet<RouterId> = self
            .topology
            .routers
            .diff(&topology.routers)
            .map(changed_id)
            .collect();
        if !changed.is_empty() {
            for (id, exchange) in &topology.exchanges {
                if exchange.router.is_some_and(|router| changed.contains(&router)) {
                    tables.insert(*id, Arc::new(Table::new(exchange.clone(), &topology)));
                }
            }
        }
        Arc::new(Routes {
            host: self.host.clone(),
            topology,
            tables,
        })
    }

    /// What this routes by.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// The exchange of that name in that vhost; the empty name is the default exchange.
    pub fn find(&self, vhost: &str, exchange: &str) -> Option<Entry> {
        let vhost = self.topology.vhosts.get(vhost)?;
        if exchange.is_empty() {
            return Some(Entry(Place::Default(vhost.clone())));
        }
        let id = vhost.exchanges.get(exchange)?;
        Some(Entry(Place::Declared(self.tables.get(id)?.clone())))
    }

    pub(crate) fn table(&self, exchange: ExchangeId) -> Option<&Arc<Table>> {
        self.tables.get(&exchange)
    }

    /// Decides where each message goes and appends the results in order.
    ///
    /// A message whose metadata does not decode is refused; the others are routed. Modules of router exchanges are
    /// awaited within their limits, so this takes at most a bounded number of batch deadlines.
    pub async fn route(&self, entry: Entry, batch: Vec<Incoming>, out: &mut Vec<Publish>) {
        out.reserve(batch.len());
        match &entry.0 {
            Place::Default(vhost) => short::to_named(vhost, batch, out),
            Place::Declared(table) if table.arranged().queues_only => match table.is_router() {
                false => short::to_matching(self, table, batch, out).await,
                true => match table.deciding() {
                    Ok(deciding) => short::to_decided(self, table, deciding, batch, out).await,
                    // The walk says so to whoever published.
                    Err(_) => walk::walk(self, table, batch, out).await,
                },
            },
            Place::Declared(table) => walk::walk(self, table, batch, out).await,
        }
    }

    /// What [`Routes::route`] would do with a message of that content, step by step. Modules are called in instances
    /// of their own: what is explained changes nothing that traffic sees.
    pub async fn explain(&self, entry: Entry, content: Bytes, meta_len: u32) -> Explanation {
        explain::explain(self, &entry, content, meta_len).await
    }
}

fn changed_id(change: DiffItem<'_, '_, RouterId, Arc<Router>>) -> RouterId {
    match change {
        DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } | DiffItem::Remove(id, _) => *id,
    }
}

#[cfg(test)]
mod tests;
