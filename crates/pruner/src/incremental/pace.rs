//! How large a slice is, and how many follow a commit: by how long slices take, by how commits fare, by what waits.
//!
//! Promise: no slice is planned to hold the gate for longer than half of [`SlicePace::MOST_TAKING`], the least slice
//! aside; slices shrink while commits are slower than usual; what waits is worked off in a bounded number of commits, and
//! at once where none come.

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
    pub const MOST: usize = 2048;

    /// The pace before anything was measured.
    pub fn new() -> Self {
        Self { size: 256, now: None, usual: None }
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

    /// A slice of so many nodes took so long under the gate.
    pub fn took(&mut self, nodes: u64, taking: Duration) {
        let size = if taking > Self::MOST_TAKING / 2 || self.is_strained() {
            self.size / 2
        } else if nodes as usize >= self.size / 2 && taking < Self::MOST_TAKING / 4 {
            self.size + self.size / 4
        } else {
            self.size
        };
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

#[cfg(test)]
mod tests {
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
    fn a_slice_that_holds_the_gate_for_long_is_followed_by_smaller_ones() {
        let mut pace = SlicePace::new();
        pace.took(256, 3 * MS);
        assert_eq!(pace.size().get(), 128);
        (0..9).for_each(|_| pace.took(128, 40 * MS));
        assert_eq!(pace.size().get(), SlicePace::LEAST);
        pace.took(1, MS / 10);
        assert_eq!(pace.size().get(), SlicePace::LEAST, "a slice that was not full says nothing of a larger one");
    }
}
