//! How a store is opened.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::faults::Faults;

/// When a confirm's records are on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Before the confirm: it survives power loss.
    #[default]
    Always,
    /// At most that long after the confirm: it survives a crash of the broker, and power loss once that time is over.
    Interval(Duration),
    /// When the system writes by itself: it survives a crash of the broker, not power loss.
    Never,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Always => f.write_str("always"),
            Fsync::Interval(every) => write!(f, "interval:{}ms", every.as_millis()),
            Fsync::Never => f.write_str("never"),
        }
    }
}

/// The text names no fsync setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no fsync setting; it is `always`, `never` or, with 1 to 60000 ms, `interval:100ms`")]
pub struct ParseFsyncError(String);

impl FromStr for Fsync {
    type Err = ParseFsyncError;

    /// Takes what `Display` writes.
    fn from_str(text: &str) -> Result<Fsync, ParseFsyncError> {
        let interval = || {
            let millis = text.strip_prefix("interval:")?.strip_suffix("ms")?.parse().ok()?;
            (1..=60_000)
                .contains(&millis)
                .then(|| Fsync::Interval(Duration::from_millis(millis)))
        };
        match text {
            "always" => Ok(Fsync::Always),
            "never" => Ok(Fsync::Never),
            _ => interval().ok_or_else(|| ParseFsyncError(text.to_owned())),
        }
    }
}

/// How a store is opened. The defaults are for a broker that has the machine to itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a confirm's records are on disk.
    pub fsync: Fsync,
    /// Most bytes of journals, which bounds the time to open after a crash.
    pub journal_bytes: u64,
    /// Bytes of the log collected in memory before they become a table.
    pub log_memtable_bytes: u64,
    /// The same for each of the other keyspaces.
    pub memtable_bytes: u64,
    /// Bytes of table blocks kept in memory.
    pub cache_bytes: u64,
    /// How many times the bytes of unsettled messages the log may take on disk, once reclaim has caught up and beside
    /// [`Options::reclaim_slack_bytes`]; more than 1. The lower, the more often a message that outlives those around
    /// it is written again.
    pub space_amplification: f64,
    /// Bytes of dead messages and old values that are never worth the work: a few tables' worth, so that a broker whose
    /// queues are short is left in peace.
    pub reclaim_slack_bytes: u64,
    /// Where faults are injected; by default nowhere.
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fsync: Fsync::Always,
            journal_bytes: 256 * 1024 * 1024,
            log_memtable_bytes: 32 * 1024 * 1024,
            memtable_bytes: 16 * 1024 * 1024,
            cache_bytes: 32 * 1024 * 1024,
            space_amplification: 2.0,
            reclaim_slack_bytes: 64 * 1024 * 1024,
            faults: Faults::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fsync_setting_is_read_back_as_it_is_shown() {
        for fsync in [
            Fsync::Always,
            Fsync::Never,
            Fsync::Interval(Duration::from_millis(250)),
        ] {
            assert_eq!(fsync.to_string().parse(), Ok(fsync));
        }
        assert_eq!(
            "interval:100ms".parse(),
            Ok(Fsync::Interval(Duration::from_millis(100)))
        );
    }

    #[test]
    fn a_text_that_is_no_fsync_setting_is_refused_by_name() {
        for text in [
            "",
            "sometimes",
            "interval:0ms",
            "interval:60001ms",
            "interval:100",
            "interval:ms",
        ] {
            let error = text.parse::<Fsync>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}
