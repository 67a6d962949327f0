//! One seeded run: a broker, a store whose commits become durable late, clients, and a scheduler that decides by the
//! seed what happens next. What goes in is in [`clients`], what comes out in [`commits`], the end in [`rest`].

mod clients;
mod commits;
mod rest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use pointsman_core::*;
use pointsman_protocol::admin::{QueueKind, QueueSpec, Reply, Request, Retention};

use crate::model::{Model, Uid};
use crate::store::SimStore;
use clients::{Client, Publisher};
use commits::{Pending, Read};

/// Work queues: whether they are durable, and how long messages may wait in them.
const QUEUES: [(&str, bool, Option<u64>); 5] = [
    ("d0", true, None),
    ("d1", true, Some(300)),
    ("d2", true, None),
    ("t0", false, None),
    ("t1", false, Some(200)),
];
/// Streams: one that keeps everything, and one for each limit.
const STREAMS: [(&str, Retention); 4] = [
    ("s0", KEEP),
    (
        "s1",
        Retention {
            max_messages: Some(20),
            ..KEEP
        },
    ),
    (
        "s2",
        Retention {
            max_bytes: Some(700),
            ..KEEP
        },
    ),
    (
        "s3",
        Retention {
            max_age_ms: Some(900),
            ..KEEP
        },
    ),
];
const KEEP: Retention = Retention {
    max_age_ms: None,
    max_bytes: None,
    max_messages: None,
};
const PUBLISHERS: u8 = 3;

pub(crate) struct World {
    rng: fastrand::Rng,
    now: u64,
    /// The latest time there ever was: the clock may be set back.
    latest: u64,
    bounds: Bounds,
    broker: Broker,
    commit: Commit,
    more: bool,
    model: Model,
    pending: VecDeque<Pending>,
    store: SimStore,
    durable: Model,
    /// What survives power loss.
    synced: (SimStore, Model),
    reads: Vec<Read>,
    names: BTreeMap<String, QueueId>,
    publishers: Vec<Publisher>,
    clients: BTreeMap<ConsumerId, Client>,
    /// Every consumer that ever was without acknowledgements.
    no_ack: BTreeMap<ConsumerId, QueueId>,
    purges: BTreeMap<u64, QueueId>,
    confirmed: BTreeSet<(QueueId, Uid)>,
    seen: BTreeSet<(QueueId, Uid)>,
    /// The last sequence number of a publisher that came for the first time, per queue.
    last_first: BTreeMap<(QueueId, u8), u64>,
    /// Messages that were delayed, which come out of order.
    delayed: BTreeSet<Uid>,
    /// Pages of due entries that the broker waits for.
    page_reads: u32,
    /// Whether more was due at the end of the last turn than the broker could do.
    is_behind: bool,
    /// Every message that a reader of a stream ever saw, by its offset.
    read: BTreeMap<(QueueId, u64), Uid>,
    last_id: u64,
    hash: DefaultHasher,
    pub(crate) figures: Figures,
}

/// What a run did, so that a run that does nothing is noticed.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) crashes: u64,
    pub(crate) confirms: u64,
    pub(crate) duplicates: u64,
    pub(crate) deliveries: u64,
    pub(crate) redeliveries: u64,
    pub(crate) index_reads: u64,
    pub(crate) chunk_reads: u64,
    pub(crate) purged: u64,
    pub(crate) refused: u64,
    pub(crate) ack_blocks: u64,
    pub(crate) reclaimed: u64,
    pub(crate) stream_reads: u64,
    pub(crate) overtaken: u64,
    pub(crate) seeks: u64,
    pub(crate) dropped: u64,
    pub(crate) entered: u64,
    pub(crate) expired: u64,
    pub(crate) due_reads: u64,
    pub(crate) sweeps: u64,
    pub(crate) set_back: u64,
    pub(crate) withheld: u64,
}

impl Figures {
    fn fields(&mut self) -> [&mut u64; 21] {
        [
            &mut self.crashes,
            &mut self.confirms,
            &mut self.duplicates,
            &mut self.deliveries,
            &mut self.redeliveries,
            &mut self.index_reads,
            &mut self.chunk_reads,
            &mut self.purged,
            &mut self.refused,
            &mut self.ack_blocks,
            &mut self.reclaimed,
            &mut self.stream_reads,
            &mut self.overtaken,
            &mut self.seeks,
            &mut self.dropped,
            &mut self.entered,
            &mut self.expired,
            &mut self.due_reads,
            &mut self.sweeps,
            &mut self.set_back,
            &mut self.withheld,
        ]
    }

    pub(crate) fn add(&mut self, other: &mut Figures) {
        for (sum, value) in self.fields().into_iter().zip(other.fields()) {
            *sum += *value;
        }
    }

