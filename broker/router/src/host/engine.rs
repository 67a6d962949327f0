//! The sandbox: how the engine is configured, and the clock that interrupts long calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::ModuleLimits;

/// How long a module runs before it yields its thread to other work.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Ticks without a call after which the clock stops.
const IDLE_TICKS: u32 = 100;

/// Host code runs on a fiber's stack too, beyond the guest's share.
const HOST_STACK: usize = 512 * 1024;

/// Core instances, memories and tables one component may consist of: components made by other languages' tools have
/// dozens of core instances.
const PARTS: u32 = 64;

/// What code is generated depends on: the same for the process that compiles and the one that runs.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_memory64(false)
        .wasm_relaxed_simd(false);
    config
}

/// The engine that only compiles: on one core, and without reserving address space for instances.
pub(crate) fn compiling_engine() -> wasmtime::Result<Engine> {
    let mut config = code_config();
    config.parallel_compilation(false);
    Engine::new(&config)
}

/// The engine that runs modules. Slots for instances are address space, reserved at once; they cost memory only while
/// they are used.
pub(crate) fn running_engine(limits: &ModuleLimits) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(limits.instances)
        .total_core_instances(limits.instances.saturating_mul(4))
        .total_memories(limits.instances.saturating_mul(2))
        .total_tables(limits.instances.saturating_mul(4))
        .total_stacks(limits.instances)
        .max_core_instances_per_component(PARTS)
        .max_memories_per_component(4)
        .max_memories_per_module(1)
        .max_tables_per_component(PARTS)
        .max_tables_per_module(4)
        .max_memory_size(limits.memory)
        .table_elements(limits.table_elements);
    let mut config = code_config();
    config
        .max_wasm_stack(limits.stack)
        .async_stack_size(limits.stack + HOST_STACK)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Advances the engine's epoch once a [`TICK`] while a call is under way, and sleeps otherwise.
pub(crate) struct Clock {
    state: Arc<ClockState>,
    thread: Thread,
}

#[derive(Default)]
struct ClockState {
    calls: AtomicUsize,
    parked: AtomicBool,
    stop: AtomicBool,
}

/// Keeps the clock ticking.
pub(crate) struct Ticking<'c>(&'c ClockState);

impl Clock {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Clock> {
        let state = Arc::new(ClockState::default());
        let shared = state.clone();
        let thread = std::thread::Builder::new()
            .name("module-clock".into())
            .spawn(move || shared.run(&engine))?;
        Ok(Clock {
            state,
            thread: thread.thread().clone(),
        })
    }

    /// A call begins; it ends when the guard is dropped.
    pub(crate) fn ticking(&self) -> Ticking<'_> {
        self.state.calls.fetch_add(1, Ordering::SeqCst);
        if self.state.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(&self.state)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl ClockState {
    fn run(&self, engine: &Engine) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            engine.increment_epoch();
            idle = if self.calls.load(Ordering::SeqCst) > 0 {
                0
            } else {
                idle + 1
            };
            if idle == IDLE_TICKS {
                self.park();
                idle = 0;
            }
        }
    }

    /// Sleeps until a call begins. Either this sees the call, or the call sees `parked` and wakes the thread.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        while self.calls.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }
}
