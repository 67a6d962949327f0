//! One configured instance of a module.

use pointsman_router::packed::{
    BatchEncoder, DecisionView, Decisions, PLAN_HEADERS_MAX, Plan, encode_targets,
};
use smallvec::SmallVec;
use wasmtime::{Memory, Store, TypedFunc};

use super::Answer;
use super::guest::{Exports, Guest};
use super::rewrite::rewrite;
use super::store::{Failure, Sandbox, State};
use super::typed::{self, Decision, Level};
use super::view::View;
use crate::error::ModuleError;
use crate::limits::{BATCH_BYTES, BODY_SEEN_MAX};

/// A module's instance that knows its configuration and targets.
pub(crate) struct Instance {
    store: Store<State>,
    exports: Exports,
    plan: Plan,
    /// Names that the configuration gives targets and no binding has.
    pub(crate) unbound: Vec<String>,
    targets: u32,
    encoder: BatchEncoder,
}

/// Why there is no instance.
pub(crate) enum NoInstance {
    /// The module refused its configuration.
    Refused(String),
    /// The module failed.
    Failed(Failure),
    /// All slots for instances are in use.
    NoRoom,
}

impl Instance {
    /// Makes and configures an instance.
    pub(crate) async fn new(
        sandbox: &Sandbox,
        guest: &Guest,
        config: &[u8],
        targets: &[&str],
    ) -> Result<Instance, NoInstance> {
        let _ticking = sandbox.clock.ticking();
        let mut store = sandbox.store();
        State::begin_call(&mut store);
        let exports = guest.instantiate(&mut store).await?;
        State::begin_call(&mut store);
        let (mut plan, unbound) = configure(&mut store, &exports, config, targets).await?;
        if plan.body_limit() > BODY_SEEN_MAX {
            plan = plan.body_up_to(BODY_SEEN_MAX);
        }
        Ok(Instance {
            store,
            exports,
            plan,
            unbound,
            targets: targets.len() as u32,
            encoder: BatchEncoder::default(),
        })
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the module said during the last call.
    pub(crate) fn said(&mut self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.store.data_mut().said)
    }

