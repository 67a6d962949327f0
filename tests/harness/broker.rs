//! One broker process and its data folder.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pointsman_sdk::{Client, ClientBuilder};
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::pointsman;

/// Longest a broker may take to start or stop before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a broker is started with beside its folder and port.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
    /// The data folder; otherwise one of its own.
    pub data_dir: Option<PathBuf>,
}

impl Settings {
    /// Adds arguments of `serve`.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Settings {
        self.args.extend(args.map(str::to_owned));
        self
    }

    /// Puts its data elsewhere.
    pub fn data_dir(mut self, path: &Path) -> Settings {
        self.data_dir = Some(path.to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Settings {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running broker on an ephemeral port of loopback. It is killed when this is dropped; when the test is failing,
/// its log is printed.
pub struct Broker {
    folder: TempDir,
    settings: Settings,
    process: Option<Process>,
    address: SocketAddr,
    password: String,
    log: Arc<Mutex<String>>,
    /// How long the last start took, from spawning the process to its line that it listens.
    pub started_in: Duration,
}

struct Process {
    child: Child,
    log_reader: JoinHandle<()>,
}

impl Broker {
    /// Starts a broker on an empty folder.
    ///
    /// # Panics
    /// When it does not start; so does everything here.
    pub fn start() -> Broker {
        Broker::with(Settings::default())
    }

    /// Starts a broker with settings of the test's own.
    pub fn with(settings: Settings) -> Broker {
        let mut broker = Broker::new(settings);
        let started = broker.launch();
        let password = started["admin"]["password"].as_str();
        broker.password = password.expect("the first start shows the password").to_owned();
        broker
    }

    /// Starts a broker on a data folder that another one made, whose admin has this password.
    pub fn on(data_dir: &Path, password: &str) -> Broker {
        let mut broker = Broker::new(Settings::default().data_dir(data_dir));
        password.clone_into(&mut broker.password);
        broker.restart();
        broker
    }

    fn new(settings: Settings) -> Broker {
        let folder = tempfile::Builder::new()
            .prefix("pointsman-test-")
            .tempdir()
            .expect("a folder can be made");
        Broker {
            folder,
            settings,
            process: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            password: String::new(),
            log: Arc::default(),
            started_in: Duration::ZERO,
        }
    }

    /// Starts it again on the same folder and port.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker still runs");
        let started = self.launch();
        assert!(
            started["admin"].is_null(),
            "only the first start makes a credential"
        );
    }

    /// As [`Broker::restart`], with other settings.
    pub fn restart_with(&mut self, settings: Settings) {
        self.settings = settings;
        self.restart();
    }

    /// Starts it again and kills it after so long, wherever it is by then.
    pub fn start_and_kill_after(&mut self, after: Duration) {
        assert!(self.process.is_none(), "the broker still runs");
        let mut child = self.serve_command().spawn().expect("the binary starts");
        std::thread::sleep(after);
        child.kill().expect("a process of ours can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().expect("a process of ours can be killed");
            process.child.wait().expect("a child can be waited for");
            process.log_reader.join().expect("the log is read to its end");
        }
    }

    /// Sends SIGTERM and returns at once.
    pub fn ask_to_stop(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// Sends SIGTERM and waits until it has stopped.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait()
    }

    /// Waits until it has stopped by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the broker runs");
        let status = wait(&mut process.child).unwrap_or_else(|| {
            let _ = process.child.kill();
            panic!("the broker did not stop within {PATIENCE:?}")
        });
        process.log_reader.join().expect("the log is read to its end");
        status
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// A client as `admin`.
    pub async fn client(&self) -> Client {
        self.client_builder()
            .connect()
            .await
            .expect("the broker takes the admin's credential")
    }

    /// The same with settings of the test's own.
    pub fn client_builder(&self) -> ClientBuilder {
        Client::builder()
            .server(self.address.to_string())
            .ca_file(self.ca())
            .credentials("admin", self.password.clone())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin's password.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The CA its certificate is checked against.
    pub fn ca(&self) -> PathBuf {
        self.data_dir().join("ca.pem")
    }

    /// Its data folder.
    pub fn data_dir(&self) -> PathBuf {
        let own = || self.folder.path().join("data");
        self.settings.data_dir.clone().unwrap_or_else(own)
    }

    /// A folder for the test's own files; it goes with the broker.
    pub fn work_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The contexts file it writes its credential into.
    pub fn contexts_file(&self) -> PathBuf {
        self.folder.path().join("contexts.toml")
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the broker runs").child.id()
    }

    /// What it has logged so far, over all its starts.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// The command that starts another broker on this folder.
    pub fn serve_command(&self) -> Command {
        let mut command = Command::new(pointsman());
        command
            .args(["--output", "json", "--contexts-file"])
            .arg(self.contexts_file())
            .arg("serve")
            .arg("--listen")
            .arg(self.address.to_string())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(&self.settings.args)
            .envs(self.settings.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the process and returns what it says once it listens.
    fn launch(&mut self) -> Value {
        let since = Instant::now();
        let mut child = self.serve_command().spawn().expect("the binary starts");
        let (stdout, stderr) = (
            child.stdout.take().expect("is piped"),
            child.stderr.take().expect("is piped"),
        );
        let log = self.log.clone();
        let log_reader = std::thread::spawn(move || collect(stderr, &log));
        self.process = Some(Process { child, log_reader });
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("standard output is text");
        self.started_in = since.elapsed();
        let started: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("`serve` did not say where it listens: {error} in {line:?}"));
        self.address = started["listen"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("it says where");
        started
    }
}

impl Drop for Broker {
    #[expect(
        clippy::print_stderr,
        reason = "the log of a broker belongs to the output of the test that fails on it"
    )]
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "---- log of the broker at {} ----\n{}---- end of log ----",
                self.address,
                self.log()
            );
        }
    }
}

/// Waits for a process to end, for so long as a test has [`PATIENCE`].
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn collect(mut stderr: impl Read, log: &Mutex<String>) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = stderr.read(&mut buffer) {
        log.lock()
            .expect("no reader panics")
            .push_str(&String::from_utf8_lossy(&buffer[..len]));
    }
}
