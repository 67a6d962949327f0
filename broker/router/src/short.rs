//! The short ways of a batch: one exchange, and behind it nothing but queues. Each message is scanned once and has at
//! most one copy. What needs more goes the long way of [`walk`].

use std::sync::Arc;

use pointsman_core::input::{MessageCopy, Publish, Times, Verdict};
use pointsman_core::topology::{Target, Vhost};
use pointsman_core::{DecidedBy, ExchangeId, QueueId};
use pointsman_protocol::ErrorBody;
use smallvec::SmallVec;

use crate::host::{Answer, View};
use crate::routes::{Incoming, Routes};
use crate::scan::{Scanned, scan_content};
use crate::table::{Deciding, Table};
use crate::walk::{self, Queues, each_once};

/// Through the default exchange: a routing key is the name of a queue.
pub(crate) fn to_named(vhost: &Vhost, batch: Vec<Incoming>, out: &mut Vec<Publish>) {
    out.extend(batch.into_iter().map(|message| {
        in_place(message, ExchangeId::DEFAULT, |scanned, queues| {
            queues.extend(vhost.queues.get(scanned.routing_key).copied());
        })
    }));
}

/// To the queues that an exchange of a built-in kind finds. Messages for which it finds none go the long way if there is an
/// alternate.
pub(crate) async fn to_matching(
    routes: &Routes,
    table: &Arc<Table>,
    batch: Vec<Incoming>,
    out: &mut Vec<Publish>,
) {
    let arranged = table.arranged();
    let alternate = table.exchange.alternate.is_some();
    let mut unmatched = Vec::new();
    for message in batch {
        let again = alternate.then(|| message.clone());
        let publish = in_place(message, table.exchange.id, |scanned, queues| {
            arranged.matcher.matches(scanned, |binding| {
                queues.extend(queue(arranged.targets[binding as usize]));
            });
        });
        if let Some(message) = again
            && publish.verdict == Verdict::Deliver
            && publish.copies.is_empty()
        {
            unmatched.push((out.len(), message));
        }
        out.push(publish);
    }
    if !unmatched.is_empty() {
        let (places, messages): (Vec<usize>, Vec<Incoming>) = unmatched.into_iter().unzip();
        let mut walked = Vec::with_capacity(messages.len());
        walk::walk(routes, table, messages, &mut walked).await;
        put(walked, &places, out);
    }
}

/// To the queues that a router decides on. Messages with which it wants more than that go the long way.
pub(crate) async fn to_decided(
    routes: &Routes,
    table: &Arc<Table>,
    deciding: &Deciding,
    batch: Vec<Incoming>,
    out: &mut Vec<Publish>,
) {
    let views = batch
        .iter()
        .map(|message| View::new(&message.content, message.meta_len));
    let Ok(views) = views.collect::<Result<Vec<View<'_>>, ErrorBody>>() else {
        // The walk tells the ones that are refused from the others.
        return walk::walk(routes, table, batch, out).await;
    };
    let answers = routes.host.decide(table, deciding, &views, false).await;
    let kept: Vec<(bool, Times)> = views
        .iter()
        .map(|view| (view.meta.persistent, view.meta.times()))
        .collect();
    let arranged = table.arranged();
    let (mut places, mut further) = (Vec::new(), Vec::new());
    for ((message, (persistent, times)), answer) in batch.into_iter().zip(kept).zip(answers) {
        let mut queues = Queues::new();
        match answer {
            Answer::Deliver(targets) => {
                let bindings = targets.iter().flat_map(|target| table.target(*target));
                queues.extend(bindings.filter_map(|binding| queue(arranged.targets[binding as usize])));
            }
            Answer::Unroutable if table.exchange.alternate.is_none() => {}
            answer => {
                places.push(out.len());
                further.push((message.clone(), answer));
            }
        }
        out.push(publish(
            message,
            table.exchange.id,
            persistent,
            times,
            Some(deciding.by),
            queues,
        ));
    }
    if !places.is_empty() {
        let mut walked = Vec::with_capacity(places.len());
        walk::walk_on(routes, table, deciding.by, further, &mut walked).await;
        put(walked, &places, out);
    }
}

fn queue(target: Target) -> Option<QueueId> {
    match target {
        Target::Queue(queue) => Some(queue),
        Target::Exchange(_) => None,
    }
}

/// One message with at most one copy, whose queues `decide` adds.
fn in_place(
    message: Incoming,
    exchange: ExchangeId,
    decide: impl FnOnce(&Scanned<'_>, &mut Queues),
) -> Publish {
    let mut queues = Queues::new();
    let scanned = match scan_content(&message.content, message.meta_len) {
        Ok(scanned) => scanned,
        Err(refusal) => return refused(message.sequence, refusal),
    };
    decide(&scanned, &mut queues);
    let (persistent, times) = (scanned.persistent, scanned.times());
    publish(message, exchange, persistent, times, None, queues)
}

/// A message with one copy, or with none if there are no queues.
fn publish(
    message: Incoming,
    exchange: ExchangeId,
    persistent: bool,
    times: Times,
    decided_by: Option<DecidedBy>,
    mut queues: Queues,
) -> Publish {
    let mut copies = SmallVec::new();
    each_once(&mut queues);
    if !queues.is_empty() {
        copies.push(MessageCopy {
            content: message.content,
            meta_len: message.meta_len,
            persistent,
            times,
            exchange,
            decided_by,
            queues,
        });
    }
    Publish {
        sequence: message.sequence,
        verdict: Verdict::Deliver,
        copies,
    }
}

/// A message that is not taken.
fn refused(sequence: u64, refusal: ErrorBody) -> Publish {
    Publish {
        sequence,
        verdict: Verdict::Refuse(refusal),
        copies: SmallVec::new(),
    }
}

/// Puts what became of messages on the long way in their places.
fn put(walked: Vec<Publish>, places: &[usize], out: &mut [Publish]) {
    for (place, publish) in places.iter().zip(walked) {
        out[*place] = publish;
    }
}
