//! Settlements and credit that wait to be written, put together as far as they go. No IO.

use bytes::BytesMut;
use pointsman_protocol::consume::{Credit, Settle, Settlement};
use pointsman_protocol::frame::{self, Kind};

/// Deliveries of consecutive tags with the same settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    count: u32,
    how: Settlement,
}

/// Settlements that were made and are not written.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    runs: Vec<Run>,
    gives_back: bool,
}

impl Settlements {
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether one of them is not an acknowledgement: somebody else may wait for the message.
    pub(crate) fn gives_back(&self) -> bool {
        self.gives_back
    }

    /// Takes one in; the usual case, the tag after the last, makes the last run longer.
    pub(crate) fn push(&mut self, tag: u64, how: Settlement) {
        self.gives_back |= how != Settlement::Ack;
        match self.runs.last_mut() {
            Some(run) if run.how == how && run.follows_on(tag) => run.count += 1,
            _ => self.runs.push(Run {
                first: tag,
                count: 1,
                how,
            }),
        }
    }

    /// Appends the frames of all of them, in the order of their tags, and forgets them.
    pub(crate) fn write(&mut self, out: &mut BytesMut) {
        self.gives_back = false;
        self.runs.sort_unstable_by_key(|run| run.first);
        let mut runs = self.runs.drain(..);
        let Some(mut current) = runs.next() else { return };
        for run in runs {
            if run.how == current.how && current.follows_on(run.first) {
                current.count += run.count;
            } else {
                current.put(out);
                current = run;
            }
        }
        current.put(out);
    }

    pub(crate) fn clear(&mut self) {
        self.gives_back = false;
        self.runs.clear();
    }
}

impl Run {
    fn follows_on(&self, tag: u64) -> bool {
        self.first + u64::from(self.count) == tag
    }

    fn put(&self, out: &mut BytesMut) {
        let settle = Settle {
            count: self.count,
            how: self.how,
        };
        frame::put(out, Kind::Settle, 0, self.first, &settle, &[]);
    }
}

/// What the broker may still send, and what can be granted again.
///
/// Credit is granted back in steps of half the prefetch, so that a busy consumer writes little. It is granted at once
/// while the consumer waits and the broker has no credit left, since it may wait for just those messages.
#[derive(Debug)]
pub(crate) struct CreditAccount {
    prefetch: u32,
    prefetch_bytes: u64,
    /// What the broker has; the bytes may be below zero by one message.
    out_messages: u32,
    out_bytes: i64,
    /// What came back and was not granted.
    back_messages: u32,
    back_bytes: u64,
}

impl CreditAccount {
    /// An account of a new stream: everything is there to be granted.
    pub(crate) fn new(prefetch: u32, prefetch_bytes: u64) -> CreditAccount {
        CreditAccount {
            prefetch,
            prefetch_bytes,
            out_messages: 0,
            out_bytes: 0,
            back_messages: prefetch,
            back_bytes: prefetch_bytes,
        }
    }

    /// Forgets the stream before.
    pub(crate) fn reset(&mut self) {
        *self = CreditAccount::new(self.prefetch, self.prefetch_bytes);
    }

    /// A delivery used credit. Says whether the broker was allowed to send it.
    #[must_use]
    pub(crate) fn used(&mut self, bytes: u64) -> bool {
        self.out_bytes -= bytes as i64;
        match self.out_messages.checked_sub(1) {
            Some(left) => {
                self.out_messages = left;
                true
            }
            None => false,
        }
    }

    /// A delivery is done with.
    pub(crate) fn came_back(&mut self, bytes: u64) {
        self.back_messages += 1;
        self.back_bytes += bytes;
    }

    /// Whether to grant now; `waiting` says that the consumer has nothing to work on.
    pub(crate) fn is_due(&self, waiting: bool) -> bool {
        let large = self.back_messages >= self.prefetch.div_ceil(2)
            || self.back_bytes >= self.prefetch_bytes.div_ceil(2);
        let stalled = self.out_messages == 0 || self.out_bytes <= 0;
        self.back_messages > 0 && (large || (waiting && stalled))
    }

    /// Appends the frame that grants what came back.
    pub(crate) fn write(&mut self, out: &mut BytesMut) {
        let credit = Credit {
            messages: std::mem::take(&mut self.back_messages),
            bytes: std::mem::take(&mut self.back_bytes),
        };
        self.out_messages += credit.messages;
        self.out_bytes += credit.bytes as i64;
        frame::put(out, Kind::Credit, 0, 0, &credit, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_protocol::frame::Frame;

    fn written(settlements: &mut Settlements) -> Vec<(u64, u32, Settlement)> {
        let mut out = BytesMut::new();
        settlements.write(&mut out);
        std::iter::from_fn(|| Frame::take(&mut out, 0).unwrap())
            .map(|frame| {
                let settle: Settle = frame.decode().unwrap();
                (frame.header.id, settle.count, settle.how)
            })
            .collect()
    }

    #[test]
    fn settlements_in_any_order_become_the_fewest_ranges() {
        let mut settlements = Settlements::default();
        for tag in [1, 2, 3, 7, 5, 6, 4, 9] {
            settlements.push(tag, Settlement::Ack);
        }
        settlements.push(8, Settlement::Requeue);
        assert_eq!(
            written(&mut settlements),
            [
                (1, 7, Settlement::Ack),
                (8, 1, Settlement::Requeue),
                (9, 1, Settlement::Ack)
            ]
        );
        assert!(settlements.is_empty());
        assert_eq!(written(&mut settlements), []);
    }

    #[test]
    fn what_is_given_back_shows_until_it_is_written() {
        let mut settlements = Settlements::default();
        settlements.push(1, Settlement::Ack);
        assert!(!settlements.gives_back());
        settlements.push(2, Settlement::Reject);
        settlements.push(3, Settlement::Ack);
        assert!(settlements.gives_back());
        written(&mut settlements);
        assert!(!settlements.gives_back());
    }

    #[test]
    fn credit_is_granted_back_by_halves() {
        let mut account = CreditAccount::new(10, 1000);
        assert!(account.is_due(false), "the first grant");
        account.write(&mut BytesMut::new());
        for _ in 0..4 {
            assert!(account.used(10));
            account.came_back(10);
            assert!(!account.is_due(false));
        }
        assert!(account.used(10));
        account.came_back(10);
        assert!(account.is_due(false));
    }

    #[test]
    fn many_bytes_make_credit_due_before_many_messages() {
        let mut account = CreditAccount::new(10, 1000);
        account.write(&mut BytesMut::new());
        assert!(account.used(600));
        account.came_back(600);
        assert!(account.is_due(false));
    }

    #[test]
    fn a_consumer_that_waits_without_credit_gets_what_there_is() {
        let mut account = CreditAccount::new(10, 1000);
        account.write(&mut BytesMut::new());
        for _ in 0..9 {
            assert!(account.used(1));
        }
        account.came_back(1);
        assert!(!account.is_due(true), "the broker may send one more");
        assert!(account.used(1));
        assert!(!account.is_due(false));
        assert!(account.is_due(true));
    }

    #[test]
    fn a_delivery_without_credit_is_noticed() {
        let mut account = CreditAccount::new(1, 100);
        assert!(!account.used(1), "before the first grant");
        account.write(&mut BytesMut::new());
        assert!(account.used(150), "one message may go below zero bytes");
        assert!(!account.used(1));
    }
}
