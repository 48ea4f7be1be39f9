//! What a major cycle does for the counts (rule 7).
//!
//! Ordering: a cycle settles its entries, durably, BEFORE its first delete, for a sweep that ends early leaves trees that lack
//! nodes, and what comes back of those is not known to be named; and so BEFORE any mark goes, for the expansion of a
//! dropped tree stops at marks. Marks are made exact before the sweep too, so that one that goes on after a restart finds
//! them so: no mark is for a node that the sweep takes, and what comes back while it is stored is marked anew. Missing marks
//! are set BEFORE others go, then comes the record that counts are exact; that entries may expire is said AFTER the last
//! delete. Whatever a crash leaves in between has more marks than it needs.
//!
//! A row that cannot be read has ended exact counting when it was found. The cycle that follows sets every mark that is needed,
//! so it writes such a row anew, as one of the newest order, or takes it away where its key is none. While counts are exact it
//! stays, unless memory knows better: it may be all that tells that a mark is missing, and the next opening finds it (I8).
//!
//! Which marks are needed: those of the state that was traced, by two references to a node, and those that commits after
//! it made. The state to trace is the oldest of the window that was counted exactly, because entries of the window were
//! judged by its marks, and the newest where a cycle makes counts exact: see [`Store::begin_counting`].

use std::{num::NonZeroUsize, ops::ControlFlow};

use state_tree::Order;

use super::{
    Store,
    cursor::{self, ExpiryRecord},
};
use crate::{
    backend::{Batch, Durability, Flow, KeyRange, View},
    counting::{Counting, CountsRecord, Mode},
    ending::GoesOn,
    error::StoreError,
    journal,
    lost::{CountsLost, LostBy},
    many::{self, Mark},
    pending::Pending,
    permit::Permit,
    point::{Point, reached},
    schema::Table,
    stay::Stay,
};

/// Which state a cycle must trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {
    /// The oldest of its window, or this one if it is newer: earlier ones were not counted.
    OldestFrom(Order),
    /// The newest that its view has.
    Newest,
}

/// How marks were made exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Corrected {
    /// Marks set.
    pub set: u64,
    /// Marks taken away.
    pub removed: u64,
}

/// Marks on their way to being exact.
#[derive(Debug)]
pub struct Correction<'a> {
    /// The state they are for.
    traced: Order,
    /// The fingerprints, sorted, of the nodes that two references of the state lead to.
    shared: &'a [u64],
    /// How many of them are marked.
    set: usize,
    /// Where to go on among the marks that are there; nothing at their end.
    from: Option<Vec<u8>>,
    corrected: Corrected,
}

impl<'a> Correction<'a> {
    /// What a cycle found of a state: `shared` are the fingerprints, sorted, of the nodes that two references of it lead to.
    pub fn new(traced: Order, shared: &'a [u64]) -> Self {
        Self { traced, shared, set: 0, from: Some(Vec::new()), corrected: Corrected::default() }
    }
}

/// Nodes of settled entries that are taken out of the index in one stay under the gate, about.
const FORGOTTEN_AT_ONCE: usize = 4096;

impl Store {
    /// Begins to count commits, blindly, if nobody does. Call BEFORE the capture of a major cycle, which then traces the
    /// state that is told.
    ///
    /// Errors: as of [`Store::index_journal`] where marks have to be read; once told to end nothing has begun.
    pub fn begin_counting(&self, goes_on: GoesOn<'_>) -> Result<Traced, StoreError> {
        self.check_marks(goes_on)?; // marks that are missing are those of the newest state only once counts are lost
        let mut gate = self.gate.lock();
        Ok(match gate.mode {
            Mode::Off | Mode::Blind(_) => {
                gate.mode = Mode::Blind(None); // also behind an earlier cycle that did not end: blindly since
                Traced::Newest
            }
            Mode::Exact(counts) => Traced::OldestFrom(Order::new(counts.since)),
        })
    }

    /// The first order from which commits are counted exactly, if they are, for a cycle that goes on with a mark.
    ///
    /// Errors: those of [`Store::begin_counting`].
    pub fn counted_since(&self, goes_on: GoesOn<'_>) -> Result<Option<Order>, StoreError> {
        self.check_marks(goes_on)?;
        Ok(match self.gate.lock().mode {
            Mode::Exact(counts) => Some(Order::new(counts.since)),
            Mode::Off | Mode::Blind(_) => None,
        })
    }

