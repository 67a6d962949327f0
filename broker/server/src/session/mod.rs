//! One connection: its opening, its control stream, and a task for each publisher and consumer.

mod open;
mod framing;
mod control;
mod publisher;
mod consumer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use pointsman_core::{ConnectionId, Input};
use pointsman_protocol::frame::Kind;
use pointsman_protocol::limits::STREAMS_MAX;
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_router_host::{Host, Routes};
use pointsman_store::Store;
use quinn::{Connection, VarInt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::backup::Backups;
use crate::config::Config;
use crate::mailbox::{Mail, Mailbox};
use framing::{FrameReader, FrameWriter, StreamEnd};

/// Publishers and consumers a client may open at first. QUIC keeps some 70 bytes for each that it allows, open or not, so a
/// connection is allowed twice as many whenever it has opened half of them, up to [`STREAMS_MAX`].
pub(crate) const FIRST_STREAMS: u32 = 32;

/// As QUIC counts: the control stream is one more.
pub(crate) fn allowed_streams(allowed: u32) -> VarInt {
    VarInt::from_u32(allowed + 1)
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) mailbox: Mailbox,
    pub(crate) routes: Arc<ArcSwap<Routes>>,
    pub(crate) host: Arc<Host>,
    pub(crate) store: Store,
    pub(crate) backups: Backups,
    pub(crate) started: Instant,
    /// True once the broker is going away.
    pub(crate) draining: watch::Receiver<bool>,
    /// Why no publishes are taken, when they are not. Publishers' streams are not read then.
    pub(crate) blocked: watch::Sender<Option<String>>,
    /// The broker has drained when all who hold this are gone.
    pub(crate) _held: mpsc::Sender<()>,
    /// The next number of a connection, publisher or consumer.
    pub(crate) next_id: AtomicU64,
}

impl Shared {
    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// Returns once the broker is going away.
pub(crate) async fn going_away(draining: &mut watch::Receiver<bool>) {
    // The sender lives as long as the broker; without it the broker is gone already.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// An authenticated connection.
struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    id: ConnectionId,
    vhost: String,
}

/// Serves a connection until it ends. Whatever happens to it touches no other.
pub(crate) async fn serve(connection: Connection, shared: Arc<Shared>) {
    let remote = connection.remote_address();
    let id = ConnectionId(shared.id());
    match open::open(&connection, id, &shared).await {
        Ok(opened) => {
            let session = Arc::new(Session {
                shared,
                connection,
                id,
                vhost: opened.vhost.clone(),
            });
            tracing::info!(connection = id.0, %remote, user = opened.user, client = opened.client, "connected");
            let reason = session.run(opened).await;
            tracing::info!(connection = id.0, %remote, reason, "disconnected");
        }
        Err(StreamEnd::Refused(error)) => {
            tracing::warn!(%remote, %error, "connection refused");
            close(&connection, &error);
        }
        Err(end) => tracing::debug!(%remote, %end, "connection ended before it was open"),
    }
}

/// Closes with the code and the sentence of `error`.
fn close(connection: &Connection, error: &ErrorBody) {
    connection.close(
        VarInt::from_u32(u16::from(error.code).into()),
        error.message.as_bytes(),
    );
}

impl Session {
    /// Runs the control stream and accepts streams until the connection ends; says why it did.
    async fn run(self: Arc<Self>, opened: open::Opened) -> String {
        let (sink, events) = mpsc::unbounded_channel();
        let _closed = Disconnect(self.clone());
        let mail = Mail::Connected {
            connection: self.id,
            vhost: self.vhost.clone(),
            sink: sink.clone(),
        };
        if self.shared.mailbox.send(mail).await.is_err() {
            return "the broker is stopping".to_owned();
        }
        let (streams_ended, drained) = oneshot::channel();
        let control = control::run(self.clone(), opened.reader, opened.writer, sink, events, drained);
        tokio::pin!(control);
        let end = tokio::select! {
            end = &mut control => end,
            end = self.accept_streams() => match end {
                // Closing at once would overtake the notice that the broker is going away.
                StreamEnd::Refused(_) => {
                    let _ = streams_ended.send(());
                    control.await
                }
                other => other,
            },
        };
        match end {
            StreamEnd::Refused(error) => {
                close(&self.connection, &error);
                error.to_string()
            }
            other => other.to_string(),
        }
    }

    /// Starts a task for each stream the client opens. When the broker drains, waits for them to end.
    async fn accept_streams(self: &Arc<Self>) -> StreamEnd {
        let mut draining = self.shared.draining.clone();
        let mut streams = JoinSet::new();
        let mut allowed = FIRST_STREAMS;
        loop {
            tokio::select! {
                accepted = self.connection.accept_bi() => match accepted {
                    Ok((send, recv)) => {
                        let session = self.clone();
                        streams.spawn(async move { session.serve_stream(send, recv).await });
                        if streams.len() >= allowed as usize / 2 && allowed < STREAMS_MAX {
                            allowed = (allowed * 2).min(STREAMS_MAX);
                            self.connection.set_max_concurrent_bi_streams(allowed_streams(allowed));
                        }
                    }
                    Err(error) => return StreamEnd::Lost(error.to_string()),
                },
                Some(_) = streams.join_next() => {}
                _ = going_away(&mut draining) => break,
            }
        }
        while streams.join_next().await.is_some() {}
        StreamEnd::Refused(shutting_down())
    }

    /// Serves one publisher or consumer; an error closes its stream and nothing else.
    async fn serve_stream(self: Arc<Self>, send: quinn::SendStream, recv: quinn::RecvStream) {
        let mut reader = FrameReader::new(recv, self.shared.config.body_max, self.shared.mailbox.clone());
        let mut writer = FrameWriter::new(send);
        let end = match reader.first().await {
            Ok(frame) => match frame.header.kind {
                Kind::OpenPublisher => publisher::run(&self, &frame, reader, &mut writer).await,
                Kind::OpenConsumer => consumer::run(&self, &frame, reader, &mut writer).await,
                kind => StreamEnd::Refused(unexpected(kind, "as the first frame of a stream")),
            },
            Err(end) => end,
        };
        match end {
            StreamEnd::Refused(error) => {
                tracing::info!(connection = self.id.0, %error, "stream closed");
                writer.close(&error).await;
            }
            StreamEnd::Finished => writer.finish(),
            StreamEnd::Lost(reason) => {
                tracing::debug!(connection = self.id.0, reason, "stream lost");
                return;
            }
        }
        // A connection that is closed now would throw away what the client does not have yet.
        writer.delivered().await;
    }
}

/// A frame that is not allowed where it came.
fn unexpected(kind: Kind, place: &str) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::UnexpectedFrame,
        format!("a {kind:?} frame is not allowed {place}"),
    )
}

/// What clients hear of everything that ends because the broker does.
fn shutting_down() -> ErrorBody {
    ErrorBody::new(ErrorCode::ShuttingDown, "the broker is shutting down").hint("connect again in a moment")
}

/// Tells the core that the connection is gone, however its task ends.
struct Disconnect(Arc<Session>);

impl Drop for Disconnect {
    fn drop(&mut self) {
        let connection = self.0.id;
        self.0.shared.backups.end(connection);
        self.0
            .shared
            .mailbox
            .send_now(Mail::Input(Input::Disconnected { connection }));
    }
}
