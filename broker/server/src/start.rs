//! Putting the broker together, and taking it apart in order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use pointsman_core::{Bounds, Broker, Commit, Effect, Input};
use pointsman_protocol::ErrorCode;
use pointsman_router_host::{CompileMode, Host, HostError, HostOptions, ModuleLimits, Routes};
use pointsman_store::{Committer, Done, OpenError, Options, ReadDone, Reader, Reclaimer, Store, StoreError};
use quinn::{Endpoint, VarInt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::backup::{self, Backups};
use crate::config::Config;
use crate::driver::{Driver, Ended, now};
use crate::listen;
use crate::mailbox::{Doorbell, Inbox, Mail, Mailbox, mailbox};
use crate::outbox::outbox;
use crate::session::Shared;
use crate::shard::Shard;
use crate::tls::{self, TlsError};
use crate::{auth, space};

/// The user that the first start makes.
const ADMIN: &str = "admin";

/// How often a broker whose disk was full tries to open its store again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// Why a broker did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error("the data folder {} cannot be made: {error}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store holds what the core cannot make sense of.
    #[error("the store cannot be used: {0}")]
    Restore(#[from] pointsman_core::RestoreError),
    /// The first records could not be written.
    #[error("the store cannot be written: {0}")]
    Write(#[from] StoreError),
    /// There is no usable certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Wasm cannot run here.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; is another program using the port? `listen` sets another")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// The driver ended without a word, which it never should.
    #[error("the driver ended unexpectedly; the log says more")]
    DriverLost,
}

impl StartError {
    /// Whether there was no room on the disk.
    pub fn is_disk_full(&self) -> bool {
        let full = |error: &std::io::Error| error.kind() == std::io::ErrorKind::StorageFull;
        match self {
            StartError::Write(StoreError::DiskFull) => true,
            StartError::DataDir { error, .. } => full(error),
            StartError::Store(error) => error.is_disk_full(),
            _ => false,
        }
    }

    /// Whether a broker that had run may start a moment later: there is no room, or what it had before is not
    /// given back yet.
    fn may_pass(&self) -> bool {
        self.is_disk_full()
            || matches!(
                self,
                StartError::Listen { .. } | StartError::Store(OpenError::InUse { .. })
            )
    }
}

/// The credential that the first start makes. It is not kept anywhere in this form.
#[derive(Clone, Debug)]
pub struct AdminCredential {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
}

/// A broker at work.
#[derive(Debug)]
pub struct Running {
    /// The address it listens on.
    pub address: SocketAddr,
    /// The certificate clients are to trust.
    pub ca_file: PathBuf,
    /// Set when this was the first start on the data folder.
    pub first_start: Option<AdminCredential>,
    endpoint: Endpoint,
    mailbox: Mailbox,
    config: Config,
    drain: watch::Sender<bool>,
    sessions: mpsc::Receiver<()>,
    ended: oneshot::Receiver<Ended>,
}

/// The runtime a broker runs best on: one thread up to two cores, because a QUIC packet that changes threads costs more
/// than it gains; more where there are more.
///
/// # Errors
/// When the system refuses threads or an event queue.
pub fn runtime(config: &Config) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match config.workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if config.workers > 1 {
        builder.worker_threads(config.workers);
    }
    builder.enable_all().thread_name("pointsman").build()
}

/// Where the store is in a data folder.
pub fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// Starts a broker. When this returns it accepts connections.
///
/// # Errors
/// Everything that [`StartError`] names.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let data_dir = config.data_dir.clone();
    let dir_error = |error| StartError::DataDir {
        path: data_dir.clone(),
        error,
    };
    std::fs::create_dir_all(&data_dir).map_err(&dir_error)?;
    // The store's folder is locked first: a second broker must not touch the certificates.
    let (store, restored) = Store::open(&store_dir(&data_dir), Options::default())?;
    backup::remove_leftovers(&data_dir).map_err(&dir_error)?;
    let tls = tls::server_config(&data_dir)?;
    let bounds = Bounds {
        fsync: config.fsync,
        ..Bounds::default()
    };
    let mut broker = Broker::restore_with_bounds(restored, bounds)?;
    let (first_start, effects) = prepare(&mut broker, &store)?;

    let host = Host::new(HostOptions {
        cache_dir: data_dir.join("modules"),
        mac_key: secret(&data_dir, "module-key")?,
        compile: CompileMode::Child {
            exe: config.compiler.0.clone(),
            args: config.compiler.1.clone(),
        },
        limits: ModuleLimits {
            call_time: config.router_deadline,
            ..ModuleLimits::default()
        },
    })?;
    let topology = broker.topology();
    crate::admin::load_active(&host, &store, &topology);
    let routes = Arc::new(ArcSwap::new(Routes::new(host.clone(), topology)));

    let address = config.listen;
    let reset_secret = secret(&data_dir, "reset-key")?;
    let endpoint =
        listen::bind(address, tls, &reset_secret).map_err(|error| StartError::Listen { address, error })?;
    let address = endpoint
        .local_addr()
        .map_err(|error| StartError::Listen { address, error })?;

    // With more workers, one that waits for the disk would hold up the tasks that are queued behind it.
    let light_apart = config.workers == 1;
    let (mailbox, inbox, bell) = mailbox(light_apart);
    let blocked = space::blocked_from_start(&config);
    if let Some(reason) = &blocked {
        tracing::error!(reason, "publishes are blocked");
    }
    let ended = drive(
        (broker, effects),
        (inbox, bell),
        &mailbox,
        &store,
        host.clone(),
        routes.clone(),
    )?;
    let (drain, draining) = watch::channel(false);
    let (held, sessions) = mpsc::channel(1);
    // Should it start again by itself, it is where clients look for it.
    let again = Config {
        listen: address,
        ..config.clone()
    };
    let shared = Arc::new(Shared {
        config,
        mailbox: mailbox.clone(),
        routes,
        host,
        store,
        backups: Backups::default(),
        started: Instant::now(),
        draining,
        blocked: watch::Sender::new(blocked),
        _held: held,
        next_id: AtomicU64::new(1),
    });
    tokio::spawn(space::watch(shared.clone()));
    tokio::spawn(listen::accept(endpoint.clone(), shared));
    let ca_file = data_dir.join(tls::CA_FILE);
    Ok(Running {
        address,
        ca_file,
        first_start,
        endpoint,
        mailbox,
        config: again,
        drain,
        sessions,
        ended,
    })
}

