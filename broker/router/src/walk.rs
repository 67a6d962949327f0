//! The long way of a batch: from exchange to exchange until every message is in queues or nowhere.
//!
//! A message starts as one *form*. A module's decision makes new forms of it, changed or not, and each form is in
//! the queues its route leads to. No exchange sees a form of a message twice, nor a form made from one it saw: so
//! bindings in a circle end, and so does a module that sends messages back to itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use pointsman_core::input::{MessageCopy, Publish, Times, Verdict};
use pointsman_core::topology::Target;
use pointsman_core::{DecidedBy, ExchangeId, QueueId};
use pointsman_protocol::admin::ExplainStep;
use pointsman_protocol::{ErrorBody, ErrorCode};
use smallvec::SmallVec;

use crate::host::{Answer, Rewritten, View};
use crate::routes::{Incoming, Routes};
use crate::scan::scan_content;
use crate::table::Table;

/// Most forms of one message.
const FORMS_MAX: usize = 256;

/// The queues of one form.
pub(crate) type Queues = SmallVec<[QueueId; 4]>;

/// Leaves each queue once.
pub(crate) fn each_once(queues: &mut Queues) {
    if queues.len() > 1 {
        queues.sort_unstable();
        queues.dedup();
    }
}

/// Routes a batch that was published to the exchange of `entry`.
pub(crate) async fn walk(routes: &Routes, entry: &Arc<Table>, batch: Vec<Incoming>, out: &mut Vec<Publish>) {
    let mut walk = Walk::new(routes, entry, batch);
    walk.run().await;
    walk.finish(entry, out);
}

/// Takes messages on that were published to the exchange of `entry`, a router, which has decided what becomes of them. All
/// of them decode.
pub(crate) async fn walk_on(
    routes: &Routes,
    entry: &Arc<Table>,
    by: DecidedBy,
    decided: Vec<(Incoming, Answer)>,
    out: &mut Vec<Publish>,
) {
    let (batch, answers): (Vec<Incoming>, Vec<Answer>) = decided.into_iter().unzip();
    let mut walk = Walk::new(routes, entry, batch);
    let decided = std::mem::take(&mut walk.ahead).into_iter().zip(answers);
    for (visit, answer) in decided {
        walk.travellers[visit.traveller].enter(visit.form, visit.exchange);
        walk.follow(visit, entry, by, answer);
    }
    walk.run().await;
    walk.finish(entry, out);
}

/// Routes one message and says how.
pub(crate) async fn walk_explained(
    routes: &Routes,
    entry: &Arc<Table>,
    message: Incoming,
) -> (Publish, Vec<ExplainStep>) {
    let mut walk = Walk::new(routes, entry, vec![message]);
    walk.steps = Some(Vec::new());
    walk.run().await;
    let steps = walk.steps.take().unwrap_or_default();
    let traveller = walk.travellers.swap_remove(0);
    (traveller.finish(entry.exchange.id), steps)
}

struct Walk<'r> {
    routes: &'r Routes,
    travellers: Vec<Traveller>,
    /// Forms on their way to an exchange.
    ahead: VecDeque<Visit>,
    /// Forms that wait for a module, by exchange: they are decided together.
    waiting: BTreeMap<ExchangeId, Vec<Visit>>,
    /// What was done, when someone wants to know.
    steps: Option<Vec<ExplainStep>>,
}

#[derive(Clone, Copy)]
struct Visit {
    traveller: usize,
    form: usize,
    exchange: ExchangeId,
}

/// A message on its way.
struct Traveller {
    sequence: u64,
    verdict: Verdict,
    forms: SmallVec<[Form; 2]>,
    visited: SmallVec<[(usize, ExchangeId); 4]>,
    /// Forms on which a module failed, and the queue for each if its route ends in none.
    failed: SmallVec<[(usize, Option<QueueId>); 1]>,
}

