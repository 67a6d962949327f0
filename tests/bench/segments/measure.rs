//! Measures segments in turns: a slow moment of the machine is slow for all of them and for their limits.

use std::time::{Duration, Instant};

use stats_alloc::INSTRUMENTED_SYSTEM;

use crate::counts::Counts;
use crate::limit::Raw;
use crate::segment::{Segment, Work};

/// Rounds in which every segment has its turn; the first are not counted.
const ROUNDS: usize = 15;
const WARM_UP: usize = 2;
/// Time of a turn, with what makes its batches ready.
const TURN: Duration = Duration::from_millis(4);
/// Batches over which allocations are counted.
const COUNTED: usize = 64;

/// What was found of one segment; all of it for one message.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Nanoseconds: the middle of all turns.
    pub(crate) time: f64,
    /// Half of all turns are within this part of the time around it.
    pub(crate) spread: f64,
    /// Nanoseconds of the raw limit.
    pub(crate) limit: f64,
    /// The middle of time by limit, turn by turn.
    pub(crate) ratio: f64,
    /// Allocations and reallocations.
    pub(crate) allocations: f64,
    /// Bytes that they asked for.
    pub(crate) allocated: f64,
    /// What valgrind counted, if it was asked.
    pub(crate) counts: Option<Counts>,
}

struct Measured {
    name: String,
    messages: usize,
    counts: Option<Counts>,
    work: Box<dyn Work>,
    raw: Raw,
    times: Vec<f64>,
    limits: Vec<f64>,
}

/// Measures segments; with `counting` valgrind counts those that it can.
pub(crate) fn measure(segments: Vec<Segment>, counting: bool) -> Vec<Row> {
    let mut all: Vec<Measured> = Vec::new();
    for segment in segments {
        let counts = (counting && segment.is_countable()).then(|| segment.count());
        all.push(Measured::new(segment, counts));
    }
    for round in 0..WARM_UP + ROUNDS {
        for measured in &mut all {
            measured.turn(round >= WARM_UP);
        }
    }
    all.into_iter().map(Measured::row).collect()
}

impl Measured {
    fn new(segment: Segment, counts: Option<Counts>) -> Measured {
        Measured {
            name: segment.name,
            messages: segment.messages,
            counts,
            work: (segment.make)(),
            raw: Raw::new(segment.limit, segment.messages),
            times: Vec::new(),
            limits: Vec::new(),
        }
    }

    fn turn(&mut self, counts: bool) {
        let limit = self.raw.measure();
        let began = Instant::now();
        let (mut took, mut batches) = (Duration::ZERO, 0);
        while batches == 0 || began.elapsed() < TURN {
            self.work.prepare();
            let start = Instant::now();
            self.work.run();
            took += start.elapsed();
            batches += 1;
        }
        if counts {
            self.times
                .push(took.as_nanos() as f64 / (batches * self.messages) as f64);
            self.limits.push((limit + self.raw.measure()) / 2.0);
        }
    }

    fn row(mut self) -> Row {
        let (mut allocations, mut allocated) = (0, 0);
        for _ in 0..COUNTED {
            self.work.prepare();
            let before = INSTRUMENTED_SYSTEM.stats();
            self.work.run();
            let during = INSTRUMENTED_SYSTEM.stats() - before;
            allocations += during.allocations + during.reallocations;
            allocated += during.bytes_allocated;
        }
        let ratios = self
            .times
            .iter()
            .zip(&self.limits)
            .map(|(time, limit)| time / limit);
        let ratio = at(&mut ratios.collect::<Vec<_>>(), 0.5);
        let time = at(&mut self.times, 0.5);
        let messages = (COUNTED * self.messages) as f64;
        Row {
            name: self.name,
            time,
            spread: (at(&mut self.times, 0.75) - at(&mut self.times, 0.25)) / 2.0 / time,
            limit: at(&mut self.limits, 0.5),
            ratio,
            allocations: allocations as f64 / messages,
            allocated: allocated as f64 / messages,
            counts: self.counts,
        }
    }
}

/// The value below which that part of all values lie.
fn at(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}
