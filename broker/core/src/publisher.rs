//! Publishers and who they are over reconnects: what was taken from an identity is recognised when it comes again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pointsman_protocol::publish::Outcome;
use pointsman_protocol::{ErrorBody, ErrorCode};

use crate::commit::{Commit, Effect, IdentityState, Record};
use crate::ids::{ConnectionId, PublisherId, PublisherIdentity};
use crate::limits::{IDENTITIES_MAX, IDENTITY_OUTCOMES_MAX};

/// All publishers and identities.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    open: BTreeMap<PublisherId, Publisher>,
    identities: BTreeMap<PublisherIdentity, Identity>,
    /// Identities without an open stream, by when they were last used.
    idle: BTreeSet<(u64, PublisherIdentity)>,
    /// Identities to write at the end of this turn.
    changed: BTreeSet<PublisherIdentity>,
    /// Counts turns, so that a confirm is only joined to one of its own turn.
    turn: u64,
}

/// A publisher's stream.
#[derive(Debug)]
struct Publisher {
    connection: ConnectionId,
    identity: PublisherIdentity,
    /// The turn and place in its effects of the last confirm.
    last_confirm: (u64, usize),
}

/// A publisher's stream and what is remembered of its identity, taken out of their maps for as long as a batch takes: a
/// message costs no search.
pub(crate) struct Sender {
    /// The identity.
    pub(crate) name: PublisherIdentity,
    publisher: PublisherId,
    identity: Identity,
    turn: u64,
    last_confirm: (u64, usize),
}

/// What is remembered of an identity.
#[derive(Debug, Default)]
struct Identity {
    last_sequence: u64,
    at: u64,
    /// Outcomes other than `Routed` among the last [`IDENTITY_OUTCOMES_MAX`] sequence numbers.
    exceptions: VecDeque<(u64, Outcome)>,
    stream: Option<PublisherId>,
    written: bool,
}

impl Sender {
    /// What to answer to a sequence number that cannot be taken anew.
    pub(crate) fn recall(&self, sequence: u64) -> Option<Outcome> {
        if sequence == 0 {
            let message = "publish sequence numbers start at 1";
            let error = ErrorBody::new(ErrorCode::SequenceOutOfOrder, message);
            return Some(Outcome::Refused(error));
        }
        self.identity.recall(sequence)
    }

    /// Remembers what became of a sequence number, which is higher than all before.
    pub(crate) fn remember(&mut self, sequence: u64, outcome: &Outcome, now: u64) {
        self.identity.remember(sequence, outcome, now);
    }

    /// Confirms a sequence number. Joined with the publisher's last confirm of this turn where it goes on with the
    /// same outcome.
    pub(crate) fn confirm(&mut self, sequence: u64, outcome: Outcome, commit: &mut Commit) {
        let (turn, place) = self.last_confirm;
        if turn == self.turn
            && let Some(Effect::Confirm {
                first,
                count,
                outcome: same,
                ..
            }) = commit.effects.get_mut(place)
            && *first + u64::from(*count) == sequence
            && *same == outcome
        {
            *count += 1;
            return;
        }
        self.last_confirm = (self.turn, commit.effects.len());
        commit.effects.push(Effect::Confirm {
            publisher: self.publisher,
            first: sequence,
            count: 1,
            outcome,
        });
    }
}

impl Identity {
    /// What to answer to a sequence number that was taken before.
    fn recall(&self, sequence: u64) -> Option<Outcome> {
        if sequence > self.last_sequence {
            return None;
        }
        let found = self
            .exceptions
            .binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        let outcome = found.ok().and_then(|at| self.exceptions.get(at));
        Some(outcome.map_or(Outcome::Duplicate, |(_, outcome)| outcome.clone()))
    }

    /// Remembers what became of a sequence number, which is higher than all before.
    fn remember(&mut self, sequence: u64, outcome: &Outcome, now: u64) {
        self.last_sequence = sequence;
        self.at = now;
        if !matches!(outcome, Outcome::Routed { .. }) {
            self.exceptions.push_back((sequence, outcome.clone()));
        }
        let oldest = sequence.saturating_sub(IDENTITY_OUTCOMES_MAX as u64);
        while self.exceptions.front().is_some_and(|(at, _)| *at <= oldest) {
            self.exceptions.pop_front();
        }
    }
}

