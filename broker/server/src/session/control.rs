//! The control stream: requests in, replies and notices out.

use std::sync::Arc;

use pointsman_core::Input;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::frame::{Frame, Kind};
use pointsman_protocol::limits::REQUESTS_MAX;
use pointsman_protocol::session::Notice;
use tokio::sync::{mpsc, oneshot};

use super::framing::{FrameReader, FrameWriter, StreamEnd};
use super::{Session, going_away, shutting_down, unexpected};
use crate::admin;
use crate::mailbox::{Answer, Mail};

/// Runs the control stream until the client or the broker ends the connection. `drained` says that the other streams of
/// a connection that is going away have ended; the client has the notice before this returns.
pub(super) async fn run(
    session: Arc<Session>,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    sink: mpsc::UnboundedSender<Answer>,
    mut answers: mpsc::UnboundedReceiver<Answer>,
    mut drained: oneshot::Receiver<()>,
) -> StreamEnd {
    let mut draining = session.shared.draining.clone();
    let mut told = false;
    let mut blocked = session.shared.blocked.subscribe();
    // A connection that comes while publishes are blocked is told as well.
    if blocked.borrow().is_some() {
        blocked.mark_changed();
    }
    let mut unanswered = 0;
    loop {
        let step = tokio::select! {
            Some(answer) = answers.recv() => {
                unanswered -= 1;
                reply(&mut writer, &session, answer).await
            }
            Ok(()) = blocked.changed() => {
                let reason = blocked.borrow_and_update().clone();
                let changed = reason.map_or(Notice::Unblocked, |reason| Notice::Blocked { reason });
                notice(&mut writer, &changed).await
            }
            // A client that asks more than it reads waits here.
            filled = reader.fill(), if unanswered < REQUESTS_MAX => match filled {
                Ok(()) => take_requests(&session, &mut reader, &sink, &mut unanswered).await,
                Err(end) => Err(end),
            },
            _ = going_away(&mut draining), if !told => {
                told = true;
                let reason = "the broker is shutting down".to_owned();
                notice(&mut writer, &Notice::GoAway { reason }).await
            }
            _ = &mut drained, if told => {
                writer.finish();
                writer.delivered().await;
                return shutting_down().into();
            }
        };
        if let Err(end) = step {
            return end;
        }
    }
}

async fn take_requests(
    session: &Arc<Session>,
    reader: &mut FrameReader,
    sink: &mpsc::UnboundedSender<Answer>,
    unanswered: &mut usize,
) -> Result<(), StreamEnd> {
    while let Some(frame) = reader.next()? {
        if frame.header.kind != Kind::Request {
            return Err(unexpected(frame.header.kind, "on the control stream").into());
        }
        *unanswered += 1;
        request(session, frame, sink).await?;
    }
    Ok(())
}

/// Passes a request to the core, or answers it in a task of its own where that takes compiling or waiting.
async fn request(
    session: &Arc<Session>,
    frame: Frame,
    sink: &mpsc::UnboundedSender<Answer>,
) -> Result<(), StreamEnd> {
    let id = frame.header.id;
    let request: Request = frame.decode()?;
    let body = frame.body();
    let slow = matches!(
        request,
        Request::Status
            | Request::Explain { .. }
            | Request::RouterLoad { .. }
            | Request::RouterActivate { .. }
            | Request::RouterRollback(_)
            | Request::RouterLogs { .. }
            | Request::RouterModule { .. }
            | Request::BackupBegin
            | Request::BackupRead { .. }
            | Request::BackupEnd
    );
    if !slow {
        let connection = session.id;
        let input = Input::Request {
            connection,
            id,
            request,
        };
        return Ok(session.shared.mailbox.send(Mail::Input(input)).await?);
    }
    let (session, sink) = (session.clone(), sink.clone());
    tokio::spawn(async move {
        let asker = admin::Asker {
            connection: session.id,
            request: id,
            vhost: session.vhost.clone(),
        };
        if let Some(reply) = admin::answer(&session.shared, asker, request, body).await {
            // A connection that is gone needs no reply.
            let _ = sink.send(Answer { id, reply });
        }
    });
    Ok(())
}

async fn reply(writer: &mut FrameWriter, session: &Session, answer: Answer) -> Result<(), StreamEnd> {
    let Answer { id, mut reply } = answer;
    if let Reply::Routers(routers) = &mut reply {
        admin::fill_counters(&session.shared, &session.vhost, routers);
    }
    reply.put(writer.buffer(), id);
    writer.flush().await
}

async fn notice(writer: &mut FrameWriter, notice: &Notice) -> Result<(), StreamEnd> {
    writer.put(Kind::Notice, 0, notice);
    writer.flush().await
}
