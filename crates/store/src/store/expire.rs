//! IncrementalSweep on the store: what journal entries at or below the floor name is deleted in small slices (rule 6).
//!
//! A slice is prepared without any lock, which reads, and taken under the commit gate, which decides and writes: deletes,
//! rows of finished entries and cursor in one batch (I9). What decides is read in the same stay under the gate: the
//! permit (I10), the index, which a commit between the two may have changed (S21), the marks, and the readers' pins.
//! The cutoff is the floor and nothing else (S35).
//!
//! Costs: the gate is held for one unsynced write of at most the weight that was asked for. Nothing of it is read under it: marks that
//! have no room in memory are read before, and those that were made since are remembered. Reading a slice waits for no commit.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use state_tree::{Expiry, Judge, NodeHash, NodeLayout, Order, StateRoot};

use super::{
    BadCursor, Store,
    cursor::{self, ExpiryRecord, Layers},
    group::{Group, Rows, Slice, SliceLimit, read_rows, unread},
};
use crate::{
    backend::{Batch, Durability, View},
    busy::on_processor,
    counting::{Counting, CountsRecord},
    error::StoreError,
    many,
    permit::Permit,
    point::{Point, reached},
    schema::Table,
    stored::StoredRecord,
};

/// Where the sweep of the journal stands. Made empty; the store reads what an earlier process left.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Nothing until it was read, and after a slice that failed.
    at: Option<At>,
    covered: Option<Covered>,
    /// The newest order whose row is bad and was told: each is told once.
    told: Option<Order>,
}

#[derive(Debug)]
struct At {
    done: Option<Order>,
    group: Option<Group>,
    settled: u64,
    /// Whether rows of another cursor may be left.
    litter: bool,
}

/// Up to where somebody is known to answer for every kept order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Covered {
    below: Order,
    /// That of who answers.
    version: u64,
}

/// What older states than the entries may still have.
pub trait Held {
    /// Another number whenever it answers for other roots.
    fn version(&self) -> u64;

    /// Whether these roots are among those that [`Held::holds`] answers for.
    fn covers(&self, root: &StateRoot) -> bool;

    /// Whether one of them may reach the node. Unknown is yes (I8).
    ///
    /// Errors: what is known of them could not be read, so nothing is taken.
    fn holds(&self, hash: &NodeHash) -> Result<bool, StoreError>;
}

/// What a slice is judged and measured by.
#[derive(Clone, Copy)]
pub struct Judging<'a> {
    /// What older states may have.
    pub held: &'a dyn Held,
    /// A clock that never goes back.
    pub now: &'a dyn Fn() -> Duration,
}

/// What a slice came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Nodes deleted.
    pub nodes: u64,
    /// Nodes passed over: shared, created since, held by an older state, or not stored.
    pub passed: u64,
    /// Nodes of the slice, and children that were found below them.
    pub weight: u64,
    /// How long was looked up what older states hold and what is marked, before the gate.
    pub looked: Duration,
    /// How long the gate was held.
    pub held: Duration,
    /// Of that, how long it was worked: for the rest the machine kept the thread from its processors, or the write waited.
    pub worked: Duration,
}

/// Why nothing can be taken from the journal now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// Every entry at or below the floor is dealt with.
    Done,
    /// Counts are not exact, or no major cycle has finished under them, or their index was not read.
    Uncounted,
    /// How far the sweep is cannot be used: the same, once that is passed over ([`Store::pass_over`]).
    BadCursor(BadCursor),
}

