//! A full disk: publishers are told, nothing confirmed is lost, and service resumes by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pointsman_sdk::{Message, Notice, QueueSpec};
use pointsman_tests::raw::RawClient;
use pointsman_tests::{Broker, Settings};

use crate::{eventually, publish, routed, soon, take};

/// Messages of a mebibyte that do not fit into a segment of the log.
const LARGE: usize = 24;

/// A small disk of its own; unmounted when this is dropped.
struct Disk(PathBuf);

impl Disk {
    /// Mounts one, or says why not.
    #[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
    fn mount(mib: u32) -> Option<Disk> {
        let path = tempfile::tempdir().unwrap().keep();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "pointsman-test"])
            .arg(&path)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Disk(path));
        }
        fs::remove_dir(&path).unwrap();
        eprintln!("skipped: a disk of its own can only be mounted by root");
        None
    }

    fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }

    /// Free bytes.
    fn free(&self) -> usize {
        let output = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(&self.0)
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.lines().nth(1).unwrap().trim().parse().unwrap()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let _ = fs::write(self.ballast(), vec![1; 4 * 1024 * 1024]);
        let mut file = fs::OpenOptions::new().append(true).open(self.ballast()).unwrap();
        for size in [1024 * 1024, 4096] {
            while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

fn broker_on(data_dir: &Path) -> Broker {
    Broker::with(
        Settings::default()
            .data_dir(data_dir)
            .env("POINTSMAN_DISK_FREE_MIN", "8388608"),
    )
}

#[tokio::test]
async fn on_disk_full_nothing_confirmed_is_lost_and_publishing_resumes_when_space_returns() {
    let Some(disk) = Disk::mount(192) else { return };
    let mut broker = broker_on(&disk.data_dir());
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for n in 0..50 {
        assert_eq!(publish(&client, "", "q", format!("before {n}")).await, routed(1));
    }
    let pid = broker.pid();
    disk.fill();
    // More than the log has room for, before the next look at the free space, so that the write itself fails.
    let publisher = client.publisher("").await.unwrap();
    let waiting = tokio::spawn(async move {
        for _ in 0..LARGE {
            let message = Message::new("x".repeat(1024 * 1024)).key("q");
            let confirmation = publisher.publish(message).await.unwrap();
            assert_eq!(confirmation.await.unwrap(), routed(1));
        }
    });
    eventually(async || broker.log().contains("the disk is full")).await;
    // With what the cut off write left it goes on at once, or waits.
    let tried = ["the broker goes on", "cannot go on yet"];
    eventually(async || tried.iter().any(|what| broker.log().contains(what))).await;
    assert!(broker.is_running());
    disk.make_room();
    // The publisher sends it again by itself.
    soon(waiting).await.unwrap();
    eventually(async || publish(&client, "", "q", "after").await == routed(1)).await;
    assert_eq!(broker.pid(), pid, "the same process");
    let kept = client.queue("q").await.unwrap().ready as usize;
    let kept = take(&client, "q", kept).await;
    let before: Vec<_> = (0..50).map(|n| format!("before {n}")).collect();
    assert!(kept[..50] == before, "a confirmed message is gone");
    assert_eq!(kept.iter().filter(|body| *body == "after").count(), 1);
    assert_eq!(kept.len(), 50 + LARGE + 1);
    assert!(broker.terminate().success());
}

#[tokio::test]
async fn on_a_disk_that_is_nearly_full_publishers_are_told_and_wait_and_consumers_drain() {
    let Some(disk) = Disk::mount(192) else { return };
    let broker = broker_on(&disk.data_dir());
    let client = broker.client().await;
    client.declare_queue(QueueSpec::new("q")).await.unwrap();
    for n in 0..20 {
        publish(&client, "", "q", n.to_string()).await;
    }
    let mut notices = client.notices();
    let nearly_all = disk.free() - 6 * 1024 * 1024;
    fs::write(disk.ballast(), vec![1; nearly_all]).unwrap();
    assert!(matches!(soon(notices.recv()).await, Some(Notice::Blocked { .. })));
    assert!(client.status().await.unwrap().blocked.is_some());
    let publisher = client.publisher("").await.unwrap();
    let waiting = publisher.publish(Message::new("waits").key("q")).await.unwrap();
    // Consumers on the same connection go on, and nothing new comes to them.
    assert_eq!(take(&client, "q", 20).await.len(), 20);
    assert_eq!(client.status().await.unwrap().published, 20);
    // Who comes now is told as well.
    let mut late = RawClient::authenticated(&broker).await;
    let told: Notice = late.control.frame().await.decode().unwrap();
    assert!(matches!(told, Notice::Blocked { .. }), "{told:?}");
    disk.make_room();
    assert_eq!(soon(waiting).await.unwrap(), routed(1));
    assert!(client.status().await.unwrap().blocked.is_none());
    assert_eq!(take(&client, "q", 1).await, ["waits"]);
}