    /// Asks about the leading messages, as many as fit a call, and appends an answer for each. After a failure the
    /// instance is not to be used again.
    pub(crate) async fn route(
        &mut self,
        sandbox: &Sandbox,
        messages: &[View<'_>],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Failure> {
        let _ticking = sandbox.clock.ticking();
        State::begin_call(&mut self.store);
        if let Exports::Typed(router) = &self.exports {
            let batch: Vec<_> = messages
                .iter()
                .map(|message| typed::message(&self.plan, message))
                .collect();
            let decisions = router
                .pointsman_router_typed()
                .call_route(&mut self.store, &batch)
                .await?;
            return self.typed_answers(decisions, messages, answers);
        }
        let (batch, count) = self.encoder.encode(&self.plan, messages, BATCH_BYTES)?;
        let packed = match &self.exports {
            Exports::Packed { route, .. } => route.call_async(&mut self.store, (batch.to_vec(),)).await?.0,
            Exports::Core {
                memory, alloc, route, ..
            } => {
                let argument = write(&mut self.store, *memory, alloc, batch).await?;
                let place = route.call_async(&mut self.store, argument).await?;
                read(&self.store, *memory, place)?
            }
            Exports::Typed(_) => Vec::new(),
        };
        self.packed_answers(&packed, &messages[..count], answers)
    }

    fn packed_answers(
        &self,
        packed: &[u8],
        messages: &[View<'_>],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Failure> {
        let decisions = Decisions::decode(packed, messages.len() as u32, self.targets)?;
        for (decision, message) in decisions.zip(messages) {
            answers.push(match decision? {
                DecisionView::Unroutable => Answer::Unroutable,
                DecisionView::One(target) => Answer::Deliver(SmallVec::from_iter([target])),
                DecisionView::Several(targets) => Answer::Deliver(each_once(targets.iter())),
                DecisionView::Changed(deliveries) => {
                    let changed = |d: pointsman_router::packed::DeliveryView<'_>| {
                        Ok::<_, Failure>((d.target, rewrite(message, &d.changes)?))
                    };
                    Answer::DeliverChanged(deliveries.into_iter().map(changed).collect::<Result<_, _>>()?)
                }
                DecisionView::Reject(reason) => Answer::Reject(reason.to_owned()),
            });
        }
        Ok(())
    }

    fn typed_answers(
        &self,
        decisions: Vec<Decision>,
        messages: &[View<'_>],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Failure> {
        if decisions.len() != messages.len() {
            return Err(Failure(format!(
                "its answer is malformed: {} decisions answer a batch of {} messages",
                decisions.len(),
                messages.len()
            )));
        }
        for (decision, message) in decisions.into_iter().zip(messages) {
            answers.push(match decision {
                Decision::Unroutable => Answer::Unroutable,
                Decision::Deliver(targets) => {
                    targets.iter().try_for_each(|target| self.in_range(*target))?;
                    Answer::Deliver(each_once(targets.into_iter()))
                }
                Decision::DeliverWith(deliveries) => {
                    let changed = |d: &typed::Delivery| {
                        self.in_range(d.target)?;
                        Ok::<_, Failure>((d.target, rewrite(message, &typed::changes(&d.changes))?))
                    };
                    Answer::DeliverChanged(deliveries.iter().map(changed).collect::<Result<_, _>>()?)
                }
                Decision::Reject(reason) => Answer::Reject(typed::reason(reason)),
            });
        }
        Ok(())
    }

    fn in_range(&self, target: u32) -> Result<(), Failure> {
        if target < self.targets {
            return Ok(());
        }
        let error = pointsman_router::packed::PackedError::TargetOutOfRange {
            target,
            targets: self.targets,
        };
        Err(error.into())
    }
}

/// Calls `configure` and reads the plan.
async fn configure(
    store: &mut Store<State>,
    exports: &Exports,
    config: &[u8],
    targets: &[&str],
) -> Result<(Plan, Vec<String>), NoInstance> {
    let packed_targets = || encode_targets(targets.iter().copied());
    let packed = match exports {
        Exports::Typed(router) => {
            let names: Vec<String> = targets.iter().map(|name| (*name).to_owned()).collect();
            let guest = router.pointsman_router_typed();
            let plan = guest
                .call_configure(store, config, &names)
                .await?
                .map_err(NoInstance::Refused)?;
            if plan.headers.len() > PLAN_HEADERS_MAX {
                return Err(Failure(format!("its plan names more than {PLAN_HEADERS_MAX} headers")).into());
            }
            return Ok(typed::plan(plan));
        }
        Exports::Packed { configure, .. } => {
            let (plan,) = configure
                .call_async(store, (config.to_vec(), packed_targets()))
                .await?;
            plan.map_err(NoInstance::Refused)?
        }
        Exports::Core {
            memory,
            alloc,
            configure,
            ..
        } => {
            let (config, config_len) = write(store, *memory, alloc, config).await?;
            let (targets, targets_len) = write(store, *memory, alloc, &packed_targets()).await?;
            let place = configure
                .call_async(&mut *store, (config, config_len, targets, targets_len))
                .await?;
            let answer = read(store, *memory, place)?;
            match answer.split_first() {
                Some((0, plan)) => plan.to_vec(),
                Some((1, refusal)) => {
                    return Err(NoInstance::Refused(String::from_utf8_lossy(refusal).into_owned()));
                }
                _ => {
                    return Err(
                        Failure("its answer to configure is neither a plan nor a sentence".into()).into(),
                    );
                }
            }
        }
    };
    let plan = Plan::decode(&packed).map_err(Failure::from)?;
    let unbound = plan.unbound().to_vec();
    Ok((plan, unbound))
}

/// Writes an argument into a core module's memory, where it says.
async fn write(
    store: &mut Store<State>,
    memory: Memory,
    alloc: &TypedFunc<u32, u32>,
    bytes: &[u8],
) -> Result<(u32, u32), Failure> {
    let length = bytes.len() as u32;
    let place = alloc.call_async(&mut *store, length).await?;
    let outside = |_| Failure("its alloc answered a place outside of its memory".into());
    memory
        .write(&mut *store, place as usize, bytes)
        .map_err(outside)?;
    Ok((place, length))
}

/// Reads an answer from a core module's memory: its place in the upper half, its length in the lower.
fn read(store: &Store<State>, memory: Memory, place: u64) -> Result<Vec<u8>, Failure> {
    let (start, length) = ((place >> 32) as usize, (place & u64::from(u32::MAX)) as usize);
    let limit = store.data().output_limit();
    if length > limit {
        return Err(Failure(format!(
            "its answer of {length} bytes is over the limit of {limit}"
        )));
    }
    let answer = memory.data(store).get(start..start + length);
    answer
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Failure("its answer lies outside of its memory".into()))
}

/// Targets without repetition, in order.
fn each_once(targets: impl Iterator<Item = u32>) -> SmallVec<[u32; 4]> {
    let mut targets: SmallVec<[u32; 4]> = targets.collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

impl From<Failure> for NoInstance {
    fn from(failure: Failure) -> NoInstance {
        NoInstance::Failed(failure)
    }
}

impl From<wasmtime::Error> for NoInstance {
    fn from(error: wasmtime::Error) -> NoInstance {
        match error.is::<wasmtime::PoolConcurrencyLimitError>() {
            true => NoInstance::NoRoom,
            false => NoInstance::Failed(error.into()),
        }
    }
}

impl From<NoInstance> for ModuleError {
    fn from(error: NoInstance) -> ModuleError {
        match error {
            NoInstance::Refused(reason) => ModuleError::ConfigRefused(reason),
            NoInstance::Failed(failure) => ModuleError::Failed(failure.0),
            NoInstance::NoRoom => ModuleError::NoRoom,
        }
    }
}
