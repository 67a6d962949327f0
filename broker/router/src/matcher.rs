//! The built-in exchange kinds: from a routing key and headers to the numbers of the bindings that take a message.
//!
//! Bindings are numbered in the order of the exchange's binding map, which is the order of their keys: all bindings
//! of one key are one range of numbers.

mod headers;
mod ring;
mod topic;

use std::ops::Range;

use pointsman_core::topology::{Binding, Exchange};
use pointsman_protocol::admin::ExchangeKind;
use rustc_hash::FxHashMap;

use crate::scan::Scanned;
use headers::HeaderPatterns;
use ring::Ring;
use topic::Trie;

pub use ring::{WEIGHT_MAX, weight};

/// The bindings of one exchange, arranged for looking up.
pub(crate) enum Matcher {
    /// Bindings by routing key. A fast hash will do: only operators put keys here.
    Direct(FxHashMap<Box<str>, Range<u32>>),
    /// All of them.
    Fanout(u32),
    /// Bindings by pattern.
    Topic(Trie),
    /// Bindings by header pattern.
    Headers(HeaderPatterns),
    /// One binding, by hash.
    ConsistentHash(Ring),
    /// A module decides; there is nothing to look up.
    Router,
}

impl Matcher {
    pub(crate) fn new(exchange: &Exchange) -> Matcher {
        match exchange.spec.kind {
            ExchangeKind::Direct => {
                Matcher::Direct(runs(exchange).map(|(key, run)| (key.into(), run)).collect())
            }
            ExchangeKind::Fanout => Matcher::Fanout(exchange.bindings.len() as u32),
            ExchangeKind::Topic => Matcher::Topic(Trie::new(runs(exchange))),
            ExchangeKind::Headers => Matcher::Headers(HeaderPatterns::new(exchange.bindings.keys())),
            ExchangeKind::ConsistentHash => Matcher::ConsistentHash(Ring::new(exchange.bindings.keys())),
            ExchangeKind::Router => Matcher::Router,
        }
    }

    /// Calls `found` with the number of each binding that takes the message, each once.
    pub(crate) fn matches(&self, message: &Scanned<'_>, mut found: impl FnMut(u32)) {
        match self {
            Matcher::Direct(keys) => {
                if let Some(run) = keys.get(message.routing_key) {
                    run.clone().for_each(found);
                }
            }
            Matcher::Fanout(count) => (0..*count).for_each(found),
            Matcher::Topic(trie) => trie.matches(message.routing_key, |run| run.for_each(&mut found)),
            Matcher::Headers(patterns) => patterns.matches(message.headers(), found),
            Matcher::ConsistentHash(ring) => ring.pick(message.routing_key).into_iter().for_each(found),
            Matcher::Router => {}
        }
    }
}

/// The binding keys of an exchange, each once, with the numbers of the bindings that have it.
pub(crate) fn runs(exchange: &Exchange) -> impl Iterator<Item = (&str, Range<u32>)> {
    let mut bindings = exchange.bindings.keys().zip(0u32..).peekable();
    std::iter::from_fn(move || {
        let (Binding { key, .. }, start) = bindings.next()?;
        let mut end = start + 1;
        while bindings.next_if(|(next, _)| next.key == *key).is_some() {
            end += 1;
        }
        Some((key.as_str(), start..end))
    })
}
