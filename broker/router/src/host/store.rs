//! What an instance may use, and what happens when it wants more.

use std::sync::Arc;

use wasmtime::{Engine, ResourceLimiter, Store, Trap, UpdateDeadline};

use super::engine::{Clock, TICK, running_engine};
use super::typed::{Imports, Level};
use crate::error::HostError;
use crate::limits::{EVENT_TEXT_MAX, LINES_PER_CALL, ModuleLimits};

/// Why a module failed, as a sentence about *it*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure(pub(crate) String);

/// Where instances live.
pub(crate) struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<ModuleLimits>,
}

/// What belongs to one instance beside its memory.
pub(crate) struct State {
    limits: Arc<ModuleLimits>,
    memory_left: usize,
    ticks_left: u32,
    /// What it said during this call.
    pub(crate) said: Vec<(Level, String)>,
}

/// A bound that an instance hit.
#[derive(Debug, thiserror::Error)]
enum OverLimit {
    #[error("it ran longer than {} ms", .0.as_millis())]
    Time(std::time::Duration),
    #[error("it wanted more than {} MiB of memory", .0 / (1024 * 1024))]
    Memory(usize),
    #[error("it wanted a table of more than {0} elements")]
    Table(usize),
}

impl Sandbox {
    pub(crate) fn new(limits: ModuleLimits) -> Result<Sandbox, HostError> {
        let engine = running_engine(&limits).map_err(|error| HostError::Engine(format!("{error:#}")))?;
        let clock = Clock::start(engine.clone()).map_err(|error| HostError::Engine(error.to_string()))?;
        Ok(Sandbox {
            engine,
            clock,
            limits: Arc::new(limits),
        })
    }

    /// A store for one instance.
    pub(crate) fn store(&self) -> Store<State> {
        let state = State {
            limits: self.limits.clone(),
            memory_left: self.limits.memory,
            ticks_left: 0,
            said: Vec::new(),
        };
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(self.limits.output);
        store.epoch_deadline_callback(|mut context| context.data_mut().tick());
        store
    }
}

impl State {
    /// Gives the next call its time. Only time in which the instance runs counts, tick by tick, so that a module is
    /// not blamed for what others do meanwhile.
    pub(crate) fn begin_call(store: &mut Store<State>) {
        let state = store.data_mut();
        state.ticks_left = (state.limits.call_time.as_micros() / TICK.as_micros()).max(1) as u32;
        state.said.clear();
        store.set_epoch_deadline(1);
    }

    /// Longest answer of one call, in bytes.
    pub(crate) fn output_limit(&self) -> usize {
        self.limits.output
    }

    fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        self.ticks_left = self.ticks_left.saturating_sub(1);
        match self.ticks_left {
            0 => Err(OverLimit::Time(self.limits.call_time).into()),
            _ => Ok(UpdateDeadline::Yield(1)),
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        match self.memory_left.checked_sub(desired.saturating_sub(current)) {
            Some(left) => self.memory_left = left,
            None => return Err(OverLimit::Memory(self.limits.memory).into()),
        }
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            return Err(OverLimit::Table(self.limits.table_elements).into());
        }
        Ok(true)
    }
}

impl Imports for State {
    fn log(&mut self, level: Level, mut text: String) {
        if self.said.len() < LINES_PER_CALL {
            text.truncate(text.floor_char_boundary(EVENT_TEXT_MAX));
            self.said.push((level, text));
        }
    }
}

impl From<wasmtime::Error> for Failure {
    fn from(error: wasmtime::Error) -> Failure {
        if let Some(limit) = error.downcast_ref::<OverLimit>() {
            return Failure(limit.to_string());
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Failure(format!("it trapped: {trap}"));
        }
        Failure(format!("{:#}", error.root_cause()))
    }
}

impl From<pointsman_router::packed::PackedError> for Failure {
    fn from(error: pointsman_router::packed::PackedError) -> Failure {
        Failure(format!("its answer is malformed: {error}"))
    }
}
