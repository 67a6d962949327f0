//! Counts a server's sync calls, from outside.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::server::{Server, text};

/// Calls that bring a file to disk.
const CALLS: &str = "fsync,fdatasync,sync_file_range,msync,syncfs,sync";
/// Longest that strace may take to begin and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// strace on all threads of a server. It slows them, so nothing is timed meanwhile.
pub(crate) struct Trace {
    strace: Child,
    summary: std::path::PathBuf,
}

impl Trace {
    /// Begins to count.
    pub(crate) fn start(server: &Server) -> Result<Trace, String> {
        let summary = server.folder().join("strace");
        let _ = fs::remove_file(&summary);
        let mut command = Command::new("strace");
        command
            .args(["-f", "-c", "-e"])
            .arg(format!("trace={CALLS}"))
            .arg("-o")
            .arg(&summary);
        for pid in server.processes() {
            command.args(["-p", &pid.to_string()]);
        }
        let strace = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot run strace ({error}): `apt-get install strace`"))?;
        let trace = Trace { strace, summary };
        let start = Instant::now();
        while !server.processes().into_iter().all(is_traced) {
            if start.elapsed() > PATIENCE {
                return Err("strace did not attach".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(trace)
    }

    /// Ends, and returns how many calls there were.
    pub(crate) fn stop(mut self) -> Result<u64, String> {
        self.interrupt();
        let start = Instant::now();
        while self.strace.try_wait().map_err(text)?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err("strace did not end".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let summary = fs::read_to_string(&self.summary).map_err(text)?;
        Ok(count(&summary))
    }

    fn interrupt(&self) {
        if let Some(pid) = Pid::from_raw(self.strace.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.interrupt();
    }
}

/// Whether all threads of a process are traced; one that is gone does not matter.
fn is_traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .all(|status| {
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_none_or(|tracer| tracer.trim() != "0")
        })
}

/// The calls of a summary: the fourth column of the lines that name one of ours.
fn count(summary: &str) -> u64 {
    let calls = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = words.last()?;
        CALLS
            .split(',')
            .any(|call| call == *name)
            .then(|| words.get(3)?.parse::<u64>().ok())?
    };
    summary.lines().filter_map(calls).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_a_summary_are_added_up_whether_or_not_some_failed() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            90.00    0.012345          61       200           fdatasync\n\
            10.00    0.000345          61         3         1 fsync\n\
            ------ ----------- ----------- --------- --------- ----------------\n\
            100.00    0.012690                   203         1 total\n";
        assert_eq!(count(summary), 203);
    }
}
