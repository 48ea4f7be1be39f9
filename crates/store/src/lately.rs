//! What was created lately: nodes that commits of this process put and that another place may have, so that they are asked for.
//!
//! Such a node comes back while it is stored, and neither a mark nor the index knows: it lies in a tree that was dropped or cloned
//! since. A commit that creates it again would read the store for it, data and all, which costs several times as much as to
//! find out that a node is nowhere. So it is remembered, as long as there is room, that these are stored.
//!
//! Promise: what is in it is stored, or shares its fingerprint with what is, which only keeps more (I6). Whoever deletes says so: a
//! slice tells its nodes, a cycle tells that it begins or goes on, BEFORE its first delete. What is put later, or was since the
//! view of a cycle that begins, none takes (I5). It promises nothing of what is not in it: that is read.
//!
//! Costs: 2 MiB from the first node on. Of two that have one slot the older is forgotten.

use state_tree::NodeHash;

const SLOTS: usize = 1 << 18;
/// A slot is told by bits of the fingerprint that are as good as any.
const SLOT_SHIFT: u32 = 32;

/// Fingerprints of nodes that were created lately.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    /// None before the first; zero where there is none.
    slots: Vec<u64>,
}

impl Lately {
    /// A node was created.
    pub(crate) fn add(&mut self, fingerprint: u64) {
        if self.slots.is_empty() {
            self.slots = vec![0; SLOTS];
        }
        if let Some(slot) = self.slots.get_mut(slot_of(fingerprint)) {
            *slot = fingerprint;
        }
    }

    /// Whether it is known to be stored.
    pub(crate) fn has(&self, hash: &NodeHash) -> bool {
        let fingerprint = hash.fingerprint();
        fingerprint != 0 && self.slots.get(slot_of(fingerprint)) == Some(&fingerprint)
    }

    /// It was deleted.
    pub(crate) fn deleted(&mut self, hash: &NodeHash) {
        let fingerprint = hash.fingerprint();
        if let Some(slot) = self.slots.get_mut(slot_of(fingerprint)).filter(|slot| **slot == fingerprint) {
            *slot = 0;
        }
    }

    /// Nobody knows any more what of it is stored. What it held is the caller's to free.
    pub(crate) fn forget(&mut self) -> Self {
        std::mem::take(self)
    }
}

fn slot_of(fingerprint: u64) -> usize {
    (fingerprint >> SLOT_SHIFT) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(fingerprint: u64) -> NodeHash {
        let mut bytes = [1; 32];
        bytes[..8].copy_from_slice(&fingerprint.to_be_bytes());
        NodeHash::new(bytes)
    }

    #[test]
    fn what_was_created_lately_is_known_until_it_is_deleted_or_forgotten_or_has_no_room() {
        let (mut lately, of_one_slot) = (Lately::default(), 7 << SLOT_SHIFT);
        assert!(!lately.has(&hash(0)) && !lately.has(&hash(7)));
        [of_one_slot, 9 << SLOT_SHIFT].into_iter().for_each(|fingerprint| lately.add(fingerprint));
        assert!(lately.has(&hash(of_one_slot)) && !lately.has(&hash(of_one_slot + 1)) && !lately.has(&hash(0)));
        lately.add(of_one_slot + 1);
        assert!(!lately.has(&hash(of_one_slot)) && lately.has(&hash(of_one_slot + 1)));
        lately.deleted(&hash(of_one_slot));
        assert!(lately.has(&hash(of_one_slot + 1)), "another one has its slot");
        lately.deleted(&hash(of_one_slot + 1));
        assert!(!lately.has(&hash(of_one_slot + 1)) && lately.has(&hash(9 << SLOT_SHIFT)));
        assert!(lately.forget().has(&hash(9 << SLOT_SHIFT)) && !lately.has(&hash(9 << SLOT_SHIFT)));
    }
}
