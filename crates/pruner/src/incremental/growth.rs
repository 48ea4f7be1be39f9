//! Whether what waits grows, whatever the cause: the lag of the sweep, and what the pending index has no place for.
//!
//! Promises: growth is told only of what was measured again and again for ten minutes, up to now; what came down once in
//! that time, or stayed where it was, has not grown.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

/// A figure is looked at by its least value of each minute, so that it may go up and down as orders come.
const MINUTE: Duration = Duration::from_secs(60);
/// Minutes of growth until it is told.
const MINUTES: usize = 10;
/// Figures that were not measured for longer are of another time.
const GAP: Duration = Duration::from_secs(2 * MINUTE.as_secs());
/// Within so long it counts that something has risen.
const LONG: Duration = Duration::from_secs(MINUTES as u64 * MINUTE.as_secs());

/// Growth from minute to minute.
#[derive(Debug, Clone, Default)]
struct Growth {
    /// When the minute began that goes on, and the least so far.
    minute: Option<(Duration, u64)>,
    /// The least of each minute before it.
    least: VecDeque<u64>,
    last: Duration,
}

impl Growth {
    fn measure(&mut self, now: Duration, figure: u64) {
        if now.saturating_sub(self.last) > GAP {
            *self = Self::default();
        }
        self.last = now;
        self.minute = match self.minute {
            Some((began, least)) if now.saturating_sub(began) < MINUTE => Some((began, least.min(figure))),
            Some((_, least)) => {
                self.least.push_back(least);
                self.least.drain(..self.least.len().saturating_sub(MINUTES));
                Some((now, figure))
            }
            None => Some((now, figure)),
        };
    }

    /// From which figure to which, if it was more in each minute than in the one before.
    fn grown(&self, now: Duration) -> Option<(u64, u64)> {
        let is_current = now.saturating_sub(self.last) <= GAP && self.least.len() == MINUTES;
        let figures = || self.least.iter().copied().chain(self.minute.map(|(_, least)| least));
        let grows = figures().zip(figures().skip(1)).all(|(before, after)| before < after);
        self.least.front().copied().zip(self.least.back().copied()).filter(|_| is_current && grows)
    }
}

/// A count that only rises, and should not.
#[derive(Debug, Clone, Default)]
struct Rising {
    total: Option<u64>,
    rises: Option<Rises>,
}

#[derive(Debug, Clone, Copy)]
struct Rises {
    times: u32,
    last: Duration,
    /// The count before the first.
    before: u64,
}

impl Rising {
    fn measure(&mut self, now: Duration, total: u64) {
        match self.total.replace(total) {
            Some(before) if before < total => {
                let known = self.rises.filter(|rises| now.saturating_sub(rises.last) < LONG);
                let Rises { times, before, .. } = known.unwrap_or(Rises { times: 0, last: now, before });
                self.rises = Some(Rises { times: times.saturating_add(1), last: now, before });
            }
            Some(before) if before > total => self.rises = None, // of another index
            Some(_) | None => {}
        }
    }

    /// By how much it has risen, more than once.
    fn risen(&self, now: Duration) -> Option<u64> {
        let rises = self.rises.filter(|rises| rises.times > 1 && now.saturating_sub(rises.last) < LONG)?;
        self.total.map(|total| total - rises.before)
    }
}

/// What has grown for ten minutes without coming down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum LagGrowth {
    /// Orders that wait for the sweep.
    Orders {
        /// Ten minutes ago.
        from: u64,
        /// Last.
        to: u64,
    },
    /// Nodes that wait for it.
    Nodes {
        /// Ten minutes ago.
        from: u64,
        /// Last.
        to: u64,
    },
}

impl std::fmt::Display for LagGrowth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Orders { from, to } => write!(f, "from {from} to {to} orders"),
            Self::Nodes { from, to } => write!(f, "from {from} to {to} nodes"),
        }
    }
}

/// What waits, over time.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    orders: Growth,
    nodes: Growth,
    unindexed: Rising,
}