impl Publishers {
    /// Takes in an identity as it was written.
    pub(crate) fn restore(&mut self, name: PublisherIdentity, state: IdentityState) {
        self.idle.insert((state.at, name));
        let identity = Identity {
            last_sequence: state.last_sequence,
            at: state.at,
            exceptions: state.exceptions.into(),
            stream: None,
            written: true,
        };
        self.identities.insert(name, identity);
    }

    /// How many identities are remembered.
    pub(crate) fn identities(&self) -> usize {
        self.identities.len()
    }

    /// Opens a stream. An older stream of the same identity is closed: a client that reconnected must not wait until
    /// the broker notices that the old connection is dead.
    pub(crate) fn open(
        &mut self,
        connection: ConnectionId,
        publisher: PublisherId,
        name: PublisherIdentity,
        now: u64,
        commit: &mut Commit,
    ) {
        if !self.identities.contains_key(&name) && !self.make_room(commit) {
            let message = format!("{IDENTITIES_MAX} publishers are open, the limit IDENTITIES_MAX");
            let error = ErrorBody::new(ErrorCode::LimitReached, message);
            commit.effects.push(Effect::PublisherClosed { publisher, error });
            return;
        }
        let identity = self.identities.entry(name).or_default();
        self.idle.remove(&(identity.at, name));
        identity.at = now;
        if let Some(older) = identity.stream.replace(publisher) {
            self.open.remove(&older);
            commit.effects.push(Effect::PublisherClosed {
                publisher: older,
                error: ErrorBody::new(
                    ErrorCode::ResourceLocked,
                    "another stream took over this publisher's identity",
                ),
            });
        }
        let last_sequence = identity.last_sequence;
        self.open.insert(
            publisher,
            Publisher {
                connection,
                identity: name,
                last_confirm: (u64::MAX, 0),
            },
        );
        commit.effects.push(Effect::PublisherOpened {
            publisher,
            last_sequence,
        });
    }

    /// Forgets the identity unused for longest when there is no room for another. Returns whether there is room.
    fn make_room(&mut self, commit: &mut Commit) -> bool {
        if self.identities.len() < IDENTITIES_MAX {
            return true;
        }
        let Some((_, name)) = self.idle.pop_first() else {
            return false;
        };
        self.changed.remove(&name);
        if self
            .identities
            .remove(&name)
            .is_some_and(|identity| identity.written)
        {
            commit.records.push(Record::Identity {
                identity: name,
                state: None,
            });
        }
        true
    }

    /// Closes a stream; its identity is remembered. Returns its connection.
    pub(crate) fn close(&mut self, publisher: PublisherId) -> Option<ConnectionId> {
        let Publisher {
            connection, identity, ..
        } = self.open.remove(&publisher)?;
        if let Some(state) = self.identities.get_mut(&identity) {
            state.stream = None;
            self.idle.insert((state.at, identity));
        }
        Some(connection)
    }

    /// An open stream and its identity, until [`Publishers::put_back`].
    pub(crate) fn take_out(&mut self, publisher: PublisherId) -> Option<Sender> {
        let open = self.open.get(&publisher)?;
        let identity = self.identities.get_mut(&open.identity)?;
        Some(Sender {
            name: open.identity,
            publisher,
            identity: std::mem::take(identity),
            turn: self.turn,
            last_confirm: open.last_confirm,
        })
    }

    /// See [`Publishers::take_out`].
    pub(crate) fn put_back(&mut self, sender: Sender) {
        if let Some(open) = self.open.get_mut(&sender.publisher) {
            open.last_confirm = sender.last_confirm;
        }
        if let Some(identity) = self.identities.get_mut(&sender.name) {
            *identity = sender.identity;
        }
    }

    /// The identity put something into a durable queue: what is remembered of it becomes durable with it.
    pub(crate) fn mark(&mut self, name: PublisherIdentity) {
        self.changed.insert(name);
    }

    /// Ends a turn: writes what changed, once an identity.
    pub(crate) fn finish(&mut self, commit: &mut Commit) {
        self.turn += 1;
        while let Some(name) = self.changed.pop_first() {
            let Some(identity) = self.identities.get_mut(&name) else {
                continue;
            };
            identity.written = true;
            commit.records.push(Record::Identity {
                identity: name,
                state: Some(IdentityState {
                    last_sequence: identity.last_sequence,
                    at: identity.at,
                    exceptions: identity.exceptions.iter().cloned().collect(),
                }),
            });
        }
    }
}