impl Store {
    /// Reads the next slice.
    ///
    /// Errors: a failed read. A journal row that is unusable is passed over and left to the next major cycle: `bad_row` is
    /// told of it and its order (P2).
    pub fn next_slice(
        &self,
        backlog: &mut Backlog,
        limit: SliceLimit<'_>,
        layout: &dyn NodeLayout,
        bad_row: &mut dyn FnMut(Order, &StoreError),
    ) -> Result<Result<Slice, Idle>, StoreError> {
        if !self.counts_are_settled() || !self.seen.indexed.load(Ordering::Acquire) {
            return Ok(Err(Idle::Uncounted));
        }
        let settled = self.seen.settled.load(Ordering::Acquire); // BEFORE the view; whoever takes the slice looks again
        let view = self.view()?;
        let cutoff = self.look(|chain| chain.floor())?;
        backlog.at.take_if(|at| at.settled != settled);
        let at = match backlog.at.take() {
            Some(at) => at,
            None => match At::read(&*view, settled) {
                Err(error @ StoreError::Record { .. }) => {
                    return Ok(Err(Idle::BadCursor(BadCursor::new(settled, &error))));
                }
                read => read?,
            },
        };
        let at = backlog.at.insert(at);
        if at.group.is_none() {
            at.group = Group::behind(&*view, at.done, cutoff)?;
        }
        let Some(group) = &at.group else { return Ok(Err(Idle::Done)) };
        for (order, error) in group.bad.iter().filter(|(order, _)| backlog.told.is_none_or(|told| told < *order)) {
            bad_row(*order, error);
            self.forget_entry(*order, settled);
        }
        backlog.told = backlog.told.max(group.bad.last().map(|(order, _)| *order));
        Ok(Ok(group.read(limit, &*view, layout).map_err(unread)?))
    }

    /// What the entry of an order named is left to a major cycle: it may not wait in the index for ever.
    fn forget_entry(&self, order: Order, settled: u64) {
        let mut gate = self.caught_up();
        let is_current = gate.settled == settled;
        if let Some(queue) = gate.pending.as_mut().filter(|_| is_current) {
            queue.index().forget_orders(order..=order); // what it created was taken out of the index when it was committed
        }
    }

    /// Takes a slice: deletes what is free of it.
    ///
    /// Errors: a revoked permit, a reader that pins an older state which `held` does not answer for, a failed read or
    /// write. After an error nothing was deleted.
    pub fn expire(
        &self,
        permit: &Permit,
        backlog: &mut Backlog,
        slice: &Slice,
        by: Judging<'_>,
    ) -> Result<Expired, StoreError> {
        let Judging { held, now } = by;
        let begun = now();
        let hashes = &slice.step.hashes;
        // BEFORE the gate, since it may read files (I12): older states do not change.
        let mut loose = BTreeSet::new();
        for hash in hashes {
            if !held.holds(hash)? {
                loose.insert(hash);
            }
        }
        self.ask_kept(backlog, held)?;
        let read = self.read_marks(hashes)?;
        let looked = now().saturating_sub(begun);
        let mut gate = self.caught_up(); // same critical section as commit
        let (begun, busy) = (now(), on_processor());
        self.admit(permit)?; // I10
        let Counting { pending: Some(queue), marks, stored, settled, .. } = &mut *gate else {
            return Err(StoreError::Superseded);
        };
        let Some(marked) = marks.recall(read) else { return Err(StoreError::Superseded) };
        let at = backlog.at.take().filter(|at| at.settled == *settled);
        let Some(At { done, group: Some(group), settled, litter }) = at else { return Err(StoreError::Superseded) };
        let uncovered = self.look(|chain| chain.uncovered(group.last, &|root| held.covers(root)))?;
        if let Some((order, owner)) = uncovered {
            backlog.at = Some(At { done, group: Some(group), settled, litter });
            return Err(StoreError::HeldByReader { order, owner }); // S41, S58
        }
        let pending = queue.index();
        let is_free = |hash: &NodeHash| {
            pending.order(hash).is_some_and(|order| order <= group.last) // created and lost again since: a later entry's
                && !marked.contains(hash)
                && loose.contains(hash)
        };
        let Group { rows, last, mut expiry, mut layers, bad } = group;
        let judge = Judge { is_free: &is_free, is_shared: &|child| marked.is_known(child) };
        let taken = expiry.take(&slice.step, &slice.found, judge);
        let nodes = taken.condemned.len() as u64;
        let less = StoredRecord { nodes: stored.nodes.saturating_sub(nodes), ..*stored };
        let mut batch = Batch::new();
        taken.condemned.iter().for_each(|hash| batch.delete_node(*hash));
        let is_done = expiry.is_done();
        let done = if is_done { Some(last) } else { done };
        if is_done {
            rows.iter().for_each(|row| batch.delete(Table::JOURNAL, row.as_slice()));
        }
        if litter {
            cursor::delete_layers(&mut batch);
        }
        layers.follow(&expiry, &taken, &mut batch)?;
        let group = (!is_done).then(|| layers.record(last, &expiry));
        ExpiryRecord { done: done.map(Order::get), group }.put(&mut batch)?;
        less.put(&mut batch)?;
        reached(Point::SliceJudged);
        self.backend().write(&batch, Durability::Logged)?; // deletes and cursor together (I9)
        reached(Point::SliceWritten);
        *stored = less;
        for hash in &taken.condemned {
            pending.lately().deleted(hash);
        }
        hashes.iter().for_each(|hash| pending.settle(hash, last));
        pending.insert(last, None, &taken.below);
        if is_done {
            pending.forget_orders(..=last); // what is left of them is no slice's any more
        }
        let group = (!is_done).then_some(Group { rows, last, expiry, layers, bad });
        backlog.at = Some(At { done, group, settled, litter: false });
        self.note(&gate);
        let (gate_held, worked) = (now().saturating_sub(begun), on_processor().saturating_sub(busy));
        drop(gate); // a waiting commit goes before the next slice (I12)
        let (passed, weight) = (slice.step.hashes.len() as u64 - nodes, slice.weight() as u64);
        Ok(Expired { nodes, passed, weight, looked, held: gate_held, worked })
    }

