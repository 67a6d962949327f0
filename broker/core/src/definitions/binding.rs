//! Requests about bindings.

use pointsman_protocol::admin::{Argument, BindingSpec, Destination, ExchangeKind, Reply};
use pointsman_protocol::{ErrorBody, ErrorCode};

use super::names::check_room;
use super::{Definitions, define_synced};
use crate::broker::Broker;
use crate::catalog::{Definition, DefinitionKey};
use crate::commit::Commit;
use crate::ids::{ConnectionId, ExchangeId};
use crate::limits::{BINDINGS_MAX, HASH_WEIGHT_MAX};
use crate::topology::{Binding, Target};

/// Checks the key by what it means to the exchange.
fn check_weight(kind: ExchangeKind, key: &str) -> Result<(), ErrorBody> {
    let weight = key
        .parse()
        .ok()
        .filter(|weight| (1..=HASH_WEIGHT_MAX).contains(weight));
    if kind != ExchangeKind::ConsistentHash || weight.is_some() {
        return Ok(());
    }
    let message = format!(
        "the binding key '{key}' of a consistent-hash exchange is not a weight from 1 to {HASH_WEIGHT_MAX}"
    );
    Err(ErrorBody::new(ErrorCode::InvalidArgument, message).hint("bind with key 1 for an equal share"))
}

/// Checks the argument that says how a headers exchange matches.
fn check_match(kind: ExchangeKind, arguments: &[(String, Argument)]) -> Result<(), ErrorBody> {
    const KNOWN: [&str; 4] = ["all", "any", "all-with-x", "any-with-x"];
    let Some((_, how)) = arguments.iter().find(|(name, _)| name == "x-match") else {
        return Ok(());
    };
    if kind != ExchangeKind::Headers || matches!(how, Argument::Str(how) if KNOWN.contains(&how.as_str())) {
        return Ok(());
    }
    let message = "the argument x-match of a binding to a headers exchange is not one that is known";
    Err(ErrorBody::new(ErrorCode::InvalidArgument, message).hint(format!("it may be {}", KNOWN.join(", "))))
}

impl Broker {
    pub(crate) fn bind(
        &mut self,
        connection: ConnectionId,
        mut spec: BindingSpec,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        spec.sort_arguments();
        spec.check()?;
        let (source, kind, binding) = self.resolve(connection, &spec)?;
        check_weight(kind, &spec.key)?;
        check_match(kind, &spec.arguments)?;
        let there = self.definitions.bindings();
        if self.definitions.has_binding(source, &binding) {
            return Ok(Reply::Done);
        }
        check_room("bindings", "BINDINGS_MAX", there, BINDINGS_MAX)?;
        if self.definitions.is_durable_binding(source, binding.target) {
            let key = DefinitionKey::Binding(self.vhost_of(connection)?.id, spec);
            define_synced(commit, key, Some(Definition::Binding));
        }
        self.definitions.insert_binding(source, binding);
        Ok(Reply::Done)
    }

    pub(crate) fn unbind(
        &mut self,
        connection: ConnectionId,
        mut spec: BindingSpec,
        commit: &mut Commit,
    ) -> Result<Reply, ErrorBody> {
        spec.sort_arguments();
        let (source, _, binding) = self.resolve(connection, &spec)?;
        if self.drop_binding(source, &binding, commit) {
            let unused = self.definitions.unused(source);
            self.remove_exchanges(unused.into_iter().collect(), commit);
        }
        Ok(Reply::Done)
    }

    /// Finds the ends a binding names.
    fn resolve(
        &self,
        connection: ConnectionId,
        spec: &BindingSpec,
    ) -> Result<(ExchangeId, ExchangeKind, Binding), ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let source = self.definitions.find_exchange(vhost, &spec.source)?;
        let target = match &spec.destination {
            Destination::Queue(name) => Target::Queue(self.usable_queue(connection, name)?.id),
            Destination::Exchange(name) => Target::Exchange(self.definitions.find_exchange(vhost, name)?.id),
        };
        let binding = Binding {
            key: spec.key.clone(),
            target,
            arguments: spec.arguments.clone(),
        };
        Ok((source.id, source.spec.kind, binding))
    }

    /// Removes a binding. Returns whether it was there.
    pub(super) fn drop_binding(
        &mut self,
        source: ExchangeId,
        binding: &Binding,
        commit: &mut Commit,
    ) -> bool {
        let durable = self.definitions.is_durable_binding(source, binding.target);
        let spec = self.definitions.binding_spec(source, binding);
        let exchange = self.definitions.topology.exchanges.get(&source);
        let vhost = exchange.map(|exchange| exchange.vhost);
        if !self.definitions.remove_binding(source, binding) {
            return false;
        }
        if let (true, Some(vhost), Some(spec)) = (durable, vhost, spec) {
            define_synced(commit, DefinitionKey::Binding(vhost, spec), None);
        }
        true
    }

    /// Removes the bindings that lead to `target`, which is about to go. Returns the auto-delete exchanges that
    /// have no binding left.
    pub(super) fn drop_inbound(&mut self, target: Target, commit: &mut Commit) -> Vec<ExchangeId> {
        let inbound = self.definitions.inbound.get(&target).cloned();
        let mut unused = Vec::new();
        for (source, binding) in inbound.into_iter().flatten() {
            self.drop_binding(source, &binding, commit);
            unused.extend(self.definitions.unused(source));
        }
        unused
    }

    pub(crate) fn list_bindings(&self, connection: ConnectionId) -> Result<Reply, ErrorBody> {
        let vhost = self.vhost_of(connection)?;
        let exchanges = vhost
            .exchanges
            .values()
            .filter_map(|id| self.definitions.topology.exchanges.get(id));
        let mut bindings: Vec<BindingSpec> = exchanges
            .flat_map(|exchange| {
                exchange
                    .bindings
                    .keys()
                    .map(move |binding| (exchange.id, binding))
            })
            .filter_map(|(source, binding)| self.definitions.binding_spec(source, binding))
            .collect();
        bindings.sort();
        Ok(Reply::Bindings(bindings))
    }
}

impl Definitions {
    fn has_binding(&self, source: ExchangeId, binding: &Binding) -> bool {
        let exchange = self.topology.exchanges.get(&source);
        exchange.is_some_and(|exchange| exchange.bindings.contains_key(binding))
    }

    /// The exchange, when it is one that goes with its last binding and has none.
    fn unused(&self, exchange: ExchangeId) -> Option<ExchangeId> {
        let exchange = self.topology.exchanges.get(&exchange)?;
        (exchange.spec.auto_delete && exchange.bindings.is_empty()).then_some(exchange.id)
    }
}
