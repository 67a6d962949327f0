//! The client: connecting, staying connected, closing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_protocol::session::Hello;
use pointsman_protocol::{DEFAULT_VHOST, VERSION};
use tokio::sync::{Semaphore, watch};

use crate::Error;
use crate::address::{self, Address};
use crate::consumer::ConsumerBuilder;
use crate::link::{self, Link};
use crate::notices::{NoticeBoard, Notices};
use crate::publisher::{Publisher, PublisherBuilder};
use crate::reconnect::{Links, State, Supervisor};
use crate::transport::{self, Target};

/// A connection to a broker that comes back when it is lost. Clones share it.
///
/// Publishers and consumers come back with it: a publisher sends what is unconfirmed again under the same
/// sequence numbers, which the broker recognises; a consumer is opened anew and what it had not settled is
/// redelivered. Only requests that were in flight fail, with [`Error::Disconnected`]: whether they were done is
/// not known, and declaring again is harmless.
///
/// Call [`Client::close`] before the program ends. When the last handle is dropped instead, the same happens in the
/// background, as long as the runtime lives.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

/// What all handles of one client share; dropping it closes the client.
struct Inner {
    links: Links,
    closing: watch::Sender<bool>,
    requests: Semaphore,
    request_timeout: Duration,
    notices: Arc<NoticeBoard>,
}

impl Client {
    /// Connects to `pointsman://user:password@host:port/vhost?ca=FILE&server_name=NAME&name=PROGRAM`.
    ///
    /// Port, vhost, server name and program name have defaults; the CA and the credentials do not. Parts may be
    /// percent-encoded, as a password with `@` must.
    ///
    /// # Errors
    /// [`Error::Address`] and [`Error::Ca`] for what was given, [`Error::Connect`] when the broker cannot be
    /// reached, [`Error::Refused`] with `AuthenticationFailed` for wrong credentials.
    pub async fn connect(address: &str) -> Result<Client, Error> {
        ClientBuilder::from_address(address)?.connect().await
    }

    /// Connects with settings of one's own.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Opens a publisher to an exchange; the empty name is the default exchange, which sends to the queue that is
    /// named by the routing key.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no such exchange.
    pub async fn publisher(&self, exchange: impl Into<String>) -> Result<Publisher, Error> {
        self.publisher_builder(exchange).open().await
    }

    /// Opens a publisher with settings of one's own.
    pub fn publisher_builder(&self, exchange: impl Into<String>) -> PublisherBuilder {
        PublisherBuilder::new(self.clone(), exchange.into())
    }

    /// A consumer of a queue, still to be opened.
    pub fn consumer(&self, queue: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), queue.into())
    }

    /// What the broker says unasked from now on. Up to 16 notices wait for a slow reader; later ones are dropped.
    pub fn notices(&self) -> Notices {
        self.inner.notices.subscribe()
    }

    /// Sends one request; the methods of [`Client`] that declare, list and delete are made of this.
    ///
    /// Waits for a connection while there is none, within the request timeout.
    ///
    /// # Errors
    /// [`Error::Refused`] with the broker's reason; [`Error::Disconnected`] when the connection was lost in between.
    pub async fn request(&self, request: Request, body: Bytes) -> Result<Reply, Error> {
        let exchange = async {
            let closed = |_| Error::closed("client");
            let _permit = self.inner.requests.acquire().await.map_err(closed)?;
            let link = self.inner.links.current().await?;
            let _guard = link.enter();
            let max = link.welcome.body_max as usize;
            if body.len() > max {
                return Err(Error::TooLarge {
                    what: "a request's body in bytes",
                    len: body.len(),
                    max,
                });
            }
            link.request(&request, body).await
        };
        self.within_time("a request", exchange).await
    }

    /// Closes the client: publishers take no more and their last messages are confirmed, settlements are written,
    /// then the connection ends. Takes at most 10 seconds; what is unconfirmed then fails with [`Error::Closed`].
    /// Does the same as often as it is called.
    pub async fn close(&self) {
        self.inner.closing.send_replace(true);
        self.inner.links.ended().await;
    }

    /// How this client's streams come by a connection.
    pub(crate) fn links(&self) -> &Links {
        &self.inner.links
    }

    /// Waits no longer than the request timeout.
    pub(crate) async fn within_time<T>(
        &self,
        what: &'static str,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let after = self.inner.request_timeout;
        match tokio::time::timeout(after, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { what, after }),
        }
    }
}

/// Settings of a connection. See [`Client::builder`].
#[derive(Clone)]
pub struct ClientBuilder {
    server: String,
    server_name: Option<String>,
    ca: Ca,
    user: String,
    password: String,
    vhost: String,
    name: String,
    connect_timeout: Duration,
    request_timeout: Duration,
    reconnect: bool,
}

