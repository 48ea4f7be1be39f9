//! What a major cycle does for the counts, and the index of the journal (rule 7).
//!
//! Ordering: a cycle settles its entries, durably, BEFORE its first delete, for a sweep that ends early leaves trees that lack
//! nodes, and what comes back of those is not known to be named; and so BEFORE any mark goes, for the expansion of a
//! dropped tree stops at marks. Missing marks are set BEFORE others go; the record that counts are exact comes last.
//! Whatever a crash leaves in between has more marks than it needs.
//!
//! Which marks are needed: those of the state that was traced, by two references to a node, and those that commits after
//! it made. The state to trace is the oldest of the window that was counted exactly, because entries of the window were
//! judged by its marks, and the newest where a cycle makes counts exact: see [`Store::begin_counting`].

use std::{num::NonZeroUsize, ops::ControlFlow};

use parking_lot::MutexGuard;
use state_tree::{Expiring, Left, NodeHash, Order};

use super::{
    Store,
    cursor::{self, ExpiryRecord},
};
use crate::{
    backend::{Batch, Durability, Flow, KeyRange, View, visit_rows},
    counting::{Counting, CountsRecord, Mode},
    error::StoreError,
    journal::{self, JournalRecord},
    lost::{CountsLost, LostBy},
    many,
    pending::Pending,
    permit::Permit,
    point::{Point, reached},
    record,
    schema::Table,
};

/// Which state a cycle must trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traced {
    /// The oldest of its window, or this one if it is newer: earlier ones were not counted.
    OldestFrom(Order),
    /// The newest that its view has.
    Newest,
}

/// What was found of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// Every entry is in the index, as far as it has room.
    Whole {
        /// Rows that could not be read: what earlier rows name is left to a major cycle (P2).
        bad_rows: u64,
    },
    /// Commits are not counted exactly, so there is nothing to index.
    Uncounted,
    /// An order has no row: a major cycle must make counts exact again (C11).
    Gap(Order),
    /// How far the sweep is cannot be read: the same.
    BadCursor {
        /// What is wrong with the record.
        why: String,
    },
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
    cycle: u64,
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
    pub fn new((traced, cycle): (Order, u64), shared: &'a [u64]) -> Self {
        Self { traced, cycle, shared, set: 0, from: Some(Vec::new()), corrected: Corrected::default() }
    }
}

/// Nodes of settled entries that are taken out of the index in one stay under the gate, about.
const FORGOTTEN_AT_ONCE: usize = 4096;
/// Orders that are read under the gate at most, at the end of indexing.
const LAST_ORDERS: u64 = 64;

impl Store {
    /// Begins to count commits, blindly, if nobody does. Call BEFORE the capture of a major cycle, which then traces the
    /// state that is told.
    pub fn begin_counting(&self) -> Traced {
        let mut gate = self.gate.lock();
        match gate.mode {
            Mode::Off => {
                gate.mode = Mode::Blind;
                Traced::Newest
            }
            Mode::Blind => Traced::Newest, // of an earlier cycle that did not end: commits were counted blindly since
            Mode::Exact(counts) => Traced::OldestFrom(Order::new(counts.since)),
        }
    }

    /// Ends what a cycle that failed had begun.
    pub fn abandon_counting(&self) {
        let mut gate = self.gate.lock();
        if gate.mode == Mode::Blind {
            gate.mode = Mode::Off;
        }
    }

