//! Moments of the past, over restarts.

use std::time::Duration;

/// An event by the monotonic clock, perhaps of an earlier process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    known: Duration,
    /// How long before that it was.
    before: Duration,
}

impl Moment {
    pub(super) fn now(now: Duration) -> Self {
        Self { known: now, before: Duration::ZERO }
    }

    /// From a wall clock: if that went back since, the event is taken for new.
    pub(super) fn recalled(now: Duration, unix_ms: u64, at: u64) -> Self {
        Self { known: now, before: Duration::from_millis(unix_ms.saturating_sub(at)) }
    }

    /// When it is so long ago.
    pub(super) fn after(self, time: Duration) -> Duration {
        self.known.saturating_add(time.saturating_sub(self.before))
    }
}
