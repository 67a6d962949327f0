//! Requests about queues.

use std::num::NonZeroU64;
use std::sync::Arc;

use pointsman_protocol::admin::{QueueInfo, QueueKind, QueueSpec, Reply};
use pointsman_protocol::{ErrorBody, ErrorCode, Fsync};

use super::names::{check_free, check_room, differs, not_found};
use super::{Definitions, define_synced};
use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey};
use crate::commit::Commit;
use crate::ids::{ConnectionId, QueueId, VhostId};
use crate::limits::QUEUES_MAX;
use crate::queue::Queue;
use crate::stream::Stream;
use crate::topology::{self, Target, Vhost};

/// Whether a queue is on disk. An exclusive one goes with its connection, and so never is.
pub(crate) fn is_durable(spec: &QueueSpec) -> bool {
    spec.durable && !spec.exclusive
}

/// How long messages may wait in a queue, in milliseconds.
pub(crate) fn message_ttl(spec: &QueueSpec) -> Option<NonZeroU64> {
    spec.message_ttl_ms.and_then(NonZeroU64::new)
}

impl Definitions {
    fn next_queue(&mut self) -> QueueId {
        self.next_changed = true;
        self.next.queue += 1;
        QueueId(self.next.queue - 1)
    }

    /// A queue by name, or who is nearest.
    pub(super) fn find_queue(&self, vhost: &Vhost, name: &str) -> Result<&Arc<topology::Queue>, ErrorBody> {
        self.queue(vhost.id, name)
            .ok_or_else(|| not_found("queue", name, vhost.queues.keys()))
    }

    /// A name nobody has. The number is the queue's, so it is never given twice.
    fn generated_name(&self, vhost: &Vhost) -> String {
        let mut name = format!("q.{}", self.next.queue);
        while vhost.queues.contains_key(&name) {
            name.push('-');
        }
        name
    }
}

/// Whether a queue is declared again as it is.
fn same_queue(is: &QueueSpec, asked: &QueueSpec) -> Result<(), ErrorBody> {
    let properties = [
        ("durable", is.durable, asked.durable),
        ("exclusive", is.exclusive, asked.exclusive),
        ("auto-delete", is.auto_delete, asked.auto_delete),
    ];
    if is.fsync != asked.fsync {
        let shown = |fsync: Option<Fsync>| fsync.map_or("the broker's".to_owned(), |fsync| fsync.to_string());
        return Err(differs(
            "queue",
            &is.name,
            "fsync",
            shown(is.fsync),
            shown(asked.fsync),
        ));
    }
    if let Some((property, there, wanted)) = properties.into_iter().find(|(_, is, asked)| is != asked) {
        return Err(differs("queue", &is.name, property, there, wanted));
    }
    if is.kind.name() != asked.kind.name() {
        return Err(differs(
            "queue",
            &is.name,
            "kind",
            is.kind.name(),
            asked.kind.name(),
        ));
    }
    let (is_kept, asked_kept) = (
        is.kind.retention().unwrap_or_default(),
        asked.kind.retention().unwrap_or_default(),
    );
    let limits = [
        (
            "message-ttl in milliseconds",
            is.message_ttl_ms,
            asked.message_ttl_ms,
        ),
        (
            "max-age in milliseconds",
            is_kept.max_age_ms,
            asked_kept.max_age_ms,
        ),
        ("max-bytes", is_kept.max_bytes, asked_kept.max_bytes),
        ("max-messages", is_kept.max_messages, asked_kept.max_messages),
    ];
    let noun = if is.kind == QueueKind::Work {
        "queue"
    } else {
        "stream"
    };
    match limits.into_iter().find(|(_, is, asked)| is != asked) {
        Some((limit, there, wanted)) => Err(differs(noun, &is.name, limit, there, wanted)),
        None => Ok(()),
    }
}

