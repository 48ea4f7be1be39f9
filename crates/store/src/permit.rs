//! The right to delete, as a value with a generation (I10).
//!
//! There is at most one current permit per store; its generation is odd. Revoking it, or issuing one over it, advances
//! the generation inside the commit gate, the same critical section in which every delete checks it: once that returns,
//! no holder of an older permit removes anything. Where none is current there is no holder to wait for, and issuing
//! needs no gate: taking a lock does not wait for a commit. The sweep filter runs outside the gate and asks per key; a
//! drop it had decided an instant earlier was still right, because the barrier of that sweep stays open until its last
//! filter is gone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The generation of the current permit.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    generation: AtomicU64,
}

impl Fence {
    /// Hands out the only current permit, or nothing while there is one already.
    pub(crate) fn issue_if_free(self: &Arc<Self>) -> Option<Permit> {
        let now = self.generation.load(Ordering::Acquire);
        if now % 2 == 1 {
            return None;
        }
        let swapped = self.generation.compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Acquire);
        swapped.is_ok().then(|| Permit { fence: Arc::clone(self), generation: now + 1 })
    }

    /// The permit that is current, if one is.
    pub(crate) fn occupied(&self) -> Option<Occupied> {
        let generation = self.generation.load(Ordering::Acquire);
        (generation % 2 == 1).then_some(Occupied { generation })
    }

    /// Makes every earlier permit useless and hands out the only current one. Call inside the commit gate.
    pub(crate) fn issue(self: &Arc<Self>) -> Permit {
        loop {
            self.revoke();
            if let Some(permit) = self.issue_if_free() {
                return permit;
            }
        }
    }

    /// Makes every permit useless. Call inside the commit gate.
    pub(crate) fn revoke(&self) {
        let odd = self.generation.load(Ordering::Acquire) | 1;
        // Where it is even already, or someone else revokes it in between, there is nothing left to do.
        match self.generation.compare_exchange(odd, odd + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(_) => (),
        }
    }
}

/// A permit that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupied {
    generation: u64,
}

/// What a phase holds while it may delete. Only the store issues one.
#[derive(Debug, Clone)]
pub struct Permit {
    fence: Arc<Fence>,
    generation: u64,
}

impl Permit {
    /// The generation under which it was issued; later permits have larger ones.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether no later permit was issued and nothing revoked this one.
    pub fn is_current(&self) -> bool {
        self.fence.generation.load(Ordering::Acquire) == self.generation
    }

    pub(crate) fn belongs_to(&self, fence: &Arc<Fence>) -> bool {
        Arc::ptr_eq(&self.fence, fence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_permit_makes_the_earlier_one_useless() {
        let fence = Arc::new(Fence::default());
        let first = fence.issue();
        assert!(first.is_current());
        assert!(fence.issue_if_free().is_none(), "one at a time");
        let second = fence.issue();
        assert!(!first.is_current() && second.is_current());
        fence.revoke();
        assert!(!second.is_current());
        assert!(fence.issue_if_free().is_some_and(|third| third.generation() > second.generation()));
    }
}
