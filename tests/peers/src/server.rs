//! A server process on loopback with a data folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// Longest a server may take to start.
const START: Duration = Duration::from_secs(60);
/// Longest it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(10);
/// Length of a clock tick of `/proc/PID/stat`, which the kernel's ABI fixes for user space.
const TICK: Duration = Duration::from_millis(10);

/// A running server. It is stopped, and its folder removed, when this is dropped.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    /// What else has to be run to stop it.
    at_end: Option<Command>,
}

impl Server {
    /// Starts what `command` makes of an empty folder; its output goes into a file there.
    pub(crate) fn start(command: impl FnOnce(&Path) -> Result<Command, String>) -> Result<Server, String> {
        let folder = tempfile::Builder::new()
            .prefix("pointsman-peers-")
            .tempdir()
            .map_err(text)?;
        let mut command = command(folder.path())?;
        let log = fs::File::create(folder.path().join("log")).map_err(text)?;
        let errors = log.try_clone().map_err(text)?;
        // A group of its own, so that Ctrl-C on the terminal reaches it through us only, and in order.
        command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))?;
        Ok(Server {
            child,
            folder,
            at_end: None,
        })
    }

    /// Runs this as well when the server is stopped.
    pub(crate) fn at_end(mut self, command: Command) -> Server {
        self.at_end = Some(command);
        self
    }

    /// Waits until it listens on a TCP port.
    pub(crate) fn listens(mut self, port: u16) -> Result<Server, String> {
        self.wait(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok())?;
        Ok(self)
    }

    /// Waits until it has written a line to its output, and returns that.
    pub(crate) fn first_line(&mut self) -> Result<String, String> {
        self.wait(|log| log.split_once('\n').map(|(line, _)| line.to_owned()))
    }

    fn wait<T>(&mut self, ready: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let start = Instant::now();
        loop {
            let log = self.log();
            if let Some(ready) = ready(&log) {
                return Ok(ready);
            }
            let ended = self.child.try_wait().map_err(text)?;
            if ended.is_some() || start.elapsed() > START {
                let last: Vec<&str> = log.lines().rev().take(8).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                return Err(format!("the server did not start:\n{}", last.join("\n")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its data folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process and all that descend from it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().parse().ok();
            if let Some((pid, parent)) = pid.and_then(|pid| Some((pid, stat(pid, 1)? as u32))) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while let Some(parent) = all.get(at) {
            all.extend(children.remove(parent).unwrap_or_default());
            at += 1;
        }
        all
    }

    /// CPU time of all its processes, in user space and in the kernel.
    pub(crate) fn cpu(&self) -> Duration {
        let ticks = |pid| Some(stat(pid, 11)? + stat(pid, 12)?);
        let ticks: u64 = self.processes().into_iter().filter_map(ticks).sum();
        TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// The most memory that was resident, in bytes, the peaks of all processes added up.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.processes().into_iter().filter_map(peak_memory).sum()
    }

    /// Takes its processes off the CPU while another server is measured.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets them go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                // It may have ended meanwhile.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.resume();
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.signal(Signal::KILL);
        let _ = self.child.wait();
        if let Some(mut command) = self.at_end.take() {
            let _ = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A number of `/proc/PID/stat`, counted behind the program's name, which may hold anything.
fn stat(pid: u32, field: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(field)?
        .parse()
        .ok()
}

fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// A TCP port of loopback that is free now, also for UDP.
pub(crate) fn free_port() -> Result<u16, String> {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
        let port = listener.local_addr().map_err(text)?.port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

/// The first line that a program says about its version, or `None` where it is not installed.
pub(crate) fn version(program: &str, args: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut out = String::new();
    child.stdout.take()?.read_to_string(&mut out).ok()?;
    child.wait().ok()?;
    Some(out.lines().next()?.trim().to_owned())
}

/// An error as text.
pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
