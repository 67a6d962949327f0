//! What the broker says unasked, handed to whoever listens.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use futures_core::Stream;
use pointsman_protocol::session::Notice;
use tokio::sync::mpsc;

use crate::lock;

/// How many notices wait for a slow reader.
const WAITING_MAX: usize = 16;

/// Hands every notice to every listener.
#[derive(Default)]
pub(crate) struct NoticeBoard {
    listeners: Mutex<Vec<mpsc::Sender<Notice>>>,
}

impl NoticeBoard {
    pub(crate) fn subscribe(&self) -> Notices {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        lock(&self.listeners).push(sender);
        Notices { receiver }
    }

    /// Hands a notice on, drops it where too many wait, and forgets listeners that are gone.
    pub(crate) fn post(&self, notice: &Notice) {
        lock(&self.listeners).retain(|listener| match listener.try_send(notice.clone()) {
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => true,
        });
    }

    /// Ends all listeners' streams.
    pub(crate) fn close(&self) {
        lock(&self.listeners).clear();
    }
}

/// A stream of notices, which ends with the client. See [`crate::Client::notices`].
pub struct Notices {
    receiver: mpsc::Receiver<Notice>,
}

impl Notices {
    /// The next notice, or `None` when the client is closed.
    pub async fn recv(&mut self) -> Option<Notice> {
        self.receiver.recv().await
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        self.receiver.poll_recv(cx)
    }
}
