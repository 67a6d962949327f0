//! Error codes of the wire, sorted by whose fault they are, and the sentence that travels with one.

use serde::{Deserialize, Serialize};

/// What went wrong. Codes are stable: a retired one is never used again.
///
/// 1xx: the bytes were wrong. 2xx: who you are. 3xx: what you named. 4xx: a limit. 5xx: a router module.
/// 6xx: the broker's own trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "u16", from = "u16")]
#[non_exhaustive]
pub enum ErrorCode {
    /// 100: a frame could not be decoded.
    MalformedFrame,
    /// 101: a frame is longer than the limit.
    OversizedFrame,
    /// 102: a frame that is not allowed at this point of this stream.
    UnexpectedFrame,
    /// 103: publish sequence numbers did not rise.
    SequenceOutOfOrder,
    /// 104: client and broker share no protocol version.
    UnsupportedVersion,
    /// 105: a delivery tag that is not outstanding.
    UnknownDeliveryTag,
    /// 200: wrong user or password.
    AuthenticationFailed,
    /// 201: the user may not do this.
    AccessRefused,
    /// 300: no such exchange, queue, binding, router, version or vhost.
    NotFound,
    /// 301: it exists with other properties.
    PreconditionFailed,
    /// 302: the name or argument is not valid.
    InvalidArgument,
    /// 303: another connection owns it exclusively.
    ResourceLocked,
    /// 304: it is in use or not empty.
    InUse,
    /// 305: this broker does not offer that.
    NotImplemented,
    /// 400: a bound of the broker is reached.
    LimitReached,
    /// 401: the body is larger than the configured maximum.
    MessageTooLarge,
    /// 500: the module could not be compiled or does not fit the contract.
    ModuleInvalid,
    /// 501: the module's `configure` refused.
    ModuleConfigRefused,
    /// 502: the module trapped or overran its budget.
    ModuleFailed,
    /// 600: the broker is shutting down.
    ShuttingDown,
    /// 601: the store failed.
    StoreFailed,
    /// 602: a fault of the broker that should not happen.
    Internal,
    /// A code that this build does not know.
    Unknown(u16),
}

macro_rules! codes {
    ($($name:ident = $code:literal),* $(,)?) => {
        impl From<ErrorCode> for u16 {
            fn from(code: ErrorCode) -> u16 {
                match code { $(ErrorCode::$name => $code,)* ErrorCode::Unknown(other) => other }
            }
        }
        impl From<u16> for ErrorCode {
            fn from(code: u16) -> ErrorCode {
                match code { $($code => ErrorCode::$name,)* other => ErrorCode::Unknown(other) }
            }
        }
        impl ErrorCode {
            /// The name users see and search for.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name),)* ErrorCode::Unknown(_) => "Unknown" }
            }
        }
    };
}

codes! {
    MalformedFrame = 100, OversizedFrame = 101, UnexpectedFrame = 102, SequenceOutOfOrder = 103,
    UnsupportedVersion = 104, UnknownDeliveryTag = 105,
    AuthenticationFailed = 200, AccessRefused = 201,
    NotFound = 300, PreconditionFailed = 301, InvalidArgument = 302, ResourceLocked = 303, InUse = 304,
    NotImplemented = 305,
    LimitReached = 400, MessageTooLarge = 401,
    ModuleInvalid = 500, ModuleConfigRefused = 501, ModuleFailed = 502,
    ShuttingDown = 600, StoreFailed = 601, Internal = 602,
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), u16::from(*self))
    }
}

/// An error as it travels: a code for programs, a sentence for people, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", if hint.is_empty() { String::new() } else { format!(" ({hint})") })]
pub struct ErrorBody {
    /// What kind of error.
    pub code: ErrorCode,
    /// One sentence without a full stop: what was refused and which limit or name it hit.
    pub message: String,
    /// What the reader can do, or empty.
    pub hint: String,
}

impl ErrorBody {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ErrorBody {
        ErrorBody {
            code,
            message: message.into(),
            hint: String::new(),
        }
    }

    /// The same error with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> ErrorBody {
        self.hint = hint.into();
        self
    }
}
