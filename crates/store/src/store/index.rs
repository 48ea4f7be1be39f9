//! Reading the journal that an earlier process left into the index of what waits to go.
//!
//! Ordering: the view is read first and without the gate; only the last few orders are read under it, for commits that came
//! meanwhile. Nothing expires before.
//!
//! A row that no commit wrote is passed over and told, wherever it lies, and kept for a major cycle. It hides nothing: each order
//! must have a row of its own all the same.

use std::collections::BTreeMap;

use state_tree::{Expiring, Left, NodeHash, Order};

use super::{Store, cursor::ExpiryRecord};
use crate::{
    backend::{KeyRange, View, visit_rows},
    chain::native,
    counting::{CountsRecord, Mode},
    ending::{Ending, GoesOn},
    error::StoreError,
    journal::{self, JournalRecord},
    lost::{CountsLost, LostBy},
    pending::Pending,
    record,
    schema::Table,
};

/// What was found of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// Every entry is in the index, as far as it has room.
    Whole {
        /// What is passed over, one for each order: left to a major cycle (P2).
        bad_rows: Vec<BadRow>,
    },
    /// Commits are not counted exactly, so there is nothing to index.
    Uncounted,
    /// An order has no row: a major cycle must make counts exact again (C11).
    Gap(Order),
    /// How far the sweep is cannot be read: the same, once that is passed over.
    BadCursor(BadCursor),
}

/// A row of the journal that is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRow {
    /// The order that it sorts with.
    pub order: Order,
    /// What is wrong with it.
    pub fault: RowFault,
}

/// What is wrong with a row of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFault {
    /// It cannot be read: what it and earlier rows name stays.
    Torn,
    /// Its key is none that a commit gave, or two rows of an order are there: what those two name stays.
    Foreign,
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
const LAST_ORDERS: u64 = 8;

