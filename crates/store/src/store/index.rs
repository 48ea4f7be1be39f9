//! Reading the journal that an earlier process left into the index of what waits to go.
//!
//! Ordering: the view is read first and without the gate; only the last few orders are read under it, for commits that came
//! meanwhile. Nothing expires before.

use state_tree::{Expiring, Left, NodeHash, Order};

use super::{Store, cursor::ExpiryRecord};
use crate::{
    backend::{KeyRange, View, visit_rows},
    counting::{CountsRecord, Mode},
    ending::{Ending, GoesOn},
    error::StoreError,
    journal::{self, JournalRecord},
    lost::{CountsLost, LostBy},
    pending::Pending,
    queue::Queue,
    record,
    schema::Table,
};

/// What was found of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// Every entry is in the index, as far as it has room.
    Whole {
        /// The orders of rows that could not be read: what they and earlier rows name is left to a major cycle (P2).
        bad_rows: Vec<Order>,
    },
    /// Commits are not counted exactly, so there is nothing to index.
    Uncounted,
    /// An order has no row: a major cycle must make counts exact again (C11).
    Gap(Order),
    /// How far the sweep is cannot be read: the same, once that is passed over.
    BadCursor(BadCursor),
}

/// A cursor that is unusable, or of other entries. It is met again until it is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCursor {
    /// What is wrong with it.
    pub why: String,
    settled: u64,
}

impl BadCursor {
    pub(super) fn new(settled: u64, error: &StoreError) -> Self {
        Self { why: error.to_string(), settled }
    }
}

/// Orders that are read under the gate at most, at the end of indexing.
const LAST_ORDERS: u64 = 64;

impl Store {
    /// Reads the journal that an earlier process left into the index; what is committed meanwhile waits for the last few
    /// orders only. Nothing expires before. Marks that had no room when the store was opened are read first.
    ///
    /// Errors: a failed read or write, a rollback or cycle meanwhile.
    pub fn index_journal(&self) -> Result<Indexed, StoreError> {
        self.index_journal_while(&|| true)
    }

    /// The same, as long as somebody wants it.
    ///
    /// Errors: as above; [`StoreError::Cancelled`] once told to end: nothing has changed then, and it may be done later.
    pub fn index_journal_while(&self, goes_on: GoesOn<'_>) -> Result<Indexed, StoreError> {
        self.check_marks(goes_on)?; // BEFORE the first slice
        let (counts, settled, mut pending) = {
            let gate = self.gate.lock();
            match (gate.mode, &gate.pending) {
                (Mode::Exact(_), Some(_)) => return Ok(Indexed::Whole { bad_rows: Vec::new() }),
                (Mode::Exact(counts), None) => (counts, gate.settled, Pending::new(gate.limit)),
                (Mode::Off | Mode::Blind, _) => return Ok(Indexed::Uncounted),
            }
        };
        let begun = match Begun::load(&*self.view()?) {
            Err(error @ StoreError::Record { .. }) => {
                return Ok(Indexed::BadCursor(BadCursor::new(settled, &error)));
            }
            begun => begun?,
        };
        let mut indexing = Indexing { counts, last: None, has_gap: false, bad_rows: Vec::new(), begun };
        loop {
            let before = indexing.last;
            indexing.read(&*self.view()?, &mut pending, goes_on)?;
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
        indexing.read(&*self.view()?, &mut pending, &|| true)?; // a few, under the gate
        if let Some(gap) = indexing.gap(self.look(|chain| chain.head_order())?) {
            self.end_counts(&mut gate, CountsLost { by: LostBy::Gap, order: gap.get() })?;
            return Ok(Indexed::Gap(gap));
        }
        gate.pending = Some(Queue::of(pending));
        self.note(&gate);
        Ok(Indexed::Whole { bad_rows: indexing.bad_rows })
    }

    /// Passes over a cursor, which ends exact counting like a gap in the journal: nothing expires before a major cycle has
    /// settled the entries. One that a cycle or a rollback came after is over already.
    ///
    /// Ordering: AFTER it is written down that the cursor was met (P2).
    ///
    /// Errors: a failed write; the cursor is met again.
    pub fn pass_over(&self, cursor: &BadCursor) -> Result<(), StoreError> {
        self.give_counts_up(cursor.settled, LostBy::Cursor)
    }
}

/// Reading the journal from the first entry that may be trusted on.
struct Indexing {
    counts: CountsRecord,
    last: Option<Order>,
    /// Whether a row behind the last order is missing: nothing behind it is read again.
    has_gap: bool,
    bad_rows: Vec<Order>,
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
    fn read(&mut self, view: &dyn View, pending: &mut Pending, goes_on: GoesOn<'_>) -> Result<(), StoreError> {
        let after = Order::new(self.last.map_or_else(|| self.begin(), Order::get));
        let range = KeyRange { start: after.next().map(|order| order.to_key().to_vec()), end: None };
        self.last = Some(after);
        if self.has_gap {
            return Ok(());
        }
        let mut ending = Ending::new(goes_on);
        visit_rows(view, &Table::JOURNAL, &range, &mut |key, value| {
            ending.go_on()?;
            let order = journal::order_of(key)?;
            if self.has_gap || self.last.and_then(Order::next) != Some(order) {
                self.has_gap = true;
                return Ok(()); // the last order stays behind the head
            }
            match record::decode::<JournalRecord>("journal", value) {
                Ok(row) => self.take(order, &row, pending),
                Err(error @ StoreError::Newer { .. }) => return Err(error), // C17
                Err(_) => {
                    // What it created is unknown, so earlier entries may name what is alive (I8).
                    self.bad_rows.push(order);
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
        entries.extend(expiring);
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
