//! Errors, sorted by whose fault they are.

use std::time::Duration;

use pointsman_protocol::{ErrorBody, ErrorCode};
use quinn::{ConnectionError, ReadError, WriteError};

/// Why the client could not do what was asked. Cheap enough to clone for everything that waits on one cause.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // What the caller gave.
    /// The text is not a broker's address.
    #[error(
        "{given:?} is not a broker's address: {reason} (such as pointsman://user:password@host:7654/vhost)"
    )]
    Address {
        /// What was given, without the password.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The CA certificate is missing or unreadable.
    #[error(
        "{message} (give the PEM file of the CA that signed the broker's certificate, with `ca_file` or `?ca=`)"
    )]
    Ca {
        /// What is wrong, with the file's name.
        message: String,
    },
    /// A message or module is over a limit; nothing was sent.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLarge {
        /// What is too large, such as `a body in bytes`.
        what: &'static str,
        /// How large it is.
        len: usize,
        /// The limit.
        max: usize,
    },

    // On the way to the broker.
    /// No connection came about.
    #[error("cannot connect to {server}: {message}{}", if hint.is_empty() { String::new() } else { format!(" ({hint})") })]
    Connect {
        /// The address that was tried.
        server: String,
        /// What failed.
        message: String,
        /// What to look at, or empty.
        hint: String,
    },
    /// The connection was lost; what was asked may or may not have been done.
    #[error("the connection to the broker was lost: {reason}")]
    Disconnected {
        /// What ended it.
        reason: String,
    },
    /// The broker did not answer in time; what was asked may or may not have been done.
    #[error("the broker did not answer {what} within {after:?}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long the client waited.
        after: Duration,
    },

    // The broker's word.
    /// The broker refused.
    #[error("{0}")]
    Refused(#[from] ErrorBody),

    // The program's own doing.
    /// The client, publisher or consumer was closed by this program.
    #[error("the {what} is closed")]
    Closed {
        /// What was closed.
        what: &'static str,
    },

    // A fault of either side's code.
    /// The broker sent what the protocol does not allow.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
}

impl Error {
    /// The broker's error code, when the broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused(body) => Some(body.code),
            _ => None,
        }
    }

    /// Whether trying again later, unchanged, may work.
    pub fn is_temporary(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Disconnected { .. } | Error::Timeout { .. } => true,
            Error::Refused(body) => matches!(
                body.code,
                ErrorCode::ShuttingDown | ErrorCode::ResourceLocked | ErrorCode::LimitReached
            ),
            _ => false,
        }
    }

    pub(crate) fn closed(what: &'static str) -> Error {
        Error::Closed { what }
    }

    pub(crate) fn disconnected(reason: impl Into<String>) -> Error {
        Error::Disconnected {
            reason: reason.into(),
        }
    }
}

/// A connection that ended: with the broker's reason where it gave one, and lost otherwise.
impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Error {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let code = u16::try_from(close.error_code.into_inner()).unwrap_or_default();
                match ErrorCode::from(code) {
                    ErrorCode::Unknown(_) | ErrorCode::ShuttingDown => {
                        Error::disconnected(format!("the broker closed it: {close}"))
                    }
                    code => Error::Refused(ErrorBody::new(code, String::from_utf8_lossy(&close.reason))),
                }
            }
            ConnectionError::LocallyClosed => Error::closed("client"),
            ConnectionError::TimedOut => Error::disconnected("the broker fell silent"),
            other => Error::disconnected(other.to_string()),
        }
    }
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Error {
        match error {
            WriteError::ConnectionLost(error) => error.into(),
            other => Error::disconnected(format!("a stream ended: {other}")),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Error {
        match error {
            ReadError::ConnectionLost(error) => error.into(),
            other => Error::disconnected(format!("a stream ended: {other}")),
        }
    }
}

impl From<pointsman_protocol::frame::FrameError> for Error {
    fn from(error: pointsman_protocol::frame::FrameError) -> Error {
        Error::Protocol(error.to_string())
    }
}
