//! Header patterns, as RabbitMQ's headers exchange has them.
//!
//! The argument `x-match` says how many of the other arguments a message's headers must equal, in type and value:
//! `all` (when not given) or `any`. Arguments whose name starts with `x-` do not count, unless it is `all-with-x` or
//! `any-with-x`. With nothing to compare, `all` takes every message and `any` none.

use pointsman_core::topology::Binding;
use pointsman_protocol::Value;
use pointsman_protocol::admin::Argument;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The patterns of one exchange, by the number of their binding. Only those are compared that have an argument in
/// common with the message, so that the others cost nothing.
pub(crate) struct HeaderPatterns {
    patterns: Vec<Pattern>,
    /// Those that take every message.
    always: Vec<u32>,
    /// The others by the hash of an argument: those that want all by their rarest one, those that want any by each.
    by_argument: FxHashMap<u64, Vec<u32>>,
}

struct Pattern {
    match_: Match,
    expected: Vec<(String, Argument)>,
}

#[derive(Clone, Copy)]
enum Match {
    All,
    Any,
    /// `x-match` is none of the known words; such a binding takes nothing.
    Never,
}

impl HeaderPatterns {
    pub(crate) fn new<'a>(bindings: impl Iterator<Item = &'a Binding>) -> HeaderPatterns {
        let patterns: Vec<Pattern> = bindings.map(Pattern::new).collect();
        let mut uses: FxHashMap<u64, u32> = FxHashMap::default();
        for hash in patterns.iter().flat_map(Pattern::hashes) {
            *uses.entry(hash).or_default() += 1;
        }
        let mut always = Vec::new();
        let mut by_argument: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
        for (number, pattern) in (0..).zip(&patterns) {
            match pattern.match_ {
                Match::All => match pattern.hashes().min_by_key(|hash| uses[hash]) {
                    Some(rarest) => by_argument.entry(rarest).or_default().push(number),
                    None => always.push(number),
                },
                Match::Any => pattern
                    .hashes()
                    .for_each(|hash| by_argument.entry(hash).or_default().push(number)),
                Match::Never => {}
            }
        }
        HeaderPatterns {
            patterns,
            always,
            by_argument,
        }
    }

    pub(crate) fn matches<'a>(
        &self,
        headers: impl Iterator<Item = (&'a str, Value<'a>)>,
        mut found: impl FnMut(u32),
    ) {
        // The sort is stable and the search finds the first: of a repeated header the first one counts.
        let mut headers: SmallVec<[(&str, Value<'_>); 8]> = headers.collect();
        headers.sort_by_key(|(name, _)| *name);
        let mut candidates: SmallVec<[u32; 8]> = headers
            .iter()
            .filter_map(|(name, value)| self.by_argument.get(&hash_of_value(name, value)?))
            .flatten()
            .copied()
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|number| self.patterns[*number as usize].takes(&headers));
        self.always.iter().copied().chain(candidates).for_each(&mut found);
    }
}

impl Pattern {
    fn new(binding: &Binding) -> Pattern {
        let x_match = binding.arguments.iter().find(|(name, _)| name == "x-match");
        let (match_, with_x) = match x_match.map(|(_, value)| value) {
            None => (Match::All, false),
            Some(Argument::Str(word)) => match word.as_str() {
                "all" => (Match::All, false),
                "any" => (Match::Any, false),
                "all-with-x" => (Match::All, true),
                "any-with-x" => (Match::Any, true),
                _ => (Match::Never, false),
            },
            Some(_) => (Match::Never, false),
        };
        let counts = |name: &str| name != "x-match" && (with_x || !name.starts_with("x-"));
        let expected = binding
            .arguments
            .iter()
            .filter(|(name, _)| counts(name))
            .cloned()
            .collect();
        Pattern { match_, expected }
    }

    /// A hash of each argument that it compares.
    fn hashes(&self) -> impl Iterator<Item = u64> {
        self.expected
            .iter()
            .map(|(name, argument)| hash_of_argument(name, argument))
    }

