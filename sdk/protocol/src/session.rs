//! The opening of a connection and what the broker says unasked.

use serde::{Deserialize, Serialize};

/// What a client says first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version the client speaks.
    pub version_min: u16,
    /// Highest protocol version the client speaks.
    pub version_max: u16,
    /// Bits of optional features the client knows; none are defined yet.
    pub features: u64,
    /// Name of the client program, for `status` and logs.
    pub client: String,
    /// The vhost this connection works in.
    pub vhost: String,
    /// Who the client is.
    pub user: String,
    /// The user's secret.
    pub password: String,
}

/// Without the password.
impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &(self.version_min..=self.version_max))
            .field("features", &self.features)
            .field("client", &self.client)
            .field("vhost", &self.vhost)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The broker's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version both will speak.
    pub version: u16,
    /// The features both know.
    pub features: u64,
    /// Name and version of the broker, for logs.
    pub server: String,
    /// The broker's number of this connection.
    pub connection: u64,
    /// Largest body the broker accepts, in bytes.
    pub body_max: u32,
}

/// What the broker says unasked on the control stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// The broker is going away: finish what is in flight, connect anew.
    GoAway {
        /// Why, as a sentence.
        reason: String,
    },
    /// Publishes wait until `Unblocked`.
    Blocked {
        /// Which limit was reached, as a sentence.
        reason: String,
    },
    /// Publishes are taken again.
    Unblocked,
}
