//! Where and when.

use std::fs;

use crate::server;

/// The machine, in one line.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or("unknown processor")
        .trim_start_matches([' ', '\t', ':']);
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{cores} cores of {model}, {} GiB, Linux {}",
        kib >> 20,
        kernel.trim()
    )
}

/// The time in UTC.
pub(crate) fn now() -> String {
    server::version("date", &["-u", "+%Y-%m-%d %H:%M"]).unwrap_or_default()
}
