//! The wasmtime host of router modules.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use pointsman_core::RouterId;
use pointsman_core::catalog::Digest;
use pointsman_protocol::ErrorBody;
use pointsman_protocol::admin::{Interface, RouterCounters, RouterEvent};
use smallvec::SmallVec;

use crate::error::{HostError, ModuleError};
use crate::limits::ModuleLimits;
use crate::routes::Routes;
use crate::table::{Deciding, Table};

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

/// Compiled modules, their instances, and what is known of how they behave. One for a broker.
pub struct Host;

/// A message a module is asked about.
pub(crate) struct Question {
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
    DeliverChanged(Vec<(u32, Question)>),
    /// The module refused it.
    Reject(String),
    /// The module failed on it. `kept` is the message with headers that say so.
    Failed { reason: String, kept: Question },
    /// The module cannot be asked now.
    Refuse(ErrorBody),
}

/// Instances of a module that wait for work.
#[derive(Default)]
pub(crate) struct Pool;

impl Host {
    /// Sets up the sandbox and the folder of compiled modules.
    ///
    /// # Errors
    /// When the machine does not allow it, or the folder cannot be used.
    pub fn new(options: HostOptions) -> Result<Arc<Host>, HostError> {
        let _ = options;
        Ok(Arc::new(Host))
    }

    /// Checks and compiles a module and keeps it ready. Blocks, possibly for seconds.
    ///
    /// # Errors
    /// When it is not a router module or over a limit.
    pub fn load(&self, module: &[u8]) -> Result<ModuleInfo, ModuleError> {
        let _ = module;
        Err(ModuleError::Broker("this build cannot run modules".into()))
    }

    /// Whether a module is ready.
    pub fn is_loaded(&self, digest: Digest) -> bool {
        let _ = digest;
        false
    }

    /// Drops a module that no version uses any more. Routes that still hold instances of it keep working.
    pub fn forget(&self, digest: Digest) {
        let _ = digest;
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
        let _ = (config, targets);
        Err(ModuleError::NotLoaded(digest))
    }

    /// What a router did since the broker started, over all versions.
    pub fn counters(&self, router: RouterId) -> RouterCounters {
        let _ = router;
        RouterCounters::default()
    }

    /// The last events of a router, at most `count`, newest last.
    pub fn logs(&self, router: RouterId, count: usize) -> Vec<RouterEvent> {
        let _ = (router, count);
        Vec::new()
    }

    /// Asks the module of an exchange about messages: one answer for each, in order.
    pub(crate) async fn decide(
        &self,
        routes: &Routes,
        table: &Table,
        deciding: &Deciding,
        questions: Vec<Question>,
        aside: bool,
    ) -> Vec<Answer> {
        let _ = (routes, table, deciding, aside);
        let error = ErrorBody::from(ModuleError::NotLoaded(deciding.version.digest));
        questions.iter().map(|_| Answer::Refuse(error.clone())).collect()
    }
}

/// What the hidden subcommand `compile-module SECONDS BYTES` runs: limits this process to so much CPU time and address
/// space, reads a module from stdin, and writes the compiled module to stdout.
///
/// # Errors
/// A sentence for stderr; the process should then exit with status 1.
pub fn compile_child_main(cpu_time: std::time::Duration, memory: u64) -> Result<(), String> {
    let _ = (cpu_time, memory);
    Err("this build cannot compile modules".into())
}