#[derive(Clone)]
enum Ca {
    Missing,
    File(PathBuf),
    Pem(Vec<u8>),
}

impl Default for ClientBuilder {
    fn default() -> ClientBuilder {
        ClientBuilder {
            server: "127.0.0.1".into(),
            server_name: None,
            ca: Ca::Missing,
            user: String::new(),
            password: String::new(),
            vhost: DEFAULT_VHOST.into(),
            name: "pointsman-sdk".into(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            reconnect: true,
        }
    }
}

impl ClientBuilder {
    /// Takes the settings an address carries, as [`Client::connect`] does.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn from_address(address: &str) -> Result<ClientBuilder, Error> {
        let address = Address::parse(address)?;
        let mut builder = ClientBuilder {
            server: address.server,
            server_name: address.server_name,
            vhost: address.vhost,
            ..ClientBuilder::default()
        };
        if let Some((user, password)) = address.credentials {
            (builder.user, builder.password) = (user, password);
        }
        if let Some(file) = address.ca_file {
            builder.ca = Ca::File(file.into());
        }
        if let Some(name) = address.name {
            builder.name = name;
        }
        Ok(builder)
    }

    /// `host` or `host:port`; this machine otherwise.
    pub fn server(mut self, server: impl Into<String>) -> ClientBuilder {
        self.server = server.into();
        self
    }

    /// The name the broker's certificate must carry; the host otherwise.
    pub fn server_name(mut self, name: impl Into<String>) -> ClientBuilder {
        self.server_name = Some(name.into());
        self
    }

    /// The PEM file of the CA that signed the broker's certificate.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> ClientBuilder {
        self.ca = Ca::File(path.into());
        self
    }

    /// The CA that signed the broker's certificate, as PEM text.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> ClientBuilder {
        self.ca = Ca::Pem(pem.into());
        self
    }

    /// User and password.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> ClientBuilder {
        (self.user, self.password) = (user.into(), password.into());
        self
    }

    /// The vhost to work in; `/` otherwise.
    pub fn vhost(mut self, vhost: impl Into<String>) -> ClientBuilder {
        self.vhost = vhost.into();
        self
    }

    /// Name of the program, for the broker's status and logs.
    pub fn name(mut self, name: impl Into<String>) -> ClientBuilder {
        self.name = name.into();
        self
    }

    /// How long finding the broker and the handshake may take; 5 seconds otherwise.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request, or opening a publisher or consumer, may take, with waiting for a connection; 30 seconds
    /// otherwise.
    pub fn request_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.request_timeout = timeout;
        self
    }

    /// Whether to connect anew when the connection is lost; true otherwise. The first connection is never retried.
    pub fn reconnect(mut self, reconnect: bool) -> ClientBuilder {
        self.reconnect = reconnect;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self) -> Result<Client, Error> {
        let pem = match self.ca {
            Ca::Missing => {
                return Err(Error::Ca {
                    message: "no CA certificate is given".into(),
                });
            }
            Ca::File(path) => read_ca(path).await?,
            Ca::Pem(pem) => pem,
        };
        let server = address::with_port(&self.server).ok_or_else(|| Error::Address {
            given: self.server.clone(),
            reason: "the host is missing".into(),
        })?;
        let target = Target {
            server_name: self
                .server_name
                .unwrap_or_else(|| address::host_of(&server).to_owned()),
            server,
            config: transport::client_config(&pem)?,
            timeout: self.connect_timeout,
        };
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: 0,
            client: self.name,
            vhost: self.vhost,
            user: self.user,
            password: self.password,
        };
        let (link, stream) = Link::establish(&target, &hello, 1).await?;
        let link = Arc::new(link);
        let notices = Arc::new(NoticeBoard::default());
        let closing = watch::Sender::new(false);
        let state = watch::Sender::new(State::Up(link.clone()));
        let links = Links::new(state.subscribe());
        let supervisor = Supervisor {
            target,
            hello,
            reconnect: self.reconnect,
            state,
            closing: closing.subscribe(),
            notices: notices.clone(),
        };
        tokio::spawn(supervisor.run(link, stream));
        Ok(Client {
            inner: Arc::new(Inner {
                links,
                closing,
                requests: link::request_permits(),
                request_timeout: self.request_timeout,
                notices,
            }),
        })
    }
}

/// Reads the file on a thread where that may take its time.
async fn read_ca(path: PathBuf) -> Result<Vec<u8>, Error> {
    let shown = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    let fault = |reason: String| Error::Ca {
        message: format!("cannot read the CA file {shown}: {reason}"),
    };
    match read {
        Ok(Ok(pem)) => Ok(pem),
        Ok(Err(error)) => Err(fault(error.to_string())),
        Err(error) => Err(fault(error.to_string())),
    }
}