    /// The marks of some nodes, read BEFORE the gate (I12), where they have no room in memory.
    fn read_marks(&self, hashes: &[NodeHash]) -> Result<Option<BTreeSet<u64>>, StoreError> {
        if !self.gate.lock().marks.watch() {
            return Ok(None);
        }
        let view = self.view()?; // AFTER the watch began: what is not in it is remembered
        many::marked_of(&*view, hashes.iter().map(NodeHash::fingerprint).collect()).map(Some)
    }

    /// Refuses while a kept order below the entries is not answered for. None is asked for twice, and none under the gate, for
    /// they may be many (I12): orders are kept when the floor passes them, and entries lie at or below it, so what was asked
    /// for has got no new ones.
    fn ask_kept(&self, backlog: &mut Backlog, held: &dyn Held) -> Result<(), StoreError> {
        let Some(Group { last, .. }) = backlog.at.as_ref().and_then(|at| at.group.as_ref()) else {
            return Err(StoreError::Superseded);
        };
        let known = backlog.covered.filter(|known| known.version == held.version());
        let from = known.map_or(Order::GENESIS, |known| known.below.min(*last));
        let kept = self.look(|chain| chain.kept_in(from..*last))?;
        if let Some((order, _)) = kept.into_iter().find(|(_, root)| !held.covers(root)) {
            return Err(StoreError::HeldByReader { order, owner: "the retention policy".to_owned() }); // S58
        }
        backlog.covered =
            Some(Covered { below: known.map_or(*last, |known| known.below.max(*last)), version: held.version() });
        Ok(())
    }
}

impl At {
    /// Begins behind the entries that may not be trusted: one names a node alone that another names with its tree, and which
    /// of the two a node that waits belongs to is not known.
    ///
    /// Errors: a failed read, a cursor that is unusable or of other entries.
    fn read(view: &dyn View, settled: u64) -> Result<Self, StoreError> {
        let (record, counts) = (ExpiryRecord::load(view)?, CountsRecord::load(view)?);
        let since = counts.map(|counts| counts.since);
        let done = record.done.max(since).map(Order::new);
        let litter = record.group.is_some();
        let Some(saved) = record.group.filter(|group| Some(group.last) > since) else {
            return Ok(Self { done, group: None, settled, litter });
        };
        let last = Order::new(saved.last);
        let Rows { keys, entries, bad } = read_rows(view, done, last, (usize::MAX, usize::MAX))?;
        let expiry = Expiry::resume(&entries, &saved.left(view)?);
        let expiry = expiry.ok_or_else(|| cursor::unusable("it is of other entries"))?;
        let layers = Layers::of(&saved);
        Ok(Self { done, group: Some(Group { rows: keys, last, expiry, layers, bad }), settled, litter: false })
    }
}
