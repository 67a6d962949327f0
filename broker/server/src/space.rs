//! The disk alarm: publishes stop before the disk is full, and start again by themselves.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::session::{Shared, going_away};

/// How often the free space is looked at. A disk that fills faster than the watermark in this time fails a write
/// instead, after which the store is opened anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why publishes are blocked from the start, if they are.
pub(crate) fn blocked_from_start(config: &Config) -> Option<String> {
    let free = free_space(&config.data_dir)?;
    is_low(free, config.disk_free_min, false).then(|| reason(free, config))
}

/// Watches the free space of the data folder's disk until the broker drains.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut blocked = shared.blocked.borrow().is_some();
    let mut draining = shared.draining.clone();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = going_away(&mut draining) => return,
        }
        let Some(free) = free_space(&shared.config.data_dir) else {
            continue;
        };
        let low = is_low(free, shared.config.disk_free_min, blocked);
        if low == blocked {
            continue;
        }
        blocked = low;
        let reason = low.then(|| reason(free, &shared.config));
        match &reason {
            Some(reason) => tracing::error!(reason, "publishes are blocked"),
            None => tracing::info!(free, "publishes are taken again"),
        }
        shared.blocked.send_replace(reason);
    }
}

fn reason(free: u64, config: &Config) -> String {
    format!(
        "the disk has {free} bytes free, less than disk_free_min = {}",
        config.disk_free_min
    )
}

/// Free space has to rise a tenth above the watermark before the alarm ends, so that it does not flicker.
fn is_low(free: u64, min: u64, blocked: bool) -> bool {
    free < if blocked { min + min / 10 } else { min }
}

/// Free bytes for this user on the disk of `path`, if the system says.
pub(crate) fn free_space(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alarm_ends_only_a_tenth_above_the_watermark() {
        assert!(is_low(999, 1_000, false));
        assert!(!is_low(1_000, 1_000, false));
        assert!(is_low(1_050, 1_000, true));
        assert!(!is_low(1_100, 1_000, true));
    }
}
