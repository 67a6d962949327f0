//! The wasmtime host of router modules.

mod artefact;
mod breaker;
mod cache;
mod compile;
mod decide;
mod engine;
mod guest;
mod instance;
mod pool;
mod record;
mod rewrite;
mod store;
mod typed;
mod view;

pub(crate) use cache::DecisionCache;
pub use compile::compile_child_main;
pub(crate) use pool::Pool;
pub(crate) use view::View;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use pointsman_core::RouterId;
use pointsman_core::catalog::Digest;
use pointsman_protocol::ErrorBody;
use pointsman_protocol::admin::{Interface, RouterCounters, RouterEvent};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use crate::error::{HostError, ModuleError};
use crate::limits::ModuleLimits;
use artefact::code;
use cache::Room;
use guest::Guest;
use instance::Instance;
use record::{Record, lock};
use store::Sandbox;

/// How a [`Host`] is set up.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Folder of compiled modules; made if it is not there. May be deleted at any time while the broker is down.
    pub cache_dir: PathBuf,
    /// Key of the MAC over compiled modules: random, kept with the broker's data, known to nobody else.
    pub mac_key: [u8; 32],
    /// Where modules are compiled.
    pub compile: CompileMode,
    /// What modules may use.
    pub limits: ModuleLimits,
}

/// Where modules are compiled.
#[derive(Clone, Debug)]
pub enum CompileMode {
    /// In a child process with limits of its own, which runs [`compile_child_main`](crate::compile_child_main).
    Child {
        /// The program.
        exe: PathBuf,
        /// Its arguments.
        args: Vec<String>,
    },
    /// In this process, without limits on time and memory: for tools that run one's own modules, and for tests.
    InProcess,
}

/// A loaded module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleInfo {
    /// SHA-256 of the module as it was uploaded.
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
    /// The interface it has.
    pub interface: Interface,
}

/// What a module answered to its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanInfo {
    /// Names that the configuration gives targets and no binding has: worth a warning.
    pub unbound: Vec<String>,
    /// Whether decisions may be remembered.
    pub cacheable: bool,
}

/// Compiled modules and what is known of how they behave. One for a broker.
pub struct Host {
    options: HostOptions,
    sandbox: Sandbox,
    modules: Mutex<HashMap<Digest, Arc<Loaded>>>,
    records: Mutex<HashMap<RouterId, Arc<Record>>>,
    /// For remembered decisions.
    room: Arc<Room>,
}

/// A module that is ready.
struct Loaded {
    info: ModuleInfo,
    guest: Guest,
}

/// A message that a module changed, or on which it failed.
pub(crate) struct Rewritten {
    pub(crate) content: Bytes,
    pub(crate) meta_len: u32,
}

/// What becomes of a message.
pub(crate) enum Answer {
    /// No target.
    Unroutable,
    /// To these targets as it is.
    Deliver(SmallVec<[u32; 4]>),
    /// To these targets, changed for each.
    DeliverChanged(Vec<(u32, Rewritten)>),
    /// The module refused it.
    Reject(String),
    /// The module failed on it. `kept` is the message with headers that say so.
    Failed { reason: String, kept: Rewritten },
    /// The module cannot be asked now.
    Refuse(ErrorBody),
}

impl Host {
    /// Sets up the sandbox and the folder of compiled modules.
    ///
    /// # Errors
    /// When the machine does not allow it, or the folder cannot be used.
    pub fn new(options: HostOptions) -> Result<Arc<Host>, HostError> {
        std::fs::create_dir_all(&options.cache_dir).map_err(|source| HostError::CacheDir {
            path: options.cache_dir.clone(),
            source,
        })?;
        Ok(Arc::new(Host {
            sandbox: Sandbox::new(options.limits.clone())?,
            room: Room::new(options.limits.remembered),
            options,
            modules: Mutex::default(),
            records: Mutex::default(),
        }))
    }

    /// Checks and compiles a module and keeps it ready. Blocks, possibly for seconds.
    ///
    /// # Errors
    /// When it is not a router module or over a limit.
    pub fn load(&self, module: &[u8]) -> Result<ModuleInfo, ModuleError> {
        let (size, max) = (module.len() as u64, self.options.limits.module_size as u64);
        if size > max {
            return Err(ModuleError::TooLarge { size, max });
        }
        let digest = Digest(Sha256::digest(module).into());
        if let Some(loaded) = self.loaded(digest) {
            return Ok(loaded.info);
        }
        let engine = &self.sandbox.engine;
        let guest = Guest::new(engine, code(engine, &self.options, digest, module)?)?;
        let info = ModuleInfo {
            digest,
            size,
            interface: guest.interface(),
        };
        lock(&self.modules).insert(digest, Arc::new(Loaded { info, guest }));
        Ok(info)
    }

    /// Whether a module is ready.
    pub fn is_loaded(&self, digest: Digest) -> bool {
        self.loaded(digest).is_some()
    }

    /// Drops a module that no version uses any more. Instances that exist keep working.
    pub fn forget(&self, digest: Digest) {
        lock(&self.modules).remove(&digest);
    }

    /// Configures a new instance of a loaded module and drops it. Blocks, at most for the time limit of a call.
    /// `targets` are the binding keys of the exchange, each once, in their order.
    ///
    /// # Errors
    /// When the module is not loaded, refuses, or fails.
    pub fn try_configure(
        &self,
        digest: Digest,
        config: &[u8],
        targets: &[&str],
    ) -> Result<PlanInfo, ModuleError> {
        let loaded = self.loaded(digest).ok_or(ModuleError::NotLoaded(digest))?;
        let instance = run(Instance::new(&self.sandbox, &loaded.guest, config, targets))?;
        Ok(PlanInfo {
            cacheable: instance.plan().is_cacheable(),
            unbound: instance.unbound,
        })
    }

    /// What a router did since the broker started, over all versions.
    pub fn counters(&self, router: RouterId) -> RouterCounters {
        lock(&self.records)
            .get(&router)
            .map(|record| record.counters())
            .unwrap_or_default()
    }

    /// The last events of a router, at most `count`, newest last.
    pub fn logs(&self, router: RouterId, count: usize) -> Vec<RouterEvent> {
        lock(&self.records)
            .get(&router)
            .map(|record| record.events(count))
            .unwrap_or_default()
    }

    fn loaded(&self, digest: Digest) -> Option<Arc<Loaded>> {
        lock(&self.modules).get(&digest).cloned()
    }

    fn record(&self, router: RouterId) -> Arc<Record> {
        lock(&self.records).entry(router).or_default().clone()
    }
}

/// Runs a call on this thread to its end. A call is only ever pending because it yields after a tick.
pub(crate) fn run<T>(call: impl Future<Output = T>) -> T {
    let mut call = std::pin::pin!(call);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}
