//! A moment of the wall clock or of a chain's clock, and a span of time, as people read them: RFC 3339, and words such as
//! `2h 5m`. Data keeps milliseconds.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

/// The last millisecond that RFC 3339 can tell, at the end of the year 9999.
const LAST_MS: u64 = 253_402_300_799_999;

/// Milliseconds since 1970, shown as date and time; also what no calendar has, so that no clock and no file can end a program.
#[derive(Debug, Clone, Copy)]
pub struct When(pub u64);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ms) = self;
        match SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(*ms)).filter(|_| *ms <= LAST_MS) {
            Some(time) => humantime::format_rfc3339_millis(time).fmt(f),
            None => write!(f, "{ms} ms after 1970"), // of a chain that counts time otherwise
        }
    }
}

/// A number of milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_millis(self.0)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_as_words() {
        for (ms, expected) in [(0, "0s"), (1_500, "1s 500ms"), (7_500_000, "2h 5m")] {
            assert_eq!(Span(ms).to_string(), expected);
        }
    }

    #[test]
    fn a_moment_reads_as_a_date_and_a_time() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_764_158_400_123, "2025-11-26T12:00:00.123Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
            (LAST_MS + 1, "253402300800000 ms after 1970"),
            (u64::MAX, "18446744073709551615 ms after 1970"),
        ];
        for (ms, expected) in rows {
            assert_eq!(When(ms).to_string(), expected);
        }
    }
}
