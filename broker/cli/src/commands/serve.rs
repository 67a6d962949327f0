//! `pointsman serve`: run a broker until it is asked to stop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use etcetera::BaseStrategy;
use pointsman_server::{AdminCredential, Config, Layer, StartError};
use pointsman_store::{OpenError, StoreError};
use serde::Serialize;

use crate::commands::{App, log_filter, variable};
use crate::contexts::{Context, Contexts, LOCAL};
use crate::error::CliError;
use crate::logs::{self, LogFormat};
use crate::signals::Stop;
use crate::target;

/// Settings of a broker; each also has an environment variable and a key in the configuration file.
#[derive(Debug, Args)]
#[command(
    after_help = "Flags win over the environment (POINTSMAN_LISTEN, POINTSMAN_DATA_DIR, ...), and that over the file."
)]
pub(crate) struct ServeArgs {
    /// A configuration file in TOML
    #[arg(long, value_name = "FILE", env = "POINTSMAN_CONFIG")]
    config: Option<PathBuf>,
    /// The UDP address to listen on; port 0 takes a free one [default: 127.0.0.1:7654]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where messages and everything else durable is kept [default: pointsman in your data folder]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// When a confirm is sent: always after a sync, interval:100ms (1 to 60000) or never [default: always]
    #[arg(long, value_name = "WHEN")]
    fsync: Option<String>,
    /// The largest message body, in bytes
    #[arg(long, value_name = "BYTES")]
    body_max: Option<u32>,
    /// Threads that serve connections and run routers
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,
    /// How log lines look
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    log_format: LogFormat,
}

/// What a broker says once it listens; its JSON form is one line.
#[derive(Debug, Serialize)]
struct Started {
    /// The address and port it listens on.
    listen: SocketAddr,
    data_dir: PathBuf,
    ca: PathBuf,
    /// At the first start only.
    admin: Option<Admin>,
}

/// The credential made at first start.
#[derive(Debug, Serialize)]
struct Admin {
    user: String,
    password: String,
    /// The context it was saved in.
    context: String,
    contexts_file: PathBuf,
}

pub(crate) fn run(app: &App, args: ServeArgs) -> Result<(), CliError> {
    logs::start(&log_filter(app, logs::SERVE_FILTER), args.log_format)?;
    let config = config(args)?;
    let runtime = pointsman_server::runtime(&config).map_err(|error| {
        CliError::failed(
            "Start",
            format!("cannot start the threads of the broker: {error}"),
        )
    })?;
    runtime.block_on(serve(app, config))
}

fn config(args: ServeArgs) -> Result<Config, CliError> {
    let file = args.config.clone();
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let program = std::env::current_exe().map_err(|error| {
        CliError::failed("Start", format!("cannot find this program's own file: {error}"))
    })?;
    let compiler = (program, vec!["compile-module".to_owned()]);
    Config::load(file.as_deref(), env, args.layer(), default_data_dir()?, compiler)
        .map_err(|error| CliError::usage(error.to_string()))
}

impl ServeArgs {
    fn layer(self) -> Layer {
        Layer {
            listen: self.listen,
            data_dir: self.data_dir,
            fsync: self.fsync,
            body_max: self.body_max,
            workers: self.workers,
            ..Layer::default()
        }
    }
}

/// The platform's usual place for what a program keeps.
pub(crate) fn default_data_dir() -> Result<PathBuf, CliError> {
    let folders = etcetera::choose_base_strategy().map_err(|_| {
        CliError::usage("there is no home folder to keep the data in").hint("name a folder with --data-dir")
    })?;
    Ok(folders.data_dir().join("pointsman"))
}

async fn serve(app: &App, config: Config) -> Result<(), CliError> {
    // From here on a request to stop is kept, so that one during recovery is not lost.
    let mut stop = Stop::listen()
        .map_err(|error| CliError::failed("Start", format!("cannot listen for signals: {error}")))?;
    let data_dir = config.data_dir.clone();
    let mut running = pointsman_server::start(config).await.map_err(start_error)?;
    announce(
        app,
        &data_dir,
        running.address,
        &running.ca_file,
        running.first_start.as_ref(),
    )?;
    loop {
        let why = tokio::select! {
            () = stop.asked() => return running.shutdown().await.map_err(start_error),
            why = running.failed() => why,
        };
        if !why.is_disk_full() {
            return Err(stopped(&why));
        }
        running = tokio::select! {
            () = stop.asked() => return Ok(()),
            reopened = running.reopen() => reopened.map_err(start_error)?,
        };
    }
}