    /// Reads the marks that had no room when the store was opened, unless somebody did: one that cannot be read may be the only
    /// one of its node, and ends exact counting, as it does at the opening (C5).
    ///
    /// Errors: a failed read or write; told to end, and then they are still to be read.
    pub(super) fn check_marks(&self, goes_on: GoesOn<'_>) -> Result<(), StoreError> {
        if !self.gate.lock().marks.is_unchecked() {
            return Ok(());
        }
        let bad = many::first_bad(&*self.view()?, goes_on)?;
        let mut gate = self.gate.lock();
        if bad.is_some() && matches!(gate.mode, Mode::Exact(_)) {
            let order = self.head().map_or(0, |head| head.order);
            self.end_counts(&mut gate, CountsLost { by: LostBy::Mark, order })?;
        }
        gate.marks.checked();
        Ok(())
    }

    /// Ends what a cycle that failed had begun.
    pub fn abandon_counting(&self) {
        let mut gate = self.gate.lock();
        if matches!(gate.mode, Mode::Blind(_)) {
            gate.mode = Mode::Off;
        }
    }

    /// Settles the entries up to and including `cutoff`: what they name is a cycle's to remove.
    ///
    /// Errors: a revoked permit, a failed write.
    pub fn settle_journal(&self, permit: &Permit, cutoff: Order) -> Result<(), StoreError> {
        let mut gate = self.caught_up(); // with what was created lately, too
        self.admit(permit)?;
        let Some(end) = cutoff.next() else { return Ok(()) };
        let saved = match ExpiryRecord::load(&*self.view()?) {
            Err(StoreError::Record { .. }) => None, // what it said is settled now
            other => other?.done,
        };
        let done = saved.max(Some(cutoff.get()));
        let mut batch = Batch::new();
        batch.delete_range(Table::JOURNAL, Order::GENESIS.to_key(), end.to_key());
        let head = self.head().map(|head| Order::new(head.order));
        let strays = journal::strays(&*self.view()?, head)?; // of no commit: nothing needs them once this cycle has marked
        strays.into_iter().for_each(|key| batch.delete(Table::JOURNAL, key));
        ExpiryRecord { done, group: None }.put(&mut batch)?;
        cursor::delete_layers(&mut batch);
        self.write_or_make_room(&batch, Durability::Logged)?;
        reached(Point::JournalSettled);
        gate.settled += 1;
        gate.forget_lately(); // BEFORE the cycle deletes any of it
        self.note(&gate);
        drop(gate);
        self.forget_settled(cutoff);
        Ok(())
    }

