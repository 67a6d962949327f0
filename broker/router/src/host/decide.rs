//! Asks a module about messages, and finds the ones it fails on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::{SmallVec, smallvec};

use super::instance::{Instance, NoInstance};
use super::record::Record;
use super::rewrite::mark_failed;
use super::store::Failure;
use super::view::View;
use super::{Answer, Host, Loaded};
use crate::error::ModuleError;
use crate::limits::BATCH_MAX;
use crate::table::{Deciding, Table};

/// One batch on its way through a module.
struct Inquiry<'a> {
    host: &'a Host,
    table: &'a Table,
    deciding: &'a Deciding,
    loaded: &'a Loaded,
    record: &'a Arc<Record>,
    /// Whether this only explains: then instances, counters and the breaker of traffic are left alone.
    aside: bool,
}

/// Why a call gave no answers.
enum NoAnswer {
    Failed(Failure),
    /// Not the module's fault.
    NoRoom(ModuleError),
}

impl Host {
    /// Decides messages as is remembered, and asks the module of the exchange about the others: one answer for each, in
    /// order. With `aside` it is asked about all.
    pub(crate) async fn decide(
        &self,
        table: &Table,
        deciding: &Deciding,
        messages: &[View<'_>],
        aside: bool,
    ) -> Vec<Answer> {
        let known = match aside {
            true => None,
            false => deciding.cache.look_up(messages),
        };
        let Some(known) = known else {
            return self.ask(table, deciding, messages, aside).await;
        };
        let others = messages.iter().zip(&known).filter(|(_, known)| known.is_none());
        let others: Vec<View<'_>> = others.map(|(message, _)| *message).collect();
        let asked = match others.is_empty() {
            true => Vec::new(),
            false => self.ask(table, deciding, &others, aside).await,
        };
        let mut asked = asked.into_iter();
        known
            .into_iter()
            .filter_map(|known| known.or_else(|| asked.next()))
            .collect()
    }

    /// Asks the module of an exchange about messages: one answer for each, in order.
    ///
    /// When the module fails on a batch, the batch is halved until the messages it fails on alone, in an instance that
    /// saw no other, are found; all others are decided.
    async fn ask(
        &self,
        table: &Table,
        deciding: &Deciding,
        messages: &[View<'_>],
        aside: bool,
    ) -> Vec<Answer> {
        let digest = deciding.version.digest;
        let Some(loaded) = self.loaded(digest) else {
            return refuse_all(messages.len(), &ModuleError::NotLoaded(digest));
        };
        let record = self.record(deciding.by.router);
        let _turn = deciding.pool.turn().await;
        let inquiry = Inquiry {
            host: self,
            table,
            deciding,
            loaded: &loaded,
            record: &record,
            aside,
        };
        inquiry.decide(messages).await
    }
}

fn refuse_all(count: usize, error: &ModuleError) -> Vec<Answer> {
    (0..count).map(|_| Answer::Refuse(error.clone().into())).collect()
}

impl Inquiry<'_> {
    async fn decide(&self, messages: &[View<'_>]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut failed = 0;
        // Where the pieces end that are still to be decided, the nearest one last.
        let mut ends: SmallVec<[usize; 8]> = smallvec![messages.len()];
        while let Some(&end) = ends.last() {
            let at = answers.len();
            if at == end {
                ends.pop();
                continue;
            }
            if let Some(left) = self.left_alone() {
                let reason = format!(
                    "it failed too often and is left alone for another {} ms",
                    left.as_millis()
                );
                answers.extend(
                    messages[at..]
                        .iter()
                        .map(|message| self.failure(message, &reason)),
                );
                break;
            }
            let end = end.min(at + BATCH_MAX);
            match self.call(&messages[at..end], failed > 0, &mut answers).await {
                Ok(()) => {}
                Err(NoAnswer::NoRoom(error)) => {
                    answers.truncate(at);
                    answers.extend(refuse_all(messages.len() - at, &error));
                    break;
                }
                Err(NoAnswer::Failed(Failure(reason))) => {
                    answers.truncate(at);
                    failed += 1;
                    if end - at > 1 {
                        ends.push(at + (end - at) / 2);
                        continue;
                    }
                    self.note(format!("failed on a message: {reason}"));
                    answers.push(self.failure(&messages[at], &reason));
                }
            }
        }
        if failed > 0 && !self.aside {
            let exchange = &self.table.exchange.spec.name;
            tracing::warn!(router = %self.deciding.name, %exchange, calls = failed, "a router module failed");
        }
        answers
    }

    /// Asks about the leading messages, as many as fit one call.
    async fn call(
        &self,
        messages: &[View<'_>],
        fresh: bool,
        answers: &mut Vec<Answer>,
    ) -> Result<(), NoAnswer> {
        let began = Instant::now();
        let idle = if fresh || self.aside {
            None
        } else {
            self.deciding.pool.take()
        };
        let instance = match idle {
            Some(instance) => Ok(instance),
            None => self.new_instance().await,
        };
        let before = answers.len();
        let result = match instance {
            Ok(mut instance) => {
                let result = instance.route(&self.host.sandbox, messages, answers).await;
                for (level, text) in instance.said() {
                    self.note(format!("{}: {text}", level_name(level)));
                }
                result.map(|()| instance).map_err(NoAnswer::Failed)
            }
            Err(error) => Err(error),
        };
        if self.aside {
            return result.map(drop);
        }
        let version = self.deciding.by.version;
        match result {
            Ok(instance) => {
                let new = &answers[before..];
                let rejected = new
                    .iter()
                    .filter(|answer| matches!(answer, Answer::Reject(_)))
                    .count();
                self.record
                    .answered(version, new.len(), rejected, began.elapsed());
                self.deciding.cache.remember(messages, new);
                self.deciding.pool.give_back(instance);
                Ok(())
            }
            Err(NoAnswer::Failed(failure)) => {
                let now = Instant::now();
                if self.record.failed(version, now - began, now) {
                    self.note("failed too often in a row and is left alone for a while".into());
                }
                Err(NoAnswer::Failed(failure))
            }
            Err(error) => Err(error),
        }
    }

    async fn new_instance(&self) -> Result<Instance, NoAnswer> {
        let targets = self.table.target_names();
        let config = &self.deciding.version.config;
        let made = Instance::new(&self.host.sandbox, &self.loaded.guest, config, &targets).await;
        if let Ok(instance) = &made
            && !self.aside
        {
            let version = self.deciding.by.version;
            self.deciding
                .cache
                .learn(instance.plan(), version, self.record, &self.host.room);
        }
        made.map_err(|error| match error {
            NoInstance::Refused(reason) => {
                NoAnswer::Failed(Failure(format!("it refuses its configuration: {reason}")))
            }
            NoInstance::Failed(Failure(reason)) => {
                NoAnswer::Failed(Failure(format!("in configure, {reason}")))
            }
            NoInstance::NoRoom => NoAnswer::NoRoom(error.into()),
        })
    }

    fn left_alone(&self) -> Option<Duration> {
        if self.aside {
            return None;
        }
        self.record.left_alone(self.deciding.by.version, Instant::now())
    }

    fn failure(&self, message: &View<'_>, reason: &str) -> Answer {
        let name = &self.deciding.name;
        Answer::Failed {
            reason: format!("router {name} failed: {reason}"),
            kept: mark_failed(message, name, reason, &self.table.exchange.spec.name),
        }
    }

    fn note(&self, text: String) {
        if !self.aside {
            self.record.note(self.deciding.by.version, text);
        }
    }
}

fn level_name(level: super::typed::Level) -> &'static str {
    use super::typed::Level;
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}
