//! A cache over answers made by hand.

use pointsman_protocol::MessageMeta;
use smallvec::smallvec;

use super::*;
use crate::host::Rewritten;

const ROOM: usize = 1 << 20;

struct Cached {
    cache: DecisionCache,
    record: Arc<Record>,
    room: Arc<Room>,
}

/// A cache that has seen this plan and has that much room.
fn with(plan: Plan, room: usize) -> Cached {
    let cached = Cached {
        cache: DecisionCache::default(),
        record: Arc::default(),
        room: Room::new(room),
    };
    cached.learn(&plan);
    // The first look-up asks the module anyway.
    cached.known("");
    cached
}

fn by_key() -> Cached {
    with(Plan::new().routing_key().cacheable(), ROOM)
}

impl Cached {
    fn learn(&self, plan: &Plan) {
        self.cache.learn(plan, 7, &self.record, &self.room);
    }

    fn remember(&self, key: &str, answer: Answer) {
        self.cache.remember(&[view(&message(key))], &[answer]);
    }

    /// The targets that are remembered; of an unroutable message none.
    fn known(&self, key: &str) -> Option<Vec<u32>> {
        match self.cache.look_up(&[view(&message(key))])?.pop().flatten()? {
            Answer::Unroutable => Some(Vec::new()),
            Answer::Deliver(targets) => Some(targets.to_vec()),
            _ => panic!("nothing else is remembered"),
        }
    }

    fn is_off(&self) -> bool {
        let told = self
            .record
            .events(9)
            .iter()
            .any(|e| e.version == 7 && e.text.contains("not true"));
        let off = self.record.counters().cache_off == Some(7);
        assert_eq!(off, told, "who looks at the router is told");
        off
    }
}

fn message(key: &str) -> Rewritten {
    let meta = MessageMeta {
        routing_key: key,
        ..Default::default()
    };
    let content = postcard::to_stdvec(&meta).unwrap();
    Rewritten {
        meta_len: content.len() as u32,
        content: content.into(),
    }
}

fn view(message: &Rewritten) -> View<'_> {
    View::new(&message.content, message.meta_len).unwrap()
}

fn deliver(target: u32) -> Answer {
    Answer::Deliver(smallvec![target])
}

#[test]
fn what_came_twice_is_remembered_and_counted() {
    let cached = by_key();
    cached.remember("a", deliver(3));
    assert_eq!(cached.known("a"), None, "what came once may never come again");
    cached.remember("a", deliver(3));
    assert_eq!(cached.known("a"), Some(vec![3]));
    for _ in 0..2 {
        cached.remember("b", Answer::Unroutable);
    }
    assert_eq!(cached.known("b"), Some(vec![]));
    assert_eq!(cached.record.counters().cached, 2);
}

#[test]
fn one_in_so_many_look_ups_asks_the_module_anyway() {
    let cached = by_key();
    for _ in 0..2 {
        cached.remember("a", deliver(3));
    }
    let known = (1..2 * RECHECK_EVERY).filter(|_| cached.known("a").is_some());
    assert_eq!(known.count() as u64, 2 * RECHECK_EVERY - 2);
}

#[test]
fn a_different_decision_for_an_equal_message_ends_it_for_all_caches_of_the_version() {
    let answers = || {
        [
            deliver(4),
            Answer::Unroutable,
            Answer::Reject("no".into()),
            Answer::DeliverChanged(vec![]),
        ]
    };
    for answer in answers() {
        let cached = by_key();
        let other = DecisionCache::default();
        other.learn(
            &Plan::new().routing_key().cacheable(),
            7,
            &cached.record,
            &cached.room,
        );
        for _ in 0..2 {
            cached.remember("a", deliver(3));
        }
        assert!(!cached.is_off());
        cached.remember("a", answer);
        assert!(cached.is_off());
        assert_eq!(cached.known("a"), None);
        assert!(other.look_up(&[view(&message("a"))]).is_none());
    }
}

#[test]
fn a_failure_says_nothing_about_the_plan() {
    let cached = by_key();
    for _ in 0..2 {
        cached.remember("a", deliver(3));
    }
    cached.remember(
        "a",
        Answer::Failed {
            reason: "it trapped".into(),
            kept: message("a"),
        },
    );
    assert_eq!(cached.known("a"), Some(vec![3]));
}

#[test]
fn another_plan_than_before_ends_it() {
    let cached = by_key();
    cached.learn(&Plan::new().routing_key().cacheable());
    assert!(!cached.is_off());
    cached.learn(&Plan::new().cacheable());
    assert!(cached.is_off());
}

#[test]
fn nothing_is_remembered_of_a_plan_that_does_not_allow_it_nor_without_room() {
    for cached in [
        with(Plan::new().routing_key(), ROOM),
        with(Plan::new().cacheable(), 100),
    ] {
        for _ in 0..3 {
            cached.remember("a", deliver(3));
        }
        assert!(cached.cache.look_up(&[view(&message("a"))]).is_none());
        assert!(!cached.is_off());
    }
}

#[test]
fn rejections_changes_and_many_targets_are_decided_each_time() {
    let cached = by_key();
    for _ in 0..3 {
        cached.remember("a", Answer::Reject("no".into()));
        cached.remember("b", Answer::DeliverChanged(vec![(1, message("b"))]));
        cached.remember("c", Answer::Deliver((0..9).collect()));
    }
    assert_eq!(
        (cached.known("a"), cached.known("b"), cached.known("c")),
        (None, None, None)
    );
}

#[test]
fn entries_and_bytes_are_bounded_and_given_back() {
    let table = CACHE_ENTRIES * (size_of::<ArcSwapOption<Entry>>() + size_of::<AtomicU32>());
    for (room, most) in [(ROOM * 8, CACHE_ENTRIES), (table + 10 * (ENTRY_BYTES + 8), 10)] {
        let cached = with(Plan::new().routing_key().cacheable(), room);
        let keys: Vec<String> = (0..4 * CACHE_ENTRIES).map(|n| format!("{n:04x}")).collect();
        for key in &keys {
            cached.remember(key, deliver(1));
            cached.remember(key, deliver(1));
        }
        let known = keys.iter().filter(|key| cached.known(key).is_some()).count();
        assert!(known > most / 2 && known <= most, "{known} of at most {most}");
        assert!(cached.room.used.load(Ordering::Relaxed) <= room);
        drop(cached.cache);
        assert_eq!(cached.room.used.load(Ordering::Relaxed), 0);
    }
}
