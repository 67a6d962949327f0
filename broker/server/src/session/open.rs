//! The opening of a connection: `Hello`, who it is, `Welcome`.

use std::time::Duration;

use pointsman_core::ConnectionId;
use pointsman_protocol::frame::Kind;
use pointsman_protocol::session::{Hello, Welcome};
use pointsman_protocol::{ErrorBody, ErrorCode, VERSION};
use quinn::Connection;

use super::Shared;
use super::framing::{FrameReader, FrameWriter, StreamEnd};
use crate::auth;

/// How long a client may take from the handshake to its `Hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that said who it is.
pub(super) struct Opened {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    pub(super) vhost: String,
    pub(super) user: String,
    pub(super) client: String,
}

/// Waits for the control stream and its `Hello`, and welcomes or refuses the client.
pub(super) async fn open(
    connection: &Connection,
    id: ConnectionId,
    shared: &Shared,
) -> Result<Opened, StreamEnd> {
    match tokio::time::timeout(HELLO_TIMEOUT, receive(connection, id, shared)).await {
        Ok(opened) => opened,
        Err(_) => {
            let message = format!("no Hello came within {} seconds", HELLO_TIMEOUT.as_secs());
            Err(ErrorBody::new(ErrorCode::UnexpectedFrame, message).into())
        }
    }
}

async fn receive(connection: &Connection, id: ConnectionId, shared: &Shared) -> Result<Opened, StreamEnd> {
    let (send, recv) = connection
        .accept_bi()
        .await
        .map_err(|error| StreamEnd::Lost(error.to_string()))?;
    // Before it is known who it is, a client may send no body.
    let mut reader = FrameReader::new(recv, 0, shared.mailbox.clone());
    let mut writer = FrameWriter::new(send);
    let frame = reader.first().await?;
    if frame.header.kind != Kind::Hello {
        return Err(super::unexpected(frame.header.kind, "before Hello").into());
    }
    let hello: Hello = frame.decode()?;
    if let Err(error) = check(&hello, shared) {
        writer.close(&error).await;
        // The close of the connection must not overtake the reason.
        writer.delivered().await;
        return Err(error.into());
    }
    let welcome = Welcome {
        version: VERSION,
        features: 0,
        server: concat!("pointsman/", env!("CARGO_PKG_VERSION")).to_owned(),
        connection: id.0,
        body_max: shared.config.body_max,
    };
    writer.put(Kind::Welcome, 0, &welcome);
    writer.flush().await?;
    reader.set_body_max(shared.config.body_max);
    Ok(Opened {
        reader,
        writer,
        vhost: hello.vhost,
        user: hello.user,
        client: hello.client,
    })
}

fn check(hello: &Hello, shared: &Shared) -> Result<(), ErrorBody> {
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        let message = format!(
            "this broker speaks protocol version {VERSION}, the client {} to {}",
            hello.version_min, hello.version_max
        );
        return Err(ErrorBody::new(ErrorCode::UnsupportedVersion, message));
    }
    if *shared.draining.borrow() {
        return Err(super::shutting_down());
    }
    let routes = shared.routes.load();
    let topology = routes.topology();
    if !auth::verify(topology.users.get(&hello.user), &hello.password) {
        return Err(ErrorBody::new(
            ErrorCode::AuthenticationFailed,
            "the user or the password is wrong",
        )
        .hint("the first start of `pointsman serve` printed the password of the user admin"));
    }
    if !topology.vhosts.contains_key(&hello.vhost) {
        let message = format!("there is no vhost `{}`", hello.vhost);
        return Err(ErrorBody::new(ErrorCode::NotFound, message)
            .hint("`pointsman vhost list` shows the vhosts, `pointsman vhost declare NAME` makes one"));
    }
    Ok(())
}
