//! Bodies: 8 bytes of when a message was due, 8 bytes of which one it is, and filler.

use bytes::{BufMut, BytesMut};

use crate::{Error, Outgoing, Scenario};

/// Length of what a body begins with, in bytes.
pub(crate) const STAMP_LEN: usize = 16;
/// Bits of the number of a publisher's message; the bits above are the publisher's number.
const SEQUENCE_BITS: u32 = 48;

/// Which message it is and when it was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nanoseconds on the run's clock.
    pub(crate) due: u64,
    pub(crate) publisher: usize,
    /// From 0.
    pub(crate) sequence: u64,
}

/// Makes the messages of one publisher.
pub(crate) struct Bodies {
    scenario: Scenario,
    publisher: u64,
    sequence: u64,
    /// Bodies of a batch lie in one allocation.
    arena: BytesMut,
    filler: Vec<u8>,
}

impl Bodies {
    pub(crate) fn new(scenario: &Scenario, publisher: usize) -> Bodies {
        Bodies {
            publisher: publisher as u64,
            sequence: 0,
            arena: BytesMut::new(),
            filler: vec![b'x'; scenario.body - STAMP_LEN],
            scenario: scenario.clone(),
        }
    }

    /// Messages, due when `due` says.
    pub(crate) fn next(&mut self, due: impl ExactSizeIterator<Item = u64>) -> Vec<Outgoing> {
        self.arena.reserve(due.len() * self.scenario.body);
        due.map(|due| self.message(due)).collect()
    }

    fn message(&mut self, due: u64) -> Outgoing {
        let key = self.scenario.shape.key(self.sequence);
        self.arena.put_u64_le(due);
        self.arena
            .put_u64_le(self.publisher << SEQUENCE_BITS | self.sequence);
        self.arena.put_slice(&self.filler);
        self.sequence += 1;
        Outgoing {
            key,
            body: self.arena.split().freeze(),
        }
    }

    /// How many were made.
    pub(crate) fn made(&self) -> u64 {
        self.sequence
    }
}

/// What a consumer took in at once.
#[derive(Debug)]
pub struct Arrivals {
    body: usize,
    stamps: Vec<Stamp>,
}

impl Arrivals {
    pub(crate) fn new(scenario: &Scenario) -> Arrivals {
        Arrivals {
            body: scenario.body,
            stamps: Vec::new(),
        }
    }

    /// Takes in the body of a delivery.
    ///
    /// # Errors
    /// [`Error::Stranger`] when no publisher of a run makes such bodies.
    pub fn push(&mut self, body: &[u8]) -> Result<(), Error> {
        let stamp = body.split_first_chunk::<8>().and_then(|(due, rest)| {
            let which = u64::from_le_bytes(*rest.first_chunk()?);
            Some(Stamp {
                due: u64::from_le_bytes(*due),
                publisher: (which >> SEQUENCE_BITS) as usize,
                sequence: which & ((1 << SEQUENCE_BITS) - 1),
            })
        });
        match stamp {
            Some(stamp) if body.len() == self.body => self.stamps.push(stamp),
            _ => {
                let text = format!("its body has {} bytes instead of {}", body.len(), self.body);
                return Err(Error::Stranger(text));
            }
        }
        Ok(())
    }

    /// What was taken in since the last time.
    pub(crate) fn take(&mut self) -> std::vec::Drain<'_, Stamp> {
        self.stamps.drain(..)
    }

    /// The same, to look at.
    pub(crate) fn stamps(&self) -> &[Stamp] {
        &self.stamps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Order, Shape};

    #[test]
    fn a_body_says_which_message_it_is_and_when_it_was_due() {
        let scenario = Scenario::small(Shape::Queue, Order::Together);
        let mut bodies = Bodies::new(&scenario, 3);
        let mut arrivals = Arrivals::new(&scenario);
        for message in bodies.next([70, 80].into_iter()) {
            assert_eq!(message.body.len(), scenario.body);
            arrivals.push(&message.body).unwrap();
        }
        let stamps: Vec<Stamp> = arrivals.take().collect();
        let stamp = |due, sequence| Stamp {
            due,
            publisher: 3,
            sequence,
        };
        assert_eq!(stamps, [stamp(70, 0), stamp(80, 1)]);
        assert_eq!(bodies.made(), 2);
    }

    #[test]
    fn a_body_of_another_length_is_a_stranger() {
        let mut arrivals = Arrivals::new(&Scenario::small(Shape::Queue, Order::Together));
        for len in [0, 15, 99, 101] {
            assert!(arrivals.push(&vec![0; len]).is_err(), "{len}");
        }
    }
}
