//! Where a message would go and why.

use bytes::Bytes;
use pointsman_core::input::{Publish, Verdict};
use pointsman_core::topology::{Binding, Target, Topology};
use pointsman_core::{DecidedBy, ExchangeId};
use pointsman_protocol::admin::{BindingSpec, Destination, ExchangeKind, ExplainStep, Explanation};

use crate::matcher::weight;
use crate::routes::{Entry, Incoming, Place, Routes};
use crate::table::Table;
use crate::walk::walk_explained;

pub(crate) async fn explain(routes: &Routes, entry: &Entry, content: Bytes, meta_len: u32) -> Explanation {
    let message = Incoming {
        sequence: 0,
        content,
        meta_len,
    };
    let (publish, steps) = match &entry.0 {
        Place::Declared(table) => walk_explained(routes, table, message).await,
        Place::Default(_) => {
            let mut out = Vec::new();
            routes.route(entry.clone(), vec![message], &mut out).await;
            (out.swap_remove(0), Vec::new())
        }
    };
    let topology = &routes.topology;
    let mut queues: Vec<String> = publish
        .copies
        .iter()
        .flat_map(|copy| &copy.queues)
        .filter_map(|id| topology.queues.get(id))
        .map(|queue| queue.spec.name.clone())
        .collect();
    queues.sort_unstable();
    queues.dedup();
    let default = matches!(entry.0, Place::Default(_));
    Explanation {
        steps: if default {
            vec![default_step(&queues)]
        } else {
            steps
        },
        queues,
        rejected: rejection(&publish),
    }
}

/// What one exchange did, for an explanation.
pub(crate) fn step(
    routes: &Routes,
    table: &Table,
    by: Option<DecidedBy>,
    bindings: &[u32],
    remark: &str,
) -> ExplainStep {
    let spec = |number: &u32| {
        Some(binding_spec(
            &routes.topology,
            &table.exchange.spec.name,
            table.binding(*number)?,
        ))
    };
    let decided_by = by
        .and_then(|_| table.deciding().ok())
        .map(|deciding| deciding.name.clone());
    ExplainStep {
        exchange: table.exchange.spec.name.clone(),
        kind: table.exchange.spec.kind,
        decided_by: decided_by.unwrap_or_default(),
        matched: bindings.iter().filter_map(spec).collect(),
        remark: match remark {
            "" if bindings.is_empty() => nothing_matched(table),
            remark => remark.to_owned(),
        },
    }
}

fn nothing_matched(table: &Table) -> String {
    let bindings = &table.exchange.bindings;
    if bindings.is_empty() {
        return "the exchange has no bindings".into();
    }
    if table.exchange.spec.kind == ExchangeKind::ConsistentHash
        && bindings.keys().all(|b| weight(&b.key).is_none())
    {
        return "no binding key is a weight".into();
    }
    format!("none of {} bindings takes the message", bindings.len())
}

fn binding_spec(topology: &Topology, source: &str, binding: &Binding) -> BindingSpec {
    let destination = match binding.target {
        Target::Queue(id) => Destination::Queue(
            topology
                .queues
                .get(&id)
                .map(|q| q.spec.name.clone())
                .unwrap_or_default(),
        ),
        Target::Exchange(id) => Destination::Exchange(exchange_name(topology, id)),
    };
    BindingSpec {
        source: source.to_owned(),
        destination,
        key: binding.key.clone(),
        arguments: binding.arguments.clone(),
    }
}

fn exchange_name(topology: &Topology, id: ExchangeId) -> String {
    topology
        .exchanges
        .get(&id)
        .map(|exchange| exchange.spec.name.clone())
        .unwrap_or_default()
}

/// The default exchange has no bindings to show, only its rule.
fn default_step(queues: &[String]) -> ExplainStep {
    ExplainStep {
        exchange: String::new(),
        kind: ExchangeKind::Direct,
        decided_by: String::new(),
        matched: Vec::new(),
        remark: match queues {
            [] => "no queue has the routing key as its name".into(),
            _ => "a queue has the routing key as its name".into(),
        },
    }
}

fn rejection(publish: &Publish) -> Option<String> {
    match &publish.verdict {
        Verdict::Deliver => None,
        Verdict::Reject(reason) | Verdict::Quarantine(reason) => Some(reason.clone()),
        Verdict::Refuse(refusal) => Some(refusal.to_string()),
    }
}