/// Writes what a new data folder needs: the default vhost and the admin user. Leaves the effects to the driver: a queue
/// whose deletion was cut off goes on being removed.
fn prepare(broker: &mut Broker, store: &Store) -> Result<(Option<AdminCredential>, Vec<Effect>), StartError> {
    let mut commit = Commit::default();
    broker.bootstrap(&mut commit);
    let credential = if broker.topology().users.is_empty() {
        let password = auth::generate_password().map_err(StartError::Random)?;
        let input = Input::PutUser {
            name: ADMIN.to_owned(),
            verifier: auth::verifier(&password).map_err(StartError::Random)?,
        };
        broker.handle(input, now(), &mut commit);
        Some(AdminCredential {
            user: ADMIN.to_owned(),
            password,
        })
    } else {
        None
    };
    broker.finish(now(), &mut commit);
    if !commit.records.is_empty() {
        store.apply(&[&commit.records], true)?;
    }
    Ok((credential, commit.effects))
}

/// Starts the driver, with the threads that commit, read and reclaim.
fn drive(
    (broker, effects): (Broker, Vec<Effect>),
    (inbox, bell): (Inbox, Doorbell),
    mailbox: &Mailbox,
    store: &Store,
    host: Arc<Host>,
    routes: Arc<ArcSwap<Routes>>,
) -> Result<oneshot::Receiver<Ended>, StartError> {
    let to_driver = mailbox.clone();
    let committer = Committer::start(store.clone(), move |done| {
        to_driver.send_now(match done {
            Done::Durable { through } => Mail::Durable { through },
            Done::Failed { error } => Mail::StoreFailed(error),
        });
    })
    .map_err(StartError::Thread)?;
    let to_driver = mailbox.clone();
    let reader = Reader::start(store.clone(), move |done| {
        to_driver.send_now(read_mail(done));
    })
    .map_err(StartError::Thread)?;
    let reclaimer = Reclaimer::start(store.clone()).map_err(StartError::Thread)?;
    let (outbox, dispatcher) = outbox();
    tokio::spawn(dispatcher.run(mailbox.clone()));
    let driver = Driver::new(
        broker,
        effects,
        (inbox, outbox),
        (committer, reader),
        host,
        routes,
    );
    let shard = Arc::new(Shard::new(driver, bell));
    tokio::spawn(shard.clone().work_off_light_mail());
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            let ended = shard.run();
            reclaimer.stop();
            // Nobody is left to hear it when the broker was dropped.
            let _ = sender.send(ended);
        })
        .map_err(StartError::Thread)?;
    Ok(ended)
}

