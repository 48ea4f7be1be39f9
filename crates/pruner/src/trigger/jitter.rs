//! Shares, and the chance that keeps the nodes of a fleet apart: drawn from the name of the node, so that it is the same
//! after every restart and another one on every node (F10).

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A share of a whole, from none to all of it, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

const MILLION: u32 = 1_000_000;

impl Share {
    /// No part of it.
    pub const NONE: Self = Self(0);
    /// One part in ten.
    pub const TENTH: Self = Self(MILLION / 10);
    /// All of it.
    pub const ALL: Self = Self(MILLION);

    /// A share from 0 to 1, or nothing for any other number.
    pub fn new(share: f64) -> Option<Self> {
        // Rounded and inside the range, so the cast loses nothing.
        (0.0..=1.0).contains(&share).then(|| Self((share * f64::from(MILLION)).round() as u32))
    }

    /// From 0 to 1.
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(MILLION)
    }

    /// So much of a whole, rounded down.
    pub(crate) fn of(self, whole: u64) -> u64 {
        // A share is at most the whole, so the division brings it back into range.
        (u128::from(whole) * u128::from(self.0) / u128::from(MILLION)) as u64
    }

    /// More by what `more` makes of its millionths and of those that are left to all, which it is at most.
    pub(super) fn plus(self, more: impl Fn(u64, u64) -> u64) -> Self {
        let (millionths, all) = (u64::from(self.0), u64::from(MILLION));
        let sum = millionths.saturating_add(more(millionths, all.saturating_sub(millionths)));
        Self(sum.min(all) as u32) // at most a million
    }

    /// Whether `part` is at least this share of `whole`; of nothing no part is.
    pub(crate) fn is_reached(self, part: u64, whole: u64) -> bool {
        whole > 0 && u128::from(part) * u128::from(MILLION) >= u128::from(whole) * u128::from(self.0)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.get())
    }
}

/// What the chance of one node is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u64);

impl Seed {
    /// The seed of a node.
    pub(crate) fn of(node: &str) -> Self {
        Self(first_number(&Sha256::digest(node.as_bytes())))
    }

    /// The seed as a record keeps it.
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// From nothing to less than `share` of `whole`: even over draws of one node, and over nodes.
    pub(crate) fn draw(self, share: Share, whole: u64, number: u64) -> u64 {
        let digest = Sha256::digest([self.0.to_be_bytes(), number.to_be_bytes()].concat());
        ((u128::from(share.of(whole)) * u128::from(first_number(&digest))) >> u64::BITS) as u64
    }
}

fn first_number(digest: &[u8]) -> u64 {
    digest.iter().take(size_of::<u64>()).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_from_none_to_all() {
        for (given, expected) in
            [(0.0, Some(0)), (0.5, Some(500_000)), (1.0, Some(1_000_000)), (0.123_456_7, Some(123_457))]
        {
            assert_eq!(Share::new(given).map(|share| share.0), expected, "{given}");
        }
        for given in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::new(given), None, "{given}");
        }
        let half = Share::new(0.5).unwrap();
        assert_eq!((half.of(u64::MAX), half.of(3), Share::ALL.of(7)), (u64::MAX / 2, 1, 7));
        for (part, whole, reached) in [(1, 2, true), (0, 1, false), (49, 100, false), (50, 100, true), (0, 0, false)] {
            assert_eq!(half.is_reached(part, whole), reached, "{part} of {whole}");
        }
    }

    #[test]
    fn draws_are_even_below_their_bound_and_differ_by_node_and_number() {
        let draw = |node: &str, number| Seed::of(node).draw(Share::new(0.25).unwrap(), 4000, number);
        let draws: Vec<u64> = (0..1000).map(|number| draw("a", number)).collect();
        assert!(draws.iter().all(|draw| *draw < 1000), "a quarter of 4000 is never reached");
        for tenth in 0..10 {
            let inside = draws.iter().filter(|draw| **draw / 100 == tenth).count();
            assert!((60..140).contains(&inside), "{inside} of 1000 draws in tenth {tenth}");
        }
        assert_eq!(draw("a", 7), draw("a", 7));
        assert_ne!((draw("a", 7), draw("a", 8)), (draw("b", 7), draw("b", 8)));
        assert_eq!(Seed::of("a").draw(Share::NONE, 4000, 1), 0);
    }
}
