//! A map by fingerprint that grows a part at a time.
//!
//! What the commit gate guards may have a million entries. One table of them would be moved as a whole when it is full, and
//! whoever waits for the gate would wait for that, too (I12).
//!
//! Costs: those of so many entries in a [`HashMap`]; an insert moves at most one part, a few thousandths of them.

use std::collections::HashMap;

use crate::barrier::ByFingerprint;

const PARTS: usize = 256;
/// A part is told by bits by which its table does not look for places.
const PART_SHIFT: u32 = 40;

type Part<V> = HashMap<u64, V, ByFingerprint>;

/// Values by fingerprint.
#[derive(Debug)]
pub(crate) struct Fingerprints<V> {
    parts: Vec<Part<V>>,
    len: usize,
}

impl<V: Copy> Fingerprints<V> {
    /// Nothing.
    pub(crate) fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Part::default()).collect(), len: 0 }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of a fingerprint.
    pub(crate) fn get(&self, fingerprint: u64) -> Option<V> {
        self.parts.get(part_of(fingerprint))?.get(&fingerprint).copied()
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, fingerprint: u64) -> Option<&mut V> {
        self.part(fingerprint).get_mut(&fingerprint)
    }

    /// Sets the value of a fingerprint.
    pub(crate) fn insert(&mut self, fingerprint: u64, value: V) {
        self.len += usize::from(self.part(fingerprint).insert(fingerprint, value).is_none());
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, fingerprint: u64) -> Option<V> {
        let value = self.part(fingerprint).remove(&fingerprint)?;
        self.len -= 1;
        Some(value)
    }

    #[expect(clippy::indexing_slicing, reason = "a part's number is less than how many there are")]
    fn part(&mut self, fingerprint: u64) -> &mut Part<V> {
        &mut self.parts[part_of(fingerprint)]
    }
}

fn part_of(fingerprint: u64) -> usize {
    (fingerprint >> PART_SHIFT) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fingerprints_in_parts_are_as_those_in_one_map(
            steps in prop::collection::vec((any::<bool>(), 0..9_u64, 0..9_u64, any::<u8>()), 1..200),
        ) {
            let (mut parts, mut whole) = (Fingerprints::new(), HashMap::new());
            for (inserts, high, low, value) in steps {
                let fingerprint = high << PART_SHIFT | low;
                if inserts {
                    parts.insert(fingerprint, value);
                    whole.insert(fingerprint, value);
                } else {
                    prop_assert_eq!(parts.remove(fingerprint), whole.remove(&fingerprint));
                }
                prop_assert_eq!(parts.len(), whole.len());
            }
            for fingerprint in (0..9).flat_map(|high| (0..9).map(move |low| high << PART_SHIFT | low)) {
                prop_assert_eq!(parts.get(fingerprint), whole.get(&fingerprint).copied());
            }
        }
    }

    /// I12: the fingerprints are those of hashes, so each part has its share.
    #[test]
    fn no_part_of_a_million_fingerprints_is_large() {
        let mut parts = Fingerprints::new();
        let mut state = 7_u64;
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            parts.insert(state ^ state >> 29, ());
        }
        let largest = parts.parts.iter().map(HashMap::capacity).max().unwrap();
        assert!(largest < 1_000_000 / 64, "{largest}");
    }
}
