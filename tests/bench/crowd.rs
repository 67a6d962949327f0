//! Many consumers of one queue, on a thread of their own: they would be other programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use pointsman_sdk::{Client, ClientBuilder};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::limits;

/// Consumers of one connection.
const OF_CONNECTION: usize = 500;

/// The consumers, which acknowledge what they get.
pub(crate) struct Crowd {
    orders: mpsc::UnboundedSender<Order>,
    taken: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// How many there are to be, and who wants to know when they are there.
type Order = (usize, oneshot::Sender<()>);

impl Crowd {
    /// None yet.
    pub(crate) fn of(queue: &'static str, builder: ClientBuilder) -> Crowd {
        let (orders, ordered) = mpsc::unbounded_channel();
        let taken = Arc::new(AtomicU64::new(0));
        let count = taken.clone();
        let thread = std::thread::spawn(move || {
            limits::runtime().block_on(take(queue, builder, ordered, count));
        });
        Crowd {
            orders,
            taken,
            thread,
        }
    }

    /// Opens more of them, until there are so many.
    pub(crate) async fn grow(&self, count: usize) {
        let (tell, told) = oneshot::channel();
        self.orders.send((count, tell)).expect("the thread runs");
        told.await.expect("they open");
    }

    /// How many messages they have taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Closes their connections.
    pub(crate) fn close(self) {
        drop(self.orders);
        self.thread.join().expect("the thread ends");
    }
}

async fn take(
    queue: &str,
    builder: ClientBuilder,
    mut orders: mpsc::UnboundedReceiver<Order>,
    count: Arc<AtomicU64>,
) {
    let mut clients: Vec<Client> = Vec::new();
    let mut taking = JoinSet::new();
    while let Some((wanted, tell)) = orders.recv().await {
        while taking.len() < wanted {
            if taking.len() == clients.len() * OF_CONNECTION {
                clients.push(builder.clone().connect().await.expect("connects"));
            }
            let client = clients.last().expect("there is one");
            let opened = client.consumer(queue).prefetch(256).open().await;
            let mut consumer = opened.expect("opens");
            let count = count.clone();
            taking.spawn(async move {
                while let Some(Ok(delivery)) = consumer.recv().await {
                    delivery.ack();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _ = tell.send(());
    }
    for client in &clients {
        client.close().await;
    }
}