    /// Settles the entries up to and including `cutoff`: what they name is a cycle's to remove.
    ///
    /// Errors: a revoked permit, a failed write.
    pub fn settle_journal(&self, permit: &Permit, cutoff: Order) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        let Some(end) = cutoff.next() else { return Ok(()) };
        let saved = match ExpiryRecord::load(&*self.view()?) {
            Err(StoreError::Record { .. }) => None, // what it said is settled now
            other => other?.done,
        };
        let done = saved.max(Some(cutoff.get()));
        let mut batch = Batch::new();
        batch.delete_range(Table::JOURNAL, Order::GENESIS.to_key(), end.to_key());
        ExpiryRecord { done, group: None }.put(&mut batch)?;
        cursor::delete_layers(&mut batch);
        self.backend().write(&batch, Durability::Logged)?;
        reached(Point::JournalSettled);
        gate.settled += 1;
        self.note(&gate);
        MutexGuard::unlock_fair(gate);
        self.forget_settled(cutoff);
        Ok(())
    }

    /// In small stays under the gate, for it may be much (I12). What is still in the index meanwhile is pending as it was: no
    /// state has it, and no slice comes to it.
    fn forget_settled(&self, cutoff: Order) {
        loop {
            let mut gate = self.gate.lock();
            let more = gate.pending.as_mut().is_some_and(|pending| pending.forget_some(cutoff, FORGOTTEN_AT_ONCE));
            MutexGuard::unlock_fair(gate);
            if !more {
                return;
            }
        }
    }

    /// Takes the correction of marks one batch further, of at most `most` marks, under the gate; once it is over, what it
    /// came to is told, and from then on entries may expire.
    ///
    /// Errors: a revoked permit, a failed read or write; marks may then be more than are needed, never fewer.
    pub fn correct_marks(
        &self,
        permit: &Permit,
        correction: &mut Correction<'_>,
        most: NonZeroUsize,
    ) -> Result<ControlFlow<Corrected>, StoreError> {
        let Correction { traced, cycle, shared, set, from, corrected } = correction;
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
        self.confirm(permit, *traced, *cycle)?;
        Ok(ControlFlow::Break(*corrected))
    }

    fn mark(&self, permit: &Permit, fingerprints: &[u64], traced: Order) -> Result<u64, StoreError> {
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, fingerprints)?;
        let is_missing = |print: &&u64| marked.get(print).is_none_or(|order| *order == many::UNREADABLE);
        let missing: Vec<u64> = fingerprints.iter().filter(is_missing).copied().collect();
        let mut batch = Batch::new();
        missing.iter().for_each(|fingerprint| many::put(&mut batch, *fingerprint, traced));
        self.write_unless_empty(&batch)?;
        gate.marks.add(missing.iter().copied(), traced);
        gate.marks.keep_all();
        MutexGuard::unlock_fair(gate);
        Ok(missing.len() as u64)
    }

    fn unmark(&self, permit: &Permit, fingerprints: &[u64], traced: Order) -> Result<u64, StoreError> {
        if fingerprints.is_empty() {
            return Ok(0);
        }
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, fingerprints)?;
        let old = marked.into_iter().filter(|mark| gate.marks.is_old(*mark, traced)); // a commit may have made one again
        let old: Vec<u64> = old.map(|(fingerprint, _)| fingerprint).collect();
        let mut batch = Batch::new();
        old.iter().for_each(|fingerprint| many::delete(&mut batch, *fingerprint));
        if let Err(error) = self.write_unless_empty(&batch) {
            gate.marks.forget(); // what is marked on disk now is not known
            return Err(error);
        }
        gate.marks.remove(&old);
        MutexGuard::unlock_fair(gate);
        Ok(old.len() as u64)
    }

    fn write_unless_empty(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.backend().write(batch, Durability::Logged)?;
        reached(Point::MarksWritten);
        Ok(())
    }

    fn confirm(&self, permit: &Permit, traced: Order, cycle: u64) -> Result<(), StoreError> {
        let mut gate = self.gate.lock();
        self.admit(permit)?;
        let record = match gate.mode {
            Mode::Off => return Ok(()), // nobody counted meanwhile
            Mode::Blind => CountsRecord { since: traced.get(), cycle: Some(cycle) },
            Mode::Exact(record) => CountsRecord { cycle: Some(cycle), ..record },
        };
        self.settle_by(&mut gate, record)
    }

    /// Reads the journal that an earlier process left into the index; what is committed meanwhile waits for the last few
    /// orders only. Nothing expires before.
    ///
    /// Errors: a failed read or write, a rollback or cycle meanwhile.
    pub fn index_journal(&self) -> Result<Indexed, StoreError> {
        let (counts, settled, mut pending) = {
            let gate = self.gate.lock();
            match (gate.mode, &gate.pending) {
                (Mode::Exact(_), Some(_)) => return Ok(Indexed::Whole { bad_rows: 0 }),
                (Mode::Exact(counts), None) => (counts, gate.settled, Pending::new(gate.limit)),
                (Mode::Off | Mode::Blind, _) => return Ok(Indexed::Uncounted),
            }
        };
        let begun = match Begun::load(&*self.view()?) {
            Err(error @ StoreError::Record { .. }) => {
                self.give_counts_up(settled, LostBy::Cursor)?;
                return Ok(Indexed::BadCursor { why: error.to_string() });
            }
            begun => begun?,
        };
        let mut indexing = Indexing { counts, last: None, bad_rows: 0, begun };
        loop {
            let before = indexing.last;
            indexing.read(&*self.view()?, &mut pending)?;
            let head = self.look(|chain| chain.head_order())?; // AFTER the pass: the rest is read under the gate
            let is_near = |head: Order| indexing.last.is_some_and(|last| head.minus(LAST_ORDERS) <= Some(last));
            if head.is_none_or(is_near) || indexing.last == before {
                break; // a pass that got no further has met a gap
            }
        }
        let mut gate = self.gate.lock();
        if gate.mode != Mode::Exact(counts) || gate.settled != settled {
            return Err(StoreError::Superseded);
        }
        indexing.read(&*self.view()?, &mut pending)?;
        if let Some(gap) = indexing.gap(self.look(|chain| chain.head_order())?) {
            self.end_counts(&mut gate, CountsLost { by: LostBy::Gap, order: gap.get() })?;
            return Ok(Indexed::Gap(gap));
        }
        gate.pending = Some(pending);
        self.note(&gate);
        Ok(Indexed::Whole { bad_rows: indexing.bad_rows })
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
        (gate.mode, gate.pending, gate.lost) = (Mode::Off, None, Some(lost));
        self.note(gate);
        Ok(())
    }
}

