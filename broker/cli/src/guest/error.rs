//! Why a module could not be made.

use std::path::{Path, PathBuf};

/// Why a module could not be made. [`GuestError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    /// There is nothing to build.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
    /// The folder's language is not one this version builds.
    #[error("{} holds {language}, which `router build` does not build; it builds Rust", dir.display())]
    OtherLanguage {
        /// The folder.
        dir: PathBuf,
        /// What it seems to be.
        language: &'static str,
        /// What can be done with that language.
        hint: &'static str,
    },
    /// Neither way to build for Wasm is there.
    #[error("no Rust toolchain for wasm32-unknown-unknown: {0}")]
    NoToolchain(String),
    /// The way that the environment asks for is unknown.
    #[error("`{0}` is no toolchain")]
    UnknownToolchain(String),
    /// The manifest asks for no module.
    #[error("{} builds no module: cargo made no .wasm file", .0.display())]
    NoModule(PathBuf),
    /// Cargo failed; its last lines.
    #[error("cargo could not build {}:\n{output}", dir.display())]
    Cargo {
        /// The folder.
        dir: PathBuf,
        /// The end of what cargo said.
        output: String,
    },
    /// A new router cannot be written over something.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// The name of a new router cannot be a crate's name.
    #[error("`{0}` cannot be the name of a router crate")]
    BadName(String),
    /// There is no SDK to depend on.
    #[error("the router SDK is not at {}", .0.display())]
    NoSdk(PathBuf),
    /// The binary's source is gone and nothing says where the SDK is.
    #[error("the router SDK is not published yet, and the source this program was built from is gone")]
    UnknownSdk,
    /// A program or file could not be used.
    #[error("cannot {doing} {what}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl GuestError {
    /// Something that failed to be run, read or written.
    pub(super) fn io(doing: &'static str, what: &Path, error: std::io::Error) -> GuestError {
        GuestError::Io {
            doing,
            what: what.display().to_string(),
            error,
        }
    }

    /// What the reader can do, or empty.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            GuestError::NotAFolder(_) => "give the folder with the router's Cargo.toml",
            GuestError::OtherLanguage { hint, .. } => hint,
            GuestError::NoToolchain(_) => {
                "run `rustup target add wasm32-unknown-unknown`; where rustup cannot download, run wasm-routers/setup.sh"
            }
            GuestError::UnknownToolchain(_) => {
                "set POINTSMAN_GUEST_TOOLCHAIN to `installed` or `debian`, or unset it"
            }
            GuestError::NoModule(_) => {
                "its Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\", \"rlib\"]`"
            }
            GuestError::Cargo { .. } => "",
            GuestError::Exists(_) => "choose another name or remove it",
            GuestError::BadName(_) => "start with a letter and use lower-case letters, digits and `-`",
            GuestError::NoSdk(_) | GuestError::UnknownSdk => {
                "give the folder `wasm-routers/sdk` of a source checkout with `--sdk PATH`"
            }
            GuestError::Io { .. } => "",
        }
    }
}
