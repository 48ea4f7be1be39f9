//! How large a slice is, and how many follow a commit: by how long slices take, by how commits fare, by what waits.
//!
//! The size of a slice is its *weight*: its nodes and the children that are found below them, for its time under the gate goes
//! by both.
//!
//! Promise: a slice is so large that it holds the gate for no longer than half of [`SlicePace::MOST_TAKING`] if its weight takes
//! as long as that of the last one did, and so for no longer than that if it takes twice as long; the least slice aside,
//! which is also the first one, before anything was measured. Slices shrink while commits are slower than usual; what waits is
//! worked off in a bounded number of commits, and at once where none come.
//!
//! A slice at work is not cut short: nearly all of its time under the gate is one write.

use std::{num::NonZeroUsize, time::Duration};

/// The pace of slices.
#[derive(Debug, Clone)]
pub struct SlicePace {
    size: usize,
    /// Commit times in seconds, averaged over a few commits and over many.
    now: Option<f64>,
    usual: Option<f64>,
}

/// Weights of the newest commit in the averages.
const NOW: f64 = 1.0 / 8.0;
const USUAL: f64 = 1.0 / 512.0;
/// Commits this much slower than usual shrink slices.
const SLOWER: f64 = 1.5;
/// Commits in which what waits is worked off.
const COMMITS: u64 = 16;

impl SlicePace {
    /// The longest that a commit may wait for a slice.
    pub const MOST_TAKING: Duration = Duration::from_millis(5);
    /// The longest that the nodes of a slice are read, its first few aside: a slow disk makes slices short (P9).
    pub const MOST_READING: Duration = Duration::from_millis(100);
    /// The smallest slice.
    pub const LEAST: usize = 32;
    /// The largest slice.
    pub const MOST: usize = 4096;

    /// The pace before anything was measured.
    pub fn new() -> Self {
        Self { size: Self::LEAST, now: None, usual: None }
    }

    /// The size of the next slice.
    pub fn size(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(self.size.max(Self::LEAST) - 1)
    }

    /// A commit took so long.
    pub fn committed(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let mix = |average: Option<f64>, weight: f64| average.map_or(seconds, |of| of + (seconds - of) * weight);
        (self.now, self.usual) = (Some(mix(self.now, NOW)), Some(mix(self.usual, USUAL)));
    }

    /// Whether commits are slower than usual.
    pub fn is_strained(&self) -> bool {
        self.now.zip(self.usual).is_some_and(|(now, usual)| now > usual * SLOWER)
    }

    /// A slice of such a weight took so long under the gate.
    pub fn took(&mut self, weight: u64, taking: Duration) {
        if weight == 0 {
            return;
        }
        let wanted = if self.is_strained() {
            self.size / 2
        } else if weight as usize >= self.size / 2 {
            self.size.max(fitting(Self::MOST_TAKING / 4, weight, taking).min(2 * self.size))
        } else {
            self.size // it says nothing of larger ones
        };
        let size = wanted.min(fitting(Self::MOST_TAKING / 2, weight, taking));
        self.size = size.clamp(Self::LEAST, Self::MOST);
    }

    /// Nodes to be dealt with after a commit, where so many wait: enough that the wait gets shorter.
    pub fn quota(&self, waiting: u64) -> u64 {
        let share = waiting.div_ceil(COMMITS);
        if self.is_strained() { share.min(self.size as u64) } else { share.max(self.size as u64) }
    }
}

impl Default for SlicePace {
    fn default() -> Self {
        Self::new()
    }
}

/// How many nodes have room in a time, where so many took so long.
fn fitting(time: Duration, nodes: u64, taking: Duration) -> usize {
    let nodes = u128::from(nodes) * time.as_nanos() / taking.as_nanos().max(1);
    usize::try_from(nodes).map_or(usize::MAX, |nodes| nodes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_pace_shrinks_slices_when_foreground_latency_rises() {
        let mut pace = SlicePace::new();
        (0..100).for_each(|_| pace.committed(2 * MS));
        (0..20).for_each(|_| pace.took(pace.size().get() as u64, MS / 10));
        assert_eq!(pace.size().get(), SlicePace::MOST);
        (0..16).for_each(|_| pace.committed(8 * MS));
        (0..3).for_each(|_| pace.took(pace.size().get() as u64, MS / 10));
        assert_eq!(pace.size().get(), SlicePace::MOST / 8);
        assert_eq!(pace.quota(1 << 20), (SlicePace::MOST / 8) as u64, "and one slice follows a commit");
        (0..200).for_each(|_| pace.committed(2 * MS));
        (0..20).for_each(|_| pace.took(pace.size().get() as u64, MS / 10));
        assert_eq!((pace.size().get(), pace.quota(1 << 20)), (SlicePace::MOST, 1 << 16));
    }

    #[test]
    fn one_slice_that_holds_the_gate_for_long_is_enough_and_a_few_short_ones_make_up_for_it() {
        let mut pace = SlicePace::new();
        (0..7).for_each(|_| pace.took(pace.size().get() as u64, MS / 10));
        assert_eq!(pace.size().get(), SlicePace::MOST);
        pace.took(SlicePace::MOST as u64, 40 * MS);
        assert_eq!(pace.size().get(), SlicePace::MOST / 16, "so many take 2.5 ms then");
        pace.took(0, 40 * MS);
        pace.took(20, MS / 10);
        assert_eq!(
            pace.size().get(),
            SlicePace::MOST / 16,
            "one without nodes, or with few, says nothing of larger ones"
        );
        (0..4).for_each(|_| pace.took(pace.size().get() as u64, MS / 10));
        assert_eq!(pace.size().get(), SlicePace::MOST);
    }

    proptest! {
        /// I12: the time under the gate is this test's to say. A node takes at most twice as long as one of the slice before
        /// did, from a microsecond to as long as it likes, and slices are full or not.
        #[test]
        fn no_commit_waits_longer_for_a_slice_than_it_may_whatever_its_nodes_take(
            first in 1..200_000_u64,
            slices in prop::collection::vec((1..=100_usize, 1..=200_u64), 1..200),
        ) {
            let (mut pace, mut nanos_per_node) = (SlicePace::new(), first);
            for (filled, slower) in slices {
                nanos_per_node = (nanos_per_node * slower / 100).max(1_000);
                let size = pace.size().get();
                let nodes = (size * filled).div_ceil(100) as u64;
                let held = Duration::from_nanos(nanos_per_node * nodes);
                prop_assert!(size == SlicePace::LEAST || held <= SlicePace::MOST_TAKING, "{nodes} nodes held it {held:?}");
                pace.took(nodes, held);
            }
        }
    }
}