impl Store {
    /// Reads the journal that an earlier process left into the index; what is committed meanwhile waits for the last few
    /// orders only. Nothing expires before. Marks that had no room when the store was opened are read first.
    ///
    /// Errors: a failed read or write, a rollback or cycle meanwhile; [`StoreError::Cancelled`] once told to end: nothing has
    /// changed then, and it may be done later.
    pub fn index_journal(&self, goes_on: GoesOn<'_>) -> Result<Indexed, StoreError> {
        self.check_marks(goes_on)?; // BEFORE the first slice
        let (counts, settled, mut pending) = {
            let gate = self.gate.lock();
            match (gate.mode, &gate.pending) {
                (Mode::Exact(_), Some(_)) => return Ok(Indexed::Whole { bad_rows: Vec::new() }),
                (Mode::Exact(counts), None) => (counts, gate.settled, Pending::new(gate.limit)),
                (Mode::Off | Mode::Blind(_), _) => return Ok(Indexed::Uncounted),
            }
        };
        let begun = match Begun::load(&*self.view()?) {
            Err(error @ StoreError::Record { .. }) => {
                return Ok(Indexed::BadCursor(BadCursor::new(settled, &error)));
            }
            begun => begun?,
        };
        let mut indexing = Indexing { counts, last: None, has_gap: false, bad: BTreeMap::new(), begun };
        indexing.look_beside(&*self.view()?, goes_on)?;
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
        gate.set_index(Some(pending));
        self.note(&gate);
        let bad_rows = indexing.bad.into_iter().map(|(order, fault)| BadRow { order, fault }).collect();
        Ok(Indexed::Whole { bad_rows })
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

/// The newest order of a view.
fn head_of(view: &dyn View) -> Result<Option<Order>, StoreError> {
    Ok(native::read_head(view)?.map(|head| Order::new(head.order)))
}

/// A bound of a range of rows; none where there is no such order.
fn key_of(order: Option<Order>) -> Option<Vec<u8>> {
    order.map(|order| order.to_key().to_vec())
}

/// Reading the journal from the first entry that may be trusted on.
struct Indexing {
    counts: CountsRecord,
    last: Option<Order>,
    /// Whether a row behind the last order is missing: nothing behind it is read again.
    has_gap: bool,
    /// By the order that a row sorts with.
    bad: BTreeMap<Order, RowFault>,
    begun: Begun,
}

/// What an earlier process had begun with.
struct Begun {
    /// The newest order that is dealt with.
    done: Option<u64>,
    /// The last order of the entries behind it, and what is left of them.
    group: Option<(Order, Left)>,
    /// The same order, also once they are read.
    until: Option<Order>,
    /// What those name, as far as they were read.
    entries: Expiring,
}

impl Begun {
    fn load(view: &dyn View) -> Result<Self, StoreError> {
        let ExpiryRecord { done, group } = ExpiryRecord::load(view)?;
        let group = group.map(|group| Ok((Order::new(group.last), group.left(view)?))).transpose()?;
        let until = group.as_ref().map(|(last, _)| *last);
        Ok(Self { done, group, until, entries: Expiring::default() })
    }
}

impl Indexing {
    /// The order behind which each order must have a row.
    fn begin(&self) -> u64 {
        self.begun.done.map_or(self.counts.since, |done| done.max(self.counts.since))
    }

    /// Rows where no order is read: with keys that no commit gives, up to the order that it begins behind, and beyond the head.
    fn look_beside(&mut self, view: &dyn View, goes_on: GoesOn<'_>) -> Result<(), StoreError> {
        let begin = Order::new(self.begin());
        let before = KeyRange { start: None, end: key_of(begin.next()) };
        let beyond =
            head_of(view)?.and_then(Order::next).map(|behind| KeyRange { start: key_of(Some(behind)), end: None });
        let mut ending = Ending::new(goes_on);
        for range in [Some(before), beyond].into_iter().flatten() {
            visit_rows(view, &Table::JOURNAL, &range, &mut |key, _| {
                ending.go_on()?;
                let place = journal::place_of(key);
                if place > begin || !journal::is_ours(key) {
                    self.pass_over(place, RowFault::Foreign);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn pass_over(&mut self, place: Order, fault: RowFault) {
        self.bad.entry(place).or_insert(fault);
    }

    /// Goes on behind the last order read, up to the head of the view.
    fn read(&mut self, view: &dyn View, pending: &mut Pending, goes_on: GoesOn<'_>) -> Result<(), StoreError> {
        let after = Order::new(self.last.map_or_else(|| self.begin(), Order::get));
        self.last = Some(after);
        let Some(head) = head_of(view)?.filter(|_| !self.has_gap) else { return Ok(()) };
        let range = KeyRange { start: key_of(after.next()), end: key_of(head.next()) };
        let mut ending = Ending::new(goes_on);
        visit_rows(view, &Table::JOURNAL, &range, &mut |key, value| {
            ending.go_on()?;
            if journal::is_ours(key) {
                return self.row(journal::order_of(key)?, value, pending);
            }
            self.pass_over(journal::place_of(key), RowFault::Foreign);
            Ok(())
        })
    }

    fn row(&mut self, order: Order, value: &[u8], pending: &mut Pending) -> Result<(), StoreError> {
        let is_second = self.last == Some(order);
        if self.has_gap || !(is_second || self.last.and_then(Order::next) == Some(order)) {
            self.has_gap = true;
            return Ok(()); // the last order stays behind the head
        }
        if is_second && self.begun.until.is_some_and(|until| order <= until) {
            (self.has_gap, self.last) = (true, order.minus(1)); // which of them the cursor counts is not known
            return Ok(());
        }
        match record::decode::<JournalRecord>("journal", value) {
            Ok(row) if is_second => {
                // One of them is the commit's, and what each created is forgotten.
                row.created.iter().for_each(|fingerprint| pending.forget(*fingerprint));
                pending.forget_orders(order..=order);
                self.pass_over(order, RowFault::Foreign);
            }
            Ok(row) => self.take(order, &row, pending),
            Err(error @ StoreError::Newer { .. }) => return Err(error), // C17
            Err(_) => {
                // What it created is unknown, so earlier entries may name what is alive (I8).
                self.pass_over(order, RowFault::Torn);
                pending.forget_orders(..=order);
            }
        }
        self.last = Some(order);
        Ok(())
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
