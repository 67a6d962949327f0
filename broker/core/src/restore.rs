//! A broker from what a store gave back.

use std::collections::{BTreeMap, BTreeSet};

use pointsman_protocol::admin::{BindingSpec, Destination, Retention};

use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey, NextIds};
use crate::commit::{QueueState, Restored};
use crate::definitions::message_ttl;
use crate::due::Due;
use crate::ids::*;
use crate::limits::Bounds;
use crate::log::Log;
use crate::queue::Queue;
use crate::stream::Stream;
use crate::topology::{Binding, Router, Target};

/// What a store gave back does not fit together: the data folder was damaged, or written by another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A definition's key and value are of different kinds.
    #[error("the definition {0} is not of the kind its key says")]
    WrongKind(String),
    /// A definition names something that is not there.
    #[error("the definition {definition} names {names}, which is not there")]
    Dangling {
        /// Its key.
        definition: String,
        /// What it names.
        names: String,
    },
    /// Two definitions have the same name, or the same definition is there twice.
    #[error("the definition {0} is there twice")]
    Twice(String),
    /// An id was given that the counter of ids has not reached.
    #[error("the definition {0} has a number that was never given")]
    NumberNotGiven(String),
    /// A queue's state is impossible.
    #[error("queue number {queue}: {problem}")]
    Queue {
        /// The queue's number.
        queue: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What the store has of one queue.
#[derive(Default)]
struct StoredQueue {
    state: QueueState,
    blocks: Vec<(u64, roaring::RoaringBitmap)>,
    attempts: BTreeMap<u64, u32>,
}

impl Broker {
    /// A broker as the store has it. Nobody is connected; exclusive and transient queues are gone, and what was
    /// delivered and not settled waits in its place.
    ///
    /// # Errors
    /// When the records do not fit together. Nothing is repaired by guessing.
    pub fn restore(restored: Restored) -> Result<Broker, RestoreError> {
        Broker::restore_with_bounds(restored, Bounds::default())
    }

    /// As [`Broker::restore`], with bounds of one's own.
    ///
    /// # Errors
    /// As [`Broker::restore`].
    pub fn restore_with_bounds(restored: Restored, bounds: Bounds) -> Result<Broker, RestoreError> {
        let mut broker = Broker::with_bounds(bounds);
        let Restored {
            definitions,
            queues,
            ack_blocks,
            attempts,
            delayed,
            identities,
            next_offsets,
        } = restored;
        broker.log = Log::new(next_offsets, bounds.cache_bytes, bounds.memory_bytes);
        broker.restore_definitions(definitions)?;
        let mut stored: BTreeMap<QueueId, StoredQueue> = BTreeMap::new();
        for (queue, state) in queues {
            stored.entry(queue).or_default().state = state;
        }
        for (queue, block, bitmap) in ack_blocks {
            stored.entry(queue).or_default().blocks.push((block, bitmap));
        }
        for (queue, position, count) in attempts {
            stored
                .entry(queue)
                .or_default()
                .attempts
                .insert(position.0, count);
        }
        broker.restore_queues(stored)?;
        broker.due = Due::restored(&bounds, delayed.into_iter().collect());
        let declared = &broker.definitions.topology.queues;
        broker
            .due
            .restore_sweeps(|queue| declared.contains_key(&queue), &mut broker.log);
        for (identity, state) in identities {
            broker.publishers.restore(identity, state);
        }
        broker.definitions.restored();
        Ok(broker)
    }

    /// Definitions in the order in which they name each other, whatever order they come in.
    fn restore_definitions(
        &mut self,
        mut definitions: Vec<(DefinitionKey, Definition)>,
    ) -> Result<(), RestoreError> {
        definitions.sort_by_key(|(key, _)| rank(key));
        let mut seen = BTreeSet::new();
        for (key, definition) in definitions {
            if !seen.insert(key.clone()) {
                return Err(RestoreError::Twice(describe(&key)));
            }
            self.restore_definition(key, definition)?;
        }
        for router in self.definitions.topology.routers.values() {
            for number in [router.active, router.previous].into_iter().flatten() {
                let there = router.versions.contains_key(&number);
                let definition = describe(&DefinitionKey::Router(router.id));
                found(there, definition, || format!("version {number}"))?;
            }
        }
        Ok(())
    }

    fn restore_definition(&mut self, key: DefinitionKey, definition: Definition) -> Result<(), RestoreError> {
        let name = describe(&key);
        self.check_number(&key)?;
        let definitions = &mut self.definitions;
        match (key, definition) {
            (DefinitionKey::Ids, Definition::Ids(next)) => definitions.restore_ids(next),
            (DefinitionKey::User(user), Definition::User(verifier)) => {
                definitions.insert_user(user, verifier);
            }
            (DefinitionKey::Vhost(id), Definition::Vhost(vhost)) => {
                unique(definitions.topology.vhosts.contains_key(&vhost), name)?;
                definitions.insert_vhost(id, vhost);
            }
            (
                DefinitionKey::Router(id),
                Definition::Router {
                    vhost,
                    name: router,
                    active,
                    previous,
                    next_version,
                },
            ) => {
                self.check_vhost(vhost, &name)?;
                unique(self.definitions.router(vhost, &router).is_some(), name)?;
                self.definitions.put_router(Router {
                    id,
                    vhost,
                    name: router,
                    active,
                    previous,
                    next_version,
                    versions: imbl::OrdMap::new(),
                });
            }
            (DefinitionKey::RouterVersion(id, number), Definition::RouterVersion(spec)) => {
                let there = definitions.insert_version(id, number, spec);
                found(there, name, || format!("router number {}", id.0))?;
            }
            (DefinitionKey::Queue(id), Definition::Queue { vhost, spec }) => {
                self.check_vhost(vhost, &name)?;
                unique(self.definitions.queue(vhost, &spec.name).is_some(), name)?;
                self.make_empty(id, &spec);
                self.definitions.insert_queue(id, vhost, spec);
            }
            (
                DefinitionKey::Exchange(id),
                Definition::Exchange {
                    vhost,
                    spec,
                    quarantine,
                },
            ) => {
                self.check_vhost(vhost, &name)?;
                unique(
                    self.definitions.exchange(vhost, &spec.name).is_some(),
                    name.clone(),
                )?;
                self.check_exchange_parts(vhost, spec.router.as_deref(), quarantine, name)?;
                self.definitions.insert_exchange(id, vhost, spec, quarantine);
            }
            (DefinitionKey::Binding(vhost, spec), Definition::Binding) => {
                self.check_vhost(vhost, &name)?;
                let (source, binding) = self.resolve_binding(vhost, spec, name)?;
                self.definitions.insert_binding(source, binding);
            }
            _ => return Err(RestoreError::WrongKind(name)),
        }
        Ok(())
    }

    fn check_vhost(&self, vhost: VhostId, definition: &str) -> Result<(), RestoreError> {
        let there = self.definitions.vhost(vhost).is_some();
        found(there, definition.to_owned(), || {
            format!("vhost number {}", vhost.0)
        })
    }

    fn check_exchange_parts(
        &self,
        vhost: VhostId,
        router: Option<&str>,
        quarantine: Option<QueueId>,
        definition: String,
    ) -> Result<(), RestoreError> {
        if let Some(router) = router {
            let there = self.definitions.router(vhost, router).is_some();
            found(there, definition.clone(), || format!("router '{router}'"))?;
        }
        if let Some(queue) = quarantine {
            let there = self.definitions.topology.queues.contains_key(&queue);
            found(there, definition, || format!("queue number {}", queue.0))?;
        }
        Ok(())
    }

    fn resolve_binding(
        &self,
        vhost: VhostId,
        spec: BindingSpec,
        definition: String,
    ) -> Result<(ExchangeId, Binding), RestoreError> {
        let dangling = |names: String| RestoreError::Dangling {
            definition: definition.clone(),
            names,
        };
        let exchange = |name: &str| {
            let exchange = self.definitions.exchange(vhost, name).map(|exchange| exchange.id);
            exchange.ok_or_else(|| dangling(format!("exchange '{name}'")))
        };
        let source = exchange(&spec.source)?;
        let target = match &spec.destination {
            Destination::Exchange(name) => Target::Exchange(exchange(name)?),
            Destination::Queue(name) => {
                let queue = self.definitions.queue(vhost, name).map(|queue| queue.id);
                Target::Queue(queue.ok_or_else(|| dangling(format!("queue '{name}'")))?)
            }
        };
        let binding = Binding {
            key: spec.key,
            target,
            arguments: spec.arguments,
        };
        Ok((source, binding))
    }

    fn check_number(&self, key: &DefinitionKey) -> Result<(), RestoreError> {
        let next: NextIds = self.definitions.next_ids();
        let given = match key {
            DefinitionKey::Vhost(id) => id.0 < next.vhost,
            DefinitionKey::Exchange(id) => id.0 < next.exchange,
            DefinitionKey::Queue(id) => id.0 < next.queue,
            DefinitionKey::Router(id) => id.0 < next.router,
            _ => true,
        };
        if given {
            return Ok(());
        }
        Err(RestoreError::NumberNotGiven(describe(key)))
    }

    /// Queues with what they hold. One that is no longer declared was deleted, but not all of its messages were
    /// released yet: that goes on.
    fn restore_queues(&mut self, stored: BTreeMap<QueueId, StoredQueue>) -> Result<(), RestoreError> {
        for (id, stored) in stored {
            let StoredQueue {
                state,
                blocks,
                attempts,
            } = stored;
            let page_runs = self.bounds.page_runs;
            let wrong = |problem| RestoreError::Queue { queue: id.0, problem };
            let declared = self.definitions.topology.queues.get(&id);
            let sync = declared.map(|queue| self.fsync_of(&queue.spec).within());
            let retention = match declared {
                Some(queue) => queue.spec.kind.retention(),
                None => state.stream.map(|_| Retention::default()),
            };
            if let Some(retention) = retention {
                let mut stream = Stream::restore(id, retention, state, page_runs).map_err(wrong)?;
                match sync {
                    Some(sync) => stream.sync = sync,
                    None => stream.delete(),
                }
                self.streams.insert(id, stream);
                // Its first message may be too old by now.
                self.list(id);
                continue;
            }
            let mut queue = Queue::restore(id, state, &blocks, attempts, page_runs).map_err(wrong)?;
            queue.message_ttl = declared.and_then(|queue| message_ttl(&queue.spec));
            match sync {
                Some(sync) => queue.sync = sync,
                None => queue.delete(),
            }
            self.queues.insert(id, queue);
            if sync.is_none() {
                self.list(id);
            }
        }
        Ok(())
    }
}

/// Definitions of a higher rank may name those of a lower one.
fn rank(key: &DefinitionKey) -> u8 {
    match key {
        DefinitionKey::Ids => 0,
        DefinitionKey::Vhost(_) | DefinitionKey::User(_) => 1,
        DefinitionKey::Router(_) => 2,
        DefinitionKey::RouterVersion(..) | DefinitionKey::Queue(_) => 3,
        DefinitionKey::Exchange(_) => 4,
        DefinitionKey::Binding(..) => 5,
    }
}

fn describe(key: &DefinitionKey) -> String {
    match key {
        DefinitionKey::Vhost(id) => format!("of vhost number {}", id.0),
        DefinitionKey::User(name) => format!("of user '{name}'"),
        DefinitionKey::Exchange(id) => format!("of exchange number {}", id.0),
        DefinitionKey::Queue(id) => format!("of queue number {}", id.0),
        DefinitionKey::Binding(vhost, spec) => {
            let (Destination::Queue(to) | Destination::Exchange(to)) = &spec.destination;
            format!(
                "of the binding from '{}' to '{to}' with key '{}' in vhost number {}",
                spec.source, spec.key, vhost.0
            )
        }
        DefinitionKey::Router(id) => format!("of router number {}", id.0),
        DefinitionKey::RouterVersion(id, number) => {
            format!("of version {number} of router number {}", id.0)
        }
        DefinitionKey::Ids => "of the counter of ids".to_owned(),
    }
}

fn unique(taken: bool, definition: String) -> Result<(), RestoreError> {
    if taken {
        return Err(RestoreError::Twice(definition));
    }
    Ok(())
}

fn found(there: bool, definition: String, names: impl FnOnce() -> String) -> Result<(), RestoreError> {
    if there {
        return Ok(());
    }
    Err(RestoreError::Dangling {
        definition,
        names: names(),
    })
}