/// What the driver is told of a read. One that failed ends the broker: a message that was confirmed cannot be read, and
/// going on would lose it silently.
fn read_mail(done: ReadDone) -> Mail {
    match done {
        ReadDone::Index {
            queue,
            from,
            result: Ok(entries),
        } => Mail::Input(Input::IndexRead { queue, from, entries }),
        ReadDone::Due {
            of,
            after,
            result: Ok(entries),
        } => Mail::Input(Input::DueRead { of, after, entries }),
        ReadDone::Chunk {
            lane,
            base,
            result: Ok(chunk),
        } => Mail::Input(Input::ChunkRead { lane, base, chunk }),
        ReadDone::Chunk {
            lane,
            base,
            result: Err(StoreError::Settled { .. }),
        } => Mail::Input(Input::ChunkRead {
            lane,
            base,
            chunk: None,
        }),
        ReadDone::Index {
            result: Err(error), ..
        }
        | ReadDone::Due {
            result: Err(error), ..
        }
        | ReadDone::Chunk {
            result: Err(error), ..
        } => Mail::StoreFailed(error),
    }
}

/// A key of this data folder: made once, readable by the broker only.
fn secret(data_dir: &Path, name: &str) -> Result<[u8; 32], StartError> {
    let path = data_dir.join(name);
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(key) = <[u8; 32]>::try_from(bytes)
    {
        return Ok(key);
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(StartError::Random)?;
    tls::write(&path, &key, 0o600)?;
    Ok(key)
}

impl Running {
    /// Returns when the broker stops by itself, with the reason. When that is a full disk, [`Running::reopen`] goes on.
    pub async fn failed(&mut self) -> StartError {
        match (&mut self.ended).await {
            Ok(Ended::StoreFailed(error)) => {
                let reason = match error {
                    StoreError::DiskFull => "the broker's disk is full; it is back once there is room",
                    _ => "the broker's store failed",
                };
                self.close(ErrorCode::StoreFailed, reason);
                StartError::Write(error)
            }
            Ok(Ended::Stopped | Ended::Panicked) | Err(_) => StartError::DriverLost,
        }
    }

    /// Goes on after a write that found the disk full: takes down what is left, and starts anew on the same folder and
    /// address as soon as the store can be opened. Until there is more room than the watermark, publishes are blocked
    /// then; what waits can be consumed. A store takes nothing after a failed write, but opening it anew finds
    /// everything that was confirmed.
    ///
    /// # Errors
    /// When it cannot start for another reason than room.
    pub async fn reopen(self) -> Result<Running, StartError> {
        let Running {
            endpoint,
            config,
            drain,
            mut sessions,
            ..
        } = self;
        tracing::error!("the disk is full; the broker is back by itself once there is room");
        let _ = drain.send(true);
        // Sessions hold the store. One that lingers only makes the next attempts fail.
        let ended = async { while sessions.recv().await.is_some() {} };
        let _ = tokio::time::timeout(config.drain_timeout, ended).await;
        endpoint.wait_idle().await;
        drop(endpoint);
        loop {
            tokio::time::sleep(REOPEN_EVERY).await;
            match start(config.clone()).await {
                Err(error) if error.may_pass() => tracing::warn!(%error, "the broker cannot go on yet"),
                other => {
                    return other.inspect(|_| tracing::info!("the broker goes on"));
                }
            }
        }
    }

    /// Stops in order: no new connections, clients are told, what is on its way is confirmed, connections close,
    /// everything is on disk.
    ///
    /// # Errors
    /// When the store failed meanwhile.
    pub async fn shutdown(mut self) -> Result<(), StartError> {
        tracing::info!("draining");
        // Receivers exist as long as sessions do.
        let _ = self.drain.send(true);
        let drained = async { while self.sessions.recv().await.is_some() {} };
        if tokio::time::timeout(self.config.drain_timeout, drained)
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?self.config.drain_timeout, "some connections did not finish in time");
        }
        self.close(ErrorCode::ShuttingDown, "the broker is shutting down");
        self.endpoint.wait_idle().await;
        self.mailbox.send_now(Mail::Stop);
        match self.ended.await {
            Ok(Ended::Stopped) => Ok(()),
            Ok(Ended::StoreFailed(error)) => Err(StartError::Write(error)),
            Ok(Ended::Panicked) | Err(_) => Err(StartError::DriverLost),
        }
    }

    fn close(&self, code: ErrorCode, reason: &str) {
        self.endpoint
            .close(VarInt::from_u32(u16::from(code).into()), reason.as_bytes());
    }
}