impl Broker {
    /// A queue by name that this connection may use.
    pub(crate) fn usable_queue(
        &self,
        connection: ConnectionId,
        name: &str,
    ) -> Result<&Arc<topology::Queue>, ErrorBody> {
        let queue = self.definitions.find_queue(self.vhost_of(connection)?, name)?;
        self.check_owner(connection, queue)?;
        Ok(queue)
    }

    /// Refuses an exclusive queue of another connection.
    pub(super) fn check_owner(
        &self,
        connection: ConnectionId,
        queue: &topology::Queue,
    ) -> Result<(), ErrorBody> {
        let connection = self.connections.get(&connection);
        if !queue.spec.exclusive || connection.is_some_and(|c| c.exclusive.contains(&queue.id)) {
            return Ok(());
        }
        let message = format!("queue '{}' is exclusive to another connection", queue.spec.name);
        Err(ErrorBody::new(ErrorCode::ResourceLocked, message))
    }

    pub(crate) fn declare_queue(
        &mut self,
        connection: ConnectionId,
        mut spec: QueueSpec,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        if spec.name.is_empty() {
            spec.name = self.definitions.generated_name(vhost);
        }
        spec.check()?;
        if let Some(queue) = self.definitions.queue(vhost.id, &spec.name) {
            self.check_owner(connection, queue)?;
            same_queue(&queue.spec, &spec)?;
            return Ok(Reply::Queues(vec![self.queue_info(queue)]));
        }
        check_free("queue", &spec.name)?;
        let queues = self.definitions.topology.queues.len();
        check_room("queues", "QUEUES_MAX", queues, QUEUES_MAX)?;
        let vhost = vhost.id;
        let exclusive = spec.exclusive;
        let id = self.make_queue(vhost, spec.clone(), commit);
        if exclusive && let Some(connection) = self.connections.get_mut(&connection) {
            connection.exclusive.insert(id);
        }
        let queue = topology::Queue { id, vhost, spec };
        Ok(Reply::Queues(vec![self.queue_info(&queue)]))
    }

    /// Makes a queue; its name is free and its spec was checked.
    pub(super) fn make_queue(&mut self, vhost: VhostId, spec: QueueSpec, commit: &mut Commit) -> QueueId {
        let id = self.definitions.next_queue();
        if is_durable(&spec) {
            let definition = Definition::Queue {
                vhost,
                spec: spec.clone(),
            };
            define_synced(commit, DefinitionKey::Queue(id), Some(definition));
        }
        self.make_empty(id, &spec);
        self.definitions.insert_queue(id, vhost, spec);
        id
    }

    /// Gives a queue its state, without messages.
    pub(crate) fn make_empty(&mut self, id: QueueId, spec: &QueueSpec) {
        let page_runs = self.bounds.page_runs;
        match spec.kind {
            QueueKind::Work => {
                let mut queue = Queue::new(id, is_durable(spec), page_runs);
                queue.sync = self.fsync_of(spec).within();
                queue.message_ttl = message_ttl(spec);
                self.queues.insert(id, queue);
            }
            QueueKind::Stream(retention) => {
                let mut stream = Stream::new(id, retention, page_runs);
                stream.sync = self.fsync_of(spec).within();
                self.streams.insert(id, stream);
            }
        }
    }

    pub(crate) fn delete_queue(
        &mut self,
        connection: ConnectionId,
        name: &str,
        (if_unused, if_empty): (bool, bool),
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let declared = self.usable_queue(connection, name)?;
        let (id, vhost) = (declared.id, declared.vhost);
        if let Some(exchange) = super::names::quarantine_of(name)
            && self
                .definitions
                .exchange(vhost, exchange)
                .is_some_and(|e| e.quarantine == Some(id))
        {
            let message = format!("queue '{name}' keeps what the router of exchange '{exchange}' fails on");
            return Err(ErrorBody::new(ErrorCode::InUse, message)
                .hint(format!("purge it, or delete exchange '{exchange}' first")));
        }
        let consumers = self.consumers_of(id).map_or(0, |(consumers, _)| consumers);
        let messages = self.messages_in(id);
        if if_unused && consumers > 0 {
            let message = format!("queue '{name}' has {consumers} consumers");
            return Err(ErrorBody::new(ErrorCode::InUse, message));
        }
        if if_empty && messages > 0 {
            let message = format!("queue '{name}' has {messages} messages");
            return Err(ErrorBody::new(ErrorCode::InUse, message).hint("purge it first"));
        }
        self.remove_queue(id, "it was deleted", commit);
        Ok(Reply::Purged(messages))
    }

