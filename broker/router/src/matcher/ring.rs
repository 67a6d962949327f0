//! Consistent hashing: each binding owns points on a ring of hashes, in number proportional to its weight, and a key
//! belongs to the first point at or after its hash. A new binding takes its points from all others alike, so about
//! its share of the keys moves and nothing else. (Karger and others, "Consistent hashing and random trees", 1997.)

use pointsman_core::topology::{Binding, Target};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Largest weight of a binding.
pub const WEIGHT_MAX: u16 = 10_000;

/// Points for each unit of weight: with 64, equal bindings differ by about an eighth in their share.
const POINTS: u64 = 64;

/// Most points of a ring. Beyond, every binding gets proportionally fewer, at least one.
const RING_MAX: u64 = 1 << 20;

/// The weight a binding key of a consistent-hash exchange stands for: 1 to [`WEIGHT_MAX`].
pub fn weight(binding_key: &str) -> Option<u16> {
    binding_key
        .parse()
        .ok()
        .filter(|weight| (1..=WEIGHT_MAX).contains(weight))
}

/// Points in the order of their hash, each with the number of its binding.
pub(crate) struct Ring(Vec<(u32, u32)>);

impl Ring {
    /// A binding whose key is not a weight gets no points.
    pub(crate) fn new<'a>(bindings: impl Iterator<Item = &'a Binding>) -> Ring {
        let weighted: Vec<(u32, &Binding, u16)> = (0..)
            .zip(bindings)
            .filter_map(|(number, b)| Some((number, b, weight(&b.key)?)))
            .collect();
        let total: u64 = weighted
            .iter()
            .map(|(_, _, weight)| u64::from(*weight) * POINTS)
            .sum();
        let mut points: Vec<(u32, u32)> = weighted
            .into_iter()
            .flat_map(|(number, binding, weight)| {
                let wanted = u64::from(weight) * POINTS;
                let count = if total > RING_MAX {
                    (wanted * RING_MAX / total).max(1)
                } else {
                    wanted
                };
                let seed = identity(binding.target);
                (0..count).map(move |point| {
                    (
                        (xxh3_64_with_seed(&point.to_le_bytes(), seed) >> 32) as u32,
                        number,
                    )
                })
            })
            .collect();
        points.sort_unstable();
        Ring(points)
    }

    /// The binding that owns `key`, unless there is none.
    pub(crate) fn pick(&self, key: &str) -> Option<u32> {
        let hash = (xxh3_64(key.as_bytes()) >> 32) as u32;
        let at = self.0.partition_point(|(point, _)| *point < hash);
        self.0
            .get(at)
            .or_else(|| self.0.first())
            .map(|(_, number)| *number)
    }
}

/// What places a target on the ring. It does not depend on the other bindings, nor on their order.
fn identity(target: Target) -> u64 {
    match target {
        Target::Queue(queue) => u64::from(queue.0),
        Target::Exchange(exchange) => 1 << 32 | u64::from(exchange.0),
    }
}

#[cfg(test)]
mod tests {
    use pointsman_core::QueueId;

    use super::*;

    fn binding(queue: u32, key: &str) -> Binding {
        Binding {
            key: key.into(),
            target: Target::Queue(QueueId(queue)),
            arguments: Vec::new(),
        }
    }

    fn owners(bindings: &[Binding]) -> Vec<Target> {
        let ring = Ring::new(bindings.iter());
        let owner = |n: u32| bindings[ring.pick(&format!("key-{n}")).unwrap() as usize].target;
        (0..20_000).map(owner).collect()
    }

    #[test]
    fn an_added_binding_takes_about_its_share_and_moves_nothing_else() {
        let ten: Vec<_> = (0..10).map(|queue| binding(queue, "4")).collect();
        let mut eleven = ten.clone();
        eleven.push(binding(10, "4"));
        let moved: Vec<_> = owners(&ten)
            .into_iter()
            .zip(owners(&eleven))
            .filter(|(before, after)| before != after)
            .collect();
        assert!(
            moved
                .iter()
                .all(|(_, after)| *after == Target::Queue(QueueId(10)))
        );
        let share = moved.len() as f64 / 20_000.0;
        assert!(
            (0.06..0.13).contains(&share),
            "{share} moved, a fair share is 0.09"
        );
    }

    #[test]
    fn shares_follow_the_weights() {
        let owners = owners(&[binding(0, "10"), binding(1, "30")]);
        let light = owners
            .iter()
            .filter(|owner| **owner == Target::Queue(QueueId(0)))
            .count();
        let share = light as f64 / 20_000.0;
        assert!(
            (0.2..0.3).contains(&share),
            "{share} of the keys, the weight says 0.25"
        );
    }

    #[test]
    fn a_key_that_is_no_weight_gets_nothing() {
        for key in ["", "0", "-1", "1.5", "10001"] {
            assert_eq!(Ring::new([binding(0, key)].iter()).pick("a"), None, "{key:?}");
        }
    }

    #[test]
    fn a_ring_is_bounded_whatever_the_weights() {
        let heavy: Vec<_> = (0..1_000).map(|queue| binding(queue, "10000")).collect();
        assert!(Ring::new(heavy.iter()).0.len() as u64 <= RING_MAX + 1_000);
    }
}
