//! What goes wrong with modules, sorted by whose fault it is.

use std::path::PathBuf;

use pointsman_protocol::{ErrorBody, ErrorCode};

/// The host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// This machine or configuration does not let the sandbox be set up.
    #[error("the module sandbox cannot be set up: {0}")]
    Engine(String),
    /// The folder for compiled modules cannot be used.
    #[error("the folder {path} for compiled modules cannot be used: {source}")]
    CacheDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A module cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModuleError {
    /// The module is larger than the limit.
    #[error("a module of {size} bytes is over the limit of {max}")]
    TooLarge {
        /// Its size, in bytes.
        size: u64,
        /// The limit, in bytes.
        max: u64,
    },
    /// The bytes are not a module, or one without the exports a router needs.
    #[error("this is not a router module: {0}")]
    Invalid(String),
    /// The module wants to call what a router may not.
    #[error("the module imports what no router is granted: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// Compiling took more than its limits allow.
    #[error("the module does not compile within its limits: {0}")]
    CompileLimit(String),
    /// The module asks for more memory, tables or parts than an instance may have.
    #[error("the module does not fit its sandbox: {0}")]
    DoesNotFit(String),
    /// The module refused its configuration, in its own words.
    #[error("the module refuses this configuration: {0}")]
    ConfigRefused(String),
    /// The module trapped, ran out of a limit, or answered what the contract does not allow.
    #[error("the module failed: {0}")]
    Failed(String),
    /// No module of that digest was loaded.
    #[error("module {0} is not loaded")]
    NotLoaded(pointsman_core::catalog::Digest),
    /// All slots for instances are in use.
    #[error("the broker has no room for another instance of a module")]
    NoRoom,
    /// The broker's own trouble, such as a full disk.
    #[error("the broker could not handle the module: {0}")]
    Broker(String),
}

impl From<ModuleError> for ErrorBody {
    fn from(error: ModuleError) -> ErrorBody {
        let (code, hint) = match &error {
            ModuleError::TooLarge { .. } => (ErrorCode::LimitReached, ""),
            ModuleError::Invalid(_) => (
                ErrorCode::ModuleInvalid,
                "`pointsman router build DIR` makes a module of a router's source",
            ),
            ModuleError::Imports(_) => (
                ErrorCode::ModuleInvalid,
                "build it without WASI: only pointsman:router/host may be imported",
            ),
            ModuleError::CompileLimit(_) | ModuleError::DoesNotFit(_) => (ErrorCode::LimitReached, ""),
            ModuleError::ConfigRefused(_) => (ErrorCode::ModuleConfigRefused, ""),
            ModuleError::Failed(_) => (ErrorCode::ModuleFailed, ""),
            ModuleError::NotLoaded(_) => (ErrorCode::NotFound, ""),
            ModuleError::NoRoom => (ErrorCode::LimitReached, "unload routers that are not used"),
            ModuleError::Broker(_) => (ErrorCode::Internal, ""),
        };
        ErrorBody::new(code, error.to_string()).hint(hint)
    }
}
