//! How long to wait before a retry: the only place that knows the `backoff` crate, which does nothing here but sums.
//!
//! The crate is unmaintained (docs/design.md, section 14), so nothing of it leaves this module: not its types, not its
//! errors, not its clock. Waiting is the [`Clock`]'s, and a stop of either control ends it at once (P21).

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff as _};

use super::RecoveryConfig;
use crate::{
    clock::{Clock, millis},
    control::Control,
    error::PruneError,
};

/// By up to this share a wait is longer or shorter than the sums say, so that what failed together is not tried together.
const JITTER: f64 = 0.5;

/// The waits of one execution, each longer than the one before, never longer than the most.
pub(super) struct Waits {
    sums: ExponentialBackoff,
    most: Duration,
}

impl Waits {
    pub(super) fn new(config: &RecoveryConfig) -> Self {
        Self::jittered(config, JITTER)
    }

    fn jittered(config: &RecoveryConfig, jitter: f64) -> Self {
        let (base, most) = (config.base_delay(), config.max_delay());
        let sums = ExponentialBackoff {
            current_interval: base,
            initial_interval: base,
            randomization_factor: jitter,
            multiplier: config.backoff_multiplier,
            max_interval: most,
            max_elapsed_time: None, // retries are counted, not timed
            ..ExponentialBackoff::default()
        };
        Self { sums, most }
    }

    /// The next wait, in whole milliseconds.
    pub(super) fn next(&mut self) -> Duration {
        let wait = self.sums.next_backoff().map_or(self.most, |wait| wait.min(self.most));
        Duration::from_millis(millis(wait))
    }
}

/// Waits, or ends at once when either control ends.
///
/// Errors: [`PruneError::Cancelled`] or [`PruneError::Stopped`].
pub(super) async fn wait(clock: &dyn Clock, time: Duration, controls: [&Control; 2]) -> Result<(), PruneError> {
    let [first, second] = controls;
    tokio::select! {
        biased; // a stop that came first is seen first
        error = first.end() => Err(error),
        error = second.end() => Err(error),
        () = clock.sleep(time) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RecoveryConfig {
        RecoveryConfig { base_retry_delay_ms: 100, max_retry_delay_ms: 1000, ..RecoveryConfig::default() }
    }

    #[test]
    fn waits_grow_from_exactly_the_first_to_the_most_and_never_shrink() {
        let mut waits = Waits::jittered(&config(), 0.0);
        let found: Vec<u128> = (0..7).map(|_| waits.next().as_millis()).collect();
        assert_eq!(found, [100, 200, 400, 800, 1000, 1000, 1000]);
    }

    #[test]
    fn jitter_stays_within_its_share_and_under_the_most() {
        for _ in 0..200 {
            let mut waits = Waits::new(&config());
            for sum in [100, 200, 400, 800, 1000, 1000] {
                let wait = waits.next().as_millis();
                assert!((sum / 2..=(sum * 3 / 2).min(1000)).contains(&wait), "{wait} for {sum}");
            }
        }
    }
}
