//! QUIC and TLS: how the client sets them up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pointsman_protocol::ALPN;
use pointsman_protocol::limits::{PACKETS_AN_ACK, UDP_PAYLOAD_MAX};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    AckFrequencyConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;

/// After so long without a packet the other side counts as gone.
const IDLE: Duration = Duration::from_secs(30);
/// So often an idle connection says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// What may wait unread in one stream, in bytes.
const STREAM_RECEIVE_WINDOW: u32 = 1 << 20;
/// What may wait unread in all streams together, in bytes.
const RECEIVE_WINDOW: u32 = 16 << 20;
/// What may be sent and not yet acknowledged in all streams together, in bytes. Finding what to send next takes
/// longer the more writes this holds, so it is no larger than a fast network needs.
const SEND_WINDOW: u64 = 1 << 20;
/// Buffers of the UDP socket, in bytes, as far as the system grants them: bursts fit without loss.
const SOCKET_BUFFER: usize = 4 << 20;

/// Where and how to connect.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Host and port.
    pub(crate) server: String,
    /// The name the broker's certificate must carry.
    pub(crate) server_name: String,
    pub(crate) config: quinn::ClientConfig,
    /// For finding the address and for the handshake together.
    pub(crate) timeout: Duration,
}

/// The client's QUIC settings.
pub(crate) fn transport_config() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_AN_ACK));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        // The broker opens no streams and sends no datagrams.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    transport
}

/// TLS 1.3 that trusts the CA certificates in `ca_pem` and nothing else.
pub(crate) fn client_config(ca_pem: &[u8]) -> Result<quinn::ClientConfig, Error> {
    let fault = |message: String| Error::Ca { message };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|e| fault(format!("the CA is not in PEM form: {e}")))?;
        roots
            .add(certificate)
            .map_err(|e| fault(format!("the CA certificate is not valid: {e}")))?;
    }
    if roots.is_empty() {
        return Err(fault("there is no CA certificate in the PEM text".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| fault(format!("TLS 1.3 is not available: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|e| fault(format!("TLS lacks a cipher suite that QUIC needs: {e}")))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config()));
    Ok(config)
}

impl Target {
    /// Connects to the first of the server's addresses that answers.
    pub(crate) async fn connect(&self) -> Result<(Endpoint, quinn::Connection), Error> {
        match tokio::time::timeout(self.timeout, self.try_addresses()).await {
            Ok(result) => result,
            Err(_) => Err(self.fault(
                format!("no answer within {:?}", self.timeout),
                "is the broker running there, and does UDP get through to it?",
            )),
        }
    }

    async fn try_addresses(&self) -> Result<(Endpoint, quinn::Connection), Error> {
        let addresses = tokio::net::lookup_host(&self.server)
            .await
            .map_err(|e| self.fault(e.to_string(), "is the host name right?"))?;
        let mut last = self.fault("the name has no address".into(), "is the host name right?");
        for address in addresses {
            match self.try_address(address).await {
                Ok(connected) => return Ok(connected),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_address(&self, address: SocketAddr) -> Result<(Endpoint, quinn::Connection), Error> {
        let endpoint = open_endpoint(address).map_err(|e| self.fault(format!("no UDP socket: {e}"), ""))?;
        let connecting = endpoint
            .connect_with(self.config.clone(), address, &self.server_name)
            .map_err(|e| self.fault(e.to_string(), ""))?;
        match connecting.await {
            Ok(connection) => Ok((endpoint, connection)),
            Err(error) => Err(self.handshake_fault(error)),
        }
    }

    fn handshake_fault(&self, error: ConnectionError) -> Error {
        let message = error.to_string();
        let hint = if message.contains("UnknownIssuer") || message.contains("BadSignature") {
            "the broker's certificate is not signed by the given CA; use the CA file of this broker's data folder"
                .into()
        } else if message.contains("NotValidForName") {
            format!(
                "the certificate is not for {:?}; give the name it carries as the server name",
                self.server_name
            )
        } else if message.contains("no_application_protocol") || message.contains("error 120") {
            "another protocol is spoken there, or no common version of this one".into()
        } else {
            String::new()
        };
        self.fault(message, &hint)
    }

    fn fault(&self, message: String, hint: &str) -> Error {
        Error::Connect {
            server: self.server.clone(),
            message,
            hint: hint.to_owned(),
        }
    }
}

/// A UDP socket of the address family of `to`, on a port of the system's choice.
fn open_endpoint(to: SocketAddr) -> std::io::Result<Endpoint> {
    let local: SocketAddr = match to {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; that costs speed under load, not correctness.
    let granted = socket
        .set_recv_buffer_size(SOCKET_BUFFER)
        .and(socket.set_send_buffer_size(SOCKET_BUFFER));
    if let Err(error) = granted {
        tracing::debug!(%error, "the system does not grant larger UDP buffers");
    }
    socket.bind(&local.into())?;
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(UDP_PAYLOAD_MAX)
        .map_err(std::io::Error::other)?;
    Endpoint::new(config, None, socket.into(), Arc::new(TokioRuntime))
}
