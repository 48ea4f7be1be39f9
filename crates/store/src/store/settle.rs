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

use std::num::NonZeroUsize;

use parking_lot::MutexGuard;
use state_tree::{NodeHash, Order};

use super::{Store, expire::ExpiryRecord};
use crate::{
    backend::{Batch, Durability, Flow, KeyRange, View, visit_rows},
    counting::{CountsRecord, Mode},
    error::StoreError,
    journal::{self, JournalRecord},
    many,
    pending::{Lag, Pending, PendingCounts},
    permit::Permit,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
}

/// How marks were made exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Corrected {
    /// Marks set.
    pub set: u64,
    /// Marks taken away.
    pub removed: u64,
}

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
        self.backend().write(&batch, Durability::Logged)?;
        gate.settled += 1;
        if let Some(pending) = &mut gate.pending {
            pending.forget_orders(..=cutoff);
        }
        Ok(())
    }

    fn admit(&self, permit: &Permit) -> Result<(), StoreError> {
        if !permit.belongs_to(&self.fence) {
            return Err(StoreError::Invariant("permit of another store".to_owned()));
        }
        if permit.is_current() { Ok(()) } else { Err(StoreError::PermitRevoked) } // I10
    }

    /// Makes the marks exact: `shared` are the fingerprints, sorted, of the nodes that two references of the state of
    /// `traced` lead to. In batches of at most `most` marks, each under the gate. From then on entries may expire.
    ///
    /// Errors: a revoked permit, a failed read or write; marks may then be more than are needed, never fewer.
    pub fn correct_marks(
        &self,
        permit: &Permit,
        (traced, cycle): (Order, u64),
        shared: &[u64],
        most: NonZeroUsize,
    ) -> Result<Corrected, StoreError> {
        let mut corrected = Corrected::default();
        for chunk in shared.chunks(most.get()) {
            corrected.set += self.mark(permit, chunk, traced)?;
        }
        let view = self.view()?;
        let mut range = KeyRange::ALL;
        loop {
            let (stale, next) = unneeded(&*view, &range, (shared, traced), most)?;
            corrected.removed += self.unmark(permit, &stale, traced)?;
            let Some(next) = next else { break };
            range.start = Some(next);
        }
        self.confirm(permit, traced, cycle)?;
        Ok(corrected)
    }

    fn mark(&self, permit: &Permit, fingerprints: &[u64], traced: Order) -> Result<u64, StoreError> {
        let gate = self.gate.lock();
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, fingerprints)?;
        let mut batch = Batch::new();
        let missing = fingerprints.iter().filter(|fingerprint| !marked.contains_key(fingerprint));
        let set = missing.map(|fingerprint| many::put(&mut batch, *fingerprint, traced)).count();
        self.write_under(gate, &batch)?;
        Ok(set as u64)
    }

    fn unmark(&self, permit: &Permit, fingerprints: &[u64], traced: Order) -> Result<u64, StoreError> {
        let gate = self.gate.lock();
        self.admit(permit)?;
        let marked = many::read(&*self.view()?, fingerprints)?;
        let mut batch = Batch::new();
        let old = marked.iter().filter(|(_, order)| **order <= traced); // a commit may have renewed one meanwhile
        let removed = old.map(|(fingerprint, _)| many::delete(&mut batch, *fingerprint)).count();
        self.write_under(gate, &batch)?;
        Ok(removed as u64)
    }

    fn write_under<T>(&self, gate: MutexGuard<'_, T>, batch: &Batch) -> Result<(), StoreError> {
        if !batch.is_empty() {
            self.backend().write(batch, Durability::Logged)?;
        }
        MutexGuard::unlock_fair(gate);
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
        let mut batch = Batch::new();
        record.put(&mut batch)?;
        self.backend().write(&batch, Durability::Logged)?;
        if gate.mode == Mode::Blind {
            gate.pending = Some(Pending::new(gate.limit)); // what was counted blindly names nothing
        }
        gate.mode = Mode::Exact(record);
        self.note(&gate);
        Ok(())
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
        let mut indexing = Indexing { counts, last: None, bad_rows: 0, saved: ExpiryRecord::load(&*self.view()?)? };
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
            let mut batch = Batch::new();
            CountsRecord::forget(&mut batch);
            self.backend().write(&batch, Durability::Logged)?;
            gate.mode = Mode::Off;
            self.note(&gate);
            return Ok(Indexed::Gap(gap));
        }
        gate.pending = Some(pending);
        Ok(Indexed::Whole { bad_rows: indexing.bad_rows })
    }

    /// How far the journal is ahead of the sweep of it; nothing while counts are not exact or the index is not read.
    pub fn lag(&self) -> Option<Lag> {
        let floor = self.floor()?;
        self.gate.lock().pending.as_ref().map(|pending| pending.lag(floor))
    }

    /// What the index holds and was told; nothing while there is none.
    pub fn pending(&self) -> Option<PendingCounts> {
        self.gate.lock().pending.as_ref().map(Pending::counts)
    }
}

/// Marks that nothing needs, at most `most` of them, and where to go on.
fn unneeded(
    view: &dyn View,
    range: &KeyRange,
    (shared, traced): (&[u64], Order),
    most: NonZeroUsize,
) -> Result<(Vec<u64>, Option<Vec<u8>>), StoreError> {
    let (mut found, mut next) = (Vec::new(), None);
    view.scan(&Table::MANY, range, &mut |key, value| {
        if found.len() >= most.get() {
            next = Some(key.to_vec());
            return Flow::Break(());
        }
        let old = many::number(key).filter(|_| many::order_of(value) <= traced);
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
    saved: ExpiryRecord,
}

impl Indexing {
    /// The order behind which each order must have a row.
    fn begin(&self) -> u64 {
        self.saved.done.map_or(self.counts.since, |done| done.max(self.counts.since))
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

    fn take(&self, order: Order, row: &JournalRecord, pending: &mut Pending) {
        row.created.iter().for_each(|fingerprint| pending.forget(*fingerprint));
        let expiring = row.expiring();
        pending.insert(order, Some(row.timestamp_ms), expiring.stale.iter().chain(&expiring.dropped));
        if let Some(group) = self.saved.group.as_ref().filter(|group| group.last == order.get()) {
            let below: Vec<NodeHash> = group.below.iter().copied().map(NodeHash::new).collect();
            let new: Vec<&NodeHash> = below.iter().filter(|hash| pending.order(hash).is_none()).collect();
            pending.insert(order, None, new);
        }
    }

    /// The first order without a row, up to the head.
    fn gap(&self, head: Option<Order>) -> Option<Order> {
        let next = self.last.and_then(Order::next)?;
        head.filter(|head| next <= *head).map(|_| next)
    }
}
