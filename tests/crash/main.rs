//! The broker is killed with SIGKILL at random moments, again and again, while publishers and consumers work, and comes back
//! with one promise of syncs or another.
//!
//! A ledger outside the broker says what was sent, confirmed and delivered. At the end it must show that nothing
//! confirmed is lost, nothing is delivered that was never sent, nothing is stored twice, and the order of each publisher
//! holds in each queue. `ROUNDS` says how often to kill (50 otherwise), `SEED` repeats a run's moments.

#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "nothing is outside of a test binary")]

mod ledger;
mod traffic;

use std::fs::File;
use std::time::Duration;

use pointsman_sdk::{BindingSpec, ExchangeSpec, QueueSpec};
use pointsman_tests::{Broker, Settings};

use ledger::Ledger;
use traffic::{EXCHANGE, PUBLISHERS, QUEUES, Traffic};

/// With one of these it comes back: without syncs as well, as a process that is killed takes nothing from the system.
const FSYNC: [&str; 3] = ["always", "interval:50ms", "never"];

/// Longest a broker may take to open its folder after a crash.
const REOPEN_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_however_often_the_broker_is_killed() {
    let rounds = setting("ROUNDS").unwrap_or(50);
    let seed = setting("SEED").unwrap_or_else(|| fastrand::u64(..));
    say(&format!("seed {seed}, {rounds} rounds"));
    let mut random = fastrand::Rng::with_seed(seed);

    let mut broker = Broker::start();
    let path = broker.work_dir().join("ledger");
    let ledger = Ledger::create(&path).expect("the ledger can be written");
    declare(&broker).await;
    let traffic = Traffic::start(&broker, &ledger).await;

    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(random.u64(20..400))).await;
        broker.kill9();
        if random.u8(..4) == 0 {
            // Killed again before it has even opened.
            broker.start_and_kill_after(Duration::from_millis(random.u64(1..150)));
        }
        let fsync = FSYNC[random.usize(..FSYNC.len())];
        broker.restart_with(Settings::default().args(["--fsync", fsync]));
        slowest = slowest.max(broker.started_in);
        assert!(
            broker.started_in < REOPEN_MAX,
            "round {round}: reopening took {:?}",
            broker.started_in
        );
    }

    let sent = traffic.stop(&broker).await;
    ledger.close();
    let found = ledger::check(
        File::open(&path).expect("the ledger is there"),
        PUBLISHERS,
        QUEUES,
    );
    let summary = found.unwrap_or_else(|fault| {
        let kept = std::env::temp_dir().join(format!("pointsman-crash-{seed}.ledger"));
        let _ = std::fs::copy(&path, &kept);
        panic!("{fault}\nseed {seed}, ledger kept as {}", kept.display())
    });
    assert_eq!(summary.sent, sent, "the ledger has every message");
    stored_once(&broker, summary.sent).await;
    say(&format!("{summary}; slowest reopening {slowest:?}"));
}

async fn declare(broker: &Broker) {
    let client = broker.client().await;
    client
        .declare_exchange(ExchangeSpec::fanout(EXCHANGE))
        .await
        .expect("is declared");
    for queue in QUEUES {
        client
            .declare_queue(QueueSpec::new(queue))
            .await
            .expect("is declared");
        client
            .bind(BindingSpec::to_queue(EXCHANGE, queue, ""))
            .await
            .expect("is bound");
    }
}

/// Each queue took each message exactly once, however often it was sent again.
async fn stored_once(broker: &Broker, sent: u64) {
    let client = broker.client().await;
    for queue in QUEUES {
        let info = client.queue(queue).await.expect("the queue is there");
        assert_eq!(info.published, sent, "messages ever put into {queue}");
        assert_eq!(
            (info.ready, info.unsettled),
            (0, 0),
            "{queue} is empty in the end"
        );
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text}")),
    )
}

#[expect(clippy::print_stderr, reason = "the seed belongs to the output of the test")]
fn say(text: &str) {
    eprintln!("{text}");
}
