//! Requests about exchanges.

use std::sync::Arc;

use pointsman_protocol::admin::{ExchangeInfo, ExchangeKind, ExchangeSpec, QueueSpec, Reply};
use pointsman_protocol::limits::NAME_MAX;
use pointsman_protocol::{ErrorBody, ErrorCode};

use super::names::{QUARANTINE, check_free, check_room, differs, not_found};
use super::{Definitions, define_synced};
use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey};
use crate::commit::Commit;
use crate::ids::{ConnectionId, ExchangeId, QueueId, VhostId};
use crate::limits::{EXCHANGES_MAX, QUEUES_MAX};
use crate::topology::{Exchange, Target, Vhost};

impl Definitions {
    fn next_exchange(&mut self) -> ExchangeId {
        self.next_changed = true;
        self.next.exchange += 1;
        ExchangeId(self.next.exchange - 1)
    }

    /// An exchange by name, or who is nearest.
    pub(super) fn find_exchange(&self, vhost: &Vhost, name: &str) -> Result<&Arc<Exchange>, ErrorBody> {
        self.exchange(vhost.id, name)
            .ok_or_else(|| not_found("exchange", name, vhost.exchanges.keys()))
    }

    fn check_exchange(&self, vhost: &Vhost, spec: &ExchangeSpec) -> Result<(), ErrorBody> {
        check_free("exchange", &spec.name)?;
        if let Some(alternate) = &spec.alternate {
            self.find_exchange(vhost, alternate)?;
        }
        if let Some(router) = &spec.router {
            self.find_router(vhost, router)?;
            let max = NAME_MAX - QUARANTINE.len();
            if spec.name.len() > max {
                let message = format!(
                    "the name of a router exchange has at most {max} bytes, so that the name of its quarantine queue fits"
                );
                return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
            }
        }
        let exchanges = self.topology.exchanges.len();
        check_room("exchanges", "EXCHANGES_MAX", exchanges, EXCHANGES_MAX)
    }
}

/// Whether an exchange is declared again as it is.
fn same_exchange(is: &ExchangeSpec, asked: &ExchangeSpec) -> Result<(), ErrorBody> {
    let name = &is.name;
    if is.kind != asked.kind {
        return Err(differs(
            "exchange",
            name,
            "kind",
            is.kind.name(),
            asked.kind.name(),
        ));
    }
    if is.durable != asked.durable {
        return Err(differs("exchange", name, "durable", is.durable, asked.durable));
    }
    if is.auto_delete != asked.auto_delete {
        let (is, asked) = (is.auto_delete, asked.auto_delete);
        return Err(differs("exchange", name, "auto-delete", is, asked));
    }
    if is.alternate != asked.alternate {
        let none = String::new();
        let is = is.alternate.as_ref().unwrap_or(&none);
        let asked = asked.alternate.as_ref().unwrap_or(&none);
        return Err(differs("exchange", name, "alternate exchange", is, asked));
    }
    if is.router != asked.router {
        let none = String::new();
        let is = is.router.as_ref().unwrap_or(&none);
        let asked = asked.router.as_ref().unwrap_or(&none);
        return Err(differs("exchange", name, "router", is, asked));
    }
    Ok(())
}

impl Broker {
    pub(crate) fn declare_exchange(
        &mut self,
        connection: ConnectionId,
        spec: ExchangeSpec,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        spec.check()?;
        if let Some(exchange) = self.definitions.exchange(vhost.id, &spec.name) {
            return same_exchange(&exchange.spec, &spec).map(|()| Reply::Done);
        }
        self.definitions.check_exchange(vhost, &spec)?;
        let vhost = vhost.id;
        let quarantine = match spec.kind {
            ExchangeKind::Router => Some(self.quarantine_queue(vhost, &spec.name, commit)?),
            _ => None,
        };
        let id = self.definitions.next_exchange();
        if spec.durable {
            let definition = Definition::Exchange {
                vhost,
                spec: spec.clone(),
                quarantine,
            };
            define_synced(commit, DefinitionKey::Exchange(id), Some(definition));
        }
        self.definitions.insert_exchange(id, vhost, spec, quarantine);
        Ok(Reply::Done)
    }

    /// The queue that keeps what the router of an exchange failed on; one that is left from before is used again.
    fn quarantine_queue(
        &mut self,
        vhost: VhostId,
        exchange: &str,
        commit: &mut Commit,
    ) -> Result<QueueId, ErrorBody> {
        let name = format!("{QUARANTINE}{exchange}");
        if let Some(queue) = self.definitions.queue(vhost, &name) {
            return Ok(queue.id);
        }
        let queues = self.definitions.topology.queues.len();
        check_room("queues", "QUEUES_MAX", queues, QUEUES_MAX)?;
        Ok(self.make_queue(vhost, QueueSpec::new(name), commit))
    }

    pub(crate) fn delete_exchange(
        &mut self,
        connection: ConnectionId,
        name: &str,
        if_unused: bool,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let exchange = self.definitions.find_exchange(vhost, name)?;
        if if_unused && !exchange.bindings.is_empty() {
            let message = format!("exchange '{name}' has {} bindings", exchange.bindings.len());
            return Err(ErrorBody::new(ErrorCode::InUse, message).hint("unbind them, or delete it anyway"));
        }
        let id = exchange.id;
        self.remove_exchanges(vec![id], commit);
        Ok(Reply::Done)
    }

    /// Removes exchanges with their bindings, and auto-delete exchanges that lose their last binding by that.
    pub(super) fn remove_exchanges(&mut self, mut doomed: Vec<ExchangeId>, commit: &mut Commit) {
        while let Some(id) = doomed.pop() {
            let Some(exchange) = self.definitions.topology.exchanges.get(&id).cloned() else {
                continue;
            };
            for binding in exchange.bindings.keys() {
                self.drop_binding(id, binding, commit);
            }
            doomed.extend(self.drop_inbound(Target::Exchange(id), commit));
            if exchange.spec.durable {
                define_synced(commit, DefinitionKey::Exchange(id), None);
            }
            self.definitions.remove_exchange(id);
            if let Some(queue) = exchange.quarantine
                && self.queues.get(&queue).is_some_and(|queue| queue.is_empty())
            {
                self.remove_queue(queue, "its exchange was deleted", commit);
            }
        }
    }

    pub(crate) fn list_exchanges(
        &self,
        connection: ConnectionId,
        name: Option<&str>,
    ) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let info = |exchange: &Arc<Exchange>| ExchangeInfo {
            spec: exchange.spec.clone(),
            bindings: exchange.bindings.len() as u32,
        };
        let exchanges = match name {
            Some(name) => vec![info(self.definitions.find_exchange(vhost, name)?)],
            None => {
                let ids = vhost.exchanges.values();
                ids.filter_map(|id| self.definitions.topology.exchanges.get(id))
                    .map(info)
                    .collect()
            }
        };
        Ok(Reply::Exchanges(exchanges))
    }
}
