//! The UDP socket, QUIC and its limits; every accepted connection becomes a session.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use pointsman_protocol::limits::{PACKETS_AN_ACK, UDP_PAYLOAD_MAX};
use quinn::{
    AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;

use crate::session::{self, Shared, going_away};

/// What one stream may have in flight towards the broker, in bytes.
const STREAM_RECEIVE_WINDOW: u32 = 1024 * 1024;
/// What one connection may have in flight towards the broker, in bytes.
const CONNECTION_RECEIVE_WINDOW: u32 = 16 * 1024 * 1024;
/// What a connection keeps until the peer has it, in bytes. QUIC's send buffer is scanned linearly: with writes of 48 KiB
/// that are some twenty pieces, but it is no larger than it needs to be.
const SEND_WINDOW: u64 = 1024 * 1024;
/// A connection that is silent for so long is gone; clients send keep-alives every 10 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Kernel buffers of the socket, in bytes; with less, bursts are dropped on loopback.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Connections that may be opening at once; more are refused at once, before they cost a handshake.
const HANDSHAKES_MAX: usize = 1_024;

/// Opens the endpoint. `secret` is the data folder's own: see [`endpoint_config`].
pub(crate) fn bind(
    address: SocketAddr,
    tls: rustls::ServerConfig,
    secret: &[u8; 32],
) -> std::io::Result<Endpoint> {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).map_err(std::io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    config.max_incoming(HANDSHAKES_MAX);
    let socket = UdpSocket::bind(address)?;
    let raw = socket2::SockRef::from(&socket);
    // The kernel may grant less than asked; that costs speed under bursts, not correctness.
    let _ = raw.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = raw.set_send_buffer_size(SOCKET_BUFFER);
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(endpoint_config(secret)?, Some(config), socket, runtime)
}

/// A broker that was killed cannot say goodbye. When it is back it knows none of its connections any more, but with
/// the same secret it recognises their packets and can prove that it was the peer (RFC 9000, section 10.3), so its
/// clients connect anew at once instead of when they give up waiting.
fn endpoint_config(secret: &[u8; 32]) -> std::io::Result<EndpointConfig> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let for_ids = hmac::sign(&key, b"connection ids");
    let for_ids = for_ids
        .as_ref()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let mut config = EndpointConfig::new(Arc::new(key));
    config
        .max_udp_payload_size(UDP_PAYLOAD_MAX)
        .map_err(std::io::Error::other)?;
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(for_ids)));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_AN_ACK));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(session::allowed_streams(session::FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok());
    transport
}

/// Accepts connections until the endpoint is closed or the broker drains.
pub(crate) async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let mut draining = shared.draining.clone();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            _ = going_away(&mut draining) => None,
        };
        let Some(incoming) = incoming else { return };
        let shared = shared.clone();
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            match incoming.await {
                Ok(connection) => session::serve(connection, shared).await,
                Err(error) => tracing::debug!(%remote, %error, "handshake failed"),
            }
        });
    }
}