    /// In small stays under the gate, for it may be much (I12). What is still in the index meanwhile is pending as it was: no
    /// state has it, and no slice comes to it.
    fn forget_settled(&self, cutoff: Order) {
        let forget_some = |mut gate: Stay<'_>| {
            gate.pending.as_mut().is_some_and(|queue| queue.index().forget_some(cutoff, FORGOTTEN_AT_ONCE))
        };
        while forget_some(self.caught_up()) {}
    }

    /// Takes the correction of marks one batch further, of at most `most` marks, under the gate; once it is over, what it
    /// came to is told, and from then on commits are counted exactly. Call BEFORE the first delete.
    ///
    /// Errors: a revoked permit, a failed read or write; marks may then be more than are needed, never fewer.
    pub fn correct_marks(
        &self,
        permit: &Permit,
        correction: &mut Correction<'_>,
        most: NonZeroUsize,
    ) -> Result<ControlFlow<Corrected>, StoreError> {
        let Correction { traced, shared, set, from, corrected } = correction;
        drop(self.unpacked()?); // BEFORE the rows are read without the gate
        if let Some(missing) = shared.get(*set..).filter(|missing| !missing.is_empty()) {
            let chunk = missing.get(..most.get()).map_or(missing, |chunk| chunk);
            corrected.set += self.mark(permit, chunk, *traced)?;
            *set += chunk.len();
            return Ok(ControlFlow::Continue(()));
        }
        if let Some(start) = from {
            let range = KeyRange { start: Some(start.clone()), end: None };
            let (stale, next) = unneeded(&*self.view()?, &range, (shared, *traced), most)?;
            corrected.removed += self.unmark(permit, &stale, *traced)?;
            *from = next;
            return Ok(ControlFlow::Continue(()));
        }
        self.count_exactly(permit, *traced)?;
        Ok(ControlFlow::Break(*corrected))
    }

    fn mark(&self, permit: &Permit, fingerprints: &[u64], traced: Order) -> Result<u64, StoreError> {
        self.warm(fingerprints)?;
        let mut gate = self.unpacked()?; // a bundle would be written over what is decided here
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, fingerprints)?;
        let is_missing = |print: &&u64| marked.get(print).is_none_or(|mark| *mark == Mark::UNREADABLE);
        let missing: Vec<u64> = fingerprints.iter().filter(is_missing).copied().collect();
        let mut batch = Batch::new();
        missing.iter().for_each(|fingerprint| many::put(&mut batch, *fingerprint, Mark::first(traced)));
        // A commit made it, and the state that was traced needs it: no rollback takes it back (S36).
        let needed_before = marked.iter().filter(|(_, mark)| mark.is_first_above(traced));
        needed_before.for_each(|(fingerprint, mark)| many::put(&mut batch, *fingerprint, Mark::again(mark.order)));
        self.write_marks(&mut gate, &batch)?;
        gate.marks.add(missing.iter().copied(), traced);
        Ok(missing.len() as u64)
    }

    fn unmark(&self, permit: &Permit, unneeded: &Unneeded, traced: Order) -> Result<u64, StoreError> {
        if unneeded.is_empty() {
            return Ok(0);
        }
        self.warm(&unneeded.fingerprints)?;
        let mut gate = self.unpacked()?; // what a bundle says may not come back
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, &unneeded.fingerprints)?;
        let is_old = |mark: &(u64, Mark)| gate.marks.is_old(*mark, traced); // a commit may have made one again
        let (old, kept): (Vec<_>, Vec<_>) = marked.into_iter().partition(is_old);
        let old: Vec<u64> = old.into_iter().map(|(fingerprint, _)| fingerprint).collect();
        let mut batch = Batch::new();
        old.iter().for_each(|fingerprint| many::delete(&mut batch, *fingerprint));
        let mut removed = old.len() as u64;
        if !matches!(gate.mode, Mode::Exact(_)) {
            let head = self.head().map_or(traced, |head| Order::new(head.order));
            let unreadable = kept.iter().filter(|(_, mark)| *mark == Mark::UNREADABLE);
            unreadable.for_each(|(fingerprint, _)| many::put(&mut batch, *fingerprint, Mark::again(head)));
            unneeded.strays.iter().for_each(|key| batch.delete(Table::MANY, key.as_slice()));
            removed += unneeded.strays.len() as u64;
        }
        self.write_marks(&mut gate, &batch)?;
        gate.marks.remove(&old);
        Ok(removed)
    }

    /// Reads marks BEFORE the gate, so that they are in memory when they are read under it (I12): nobody reads them otherwise.
    fn warm(&self, fingerprints: &[u64]) -> Result<(), StoreError> {
        many::read(&*self.view()?, fingerprints).map(|_| ())
    }

    /// One that fails may have taken effect: what is marked on disk is not known then, and is read from there on (I8).
    fn write_marks(&self, gate: &mut Counting, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write_or_make_room(batch, Durability::Logged).inspect_err(|_| gate.marks.forget())?;
        reached(Point::MarksWritten);
        Ok(())
    }

    /// What was counted blindly has every mark that it needs.
    fn count_exactly(&self, permit: &Permit, traced: Order) -> Result<(), StoreError> {
        let mut gate = self.unpacked()?;
        self.admit(permit)?;
        match gate.mode {
            Mode::Blind(Some(back)) if back < traced => Ok(()), // what was traced is gone (S37): a cycle stays owed
            Mode::Blind(_) => self.settle_by(&mut gate, CountsRecord { since: traced.get(), cycle: None }),
            Mode::Off | Mode::Exact(_) => Ok(()), // nobody counted meanwhile; or it was so before
        }
    }

    /// A cycle has finished: from here on entries may expire, where commits are counted exactly. Call AFTER its last delete.
    ///
    /// Errors: a revoked permit, a failed write.
    pub fn settle_counts(&self, permit: &Permit, cycle: u64) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        match gate.mode {
            Mode::Exact(record) => self.settle_by(&mut gate, CountsRecord { cycle: Some(cycle), ..record }),
            Mode::Off | Mode::Blind(_) => Ok(()), // a cycle stays owed
        }
    }

    fn settle_by(&self, gate: &mut Counting, record: CountsRecord) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        record.put(&mut batch)?;
        let was_blind = matches!(gate.mode, Mode::Blind(_));
        if was_blind {
            gate.marks.bundles().delete_torn(&mut batch); // every mark that is needed was found anew
        }
        self.write_or_make_room(&batch, Durability::Logged)?;
        reached(Point::CountsConfirmed);
        if was_blind {
            gate.marks.bundles().forget_torn();
            let empty = Pending::new(gate.limit);
            gate.set_index(Some(empty)); // what was counted blindly names nothing
            gate.settled += 1; // and what was named before it may not be trusted
        }
        (gate.mode, gate.lost) = (Mode::Exact(record), None);
        self.note(gate);
        Ok(())
    }

    /// Ends exact counting, unless a cycle or a rollback came since: entries are settled anew then.
    pub(super) fn give_counts_up(&self, settled: u64, by: LostBy) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        let head = self.head().map_or(0, |head| head.order);
        if gate.settled != settled { Ok(()) } else { self.end_counts(&mut gate, CountsLost { by, order: head }) }
    }

    /// Nothing expires any more before a major cycle has made counts exact again.
    pub(super) fn end_counts(&self, gate: &mut Counting, lost: CountsLost) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        CountsRecord::lose(&mut batch, lost)?;
        self.backend().write(&batch, Durability::Logged)?;
        (gate.mode, gate.lost) = (Mode::Off, Some(lost));
        gate.set_index(None);
        self.note(gate);
        Ok(())
    }
}

