//! One exchange, ready to route by.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use pointsman_core::DecidedBy;
use pointsman_core::catalog::VersionSpec;
use pointsman_core::topology::{Binding, Exchange, Router, Target, Topology};
use pointsman_protocol::admin::ExchangeKind;
use pointsman_protocol::{ErrorBody, ErrorCode};

use crate::host::{DecisionCache, Pool};
use crate::matcher::{Matcher, runs};

/// An exchange with its bindings arranged for looking up. They are arranged when the first message comes, so that
/// declaring many bindings one by one costs no more than it must.
pub(crate) struct Table {
    pub(crate) exchange: Arc<Exchange>,
    /// Who decides; for kind router only.
    router: Option<Arc<Router>>,
    deciding: Option<Deciding>,
    arranged: OnceLock<Arranged>,
}

/// The version of a router that decides for one exchange, its instances that know this exchange's targets, and what is
/// remembered of its decisions. A change of the version, the exchange or its bindings makes a new one.
pub(crate) struct Deciding {
    pub(crate) by: DecidedBy,
    /// Such as `orders@3`.
    pub(crate) name: String,
    pub(crate) version: Arc<VersionSpec>,
    pub(crate) pool: Pool,
    pub(crate) cache: DecisionCache,
}

pub(crate) struct Arranged {
    pub(crate) matcher: Matcher,
    /// Where each binding leads, by number.
    pub(crate) targets: Box<[Target]>,
    /// Whether no binding leads to another exchange.
    pub(crate) queues_only: bool,
    /// The bindings of each target of a router, by the target's number; its name is their key.
    runs: Box<[Range<u32>]>,
}

impl Table {
    pub(crate) fn new(exchange: Arc<Exchange>, topology: &Topology) -> Table {
        let router = exchange.router.and_then(|id| topology.routers.get(&id)).cloned();
        Table {
            deciding: router.as_deref().and_then(Deciding::active_of),
            router,
            exchange,
            arranged: OnceLock::new(),
        }
    }

    pub(crate) fn is_router(&self) -> bool {
        self.exchange.spec.kind == ExchangeKind::Router
    }

    pub(crate) fn arranged(&self) -> &Arranged {
        self.arranged.get_or_init(|| Arranged::new(&self.exchange))
    }

    /// The binding of that number.
    pub(crate) fn binding(&self, number: u32) -> Option<&Binding> {
        self.exchange.bindings.keys().nth(number as usize)
    }

    /// The bindings of a router's target.
    pub(crate) fn target(&self, number: u32) -> Range<u32> {
        self.arranged()
            .runs
            .get(number as usize)
            .cloned()
            .unwrap_or_default()
    }

    /// The names of a router's targets, by number: the binding keys, each once.
    pub(crate) fn target_names(&self) -> Vec<&str> {
        runs(&self.exchange).map(|(key, _)| key).collect()
    }

    /// The version that decides.
    ///
    /// # Errors
    /// What the publisher is told when there is none.
    pub(crate) fn deciding(&self) -> Result<&Deciding, ErrorBody> {
        self.deciding.as_ref().ok_or_else(|| match &self.router {
            Some(router) => {
                let message = format!(
                    "router '{}' of exchange '{}' has no active version",
                    router.name, self.exchange.spec.name
                );
                ErrorBody::new(ErrorCode::NotFound, message)
                    .hint(format!("pointsman router activate {} VERSION", router.name))
            }
            None => {
                let wanted = self.exchange.spec.router.as_deref().unwrap_or_default();
                let message = format!("exchange '{}' has no router '{wanted}'", self.exchange.spec.name);
                ErrorBody::new(ErrorCode::NotFound, message)
                    .hint(format!("pointsman router load {wanted} MODULE"))
            }
        })
    }
}

impl Deciding {
    fn active_of(router: &Router) -> Option<Deciding> {
        let version = router.active?;
        Some(Deciding {
            by: DecidedBy {
                router: router.id,
                version,
            },
            name: format!("{}@{version}", router.name),
            version: router.versions.get(&version)?.clone(),
            pool: Pool::default(),
            cache: DecisionCache::default(),
        })
    }
}

impl Arranged {
    fn new(exchange: &Exchange) -> Arranged {
        let targets: Box<[Target]> = exchange.bindings.keys().map(|binding| binding.target).collect();
        Arranged {
            matcher: Matcher::new(exchange),
            queues_only: targets.iter().all(|target| matches!(target, Target::Queue(_))),
            targets,
            runs: match exchange.spec.kind {
                ExchangeKind::Router => runs(exchange).map(|(_, run)| run).collect(),
                _ => Box::default(),
            },
        }
    }
}
