//! What is declared: the definitions that a durable broker remembers.

use pointsman_protocol::admin::{BindingSpec, ExchangeSpec, Interface, QueueSpec};
use serde::{Deserialize, Serialize};

use crate::ids::{ExchangeId, QueueId, RouterId, VhostId};

/// SHA-256 of a module as it was uploaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Names one definition; also its key on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DefinitionKey {
    /// A vhost.
    Vhost(VhostId),
    /// A user, by name.
    User(String),
    /// An exchange.
    Exchange(ExchangeId),
    /// A queue.
    Queue(QueueId),
    /// A binding of a vhost.
    Binding(VhostId, BindingSpec),
    /// A router.
    Router(RouterId),
    /// A version of a router.
    RouterVersion(RouterId, u32),
    /// The counter of ids.
    Ids,
}

/// One definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Definition {
    /// A vhost's name.
    Vhost(String),
    /// A user's verifier.
    User(UserVerifier),
    /// An exchange.
    Exchange {
        /// Its vhost.
        vhost: VhostId,
        /// What was declared.
        spec: ExchangeSpec,
        /// Where messages go on which its router failed; for kind router only.
        quarantine: Option<QueueId>,
    },
    /// A queue.
    Queue {
        /// Its vhost.
        vhost: VhostId,
        /// What was declared.
        spec: QueueSpec,
    },
    /// A binding; its key says all.
    Binding,
    /// A router.
    Router {
        /// Its vhost.
        vhost: VhostId,
        /// Its name.
        name: String,
        /// The version that decides.
        active: Option<u32>,
        /// The version that decided before.
        previous: Option<u32>,
        /// The number the next version gets.
        next_version: u32,
    },
    /// A version of a router.
    RouterVersion(VersionSpec),
    /// The next unused number of each kind of id.
    Ids(NextIds),
}

impl Definition {
    /// A durable work queue with nothing special about it.
    pub fn durable_queue(vhost: VhostId, name: impl Into<String>) -> Definition {
        let spec = QueueSpec::new(name);
        Definition::Queue { vhost, spec }
    }
}

/// A version of a router, immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSpec {
    /// The module.
    pub digest: Digest,
    /// The module's size, in bytes.
    pub size: u64,
    /// The interface it has.
    pub interface: Interface,
    /// Its configuration.
    pub config: Vec<u8>,
    /// When it was loaded, in milliseconds since the Unix epoch.
    pub loaded_at: u64,
}

/// What a password is checked against: a salted hash. The scheme is the server's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserVerifier {
    /// Names the hash function.
    pub scheme: u8,
    /// The salt.
    pub salt: [u8; 16],
    /// The hash.
    pub hash: [u8; 32],
}

/// The next unused number of each kind of id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextIds {
    /// For [`VhostId`].
    pub vhost: u32,
    /// For [`ExchangeId`].
    pub exchange: u32,
    /// For [`QueueId`].
    pub queue: u32,
    /// For [`RouterId`].
    pub router: u32,
}