impl Waiting {
    /// So many orders and nodes wait now.
    pub fn lag(&mut self, now: Duration, (orders, nodes): (u64, u64)) {
        self.orders.measure(now, orders);
        self.nodes.measure(now, nodes);
    }

    /// So many nodes had no place in the index until now.
    pub fn unindexed(&mut self, now: Duration, total: u64) {
        self.unindexed.measure(now, total);
    }

    /// A cycle has settled what waited.
    pub fn settled(&mut self) {
        (self.orders, self.nodes) = (Growth::default(), Growth::default());
    }

    /// Whether what waits has grown for ten minutes without coming down.
    pub fn grown(&self, now: Duration) -> Option<LagGrowth> {
        let orders = self.orders.grown(now).map(|(from, to)| LagGrowth::Orders { from, to });
        orders.or_else(|| self.nodes.grown(now).map(|(from, to)| LagGrowth::Nodes { from, to }))
    }

    /// Nodes without a place, where there are more of them again and again, the last time less than ten minutes ago.
    pub fn without_place(&self, now: Duration) -> Option<u64> {
        self.unindexed.risen(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    /// Measures every ten seconds, and says from which one on it is told.
    fn told(figures: impl IntoIterator<Item = u64>) -> Option<usize> {
        let mut growth = Growth::default();
        let mut first = None;
        for (step, figure) in figures.into_iter().enumerate() {
            let now = STEP * step as u32;
            growth.measure(now, figure);
            first = first.or(growth.grown(now).map(|_| step));
        }
        first
    }

    #[test]
    fn only_what_grows_for_ten_minutes_without_coming_down_is_told() {
        assert_eq!(told(0..100), Some(60), "ten minutes");
        assert_eq!(told((0..100).map(|step| step / 2 * 3 + step % 2 * 50)), Some(60), "as orders come");
        assert_eq!(told((0..100).map(|step| step / 60)), None, "it stays for minutes");
        assert_eq!(told((0..1000).map(|step| step % 55)), None, "it comes down each nine minutes");
        assert_eq!(told([0].into_iter().chain((0..200).rev())), None, "much at once that becomes less");
        assert_eq!(told((0..1000).map(|_| 7)), None);
    }

    #[test]
    fn growth_that_nobody_measures_any_more_or_that_a_cycle_has_settled_is_not_told() {
        let mut waiting = Waiting::default();
        (0..=60).for_each(|step: u32| waiting.lag(STEP * step, (5, u64::from(step))));
        let last = STEP * 60;
        assert_eq!(waiting.grown(last + GAP), Some(LagGrowth::Nodes { from: 0, to: 54 }));
        assert_eq!(waiting.grown(last + GAP + STEP), None, "nobody measures");
        let mut later = waiting.clone();
        later.lag(last + GAP + STEP, (99, 99));
        assert_eq!(later.grown(last + GAP + STEP), None, "what happened meanwhile is not known");
        waiting.settled();
        assert_eq!(waiting.grown(last), None);
        (0..=60).for_each(|step: u32| waiting.lag(last + STEP * step, (u64::from(step), 5)));
        assert_eq!(waiting.grown(last + last), Some(LagGrowth::Orders { from: 0, to: 54 }));
    }

    #[test]
    fn nodes_without_a_place_are_told_when_they_become_more_again_and_again() {
        let mut waiting = Waiting::default();
        let mut at = |step: u32, total| {
            waiting.unindexed(STEP * step, total);
            waiting.without_place(STEP * step)
        };
        assert_eq!(at(0, 100), None, "what an earlier look found is no rise");
        assert_eq!(at(1, 100), None);
        assert_eq!(at(2, 400), None, "once: a fork has given its branch up");
        assert_eq!(at(3, 401), Some(301));
        assert_eq!(at(62, 401), Some(301));
        assert_eq!(at(63, 401), None, "ten minutes ago");
        assert_eq!(at(64, 402), None, "once again");
        assert_eq!(at(65, 0), None, "another index");
        assert_eq!((at(66, 1), at(67, 2)), (None, Some(2)));
    }
}