/// A message as it is or as a module changed it.
struct Form {
    content: Bytes,
    meta_len: u32,
    /// What the metadata says of it, so that it is not read again.
    persistent: bool,
    times: Times,
    decided_by: Option<DecidedBy>,
    /// The form it was made from. The first is its own.
    parent: usize,
    queues: Queues,
}

impl<'r> Walk<'r> {
    fn new(routes: &'r Routes, entry: &Arc<Table>, batch: Vec<Incoming>) -> Walk<'r> {
        let mut walk = Walk {
            routes,
            travellers: Vec::with_capacity(batch.len()),
            ahead: VecDeque::with_capacity(batch.len()),
            waiting: BTreeMap::new(),
            steps: None,
        };
        for message in batch {
            let traveller = Traveller::new(message);
            if traveller.verdict == Verdict::Deliver {
                walk.ahead.push_back(Visit {
                    traveller: walk.travellers.len(),
                    form: 0,
                    exchange: entry.exchange.id,
                });
            }
            walk.travellers.push(traveller);
        }
        walk
    }

    async fn run(&mut self) {
        loop {
            while let Some(visit) = self.ahead.pop_front() {
                self.visit(visit);
            }
            let Some((exchange, visits)) = self.waiting.pop_first() else {
                return;
            };
            if let Some(table) = self.routes.table(exchange).cloned() {
                self.ask(&table, visits).await;
            }
        }
    }

    fn finish(self, entry: &Table, out: &mut Vec<Publish>) {
        let travellers = self.travellers.into_iter();
        out.extend(travellers.map(|traveller| traveller.finish(entry.exchange.id)));
    }

    /// A form comes to an exchange.
    fn visit(&mut self, visit: Visit) {
        let routes = self.routes;
        let Some(table) = routes.table(visit.exchange) else {
            return;
        };
        if !self.travellers[visit.traveller].enter(visit.form, visit.exchange) {
            return;
        }
        if table.is_router() {
            self.waiting.entry(visit.exchange).or_default().push(visit);
            return;
        }
        let arranged = table.arranged();
        let form = &self.travellers[visit.traveller].forms[visit.form];
        let Ok(scanned) = scan_content(&form.content, form.meta_len) else {
            return;
        };
        let mut matched = SmallVec::<[u32; 8]>::new();
        arranged
            .matcher
            .matches(&scanned, |binding| matched.push(binding));
        for &binding in &matched {
            self.lead(visit, arranged.targets[binding as usize]);
        }
        self.note(table, None, &matched, "");
        if matched.is_empty() {
            self.turn_to_alternate(visit, table);
        }
    }

    /// A binding leads a form on.
    fn lead(&mut self, visit: Visit, target: Target) {
        match target {
            Target::Queue(queue) => self.travellers[visit.traveller].forms[visit.form]
                .queues
                .push(queue),
            Target::Exchange(exchange) => self.ahead.push_back(Visit { exchange, ..visit }),
        }
    }

    fn turn_to_alternate(&mut self, visit: Visit, table: &Table) {
        if let Some(exchange) = table.exchange.alternate {
            self.ahead.push_back(Visit { exchange, ..visit });
        }
    }

    /// Asks the module of an exchange about all forms that wait for it.
    async fn ask(&mut self, table: &Arc<Table>, visits: Vec<Visit>) {
        let deciding = match table.deciding() {
            Ok(deciding) => deciding,
            Err(refusal) => {
                self.note(table, None, &[], &refusal.message);
                for visit in visits {
                    self.travellers[visit.traveller].refuse(refusal.clone());
                }
                return;
            }
        };
        let view = |visit: &Visit| {
            let form = &self.travellers[visit.traveller].forms[visit.form];
            View::new(&form.content, form.meta_len).ok()
        };
        // Each form was scanned when it was made, so none is left out.
        let views: Vec<View<'_>> = visits.iter().filter_map(view).collect();
        let aside = self.steps.is_some();
        let answers = self.routes.host.decide(table, deciding, &views, aside).await;
        for (visit, answer) in visits.into_iter().zip(answers) {
            self.follow(visit, table, deciding.by, answer);
        }
    }

    /// Does what a module decided.
    fn follow(&mut self, visit: Visit, table: &Table, by: DecidedBy, answer: Answer) {
        match answer {
            Answer::Unroutable => {
                self.note(table, Some(by), &[], "the module found no target");
                self.turn_to_alternate(visit, table);
            }
            Answer::Deliver(targets) => {
                let bindings: SmallVec<[u32; 8]> = targets.iter().flat_map(|t| table.target(*t)).collect();
                self.note(table, Some(by), &bindings, "");
                self.lead_form(visit, table, by, None, &bindings);
            }
            Answer::DeliverChanged(deliveries) => {
                let all: SmallVec<[u32; 8]> = deliveries.iter().flat_map(|(t, _)| table.target(*t)).collect();
                self.note(table, Some(by), &all, "the module changed the message");
                for (target, changed) in deliveries {
                    let bindings: SmallVec<[u32; 8]> = table.target(target).collect();
                    self.lead_form(visit, table, by, Some(changed), &bindings);
                }
            }
            Answer::Reject(reason) => {
                self.note(table, Some(by), &[], "the module rejected the message");
                self.travellers[visit.traveller].reject(reason);
            }
            Answer::Failed { reason, kept } => {
                self.note(table, Some(by), &[], &reason);
                self.keep_failed(visit, table, by, reason, kept);
            }
            Answer::Refuse(refusal) => {
                self.note(table, Some(by), &[], &refusal.message);
                self.travellers[visit.traveller].refuse(refusal);
            }
        }
    }

    /// Makes the form that a module decided on and leads it along bindings.
    fn lead_form(
        &mut self,
        visit: Visit,
        table: &Table,
        by: DecidedBy,
        changed: Option<Rewritten>,
        bindings: &[u32],
    ) {
        let Some(form) = self.travellers[visit.traveller].make_form(visit.form, by, changed) else {
            return;
        };
        for &binding in bindings {
            let target = table.arranged().targets[binding as usize];
            self.lead(Visit { form, ..visit }, target);
        }
    }

    /// A message on which the module failed goes to the alternate exchange or, when there is none or it leads
    /// nowhere, to the quarantine queue.
    fn keep_failed(&mut self, visit: Visit, table: &Table, by: DecidedBy, reason: String, kept: Rewritten) {
        let traveller = &mut self.travellers[visit.traveller];
        let Some(form) = traveller.make_form(visit.form, by, Some(kept)) else {
            return;
        };
        if traveller.verdict == Verdict::Deliver {
            traveller.verdict = Verdict::Quarantine(reason);
        }
        traveller.failed.push((form, table.exchange.quarantine));
        self.turn_to_alternate(Visit { form, ..visit }, table);
    }

    fn note(&mut self, table: &Table, by: Option<DecidedBy>, bindings: &[u32], remark: &str) {
        let routes = self.routes;
        if let Some(steps) = &mut self.steps {
            steps.push(crate::explain::step(routes, table, by, bindings, remark));
        }
    }
}

impl Traveller {
    fn new(message: Incoming) -> Traveller {
        let (verdict, persistent, times) = match scan_content(&message.content, message.meta_len) {
            Ok(scanned) => (Verdict::Deliver, scanned.persistent, scanned.times()),
            Err(refusal) => (Verdict::Refuse(refusal), false, Times::default()),
        };
        let form = Form {
            content: message.content,
            meta_len: message.meta_len,
            persistent,
            times,
            decided_by: None,
            parent: 0,
            queues: Queues::new(),
        };
        Traveller {
            sequence: message.sequence,
            verdict,
            forms: SmallVec::from_iter([form]),
            visited: SmallVec::new(),
            failed: SmallVec::new(),
        }
    }

