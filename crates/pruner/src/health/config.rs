//! From when on something that may be well is worth a look. None of it decides what is deleted.

use std::{num::NonZeroU64, time::Duration};

/// The bounds that health is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthConfig {
    /// A phase that holds its lock without progress for so long hangs; never longer than the timeout of the lock.
    pub lock_idle: Duration,
    /// Pruning falls behind when so many times the orders of one cycle were committed since the last one.
    pub lag_cycles: NonZeroU64,
    /// A cycle that is due by orders is overdue when none has finished for so long; absent means that time is not
    /// looked at.
    pub cycle_age: Option<Duration>,
    /// A named pin that is older than this has perhaps been forgotten; absent means that their age is not looked at.
    pub pin_age: Option<Duration>,
}

const HOUR: u64 = 3600;

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            lock_idle: Duration::from_secs(HOUR / 4),
            lag_cycles: NonZeroU64::MIN.saturating_add(3),
            cycle_age: Some(Duration::from_secs(24 * HOUR)),
            pin_age: Some(Duration::from_secs(30 * 24 * HOUR)),
        }
    }
}
