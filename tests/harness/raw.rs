//! The wire by hand: a client that says exactly what a test wants said, also what no client should.

use std::time::Duration;

use bytes::BytesMut;
use pointsman_protocol::consume::{Credit, OpenConsumer};
use pointsman_protocol::frame::{self, Frame, Kind};
use pointsman_protocol::limits::FRAME_BODY_MAX;
use pointsman_protocol::publish::{OpenPublisher, PublisherOpened};
use pointsman_protocol::session::Hello;
use pointsman_protocol::{ALPN, DEFAULT_VHOST, ErrorBody, ErrorCode, MessageMeta, VERSION};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::broker::Broker;

/// Longest a test waits for the broker to answer or close.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that has authenticated, or is about to.
pub struct RawClient {
    /// The QUIC connection.
    pub connection: Connection,
    /// The control stream.
    pub control: RawStream,
    _endpoint: Endpoint,
}

/// A bidirectional stream.
pub struct RawStream {
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With a `Close` frame that says why.
    Close(ErrorCode),
    /// The connection was closed with this code.
    Connection(ErrorCode),
    /// Finished or reset without a reason.
    Silent,
}

impl RawClient {
    /// Connects and opens the control stream, but says nothing yet.
    ///
    /// # Panics
    /// When that fails; so does everything here that is not about an end.
    pub async fn connect(broker: &Broker) -> RawClient {
        let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket can be bound");
        endpoint.set_default_client_config(config(broker, ALPN));
        let connecting = endpoint
            .connect(broker.address(), "localhost")
            .expect("the address is valid");
        let connection = connecting.await.expect("the handshake succeeds");
        let control = open(&connection).await;
        RawClient {
            connection,
            control,
            _endpoint: endpoint,
        }
    }

    /// Connects and authenticates as `admin`.
    pub async fn authenticated(broker: &Broker) -> RawClient {
        let mut client = RawClient::connect(broker).await;
        client.control.put(Kind::Hello, 0, &hello(broker), b"").await;
        assert_eq!(client.control.frame().await.header.kind, Kind::Welcome);
        client
    }

    /// Opens another stream.
    pub async fn stream(&self) -> RawStream {
        open(&self.connection).await
    }

    /// Opens a publisher of the default exchange under an identity nobody had.
    pub async fn publisher(&self) -> RawStream {
        self.publisher_as(u128::from(fastrand::u64(..))).await.0
    }

    /// Opens a publisher of the default exchange under a given identity.
    pub async fn publisher_as(&self, identity: u128) -> (RawStream, PublisherOpened) {
        let mut stream = self.stream().await;
        let open = OpenPublisher {
            exchange: String::new(),
            identity,
            window: 100,
        };
        stream.put(Kind::OpenPublisher, 0, &open, b"").await;
        let opened = stream.frame().await.decode().expect("the publisher opens");
        (stream, opened)
    }

    /// Opens a consumer, without credit.
    pub async fn consumer(&self, queue: &str) -> RawStream {
        let mut stream = self.stream().await;
        let open = OpenConsumer {
            queue: queue.to_owned(),
            tag: String::new(),
            exclusive: false,
            no_ack: false,
            start: None,
        };
        stream.put(Kind::OpenConsumer, 0, &open, b"").await;
        assert_eq!(stream.frame().await.header.kind, Kind::ConsumerOpened);
        stream
    }

    /// The code with which the broker closes the connection.
    pub async fn closed(&self) -> ErrorCode {
        let ended = tokio::time::timeout(PATIENCE, self.connection.closed()).await;
        code(ended.expect("the broker closes the connection"))
    }
}

impl RawStream {
    /// Writes bytes as they are. The broker may have closed by then, which is not the test's business here.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.send.write_all(bytes).await;
    }

    /// Writes one frame.
    pub async fn put<T: serde::Serialize>(&mut self, kind: Kind, id: u64, meta: &T, body: &[u8]) {
        let mut out = BytesMut::new();
        frame::put(&mut out, kind, 0, id, meta, body);
        self.bytes(&out).await;
    }

    /// Publishes a persistent message.
    pub async fn publish(&mut self, sequence: u64, key: &str, body: &[u8]) {
        let meta = MessageMeta {
            routing_key: key,
            persistent: true,
            ..MessageMeta::default()
        };
        self.put(Kind::Publish, sequence, &meta, body).await;
    }

    /// Grants credit.
    pub async fn credit(&mut self, messages: u32, bytes: u64) {
        self.put(Kind::Credit, 0, &Credit { messages, bytes }, b"").await;
    }

    /// Reads one frame.
    pub async fn frame(&mut self) -> Frame {
        self.next()
            .await
            .unwrap_or_else(|end| panic!("the stream ended: {end:?}"))
    }

    /// Reads frames until the stream ends, and says how it did.
    pub async fn end(&mut self) -> End {
        loop {
            match self.next().await {
                Ok(frame) if frame.header.kind == Kind::Close => {
                    return End::Close(frame.decode::<ErrorBody>().expect("Close holds an error").code);
                }
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    async fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) =
                Frame::take(&mut self.buffer, FRAME_BODY_MAX).expect("the broker writes frames")
            {
                return Ok(frame);
            }
            let read = tokio::time::timeout(PATIENCE, self.recv.read_chunk(64 * 1024, true)).await;
            match read.expect("the broker answers or closes") {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Err(quinn::ReadError::ConnectionLost(error)) => return Err(End::Connection(code(error))),
                Ok(None) | Err(_) => return Err(End::Silent),
            }
        }
    }
}

/// The greeting of a client that knows the admin's password.
pub fn hello(broker: &Broker) -> Hello {
    Hello {
        version_min: VERSION,
        version_max: VERSION,
        features: 0,
        client: "raw".to_owned(),
        vhost: DEFAULT_VHOST.to_owned(),
        user: "admin".to_owned(),
        password: broker.password().to_owned(),
    }
}

/// A QUIC configuration that trusts this broker's CA only.
pub fn config(broker: &Broker, alpn: &[u8]) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(broker.ca()).expect("the broker wrote its CA");
    roots.add(ca).expect("the CA is a certificate");
    let provider = rustls::crypto::ring::default_provider().into();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring does TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("TLS 1.3 has what QUIC needs");
    ClientConfig::new(std::sync::Arc::new(quic))
}

async fn open(connection: &Connection) -> RawStream {
    let (send, recv) = connection.open_bi().await.expect("the broker allows a stream");
    RawStream {
        send,
        recv,
        buffer: BytesMut::new(),
    }
}

fn code(error: ConnectionError) -> ErrorCode {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ErrorCode::from(u16::try_from(close.error_code.into_inner()).unwrap_or(u16::MAX))
        }
        other => panic!("the connection ended without a code: {other}"),
    }
}