    pub(crate) fn reached_everything(&mut self) -> bool {
        self.fields().into_iter().all(|figure| *figure > 0)
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bounds = Bounds {
            page_runs: rng.usize(1..8),
            cache_bytes: rng.usize(300..6_000),
            memory_bytes: rng.usize(2_000..40_000),
            deliveries_per_turn: rng.usize(1..40),
            purge_runs_per_turn: rng.usize(1..8),
            due_page_runs: rng.usize(1..12),
            due_memory_runs: rng.usize(4..200),
            ..Bounds::default()
        };
        let mut world = World {
            rng,
            now: 1_700_000_000_000,
            latest: 0,
            bounds,
            broker: Broker::with_bounds(bounds),
            commit: Commit::default(),
            more: false,
            model: Model::default(),
            pending: VecDeque::new(),
            store: SimStore::default(),
            durable: Model::default(),
            synced: Default::default(),
            reads: Vec::new(),
            names: BTreeMap::new(),
            publishers: (0..PUBLISHERS).map(|_| Publisher::default()).collect(),
            clients: BTreeMap::new(),
            no_ack: BTreeMap::new(),
            purges: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            seen: BTreeSet::new(),
            last_first: BTreeMap::new(),
            delayed: BTreeSet::new(),
            page_reads: 0,
            is_behind: true,
            read: BTreeMap::new(),
            last_id: 0,
            hash: DefaultHasher::new(),
            figures: Figures::default(),
        };
        world.broker.bootstrap(&mut world.commit);
        world.finish();
        world.make_durable();
        world.declare_queues();
        world
    }

    /// Runs for some steps, then lets everything come to rest and checks what is left. Returns a hash of every commit.
    pub(crate) fn run(mut self, steps: u32) -> (u64, Figures) {
        for _ in 0..steps {
            self.step();
        }
        self.come_to_rest();
        self.check_rest();
        (self.hash.finish(), self.figures)
    }

    fn step(&mut self) {
        self.now += self.rng.u64(0..5);
        match self.rng.u32(0..100) {
            0..25 => self.publish(),
            25..35 => self.finish(),
            35..38 => self.finish_withholding(),
            38..40 => self.figures.reclaimed += u64::from(self.store.reclaim(&mut self.rng)),
            40..58 => self.make_durable(),
            58..68 => self.answer_read(),
            68..75 => self.grant(),
            75..88 => self.settle(),
            88..92 => self.open_consumer(),
            92..94 => self.close_consumer(),
            94 => self.purge(),
            95 => self.delete_or_declare(),
            96..98 => self.check_list(),
            98 if self.rng.bool() => self.misbehave(),
            98 => self.turn_clock(),
            _ if self.rng.u32(0..4) == 0 => self.crash(),
            _ => {}
        }
    }

    /// The clock jumps ahead or is set back. The latter only when the broker did all that was due: otherwise nobody but
    /// the broker knows what of it happened before that.
    fn turn_clock(&mut self) {
        if self.rng.bool() {
            self.now += self.rng.u64(0..1_000);
            return;
        }
        self.finish();
        if !self.is_behind {
            self.now -= self.rng.u64(0..600);
            self.figures.set_back += 1;
        }
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn handle(&mut self, input: Input) {
        self.broker.handle(input, self.now, &mut self.commit);
    }

    fn connect(&mut self) -> ConnectionId {
        let connection = ConnectionId(self.id());
        self.handle(Input::Connected {
            connection,
            vhost: "/".to_owned(),
        });
        connection
    }

    /// Asks and returns the reply, unless it comes later.
    fn request(&mut self, request: Request) -> (u64, Option<Reply>) {
        let connection = self.connect();
        let id = self.id();
        self.handle(Input::Request {
            connection,
            id,
            request,
        });
        let reply = self.commit.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { id: of, reply, .. } if *of == id => Some(reply.clone()),
            _ => None,
        });
        (id, reply)
    }

    fn declare_queues(&mut self) {
        let queues = QUEUES.map(|(name, durable, message_ttl_ms)| QueueSpec {
            durable,
            message_ttl_ms,
            ..QueueSpec::new(name)
        });
        let streams = STREAMS.map(|(name, retention)| QueueSpec {
            kind: QueueKind::Stream(retention),
            ..QueueSpec::new(name)
        });
        for spec in queues.into_iter().chain(streams) {
            let (_, reply) = self.request(Request::DeclareQueue(spec));
            assert!(matches!(reply, Some(Reply::Queues(_))), "{reply:?}");
        }
    }
}

/// The name of some queue or stream.
fn any_name(rng: &mut fastrand::Rng) -> &'static str {
    let place = rng.usize(0..QUEUES.len() + STREAMS.len());
    match place.checked_sub(QUEUES.len()) {
        None => QUEUES[place].0,
        Some(place) => STREAMS[place].0,
    }
}

fn names_of(topology: &Topology) -> BTreeMap<String, QueueId> {
    let queues = topology
        .vhosts
        .get("/")
        .into_iter()
        .flat_map(|vhost| vhost.queues.iter());
    queues.map(|(name, id)| (name.clone(), *id)).collect()
}
