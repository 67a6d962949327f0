//! Why a run gave no figures.

use std::time::Duration;

/// Why a run gave no figures, sorted by whose fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // What the caller asked for.
    /// The scenario makes no sense.
    #[error("{0}")]
    Scenario(String),
    /// What the run would make is there already, and may be of use to somebody.
    #[error("there is a {kind} `{name}` already; a bench touches nothing that it did not make")]
    Exists {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
    },

    // The broker's doing.
    /// Pointsman's client failed.
    #[error(transparent)]
    Client(#[from] pointsman_sdk::Error),
    /// A broker refused, or the connection to it failed.
    #[error("{0}")]
    Broker(String),
    /// Nothing came for so long.
    #[error("no {what} came for {after:?}")]
    Stalled {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// Confirmed messages did not arrive.
    #[error("{missing} of {confirmed} confirmed messages did not arrive")]
    Lost {
        /// Messages that should have arrived, each as often as there are queues that should have it.
        confirmed: u64,
        /// Those that did not.
        missing: u64,
    },
    /// Something arrived that was not sent.
    #[error("a message arrived that this run did not send: {0}")]
    Stranger(String),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error::Broker(format!("the connection to the broker failed: {error}"))
    }
}