    /// Notes that a form comes to an exchange; false when it or a form it was made from was there before.
    fn enter(&mut self, form: usize, exchange: ExchangeId) -> bool {
        let mut ancestor = form;
        loop {
            if self.visited.contains(&(ancestor, exchange)) {
                return false;
            }
            if ancestor == 0 {
                break;
            }
            ancestor = self.forms[ancestor].parent;
        }
        self.visited.push((form, exchange));
        true
    }

    /// A new form, made from another by a module's decision. A changed one that does not decode refuses the message
    /// rather than losing it.
    fn make_form(&mut self, parent: usize, by: DecidedBy, changed: Option<Rewritten>) -> Option<usize> {
        if self.forms.len() == FORMS_MAX {
            let message = format!("the route makes more than {FORMS_MAX} copies of this message");
            self.refuse(ErrorBody::new(ErrorCode::LimitReached, message));
            return None;
        }
        let Form {
            persistent,
            times,
            meta_len,
            ..
        } = self.forms[parent];
        let (content, meta_len, persistent, times) = match changed {
            None => (self.forms[parent].content.clone(), meta_len, persistent, times),
            Some(Rewritten { content, meta_len }) => match scan_content(&content, meta_len) {
                Ok(scanned) => {
                    let (persistent, times) = (scanned.persistent, scanned.times());
                    (content, meta_len, persistent, times)
                }
                Err(refusal) => {
                    self.refuse(ErrorBody::new(ErrorCode::ModuleFailed, refusal.message));
                    return None;
                }
            },
        };
        self.forms.push(Form {
            content,
            meta_len,
            persistent,
            times,
            decided_by: Some(by),
            parent,
            queues: Queues::new(),
        });
        Some(self.forms.len() - 1)
    }