/// Marks that nothing needs, among `most` of those that are there, and where to go on.
fn unneeded(
    view: &dyn View,
    range: &KeyRange,
    (shared, traced): (&[u64], Order),
    most: NonZeroUsize,
) -> Result<(Vec<u64>, Option<Vec<u8>>), StoreError> {
    let (mut found, mut seen, mut next) = (Vec::new(), 0, None);
    view.scan(&Table::MANY, range, &mut |key, value| {
        seen += 1;
        if seen > most.get() {
            next = Some(key.to_vec());
            return Flow::Break(());
        }
        let order = many::order_of(key, value);
        let old = many::number(key).filter(|_| order <= traced || order == many::UNREADABLE);
        found.extend(old.filter(|fingerprint| shared.binary_search(fingerprint).is_err()));
        Flow::Continue(())
    })?;
    Ok((found, next))
}

/// Reading the journal from the first entry that may be trusted on.
struct Indexing {
    counts: CountsRecord,
    last: Option<Order>,
    bad_rows: u64,
    begun: Begun,
}

/// What an earlier process had begun with.
struct Begun {
    /// The newest order that is dealt with.
    done: Option<u64>,
    /// The last order of the entries behind it, and what is left of them.
    group: Option<(Order, Left)>,
    /// What those name, as far as they were read.
    entries: Expiring,
}

impl Begun {
    fn load(view: &dyn View) -> Result<Self, StoreError> {
        let ExpiryRecord { done, group } = ExpiryRecord::load(view)?;
        let group = group.map(|group| Ok((Order::new(group.last), group.left(view)?))).transpose()?;
        Ok(Self { done, group, entries: Expiring::default() })
    }
}

impl Indexing {
    /// The order behind which each order must have a row.
    fn begin(&self) -> u64 {
        self.begun.done.map_or(self.counts.since, |done| done.max(self.counts.since))
    }

    /// Goes on behind the last order read.
    fn read(&mut self, view: &dyn View, pending: &mut Pending) -> Result<(), StoreError> {
        let after = Order::new(self.last.map_or_else(|| self.begin(), Order::get));
        let range = KeyRange { start: after.next().map(|order| order.to_key().to_vec()), end: None };
        self.last = Some(after);
        visit_rows(view, &Table::JOURNAL, &range, &mut |key, value| {
            let order = journal::order_of(key)?;
            if self.last.and_then(Order::next) != Some(order) {
                return Ok(()); // a gap: the last order stays behind the head
            }
            match record::decode::<JournalRecord>("journal", value) {
                Ok(row) => self.take(order, &row, pending),
                Err(_) => {
                    // What it created is unknown, so earlier entries may name what is alive (I8).
                    self.bad_rows += 1;
                    pending.forget_orders(..=order);
                }
            }
            self.last = Some(order);
            Ok(())
        })
    }

    fn take(&mut self, order: Order, row: &JournalRecord, pending: &mut Pending) {
        row.created.iter().for_each(|fingerprint| pending.forget(*fingerprint));
        let expiring = row.expiring();
        pending.insert(order, Some(row.timestamp_ms), expiring.stale.iter().chain(&expiring.dropped));
        let Begun { group, entries, .. } = &mut self.begun;
        let Some((last, left)) = group.as_ref().filter(|(last, _)| order <= *last) else { return };
        entries.stale.extend(expiring.stale);
        entries.dropped.extend(expiring.dropped);
        if order < *last {
            return;
        }
        left.dealt_with(entries).for_each(|hash| pending.settle(hash, order));
        let new: Vec<&NodeHash> = left.below.iter().filter(|hash| pending.order(hash).is_none()).collect();
        pending.insert(order, None, new);
        *group = None;
    }

    /// The first order without a row, up to the head.
    fn gap(&self, head: Option<Order>) -> Option<Order> {
        let next = self.last.and_then(Order::next)?;
        head.filter(|head| next <= *head).map(|_| next)
    }
}
