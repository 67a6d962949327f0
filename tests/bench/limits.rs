//! What the machine could do at best, measured in the same run.

use std::fs::File;
use std::hint::black_box;
use std::io::{Seek, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use pointsman_protocol::limits::UDP_PAYLOAD_MAX;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::report::Figure;

/// Messages of one sync: about what waits while the sync before is under way.
pub(crate) const GROUP: usize = 256;

/// How long each limit is measured, each time.
const TIME: Duration = Duration::from_millis(500);

/// Messages per second that are appended to a file and synced in groups of [`GROUP`], by one thread that does nothing
/// else.
pub(crate) fn grouped_sync(folder: &Path, body: usize) -> std::io::Result<Figure> {
    let mut file = File::create(folder.join("raw-sync"))?;
    let group = vec![7_u8; GROUP * body];
    let mut messages = 0;
    let since = Instant::now();
    while since.elapsed() < TIME {
        file.write_all(&group)?;
        file.sync_data()?;
        messages += GROUP;
    }
    Ok(Figure::PerSecond(messages as f64 / since.elapsed().as_secs_f64()))
}

/// As [`grouped_sync`], but over what was written before: the file system has nothing to note then.
pub(crate) fn grouped_overwrite(folder: &Path, body: usize) -> std::io::Result<Figure> {
    const LEN: usize = 64 * 1024 * 1024;
    let mut file = File::create(folder.join("raw-overwrite"))?;
    let group = vec![7_u8; GROUP * body];
    for _ in 0..LEN / group.len() {
        file.write_all(&group)?;
    }
    file.sync_all()?;
    file.rewind()?;
    let (mut messages, mut at) = (0, 0);
    let since = Instant::now();
    while since.elapsed() < TIME {
        if at + group.len() > LEN {
            file.rewind()?;
            at = 0;
        }
        file.write_all(&group)?;
        file.sync_data()?;
        at += group.len();
        messages += GROUP;
    }
    Ok(Figure::PerSecond(messages as f64 / since.elapsed().as_secs_f64()))
}

/// The time of appending `body` bytes and syncing them.
pub(crate) fn one_sync(folder: &Path, body: usize) -> std::io::Result<Figure> {
    let mut file = File::create(folder.join("raw-one-sync"))?;
    let message = vec![7; body];
    let mut times = histogram();
    let since = Instant::now();
    while since.elapsed() < TIME {
        let start = Instant::now();
        file.write_all(&message)?;
        file.sync_data()?;
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Ok(Figure::Nanoseconds(times.value_at_quantile(0.5) as f64))
}

/// Bytes per second of writing a file from front to end, with one sync at the end.
pub(crate) fn sequential_write(folder: &Path) -> std::io::Result<Figure> {
    const LEN: usize = 256 * 1024 * 1024;
    let mut file = File::create(folder.join("raw-write"))?;
    let block = vec![7_u8; 1024 * 1024];
    let since = Instant::now();
    for _ in 0..LEN / block.len() {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    let figure = Figure::BytesPerSecond(LEN as f64 / since.elapsed().as_secs_f64());
    file.rewind()?;
    file.set_len(0)?;
    Ok(figure)
}

/// Bytes per second of copying memory that is in no cache.
pub(crate) fn copy() -> Figure {
    let from = vec![7_u8; 64 * 1024 * 1024];
    let mut to = vec![0_u8; from.len()];
    let mut bytes = 0;
    let since = Instant::now();
    while since.elapsed() < TIME {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        bytes += from.len();
    }
    Figure::BytesPerSecond(bytes as f64 / since.elapsed().as_secs_f64())
}

/// Bytes of the answer of an echo, about as long as a confirm or less.
const ANSWER: usize = 100;

/// The raw limits of QUIC on loopback: quinn and nothing else at both ends, with packets of the length that broker and
/// client use. Each end is a thread with a runtime of its own, as broker and client are.
pub(crate) struct Quic {
    server: SocketAddr,
    client: ClientConfig,
}

impl Quic {
    /// Starts the far end, with the broker's certificate. It ends with the process.
    pub(crate) fn start(ca: &Path, certificate: &Path, key: &Path) -> Quic {
        let (sender, receiver) = std::sync::mpsc::channel();
        let server = server_config(certificate, key);
        std::thread::spawn(move || {
            runtime().block_on(async {
                let endpoint = endpoint(Some(server));
                sender
                    .send(endpoint.local_addr().expect("is bound"))
                    .expect("the bench waits");
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async { serve(incoming.await.expect("handshake")).await });
                }
            });
        });
        Quic {
            server: receiver.recv().expect("the server starts"),
            client: client_config(ca),
        }
    }

    /// Bytes per second of one stream.
    pub(crate) fn bulk(&self) -> Figure {
        self.measure(bulk)
    }

    /// The time of sending `body` bytes and getting the answer.
    pub(crate) fn echo(&self, body: usize) -> Figure {
        self.measure(async |connection| echo(connection, body).await)
    }

    /// On a connection of its own: one that lies idle while nothing drives it takes the pause for the network's delay,
    /// and paces what it sends for seconds.
    fn measure(&self, what: impl AsyncFnOnce(&Connection) -> Figure) -> Figure {
        runtime().block_on(async {
            let endpoint = endpoint(None);
            let connecting = endpoint.connect_with(self.client.clone(), self.server, "localhost");
            let connection = connecting.expect("valid").await.expect("handshake");
            let figure = what(&connection).await;
            connection.close(0_u32.into(), b"");
            endpoint.wait_idle().await;
            figure
        })
    }
}

async fn bulk(connection: &Connection) -> Figure {
    let mut stream = connection.open_uni().await.expect("a stream");
    let block = Bytes::from(vec![7_u8; 64 * 1024]);
    let mut bytes = 0;
    let since = Instant::now();
    while since.elapsed() < TIME {
        stream.write_chunk(block.clone()).await.expect("is read");
        bytes += block.len();
    }
    stream.finish().expect("is open");
    stream.stopped().await.expect("is read to its end");
    Figure::BytesPerSecond(bytes as f64 / since.elapsed().as_secs_f64())
}

async fn echo(connection: &Connection, body: usize) -> Figure {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let mut message = vec![7; body];
    send.write_all(&(body as u64).to_le_bytes())
        .await
        .expect("is read");
    let mut times = histogram();
    let since = Instant::now();
    while since.elapsed() < TIME {
        let start = Instant::now();
        send.write_all(&message).await.expect("is read");
        receive
            .read_exact(&mut message[..ANSWER])
            .await
            .expect("is answered");
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Figure::Nanoseconds(times.value_at_quantile(0.5) as f64)
}

async fn serve(connection: Connection) {
    loop {
        tokio::select! {
            Ok(mut bulk) = connection.accept_uni() => {
                while let Ok(Some(_)) = bulk.read_chunk(usize::MAX, true).await {}
            }
            Ok((mut send, mut receive)) = connection.accept_bi() => {
                let mut length = [0; 8];
                receive.read_exact(&mut length).await.expect("is sent");
                let mut message = vec![0; u64::from_le_bytes(length) as usize];
                while receive.read_exact(&mut message).await.is_ok()
                    && send.write_all(&message[..ANSWER]).await.is_ok()
                {}
            }
            else => return,
        }
    }
}

fn endpoint(server: Option<ServerConfig>) -> Endpoint {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(UDP_PAYLOAD_MAX).expect("is allowed");
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("loopback");
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).expect("a socket")
}

fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(mtu));
    Arc::new(transport)
}

/// The runtime broker and client use on a machine of two cores.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Latencies from 1 ns to a minute, to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn server_config(certificate: &Path, key: &Path) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(certificate)
        .expect("PEM")
        .map(|c| c.expect("a certificate"))
        .collect();
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let mut config = ServerConfig::with_single_cert(chain, key).expect("the key is the certificate's");
    config.transport_config(transport());
    config
}

fn client_config(ca: &Path) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).expect("PEM"))
        .expect("a certificate");
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("ring does TLS 1.3");
    config.transport_config(transport());
    config
}
