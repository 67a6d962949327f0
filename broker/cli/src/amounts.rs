//! Spans, sizes and starts of streams as people write them: `7d`, `10GB`, `2026-01-31T12:00:00Z`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pointsman_protocol::consume::StartAt;

const SPANS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZES: [(&str, u64); 10] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// A span: a whole number and its unit.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    amount(text, &SPANS)
        .map(Duration::from_millis)
        .ok_or_else(|| "write it as a whole number and ms, s, m, h or d, such as 7d".to_owned())
}

/// A span that lasts: of messages that expire at once nothing would ever be delivered.
pub(crate) fn lasting_span(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("what expires at once is never delivered: write 1ms or more".to_owned()),
        span => Ok(span),
    }
}

/// A size in bytes: a whole number and, unless it is bytes, its unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    amount(text, &SIZES).ok_or_else(|| {
        "write it as a whole number and kB, MB, GB, TB, KiB, MiB or GiB, such as 10GB".to_owned()
    })
}

fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Where to start in a stream: a word, an offset, a UTC time, or a span that counts back from now.
pub(crate) fn start(text: &str) -> Result<StartAt, String> {
    let word = match text {
        "first" => Some(StartAt::First),
        "last" => Some(StartAt::Last),
        "next" => Some(StartAt::Next),
        _ => text.parse().ok().map(StartAt::Offset),
    };
    let ago = || {
        let time = SystemTime::now().checked_sub(span(text).ok()?);
        Some(StartAt::from(time.unwrap_or(UNIX_EPOCH)))
    };
    word.or_else(ago)
        .or_else(|| utc(text).map(StartAt::Timestamp))
        .ok_or_else(|| {
            "write `first`, `last`, `next`, an offset, a time as 2026-01-31T12:00:00Z, or how long ago, such as 10m"
                .to_owned()
        })
}

/// A time in UTC as milliseconds since the Unix epoch: RFC 3339 without a fraction, its `T` and `Z` left to taste.
fn utc(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let month_days = days_of_month(year, month)?;
    if year < 1970 || !(1..=month_days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds * 1_000)
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = (2..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    });
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn days_of_month(year: u64, month: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    Some(match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    })
}

/// Days since the Unix epoch: Howard Hinnant's `days_from_civil`, "chrono-Compatible Low-Level Date Algorithms".
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

/// Milliseconds of a span.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_need_a_known_unit_and_must_fit() {
        assert_eq!(span("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(lasting_span("1ms"), Ok(Duration::from_millis(1)));
        assert!(lasting_span("0ms").is_err() && lasting_span("1").is_err());
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        assert_eq!(size("1KiB"), Ok(1_024));
        for bad in ["", "7", "d", "-1s", "1.5h", "99999999999999999d"] {
            assert!(span(bad).is_err(), "{bad}");
        }
        for bad in ["", "GB", "1gb", "1 GB", "99999999999TB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_start_is_a_word_an_offset_a_time_or_how_long_ago() {
        assert_eq!(start("first"), Ok(StartAt::First));
        assert_eq!(start("42"), Ok(StartAt::Offset(42)));
        assert_eq!(start("1970-01-02T00:00:01Z"), Ok(StartAt::Timestamp(86_401_000)));
        let Ok(StartAt::Timestamp(ago)) = start("1h") else {
            panic!("a span counts back from now");
        };
        assert!(ago.abs_diff(ms(SystemTime::now()) - 3_600_000) < 60_000);
        assert!(start("yesterday").is_err());
    }

    #[test]
    fn a_time_is_what_it_is_shown_as() {
        for at in [0, 951_782_400_000, 1_735_689_599_000, 4_107_542_400_000] {
            assert_eq!(utc(&crate::human::utc(at)), Some(at));
        }
        for bad in [
            "2026-02-29 00:00:00",
            "1969-12-31 23:59:59",
            "2026-13-01 00:00:00",
            "2026-01-01 24:00:00",
            "2026-01-01",
            "2026-1-1 00:00:00",
        ] {
            assert_eq!(utc(bad), None, "{bad}");
        }
    }
}
