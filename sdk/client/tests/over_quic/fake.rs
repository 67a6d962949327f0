//! A peer that speaks frames over QUIC and does just what a test tells it to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pointsman_protocol::ALPN;
use pointsman_protocol::frame::{self, Frame, Kind};
use pointsman_protocol::limits::FRAME_BODY_MAX;
use pointsman_protocol::session::{Hello, Welcome};
use pointsman_sdk::{Client, ClientBuilder, Reply};
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) struct Fake {
    endpoint: quinn::Endpoint,
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
}

impl Fake {
    pub(crate) fn start() -> Fake {
        Fake::start_with(quinn::TransportConfig::default())
    }

    pub(crate) fn start_with(transport: quinn::TransportConfig) -> Fake {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()])
            .unwrap()
            .signed_by(&key, &ca)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Fake {
            address: endpoint.local_addr().unwrap(),
            ca_pem: ca.pem(),
            endpoint,
        }
    }

    /// Settings of a client of this peer.
    pub(crate) fn builder(&self) -> ClientBuilder {
        Client::builder()
            .server(self.address.to_string())
            .server_name("localhost")
            .ca_pem(self.ca_pem.clone())
            .credentials("ann", "secret")
    }

    /// Accepts a connection and its greeting.
    pub(crate) async fn accept(&self) -> Peer {
        let (connection, mut control, _) = self.accept_hello().await;
        let welcome = Welcome {
            version: 1,
            features: 0,
            server: "fake".into(),
            connection: 1,
            body_max: 1 << 20,
        };
        control.put(Kind::Welcome, 0, 0, &welcome, b"").await;
        Peer { connection, control }
    }

    /// Accepts a connection and leaves its greeting unanswered.
    pub(crate) async fn accept_hello(&self) -> (quinn::Connection, Stream, Hello) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let mut control = Stream::accept(&connection).await;
        let hello = control.take(Kind::Hello).await.1;
        (connection, control, hello)
    }

    /// A client and the peer's end of its connection.
    pub(crate) async fn connected(&self) -> (Client, Peer) {
        let (client, peer) = tokio::join!(self.builder().connect(), self.accept());
        (client.unwrap(), peer)
    }
}

/// The peer's end of a connection.
pub(crate) struct Peer {
    pub(crate) connection: quinn::Connection,
    pub(crate) control: Stream,
}

impl Peer {
    /// Accepts a stream whose first frame is of that kind, and answers it.
    pub(crate) async fn accept<T: DeserializeOwned>(
        &self,
        kind: Kind,
        answer: Kind,
        meta: &impl Serialize,
    ) -> (Stream, T) {
        let (mut stream, open) = self.accept_unanswered(kind).await;
        stream.put(answer, 0, 0, meta, b"").await;
        (stream, open)
    }

    /// Accepts a stream whose first frame is of that kind.
    pub(crate) async fn accept_unanswered<T: DeserializeOwned>(&self, kind: Kind) -> (Stream, T) {
        let mut stream = Stream::accept(&self.connection).await;
        let open = stream.take(kind).await.1;
        (stream, open)
    }

    /// Ends the connection as a broker that dies would, only sooner noticed.
    pub(crate) fn vanish(&self) {
        self.connection.close(600u32.into(), b"gone");
    }
}

pub(crate) struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    buffer: BytesMut,
}

impl Stream {
    async fn accept(connection: &quinn::Connection) -> Stream {
        let (send, receive) = connection.accept_bi().await.unwrap();
        Stream {
            send,
            receive,
            buffer: BytesMut::new(),
        }
    }

    pub(crate) async fn put(&mut self, kind: Kind, flags: u8, id: u64, meta: &impl Serialize, body: &[u8]) {
        let mut out = BytesMut::new();
        frame::put(&mut out, kind, flags, id, meta, body);
        self.write(&out).await;
    }

    pub(crate) async fn reply(&mut self, id: u64, reply: Reply) {
        let mut out = BytesMut::new();
        reply.put(&mut out, id);
        self.write(&out).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer, FRAME_BODY_MAX).unwrap() {
                return Some(frame);
            }
            match self.receive.read_chunk(usize::MAX, true).await.unwrap() {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => return None,
            }
        }
    }

    /// Whether the stream ends here, or goes with its connection, without another frame.
    pub(crate) async fn ends(&mut self) -> bool {
        self.buffer.is_empty() && !matches!(self.receive.read_chunk(usize::MAX, true).await, Ok(Some(_)))
    }

    /// The id, metadata and body of the next frame, which is of that kind.
    pub(crate) async fn take<T: DeserializeOwned>(&mut self, kind: Kind) -> (u64, T, Bytes) {
        let frame = self.next().await.expect("a frame");
        assert_eq!(frame.header.kind, kind);
        (frame.header.id, frame.decode().unwrap(), frame.body())
    }

    /// Ends the sending side and waits until everything was received.
    pub(crate) async fn finish(&mut self) {
        self.send.finish().unwrap();
        self.send.stopped().await.unwrap();
    }
}