    fn takes(&self, headers: &[(&str, Value<'_>)]) -> bool {
        let mut hits = self.expected.iter().map(|(name, expected)| {
            let first = headers.partition_point(|(header, _)| *header < name.as_str());
            headers
                .get(first)
                .is_some_and(|(header, value)| header == name && equal(expected, value))
        });
        match self.match_ {
            Match::All => hits.all(|hit| hit),
            Match::Any => hits.any(|hit| hit),
            Match::Never => false,
        }
    }
}

fn equal(expected: &Argument, value: &Value<'_>) -> bool {
    match (expected, value) {
        (Argument::Bool(a), Value::Bool(b)) => a == b,
        (Argument::Int(a), Value::Int(b)) => a == b,
        (Argument::Str(a), Value::Str(b)) => a == b,
        (Argument::Bytes(a), Value::Bytes(b)) => a == b,
        _ => false,
    }
}

fn hash_of_argument(name: &str, argument: &Argument) -> u64 {
    match argument {
        Argument::Bool(truth) => hash(name, 0, &[(*truth).into()]),
        Argument::Int(number) => hash(name, 1, &number.to_le_bytes()),
        Argument::Str(text) => hash(name, 2, text.as_bytes()),
        Argument::Bytes(bytes) => hash(name, 3, bytes),
    }
}

/// The hash of the argument that equals a header, if there is one.
fn hash_of_value(name: &str, value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Bool(truth) => Some(hash(name, 0, &[(*truth).into()])),
        Value::Int(number) => Some(hash(name, 1, &number.to_le_bytes())),
        Value::Float(_) => None,
        Value::Str(text) => Some(hash(name, 2, text.as_bytes())),
        Value::Bytes(bytes) => Some(hash(name, 3, bytes)),
    }
}

fn hash(name: &str, kind: u64, value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(name.as_bytes()) ^ kind)
}

#[cfg(test)]
mod tests {
    use pointsman_core::QueueId;
    use pointsman_core::topology::Target;

    use super::*;

    fn text(value: &str) -> Argument {
        Argument::Str(value.into())
    }

    fn takes(arguments: &[(&str, Argument)], headers: &[(&str, Value<'_>)]) -> bool {
        let binding = Binding {
            key: String::new(),
            target: Target::Queue(QueueId(1)),
            arguments: arguments
                .iter()
                .map(|(name, value)| (name.to_string(), value.clone()))
                .collect(),
        };
        let mut found = false;
        HeaderPatterns::new([&binding].into_iter()).matches(headers.iter().cloned(), |_| found = true);
        found
    }

    #[test]
    fn all_wants_every_argument_and_any_wants_one() {
        let region = ("region", text("eu"));
        let tier = ("tier", Argument::Int(1));
        let half = [("region", Value::Str("eu")), ("tier", Value::Int(2))];
        let full = [("tier", Value::Int(1)), ("region", Value::Str("eu"))];
        let all = [region.clone(), tier.clone()];
        let any = [region, tier, ("x-match", text("any"))];
        assert!(takes(&all, &full) && !takes(&all, &half));
        assert!(takes(&any, &full) && takes(&any, &half) && !takes(&any, &[]));
    }

    #[test]
    fn arguments_that_start_with_x_count_only_when_asked() {
        let hidden = [("x-tenant", text("a"))];
        assert!(takes(&hidden, &[]));
        let with_x = [("x-match", text("all-with-x")), ("x-tenant", text("a"))];
        assert!(!takes(&with_x, &[]));
        assert!(takes(&with_x, &[("x-tenant", Value::Str("a"))]));
    }

    #[test]
    fn a_value_of_another_type_or_an_unknown_x_match_takes_nothing() {
        assert!(!takes(&[("tier", text("1"))], &[("tier", Value::Int(1))]));
        assert!(!takes(&[("x-match", text("some"))], &[]));
    }

    #[test]
    fn of_many_patterns_exactly_those_are_found_that_take_the_message_alone() {
        let mut random = fastrand::Rng::with_seed(5);
        let names = ["a", "b", "c"];
        let words = ["all", "any", "some"];
        for _ in 0..200 {
            let mut bindings = Vec::new();
            for number in 0..30 {
                let mut arguments = vec![("x-match".to_owned(), text(words[random.usize(..3)]))];
                for name in &names[..random.usize(..4)] {
                    arguments.push((name.to_string(), Argument::Int(random.i64(..3))));
                }
                bindings.push(Binding {
                    key: String::new(),
                    target: Target::Queue(QueueId(number)),
                    arguments,
                });
            }
            let headers: Vec<_> = (0..random.usize(..5))
                .map(|_| (names[random.usize(..3)], Value::Int(random.i64(..3))))
                .collect();
            let mut sorted: SmallVec<[(&str, Value<'_>); 8]> = headers.iter().cloned().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let alone = bindings
                .iter()
                .zip(0..)
                .filter(|(binding, _)| Pattern::new(binding).takes(&sorted));
            let alone: Vec<u32> = alone.map(|(_, number)| number).collect();
            let mut found = Vec::new();
            HeaderPatterns::new(bindings.iter())
                .matches(headers.iter().cloned(), |number| found.push(number));
            found.sort_unstable();
            assert_eq!(found, alone, "{headers:?} {bindings:?}");
        }
    }

    #[test]
    fn of_a_repeated_header_the_first_counts() {
        let headers = [("a", Value::Int(1)), ("a", Value::Int(2))];
        assert!(takes(&[("a", Argument::Int(1))], &headers));
        assert!(!takes(&[("a", Argument::Int(2))], &headers));
    }
}
