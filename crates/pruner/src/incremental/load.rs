//! What the sweep of the journal can do against what commits make it do.
//!
//! Both are measured: nodes per second of its own working time, and nodes that commits and the trees they drop name per
//! second. Falling behind is told before it happens: once production has been near capacity for long ([`NEAR`],
//! [`LONG`]).

use std::time::Duration;

/// The share of capacity from which on production is near it.
const NEAR: f64 = 0.8;
/// How long that may last before it is told.
const LONG: Duration = Duration::from_secs(600);
/// Over how long production is averaged.
const SPAN: Duration = Duration::from_secs(10);

/// Production against capacity.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// When production was measured last, and how many nodes had been named by then.
    since: Option<(Duration, u64)>,
    production: Option<f64>,
    near_since: Option<Duration>,
}

impl Load {
    /// So many nodes had been named by now, and the sweep can do so many per second.
    pub fn measure(&mut self, now: Duration, named: u64, capacity: Option<f64>) {
        let (since, before) = *self.since.get_or_insert((now, named));
        let span = now.saturating_sub(since);
        if span >= SPAN {
            self.production = Some(named.saturating_sub(before) as f64 / span.as_secs_f64());
            self.since = Some((now, named));
        }
        let near = self.production.zip(capacity).is_some_and(|(production, capacity)| production > capacity * NEAR);
        self.near_since = near.then(|| self.near_since.map_or(now, |since| since));
    }

    /// Nodes named per second, once measured.
    pub fn production(&self) -> Option<f64> {
        self.production
    }

    /// Whether production has been near capacity for too long.
    pub fn is_too_much(&self, now: Duration) -> bool {
        self.near_since.is_some_and(|since| now.saturating_sub(since) >= LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn production_near_capacity_is_told_after_ten_minutes_and_forgotten_when_it_ends() {
        let mut load = Load::default();
        load.measure(Duration::ZERO, 0, Some(1000.0));
        assert_eq!(load.production(), None, "nothing was measured yet");
        for tick in 1..=61 {
            load.measure(tick * SPAN, u64::from(tick) * 9000, Some(1000.0));
            assert_eq!(load.is_too_much(tick * SPAN), tick == 61, "tick {tick}");
        }
        assert_eq!(load.production(), Some(900.0));
        load.measure(62 * SPAN, 61 * 9000, Some(1000.0));
        assert!(!load.is_too_much(62 * SPAN));
    }

    #[test]
    fn a_capacity_that_nobody_measured_is_not_exceeded() {
        let mut load = Load::default();
        load.measure(Duration::ZERO, 0, None);
        load.measure(SPAN, 1 << 40, None);
        assert!(!load.is_too_much(SPAN + LONG + SECOND));
    }
}
