//! Compiled modules on disk, and the one place where bytes are trusted to be machine code.
//!
//! A file is `MAC || artefact`. The MAC is HMAC-SHA256 under a key that only this broker has, over the digest of the
//! uploaded module, a hash of everything the engine generates code by, and the artefact. So a file that was changed,
//! swapped, or made by another engine is not loaded but made anew.

use std::hash::Hash;
use std::io::Write;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use pointsman_core::catalog::Digest;
use sha2::Sha256;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};
use xxhash_rust::xxh3::Xxh3;

use super::HostOptions;
use super::compile::compile;
use crate::error::ModuleError;

const MAC_LEN: usize = 32;

/// Machine code, mapped and ready to make instances of.
pub(crate) enum Code {
    Core(Module),
    Component(Component),
}

/// Machine code of a module: from the folder, or compiled and put there.
pub(crate) fn code(
    engine: &Engine,
    options: &HostOptions,
    digest: Digest,
    module: &[u8],
) -> Result<Code, ModuleError> {
    let cached = Cached::new(engine, options, digest);
    if let Some(artefact) = cached.read() {
        return machine_code(engine, &artefact);
    }
    let artefact = compile(options, module)?;
    cached
        .write(&artefact)
        .map_err(|error| ModuleError::Broker(format!("cannot write {}: {error}", cached.path.display())))?;
    machine_code(engine, &artefact)
}

/// A file of the folder.
struct Cached {
    path: PathBuf,
    /// Has taken in all but the artefact.
    mac: Hmac<Sha256>,
}

impl Cached {
    fn new(engine: &Engine, options: &HostOptions, digest: Digest) -> Cached {
        let mut hasher = Xxh3::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let engine_hash = hasher.digest128().to_le_bytes();
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&options.mac_key).expect("HMAC takes keys of any length");
        mac.update(&digest.0);
        mac.update(&engine_hash);
        let name = format!("{digest}-{:032x}.cwasm", u128::from_le_bytes(engine_hash));
        Cached {
            path: options.cache_dir.join(name),
            mac,
        }
    }

    /// The artefact, when the file is there and is what this broker wrote.
    fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a compiled module cannot be read; compiling again");
                return None;
            }
        };
        let (mac, artefact) = bytes.split_at_checked(MAC_LEN).unwrap_or((&[], &bytes));
        if self.mac.clone().chain_update(artefact).verify_slice(mac).is_err() {
            tracing::warn!(path = %self.path.display(), "a compiled module was changed on disk; compiling again");
            return None;
        }
        bytes.drain(..MAC_LEN);
        Some(bytes)
    }

    /// Writes the file whole or not at all.
    fn write(&self, artefact: &[u8]) -> std::io::Result<()> {
        let mac = self.mac.clone().chain_update(artefact).finalize().into_bytes();
        let staged = staging_path(&self.path);
        let mut file = std::fs::File::create(&staged)?;
        file.write_all(&mac)?;
        file.write_all(artefact)?;
        file.sync_all()?;
        std::fs::rename(&staged, &self.path)
    }
}

/// A name beside `path` that no other thread or process uses.
fn staging_path(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("{}-{number}.tmp", std::process::id()))
}

/// Maps an artefact that the compiler of this broker just made or that carries its MAC.
fn machine_code(engine: &Engine, artefact: &[u8]) -> Result<Code, ModuleError> {
    // The bytes are as they were made, so what can be wrong is that the sandbox has no slot of that size.
    let does_not_fit = |error: wasmtime::Error| ModuleError::DoesNotFit(format!("{}", error.root_cause()));
    match Engine::detect_precompiled(artefact) {
        Some(Precompiled::Component) => {
            #[expect(
                unsafe_code,
                reason = "the bytes are this broker's own compiler's, by its MAC or straight from it"
            )]
            let component = unsafe { Component::deserialize(engine, artefact) };
            component.map(Code::Component).map_err(does_not_fit)
        }
        Some(Precompiled::Module) => {
            #[expect(
                unsafe_code,
                reason = "the bytes are this broker's own compiler's, by its MAC or straight from it"
            )]
            let module = unsafe { Module::deserialize(engine, artefact) };
            module.map(Code::Core).map_err(does_not_fit)
        }
        None => Err(ModuleError::Broker("the compiler made no module".into())),
    }
}
