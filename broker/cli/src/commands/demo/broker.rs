//! The demo's own broker: this program run again as `serve`, on a free port and in a folder of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use pointsman_protocol::{DEFAULT_PORT, DEFAULT_VHOST};
use serde_json::Value as Json;

use crate::commands::App;
use crate::contexts::{Context, Contexts, LOCAL};
use crate::error::CliError;
use crate::target::Target;

/// How long a broker may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that ends with the demo.
pub(crate) struct ChildBroker {
    child: Child,
    folder: PathBuf,
    listen: SocketAddr,
    context: Context,
}

/// Where the broker of a demo's folder keeps its data.
pub(crate) fn data_dir(folder: &Path) -> PathBuf {
    folder.join("broker")
}

impl ChildBroker {
    /// Starts a broker in an empty folder and waits until it listens.
    pub(crate) async fn start(folder: &Path, app: &App) -> Result<ChildBroker, CliError> {
        let (contexts_file, log_file) = (folder.join("contexts.toml"), folder.join("broker.log"));
        let log =
            std::fs::File::create(&log_file).map_err(|error| CliError::file("write", &log_file, &error))?;
        let cannot =
            |error: std::io::Error| CliError::failed("Start", format!("cannot start a broker: {error}"));
        let mut child = Command::new(std::env::current_exe().map_err(cannot)?)
            .args(["serve", "--output", "json", "--listen", "127.0.0.1:0"])
            .args(["--log", app.global.log.as_deref().unwrap_or("info")])
            .arg("--data-dir")
            .arg(data_dir(folder))
            .arg("--contexts-file")
            .arg(&contexts_file)
            .env_remove("POINTSMAN_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(cannot)?;
        let listen = announced(child.stdout.take()).await;
        let Some(listen) = listen else {
            let _ = child.kill();
            let said = std::fs::read_to_string(&log_file).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(CliError::failed(
                "Start",
                format!("the demo's broker did not start: {last}"),
            ));
        };
        let context = Contexts::load(&contexts_file)?.get(LOCAL)?.clone();
        Ok(ChildBroker {
            child,
            folder: folder.to_owned(),
            listen,
            context,
        })
    }

    /// The address it listens on.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// How to connect to it.
    pub(crate) fn target(&self) -> Result<Target, CliError> {
        let missing = || CliError::failed("Start", "the demo's broker gave no credential");
        Ok(Target {
            host: self.listen.ip().to_string(),
            port: self.listen.port(),
            vhost: DEFAULT_VHOST.to_owned(),
            user: self.context.user.clone().ok_or_else(missing)?,
            password: self.context.password.clone().ok_or_else(missing)?,
            ca: self.context.ca.clone().ok_or_else(missing)?,
        })
    }

    /// A context for this broker when it is started again by hand, at the usual port.
    pub(crate) fn context_at_default_port(&self) -> Context {
        Context {
            server: Some(format!("127.0.0.1:{DEFAULT_PORT}")),
            ..self.context.clone()
        }
    }

    /// Lets it drain and end.
    pub(crate) async fn stop(mut self) -> Result<(), CliError> {
        self.ask_to_stop();
        let ended = async {
            loop {
                match self.child.try_wait() {
                    Ok(Some(status)) => return Ok(status),
                    Ok(None) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => return Err(error),
                }
            }
        };
        let log = self.folder.join("broker.log");
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(
                CliError::failed("Stop", format!("the demo's broker ended with {status}"))
                    .hint(format!("its log is {}", log.display())),
            ),
            Ok(Err(error)) => Err(CliError::failed(
                "Stop",
                format!("the demo's broker cannot be waited for: {error}"),
            )),
            Err(_) => Err(CliError::failed("Stop", "the demo's broker does not stop")
                .hint(format!("its log is {}", log.display()))),
        }
    }

    #[cfg(unix)]
    fn ask_to_stop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        // A process that has ended already needs no asking.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
    }

    #[cfg(not(unix))]
    fn ask_to_stop(&mut self) {
        let _ = self.child.kill();
    }
}

/// A demo that ends early leaves no broker behind.
impl Drop for ChildBroker {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The address in the first line a broker writes; `None` when it ends or is silent for too long.
async fn announced(stdout: Option<ChildStdout>) -> Option<SocketAddr> {
    let stdout = stdout?;
    let first_line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).ok().map(|_| line)
    });
    let line = tokio::time::timeout(PATIENCE, first_line).await.ok()?.ok()??;
    let started: Json = serde_json::from_str(&line).ok()?;
    started["listen"].as_str()?.parse().ok()
}
