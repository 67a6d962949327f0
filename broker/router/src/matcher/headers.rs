//! Header patterns, as RabbitMQ's headers exchange has them.
//!
//! The argument `x-match` says how many of the other arguments a message's headers must equal, in type and value:
//! `all` (when not given) or `any`. Arguments whose name starts with `x-` do not count, unless it is `all-with-x` or
//! `any-with-x`. With nothing to compare, `all` takes every message and `any` none.

use pointsman_core::topology::Binding;
use pointsman_protocol::Value;
use pointsman_protocol::admin::Argument;
use smallvec::SmallVec;

/// The patterns of one exchange, by the number of their binding.
pub(crate) struct HeaderPatterns(Vec<Pattern>);

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
        HeaderPatterns(bindings.map(Pattern::new).collect())
    }

    pub(crate) fn matches<'a>(
        &self,
        headers: impl Iterator<Item = (&'a str, Value<'a>)>,
        mut found: impl FnMut(u32),
    ) {
        // The sort is stable and the search finds the first: of a repeated header the first one counts.
        let mut headers: SmallVec<[(&str, Value<'_>); 8]> = headers.collect();
        headers.sort_by_key(|(name, _)| *name);
        for (number, pattern) in (0..).zip(&self.0) {
            if pattern.takes(&headers) {
                found(number);
            }
        }
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
    fn of_a_repeated_header_the_first_counts() {
        let headers = [("a", Value::Int(1)), ("a", Value::Int(2))];
        assert!(takes(&[("a", Argument::Int(1))], &headers));
        assert!(!takes(&[("a", Argument::Int(2))], &headers));
    }
}