    /// Removes a queue: its consumers close, its bindings go, and its messages are released over the next turns.
    pub(crate) fn remove_queue(&mut self, id: QueueId, why: &str, commit: &mut Commit) {
        let Some(declared) = self.definitions.topology.queues.get(&id).cloned() else {
            return;
        };
        self.close_consumers_of(id, &declared.spec.name, why, commit);
        let unused = self.drop_inbound(Target::Queue(id), commit);
        self.remove_exchanges(unused, commit);
        if is_durable(&declared.spec) {
            define_synced(commit, DefinitionKey::Queue(id), None);
        }
        self.definitions.remove_queue(id);
        self.due.forget(id, is_durable(&declared.spec), &mut self.log);
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.end_purges(commit);
            queue.delete();
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.end_purges(commit);
            stream.delete();
        }
        self.list(id);
    }

    /// How many messages are in a queue, and delayed; what readers of a stream have is in it still.
    fn messages_in(&self, id: QueueId) -> u64 {
        let queue = self.queues.get(&id).map(|queue| queue.counters);
        let stream = self.streams.get(&id).map(Stream::counters);
        queue.map_or(0, |counters| counters.ready + counters.unsettled)
            + stream.map_or(0, |counters| counters.ready)
            + self.due.delayed(id)
    }

    pub(crate) fn purge_queue(
        &mut self,
        connection: ConnectionId,
        request: u64,
        name: &str,
    ) -> Result<(), ErrorBody> {
        let id = self.usable_queue(connection, name)?.id;
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.purge((connection, request));
        } else if let Some(stream) = self.streams.get_mut(&id) {
            stream.purge((connection, request));
        }
        self.list(id);
        Ok(())
    }

    pub(crate) fn list_queues(
        &self,
        connection: ConnectionId,
        name: Option<&str>,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let queues = match name {
            Some(name) => vec![self.queue_info(self.definitions.find_queue(vhost, name)?)],
            None => {
                let ids = vhost.queues.values();
                ids.filter_map(|id| self.definitions.topology.queues.get(id))
                    .map(|queue| self.queue_info(queue))
                    .collect()
            }
        };
        Ok(Reply::Queues(queues))
    }

    /// What a confirm promises of a queue's persistent messages.
    pub(crate) fn fsync_of(&self, spec: &QueueSpec) -> Fsync {
        spec.fsync.unwrap_or(self.bounds.fsync)
    }

    fn queue_info(&self, declared: &topology::Queue) -> QueueInfo {
        let queue = self.queues.get(&declared.id);
        let stream = self.streams.get(&declared.id);
        let counters = queue.map(|queue| queue.counters).or(stream.map(Stream::counters));
        let published = queue.map(Queue::published).or(stream.map(Stream::published));
        let counters = counters.unwrap_or_default();
        QueueInfo {
            spec: declared.spec.clone(),
            ready: counters.ready,
            unsettled: counters.unsettled,
            consumers: self
                .consumers_of(declared.id)
                .map_or(0, |(consumers, _)| consumers as u32),
            published: published.unwrap_or_default(),
            acked: counters.acked,
            redelivered: counters.redelivered,
            expired: counters.expired,
            delayed: self.due.delayed(declared.id),
            fsync: self.fsync_of(&declared.spec),
            stream: stream.map(Stream::info),
        }
    }
}
