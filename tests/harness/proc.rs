//! What a process costs, from `/proc`.

use std::fs;
use std::time::Duration;

/// Length of a clock tick of `/proc/PID/stat`: the kernel's ABI fixes it for user space on every architecture we
/// build for.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory, in bytes.
///
/// # Panics
/// When the process is gone, or this is not Linux.
pub fn rss(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most memory that was ever resident, in bytes.
///
/// # Panics
/// When the process is gone, or this is not Linux.
pub fn peak_rss(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let value = line.expect("a process has memory").trim();
    let kib: u64 = value.trim_end_matches(" kB").parse().expect("it is in kB");
    kib * 1024
}

/// Bytes it caused to be written to disks so far.
///
/// # Panics
/// When the process is gone or not ours, or this is not Linux.
pub fn written(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("the process is ours");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|value| value.parse().ok())
        .expect("the kernel counts written bytes")
}

/// CPU time spent so far, in user space and in the kernel, to one tick of 10 ms.
///
/// # Panics
/// When the process is gone, or this is not Linux.
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')').expect("stat names the program");
    let field = |at: usize| {
        fields
            .split_whitespace()
            .nth(at)
            .and_then(|text| text.parse::<u32>().ok())
    };
    let (user, system) = (field(11).expect("utime"), field(12).expect("stime"));
    TICK * (user + system)
}

/// How often all its threads were put to sleep and woken so far: an idle process that polls is seen here, whatever
/// little CPU it uses.
///
/// # Panics
/// When the process is gone, or this is not Linux.
pub fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let statuses = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.map(|status| voluntary_switches(&status)).sum()
}

fn voluntary_switches(status: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// The machine, in one line: processors, memory, kernel.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown processor");
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} x {}, {} GiB, Linux {}",
        model.trim_start_matches([' ', '\t', ':']),
        kib / 1024 / 1024,
        kernel.trim()
    )
}
