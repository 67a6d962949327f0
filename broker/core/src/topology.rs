//! The immutable picture of what is declared that sessions route by.
//!
//! Maps share structure, so a new snapshot costs what changed, not what there is.

use std::sync::Arc;

use imbl::OrdMap;
use pointsman_protocol::admin::{Argument, ExchangeSpec, QueueSpec};

use crate::catalog::{UserVerifier, VersionSpec};
use crate::ids::{ExchangeId, QueueId, RouterId, VhostId};

/// What is declared at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Vhosts by name.
    pub vhosts: OrdMap<String, Arc<Vhost>>,
    /// Users by name.
    pub users: OrdMap<String, UserVerifier>,
    /// Exchanges of all vhosts. The default exchange of a vhost is not among them.
    pub exchanges: OrdMap<ExchangeId, Arc<Exchange>>,
    /// Queues of all vhosts.
    pub queues: OrdMap<QueueId, Arc<Queue>>,
    /// Routers of all vhosts.
    pub routers: OrdMap<RouterId, Arc<Router>>,
}

/// The names of one vhost.
#[derive(Clone, Debug, Default)]
pub struct Vhost {
    /// Its number.
    pub id: VhostId,
    /// Exchanges by name.
    pub exchanges: OrdMap<String, ExchangeId>,
    /// Queues by name; the default exchange routes by this map.
    pub queues: OrdMap<String, QueueId>,
    /// Routers by name.
    pub routers: OrdMap<String, RouterId>,
}

/// An exchange with its bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its number.
    pub id: ExchangeId,
    /// Its vhost.
    pub vhost: VhostId,
    /// What was declared.
    pub spec: ExchangeSpec,
    /// The alternate exchange, where one is declared and exists.
    pub alternate: Option<ExchangeId>,
    /// The router that decides; for kind router only.
    pub router: Option<RouterId>,
    /// Where messages go on which the router failed; for kind router only.
    pub quarantine: Option<QueueId>,
    /// Its bindings in the order of their keys: by binding key, destination and arguments. A router sees them as
    /// its targets, numbered in this order.
    pub bindings: OrdMap<Binding, ()>,
}

/// A binding of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// The binding key.
    pub key: String,
    /// Where it leads.
    pub target: Target,
    /// Its arguments, sorted by name.
    pub arguments: Vec<(String, Argument)>,
}

/// The end of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A queue.
    Queue(QueueId),
    /// An exchange.
    Exchange(ExchangeId),
}

/// A queue, as far as routing and listing need it.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Its number.
    pub id: QueueId,
    /// Its vhost.
    pub vhost: VhostId,
    /// What was declared.
    pub spec: QueueSpec,
}

/// A router and its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// Its number.
    pub id: RouterId,
    /// Its vhost.
    pub vhost: VhostId,
    /// Its name.
    pub name: String,
    /// The version that decides.
    pub active: Option<u32>,
    /// The version that decided before.
    pub previous: Option<u32>,
    /// The number the next version gets; none is ever used again.
    pub next_version: u32,
    /// Loaded versions by number.
    pub versions: OrdMap<u32, Arc<VersionSpec>>,
}