    /// A refusal counts more than a rejection, and the first of a kind counts.
    fn refuse(&mut self, refusal: ErrorBody) {
        if !matches!(self.verdict, Verdict::Refuse(_)) {
            self.verdict = Verdict::Refuse(refusal);
        }
    }

    fn reject(&mut self, reason: String) {
        if matches!(self.verdict, Verdict::Deliver | Verdict::Quarantine(_)) {
            self.verdict = Verdict::Reject(reason);
        }
    }

    fn finish(mut self, exchange: ExchangeId) -> Publish {
        self.fill_quarantine();
        let mut copies = SmallVec::new();
        if matches!(self.verdict, Verdict::Deliver | Verdict::Quarantine(_)) {
            for mut form in self.forms {
                each_once(&mut form.queues);
                if form.queues.is_empty() {
                    continue;
                }
                copies.push(MessageCopy {
                    persistent: form.persistent,
                    times: form.times,
                    content: form.content,
                    meta_len: form.meta_len,
                    exchange,
                    decided_by: form.decided_by,
                    queues: form.queues,
                });
            }
        }
        Publish {
            sequence: self.sequence,
            verdict: self.verdict,
            copies,
        }
    }

    /// Puts forms on which a module failed into the quarantine queue, unless their route already keeps them.
    fn fill_quarantine(&mut self) {
        for (form, queue) in std::mem::take(&mut self.failed) {
            match queue {
                _ if self.kept(form) => {}
                Some(queue) => self.forms[form].queues.push(queue),
                None => {
                    let message = "the router failed on this message and there is no queue to keep it in";
                    let error = ErrorBody::new(ErrorCode::ModuleFailed, message);
                    self.refuse(error.hint("declare an alternate exchange that leads to a queue"));
                }
            }
        }
    }

    /// Whether a form, or one that was made from it, is in a queue.
    fn kept(&self, form: usize) -> bool {
        let descends = |mut at: usize| {
            while at > form {
                at = self.forms[at].parent;
            }
            at == form
        };
        (form..self.forms.len()).any(|at| descends(at) && !self.forms[at].queues.is_empty())
    }
}