fn announce(
    app: &App,
    data_dir: &Path,
    listen: SocketAddr,
    ca: &Path,
    credential: Option<&AdminCredential>,
) -> Result<(), CliError> {
    let contexts_file = target::contexts_path(&app.global, variable)?;
    let context = Context {
        server: Some(reachable(listen).to_string()),
        ca: Some(std::path::absolute(ca).unwrap_or_else(|_| ca.to_owned())),
        vhost: None,
        user: credential.map(|made| made.user.clone()),
        password: credential.map(|made| made.password.clone()),
    };
    let saved = remember(&contexts_file, context, credential.is_some())?;
    let admin = credential.zip(saved).map(|(made, context)| Admin {
        user: made.user.clone(),
        password: made.password.clone(),
        context,
        contexts_file,
    });
    let started = Started {
        listen,
        data_dir: data_dir.to_owned(),
        ca: ca.to_owned(),
        admin,
    };
    // A broker serves on when nobody reads what it says.
    match app.output.done(&started, &started.text()) {
        Err(CliError::OutputClosed) => Ok(()),
        other => other,
    }
}

impl Started {
    fn text(&self) -> String {
        let mut text = format!(
            "pointsman {} listens on {}\n  data folder     {}\n  CA certificate  {}",
            env!("CARGO_PKG_VERSION"),
            self.listen,
            self.data_dir.display(),
            self.ca.display(),
        );
        if let Some(admin) = &self.admin {
            text.push_str(&format!(
                "\n\nThis is the first start. The admin's password is shown this once:\n  user            {}\n  password        {}\n\
                 It is saved as context `{}` in {}, so commands on this machine just work: pointsman {}status",
                admin.user,
                admin.password,
                admin.context,
                admin.contexts_file.display(),
                if admin.context == LOCAL { String::new() } else { format!("--context {} ", admin.context) },
            ));
        }
        text
    }
}

/// Keeps the contexts of this machine's brokers right: a new credential gets a context, and contexts that trust this
/// broker's CA follow it to its address. Returns the name of the new one.
fn remember(path: &Path, context: Context, is_new: bool) -> Result<Option<String>, CliError> {
    let mut contexts = Contexts::load(path)?;
    let before = contexts.clone();
    for known in contexts
        .contexts
        .values_mut()
        .filter(|known| known.ca == context.ca)
    {
        known.server.clone_from(&context.server);
    }
    let name = is_new.then(|| contexts.add(LOCAL, context));
    if contexts != before {
        contexts.save(path)?;
    }
    Ok(name)
}

/// The address a client on this machine connects to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn start_error(error: StartError) -> CliError {
    let hint = match &error {
        StartError::Store(OpenError::InUse { .. }) => {
            "stop that process, or name another folder with --data-dir"
        }
        StartError::Store(OpenError::Damaged { .. } | OpenError::Fjall { .. }) | StartError::Restore(_) => {
            "`pointsman repair --dry-run` says which messages can be saved; it changes nothing"
        }
        _ => "",
    };
    CliError::failed("Start", error.to_string()).hint(hint)
}

/// The last word of a broker that stopped by itself.
fn stopped(why: &StartError) -> CliError {
    let hint = match why {
        StartError::Write(StoreError::Damaged(_)) => {
            "`pointsman repair --dry-run` says which messages can be saved; it changes nothing"
        }
        _ => "",
    };
    CliError::failed("Stopped", format!("the broker stopped: {why}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(ca: &Path, server: &str) -> Context {
        Context {
            server: Some(server.into()),
            ca: Some(ca.to_owned()),
            ..Context::default()
        }
    }

    #[test]
    fn the_first_broker_becomes_the_context_local_and_follows_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let (path, ca) = (folder.path().join("contexts.toml"), folder.path().join("ca.pem"));
        std::fs::write(&ca, "").unwrap();
        assert_eq!(
            remember(&path, context(&ca, "127.0.0.1:1"), true)
                .unwrap()
                .as_deref(),
            Some("local")
        );
        assert_eq!(remember(&path, context(&ca, "127.0.0.1:2"), false).unwrap(), None);
        assert_eq!(
            Contexts::load(&path).unwrap().contexts["local"].server.as_deref(),
            Some("127.0.0.1:2")
        );
    }

    #[test]
    fn a_second_broker_does_not_take_the_context_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        let [first, second] = ["a.pem", "b.pem"].map(|name| folder.path().join(name));
        std::fs::write(&first, "").unwrap();
        std::fs::write(&second, "").unwrap();
        remember(&path, context(&first, "127.0.0.1:1"), true).unwrap();
        assert_eq!(
            remember(&path, context(&second, "127.0.0.1:2"), true)
                .unwrap()
                .as_deref(),
            Some("local-2")
        );
        assert_eq!(
            Contexts::load(&path).unwrap().contexts["local"].server.as_deref(),
            Some("127.0.0.1:1")
        );
    }

    #[test]
    fn the_context_of_a_broker_that_is_gone_is_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        remember(&path, context(Path::new("/gone/ca.pem"), "127.0.0.1:1"), true).unwrap();
        let name = remember(&path, context(&folder.path().join("ca.pem"), "127.0.0.1:2"), true).unwrap();
        assert_eq!(name.as_deref(), Some("local"));
    }

    #[test]
    fn a_broker_on_all_addresses_is_reached_on_loopback() {
        let reach = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:5"), "127.0.0.1:5");
        assert_eq!(reach("[::]:5"), "[::1]:5");
        assert_eq!(reach("10.0.0.1:5"), "10.0.0.1:5");
    }
}
