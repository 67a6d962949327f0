//! What the machine could do at best, measured in the same run.

use std::fs::File;
use std::hint::black_box;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use quinn::{ClientConfig, Endpoint, ServerConfig};
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

/// The time of appending 100 bytes and syncing them.
pub(crate) fn one_sync(folder: &Path) -> std::io::Result<Figure> {
    let mut file = File::create(folder.join("raw-one-sync"))?;
    let mut times = histogram();
    let since = Instant::now();
    while since.elapsed() < TIME {
        let start = Instant::now();
        file.write_all(&[7; 100])?;
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

/// The raw limits of QUIC on loopback, with quinn and nothing else at both ends. Each end is a thread with a runtime
/// of its own, as broker and client are.
pub(crate) struct Quic {
    runtime: tokio::runtime::Runtime,
    endpoint: Endpoint,
    connection: quinn::Connection,
}

impl Quic {
    /// Connects with the broker's certificate.
    pub(crate) fn connect(ca: &Path, certificate: &Path, key: &Path) -> Quic {
        let (sender, receiver) = std::sync::mpsc::channel();
        let server = server_config(certificate, key);
        std::thread::spawn(move || {
            runtime().block_on(async {
                let endpoint = Endpoint::server(server, ([127, 0, 0, 1], 0).into()).expect("loopback");
                sender
                    .send(endpoint.local_addr().expect("is bound"))
                    .expect("the bench waits");
                serve(&endpoint).await;
            });
        });
        let address = receiver.recv().expect("the server starts");
        let runtime = runtime();
        let (endpoint, connection) = runtime.block_on(async {
            let mut endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("loopback");
            endpoint.set_default_client_config(client_config(ca));
            let connecting = endpoint.connect(address, "localhost").expect("valid");
            let connection = connecting.await.expect("handshake");
            (endpoint, connection)
        });
        Quic {
            runtime,
            endpoint,
            connection,
        }
    }

    /// Bytes per second of one stream.
    pub(crate) fn bulk(&self) -> Figure {
        self.runtime.block_on(bulk(&self.connection))
    }

    /// The time of an echo of 100 bytes.
    pub(crate) fn echo(&self) -> Figure {
        self.runtime.block_on(echo(&self.connection))
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.connection.close(0_u32.into(), b"");
        self.runtime.block_on(self.endpoint.wait_idle());
    }
}

async fn bulk(connection: &quinn::Connection) -> Figure {
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

async fn echo(connection: &quinn::Connection) -> Figure {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    let mut times = histogram();
    let mut buffer = [0; 100];
    let since = Instant::now();
    while since.elapsed() < TIME {
        let start = Instant::now();
        send.write_all(&[7; 100]).await.expect("is read");
        receive.read_exact(&mut buffer).await.expect("is echoed");
        times.saturating_record(start.elapsed().as_nanos() as u64);
    }
    Figure::Nanoseconds(times.value_at_quantile(0.5) as f64)
}

async fn serve(endpoint: &Endpoint) {
    let connection = endpoint
        .accept()
        .await
        .expect("the bench connects")
        .await
        .expect("handshake");
    loop {
        tokio::select! {
            Ok(mut bulk) = connection.accept_uni() => {
                while let Ok(Some(_)) = bulk.read_chunk(usize::MAX, true).await {}
            }
            Ok((mut send, mut receive)) = connection.accept_bi() => {
                let mut buffer = [0; 100];
                while receive.read_exact(&mut buffer).await.is_ok() && send.write_all(&buffer).await.is_ok() {}
            }
            else => return,
        }
    }
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
    ServerConfig::with_single_cert(chain, key).expect("the key is the certificate's")
}

fn client_config(ca: &Path) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).expect("PEM"))
        .expect("a certificate");
    ClientConfig::with_root_certificates(Arc::new(roots)).expect("ring does TLS 1.3")
}
