//! What the sweep of the journal can do against what commits make it do.
//!
//! Both are measured: nodes per second of the rounds that had work, from begin to end, so that what they wait for (the
//! commit gate, the disk, the lock) counts; and nodes that commits and the trees they drop name per second. Falling behind
//! is told before it happens: once production has been near capacity for long ([`NEAR`], [`LONG`]), and only as long as
//! rounds go on measuring it: what was measured before is absent, not old (I13).

use std::time::Duration;

/// The share of capacity from which on production is near it.
const NEAR: f64 = 0.8;
/// How long that may last before it is told.
const LONG: Duration = Duration::from_secs(600);
/// Over how long production is averaged, at least.
const SPAN: Duration = Duration::from_secs(10);
/// For so long a measurement speaks of now.
const FRESH: Duration = Duration::from_secs(2 * SPAN.as_secs());
/// Weight of the newest round in the capacity.
const NEWEST: f64 = 1.0 / 8.0;

/// Production against capacity.
#[derive(Debug, Clone, Default)]
pub struct Load {
    capacity: Option<f64>,
    /// When production was measured last, and how many nodes had been named by then.
    since: Option<(Duration, u64)>,
    production: Option<Production>,
    near_since: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Production {
    per_second: f64,
    at: Duration,
    /// Over how long it was averaged.
    over: Duration,
}

impl Production {
    /// Whether it speaks of now: rounds that are long measure it seldom.
    fn is_of(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) <= self.over.max(FRESH)
    }
}

impl Load {
    /// A round dealt with so many nodes, and took so long from its begin to its end. One without work says nothing.
    pub fn worked(&mut self, nodes: u64, took: Duration) {
        if nodes > 0 && !took.is_zero() {
            let rate = nodes as f64 / took.as_secs_f64();
            self.capacity = Some(self.capacity.map_or(rate, |of| of + (rate - of) * NEWEST));
        }
    }

    /// So many nodes had been named by now. Fewer than before are those of another index, which counts anew.
    pub fn measure(&mut self, now: Duration, named: u64) {
        let (since, before) = *self.since.get_or_insert((now, named));
        if named < before {
            (self.since, self.production, self.near_since) = (Some((now, named)), None, None);
            return;
        }
        let over = now.saturating_sub(since);
        if over >= SPAN {
            self.production =
                Some(Production { per_second: (named - before) as f64 / over.as_secs_f64(), at: now, over });
            self.since = Some((now, named));
        }
        let near = self.production.zip(self.capacity).is_some_and(|(made, done)| made.per_second > done * NEAR);
        self.near_since = near.then(|| self.near_since.map_or(now, |since| since));
    }

    /// Nodes per second that rounds deal with while they work, once measured.
    pub fn capacity(&self) -> Option<f64> {
        self.capacity
    }

    /// Nodes named per second, once measured. One that was averaged over a long time speaks of as long.
    pub fn production(&self, now: Duration) -> Option<f64> {
        self.production.filter(|made| made.is_of(now)).map(|made| made.per_second)
    }

    /// Whether production is near capacity, and has been for too long.
    pub fn is_too_much(&self, now: Duration) -> bool {
        let measured = self.production.filter(|made| made.is_of(now));
        measured.zip(self.near_since).is_some_and(|(made, since)| made.at.saturating_sub(since) >= LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A thousand nodes per second can be dealt with, and nine hundred were named per second for ten minutes.
    fn near() -> Load {
        let mut load = Load::default();
        load.worked(10_000, SPAN);
        load.measure(Duration::ZERO, 0);
        assert_eq!(load.production(Duration::ZERO), None, "nothing was measured yet");
        for tick in 1..=61 {
            load.measure(tick * SPAN, u64::from(tick) * 9000);
            assert_eq!(load.is_too_much(tick * SPAN), tick == 61, "tick {tick}");
        }
        assert_eq!(load.production(61 * SPAN), Some(900.0));
        load
    }

    #[test]
    fn production_near_capacity_is_told_after_ten_minutes_and_forgotten_when_it_ends() {
        let mut load = near();
        load.measure(62 * SPAN, 61 * 9000);
        assert!(!load.is_too_much(62 * SPAN));
    }

    #[test]
    fn production_is_near_capacity_beyond_four_fifths_of_it() {
        for (per_second, is_near) in [(790, false), (800, false), (810, true)] {
            let mut load = Load::default();
            load.worked(10_000, SPAN);
            (0..=61).for_each(|tick| load.measure(tick * SPAN, u64::from(tick) * 10 * per_second));
            assert_eq!(load.is_too_much(61 * SPAN), is_near, "{per_second} of 1000");
        }
    }

    /// No round, no figure: neither an idle chain nor a cycle at work is behind by what was measured before it.
    #[test]
    fn what_no_round_measures_any_more_is_absent() {
        let load = near();
        let (last, tick) = (61 * SPAN, Duration::from_millis(1));
        assert!(load.is_too_much(last + FRESH) && load.production(last + FRESH).is_some());
        assert!(!load.is_too_much(last + FRESH + tick));
        assert_eq!((load.production(last + FRESH + tick), load.capacity()), (None, Some(1000.0)));
        let mut rare = Load::default();
        rare.measure(Duration::ZERO, 0);
        rare.measure(300 * SECOND, 3000);
        assert_eq!((rare.production(600 * SECOND), rare.production(600 * SECOND + tick)), (Some(10.0), None));
    }

    /// The further behind it is, the longer a round takes.
    #[test]
    fn production_near_capacity_is_told_all_the_while_where_rounds_are_long() {
        let (mut load, round) = (Load::default(), 62 * SECOND);
        load.worked(62_000, round);
        for n in 0..=20 {
            load.measure(n * round, u64::from(n) * 58_000);
        }
        assert!((0..62).all(|second| load.is_too_much(20 * round + second * SECOND)));
        assert!(!load.is_too_much(21 * round + SECOND));
    }

    #[test]
    fn another_index_is_measured_anew() {
        let mut load = near();
        load.measure(62 * SPAN, 7);
        assert_eq!((load.production(62 * SPAN), load.is_too_much(62 * SPAN)), (None, false));
        load.measure(63 * SPAN, 17);
        assert_eq!(load.production(63 * SPAN), Some(1.0));
    }

    #[test]
    fn a_capacity_that_nobody_measured_is_not_exceeded() {
        let mut load = Load::default();
        for tick in 0..100 {
            load.measure(tick * SPAN, u64::from(tick) << 40);
        }
        assert!(load.production(99 * SPAN).is_some() && !load.is_too_much(99 * SPAN));
        load.worked(0, SECOND);
        load.worked(5, Duration::ZERO);
        assert_eq!(load.capacity(), None, "rounds without work, and a clock that stood still");
    }
}
