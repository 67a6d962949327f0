//! When what a confirm promises is on disk.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest interval, in milliseconds.
const INTERVAL_MS_MAX: u32 = 60_000;

/// When persistent messages are on disk, for a broker or for one queue of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fsync {
    /// Before the confirm: they survive power loss.
    #[default]
    Always,
    /// At most so many milliseconds after the confirm: they survive a crash of the broker, and power loss once that
    /// time is over.
    Interval(u32),
    /// When the system writes by itself: they survive a crash of the broker, not power loss.
    Never,
}

impl Fsync {
    /// How long after a write the sync may come; `None` when there need be none.
    pub fn within(self) -> Option<Duration> {
        match self {
            Fsync::Always => Some(Duration::ZERO),
            Fsync::Interval(ms) => Some(Duration::from_millis(ms.into())),
            Fsync::Never => None,
        }
    }

    /// Whether an interval is one that may be set.
    pub fn is_valid(self) -> bool {
        match self {
            Fsync::Always | Fsync::Never => true,
            Fsync::Interval(ms) => (1..=INTERVAL_MS_MAX).contains(&ms),
        }
    }
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Always => f.write_str("always"),
            Fsync::Interval(ms) => write!(f, "interval:{ms}ms"),
            Fsync::Never => f.write_str("never"),
        }
    }
}

/// The text names no fsync setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no fsync setting; it is `always`, `never` or, with 1 to {INTERVAL_MS_MAX} ms, `interval:100ms`"
)]
pub struct ParseFsyncError(String);

impl FromStr for Fsync {
    type Err = ParseFsyncError;

    /// Takes what `Display` writes.
    fn from_str(text: &str) -> Result<Fsync, ParseFsyncError> {
        let interval = || {
            let ms = text.strip_prefix("interval:")?.strip_suffix("ms")?;
            Some(Fsync::Interval(ms.parse().ok()?)).filter(|fsync| fsync.is_valid())
        };
        match text {
            "always" => Ok(Fsync::Always),
            "never" => Ok(Fsync::Never),
            _ => interval().ok_or_else(|| ParseFsyncError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fsync_setting_is_read_back_as_it_is_shown() {
        for fsync in [Fsync::Always, Fsync::Never, Fsync::Interval(250)] {
            assert_eq!(fsync.to_string().parse(), Ok(fsync));
        }
        assert_eq!("interval:100ms".parse(), Ok(Fsync::Interval(100)));
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
