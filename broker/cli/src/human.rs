//! Numbers and times as people read them.

use std::time::Duration;

/// A count with separators: `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 message`, `2 messages`: a count with its noun, whose plural ends in `s`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A size in the largest binary unit that keeps it at 1 or more: `1.5 KiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A time span with two significant units at most: `3 d 4 h`, `12.3 s`, `45 ms`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
        3_600.. => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        60.. => format!("{} min {} s", seconds / 60, seconds % 60),
        1.. => format!("{:.1} s", time.as_secs_f64()),
        0 if time.as_millis() > 0 => format!("{} ms", time.as_millis()),
        0 => format!("{} us", time.as_micros()),
    }
}

/// How many a second, `0` for no time at all.
pub(crate) fn rate(n: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 {
        (n as f64 / seconds) as u64
    } else {
        0
    }
}

/// Milliseconds since the Unix epoch as UTC: `2026-01-31 23:59:58`.
///
/// The date comes from Howard Hinnant's `civil_from_days`, "chrono-Compatible Low-Level Date Algorithms".
pub(crate) fn utc(ms: u64) -> String {
    let seconds = ms / 1_000;
    let shifted = seconds / 86_400 + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(2, "message"), "2 messages");
    }

    #[test]
    fn sizes_use_the_largest_unit_that_fits() {
        assert_eq!(
            [0, 1023, 1024, 1536, 3 << 30].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "3.0 GiB"]
        );
    }

    #[test]
    fn spans_show_two_units_at_most() {
        let shown = [90_061, 3_700, 61, 12].map(|s| span(Duration::from_secs(s)));
        assert_eq!(shown, ["1 d 1 h", "1 h 1 min", "1 min 1 s", "12.0 s"]);
        assert_eq!(span(Duration::from_micros(45_900)), "45 ms");
        assert_eq!(span(Duration::from_micros(7)), "7 us");
    }

    #[test]
    fn dates_are_right_around_leap_days_and_year_ends() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_735_689_599_000), "2024-12-31 23:59:59");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00:00");
    }

    #[test]
    fn a_rate_over_no_time_is_zero() {
        assert_eq!(rate(5, Duration::ZERO), 0);
        assert_eq!(rate(100, Duration::from_millis(500)), 200);
    }
}
