//! A stay under the gate, which begins when it is had and ends when the value goes.
//!
//! Promises: nobody finds a commit in it that is not judged ([`crate::unjudged`]); whoever waits is let in next (I12); what is
//! large and was replaced meanwhile is freed AFTER the gate is let go, however the stay ends: whoever waits does not wait for
//! that.

use std::{
    any::Any,
    ops::{Deref, DerefMut},
};

use parking_lot::{FairMutex, FairMutexGuard};

use crate::counting::Counting;

/// The gate itself, and what it guards.
#[derive(Debug)]
pub(crate) struct Gate(FairMutex<Counting>);

/// What is freed once the gate is let go.
#[derive(Debug, Default)]
pub(crate) struct Waste(Vec<Box<dyn Any + Send>>);

/// The gate is had as long as this lives.
pub(crate) struct Stay<'a> {
    counting: FairMutexGuard<'a, Counting>,
    /// The waste, which goes AFTER the gate is let go: fields go in this order.
    freed_after: Waste,
}

impl Gate {
    pub(crate) fn of(counting: Counting) -> Self {
        Self(FairMutex::new(counting))
    }

    /// Waits for the gate, and has the newest commit judged if nobody has: what is guarded is as after every commit.
    pub(crate) fn lock(&self) -> Stay<'_> {
        let mut stay = Stay { counting: self.0.lock(), freed_after: Waste::default() };
        stay.judge_newest(); // BEFORE anybody asks marks or the index
        stay
    }
}

impl Waste {
    pub(crate) fn push(&mut self, large: impl Any + Send) {
        self.0.push(Box::new(large));
    }
}

impl Deref for Stay<'_> {
    type Target = Counting;

    fn deref(&self) -> &Counting {
        &self.counting
    }
}

impl DerefMut for Stay<'_> {
    fn deref_mut(&mut self) -> &mut Counting {
        &mut self.counting
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        std::mem::swap(&mut self.freed_after, self.counting.all_waste());
    }
}

#[cfg(test)]
impl Waste {
    /// Whether something of this kind is in it.
    pub(crate) fn has<T: Any>(&self) -> bool {
        self.0.iter().any(|large| large.is::<T>())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{backend::Durability, store::StoreConfig};

    /// Counts itself as freed if the gate can be had then.
    struct Large(Arc<Gate>, Arc<AtomicUsize>);

    impl Drop for Large {
        fn drop(&mut self) {
            self.1.fetch_add(usize::from(self.0.0.try_lock().is_some()), Ordering::AcqRel);
        }
    }

    #[test]
    fn what_is_large_is_freed_once_the_gate_is_let_go_however_that_happens() {
        let gate = Arc::new(Gate::of(Counting::new(StoreConfig::new(Durability::Logged))));
        let freed = Arc::new(AtomicUsize::new(0));
        let fails = || -> Result<(), std::fmt::Error> {
            let mut stay = gate.lock();
            stay.waste.push(Large(Arc::clone(&gate), Arc::clone(&freed)));
            Err(std::fmt::Error)?;
            drop(stay);
            Ok(())
        };
        fails().unwrap_err();
        assert_eq!(freed.load(Ordering::Acquire), 1);
        gate.lock().waste.push(Large(Arc::clone(&gate), Arc::clone(&freed)));
        assert_eq!(freed.load(Ordering::Acquire), 2);
    }
}
