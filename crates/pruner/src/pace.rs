//! The brake on the bytes a sweep moves.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use parking_lot::Mutex;
use state_store::{Haste, Pace};

use crate::{clock::Clock, control::Control};

/// Time that was not used lets so much pass at once, no more: a pause is not a debt to be paid in one burst.
const CREDIT: Duration = Duration::from_secs(1);

/// What commits wait for passes at least at this rate: the engine's level 0 must not fall behind (I12).
const LEAST_FOR_COMMITS: u64 = 32 << 20;

/// Lets at most so many bytes pass per second.
#[derive(Debug)]
pub struct RatePace {
    bytes_per_second: NonZeroU64,
    clock: Arc<dyn Clock>,
    control: Arc<Control>,
    /// When the bytes spent so far have been paid for.
    paid_at: Mutex<Option<Duration>>,
}

impl RatePace {
    /// A brake that has let nothing pass yet.
    pub fn new(bytes_per_second: NonZeroU64, clock: Arc<dyn Clock>, control: Arc<Control>) -> Self {
        Self { bytes_per_second, clock, control, paid_at: Mutex::new(None) }
    }

    /// How long the bytes spent so far must still be delayed.
    fn due(&self, bytes: u64, haste: Haste) -> Duration {
        let rate = match haste {
            Haste::Usual => self.bytes_per_second.get(),
            Haste::Commits => self.bytes_per_second.get().max(LEAST_FOR_COMMITS),
        };
        let now = self.clock.monotonic();
        let mut paid_at = self.paid_at.lock();
        let from = paid_at.map_or(now, |at| at.max(now.saturating_sub(CREDIT)));
        let until = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *paid_at = Some(until);
        until.saturating_sub(now)
    }
}

impl Pace for RatePace {
    fn spend(&self, bytes: u64, haste: Haste) {
        let due = self.due(bytes, haste);
        if !due.is_zero() {
            // A cancel ends the wait; whoever cancelled also ends the rewrite this wait belongs to.
            match self.clock.rest(&self.control, due) {
                Ok(()) | Err(_) => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn bytes_over_the_rate_are_delayed_by_exactly_what_they_are_over() {
        let clock = Arc::new(ManualClock::default());
        let rate = NonZeroU64::new(1000).unwrap();
        let pace = RatePace::new(rate, Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
        assert_eq!(pace.due(500, Haste::Usual), Duration::from_millis(500));
        clock.advance(Duration::from_millis(400));
        assert_eq!(pace.due(0, Haste::Usual), Duration::from_millis(100));
        assert_eq!(pace.due(25_000, Haste::Usual), Duration::from_millis(25_100), "a large step is delayed in full");
    }

    #[test]
    fn a_pause_is_not_followed_by_a_burst() {
        let clock = Arc::new(ManualClock::default());
        let rate = NonZeroU64::new(1000).unwrap();
        let pace = RatePace::new(rate, Arc::clone(&clock) as Arc<dyn Clock>, Arc::default());
        pace.due(1, Haste::Usual);
        clock.advance(Duration::from_secs(1000));
        assert_eq!(pace.due(1500, Haste::Usual), Duration::from_millis(500), "one second of credit, no more");
    }

    #[test]
    fn what_commits_wait_for_is_not_slower_than_the_engine_needs() {
        let of = |rate: u64| {
            let clock = Arc::new(ManualClock::default());
            RatePace::new(NonZeroU64::new(rate).unwrap(), clock, Arc::default()).due(64 << 20, Haste::Commits)
        };
        assert_eq!(of(1), Duration::from_secs(2));
        assert_eq!(of(64 << 20), Duration::from_secs(1), "a faster limit is not slowed down");
    }
}