/// Marks that the state which was traced does not need.
#[derive(Default)]
struct Unneeded {
    fingerprints: Vec<u64>,
    /// Keys of another length than that of a mark: they are of no node.
    strays: Vec<Vec<u8>>,
}

impl Unneeded {
    fn is_empty(&self) -> bool {
        self.fingerprints.is_empty() && self.strays.is_empty()
    }
}

/// Those among `most` of the marks that are there, and where to go on.
fn unneeded(
    view: &dyn View,
    range: &KeyRange,
    (shared, traced): (&[u64], Order),
    most: NonZeroUsize,
) -> Result<(Unneeded, Option<Vec<u8>>), StoreError> {
    let (mut found, mut seen, mut next) = (Unneeded::default(), 0, None);
    view.scan(&Table::MANY, range, &mut |key, value| {
        seen += 1;
        if seen > most.get() {
            next = Some(key.to_vec());
            return Flow::Break(());
        }
        let Some(fingerprint) = many::number(key) else {
            found.strays.push(key.to_vec());
            return Flow::Continue(());
        };
        let mark = many::mark_of(key, value);
        let is_old = mark.order <= traced || mark == Mark::UNREADABLE;
        if is_old && shared.binary_search(&fingerprint).is_err() {
            found.fingerprints.push(fingerprint);
        }
        Flow::Continue(())
    })?;
    Ok((found, next))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{backend::MemoryBackend, queue::Queue, store::StoreConfig};

    /// I12: it ends with the counts, or another one takes its place.
    #[test]
    fn an_index_that_a_cycle_or_an_end_of_counting_replaces_is_not_freed_under_the_gate() {
        let config = StoreConfig::new(Durability::Logged);
        for is_end in [false, true] {
            let store = Store::open(Arc::new(MemoryBackend::new()), config).unwrap();
            let mut gate = store.gate.lock();
            gate.mode = Mode::Blind(None);
            gate.set_index(Some(Pending::new(9)));
            if is_end {
                store.end_counts(&mut gate, CountsLost { by: LostBy::Gap, order: 1 }).unwrap();
            } else {
                store.settle_by(&mut gate, CountsRecord { since: 1, cycle: None }).unwrap();
            }
            assert!(gate.waste.has::<Queue>() && gate.pending.is_none() == is_end);
        }
    }
}
