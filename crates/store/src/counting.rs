//! What the commit gate knows of counts: rules 1 to 5 of one-bit reference counts, applied inside it.
//!
//! Three modes. *Off*: commits are journalled and nothing they name may go. *Blind*, while a major cycle traces the first
//! state: every node counts as shared, so marks are set and nothing expires. *Exact*: every node that two places of a
//! state have is marked, from one order on, and each commit keeps it so ([`state_tree::count`]). A store that begins
//! with its journal begins exact; any other becomes so by a major cycle (S33, S57). What is exact is deleted from only
//! once a major cycle has finished under it.
//!
//! A commit on an older state than the newest begins anew what entries may be trusted: that state may have what the orders
//! in between lost, and lacks what they created. It has every mark that it needs, if it was counted exactly itself: marks go
//! only where no state from the traced one on needs them, and none below that one is retained. So counting goes on
//! exactly, the entries up to this order are left to a major cycle, and the next one traces no older state. On a state from
//! before counts were exact, or while they are blind, the marks may be gone, and counting ends.
//!
//! The gate also counts what is stored, as far as it can be told: nodes that commits put and that were not there, less those
//! that the sweep deletes. Two moments between which no cycle deletes bound from above by how many nodes the store has grown.
//!
//! Costs: those of [`crate::standing`], under the gate, and a row of the journal. Which of the created nodes were stored is looked
//! for later ([`crate::unjudged`]), and then the index is brought up to date ([`crate::queue`]).

use std::{
    ops::Bound,
    sync::{Arc, atomic::AtomicU64},
};

use serde::{Deserialize, Serialize};
use state_tree::{Counted, Delta, Expiring, Gained, NodeHash, Order};

use crate::{
    backend::{Batch, View},
    chain::native,
    error::StoreError,
    journal::{self, JournalRecord},
    lost::{CountsLost, LostBy},
    many::{Marks, Written},
    pending::Pending,
    queue::{Entry, Queue},
    record::{self, Record},
    schema::Table,
    standing::{self, Asks, Entries, Looked, Memory, Strays},
    stay::Waste,
    store::StoreConfig,
    stored::StoredRecord,
    unjudged::Unjudged,
};

/// Since when counts are exact, in `prune_meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CountsRecord {
    /// The first order whose state has every mark it needs; entries of later orders may be trusted.
    pub(crate) since: u64,
    /// The last major cycle that has finished since; nothing is deleted before there is one.
    pub(crate) cycle: Option<u64>,
}

impl Record for CountsRecord {
    const KIND: [u8; 4] = *b"CNTS";
    const VERSION: u16 = 1;
}

impl CountsRecord {
    pub(crate) const KEY: &[u8] = b"counts";

    pub(crate) fn load(view: &dyn View) -> Result<Option<Self>, StoreError> {
        view.row(&Table::META, Self::KEY)?.map(|bytes| record::decode("counts", &bytes)).transpose()
    }

    pub(crate) fn put(&self, batch: &mut Batch) -> Result<(), StoreError> {
        batch.put(Table::META, Self::KEY, record::encode(self)?);
        CountsLost::forget(batch);
        Ok(())
    }

    /// Counts are exact no more.
    pub(crate) fn lose(batch: &mut Batch, lost: CountsLost) -> Result<(), StoreError> {
        batch.delete(Table::META, Self::KEY);
        lost.put(batch)
    }
}

/// How commits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Off,
    /// With the lowest order that the chain went back to since.
    Blind(Option<Order>),
    Exact(CountsRecord),
}

impl Mode {
    /// Whether entries may expire.
    pub(crate) fn is_settled(self) -> bool {
        matches!(self, Self::Exact(CountsRecord { cycle: Some(_), .. }))
    }
}

/// What the gate guards beside the order of writes.
#[derive(Debug)]
pub(crate) struct Counting {
    pub(crate) mode: Mode,
    /// Why it is not exact any more, if it was.
    pub(crate) lost: Option<CountsLost>,
    /// Nothing until it was read from the journal.
    pub(crate) pending: Option<Queue>,
    /// Grows whenever entries are settled from outside the sweep of them: work on those is void.
    pub(crate) settled: u64,
    /// The most nodes the index may hold.
    pub(crate) limit: usize,
    pub(crate) marks: Marks,
    pub(crate) stored: StoredRecord,
    /// The newest commit, from when it is written to the next stay.
    pub(crate) unjudged: Option<Unjudged>,
    /// The order whose bundle marks more on disk than was found, or less, until whoever writes next puts it right.
    pub(crate) owed: Option<Order>,
    /// The last look that has failed, until it is told.
    pub(crate) failed_look: Option<StoreError>,
    /// As [`Counting::stored`] as of the newest commit that is judged, for whoever does not wait.
    pub(crate) told: Arc<AtomicU64>,
    /// As [`StoreConfig::shared_per_presumed`].
    pub(crate) shared_per_presumed: u64,
    /// What is freed once the gate is let go (I12).
    pub(crate) waste: Waste,
    pub(crate) journal: bool,
}

/// A commit as the gate will write it.
pub(crate) struct Plan<'a> {
    pub(crate) order: Order,
    /// The order of the state it builds on.
    pub(crate) base: Option<Order>,
    /// The newest order before it.
    pub(crate) head: Option<Order>,
    pub(crate) commit: u64,
    pub(crate) timestamp_ms: u64,
    pub(crate) delta: &'a Arc<Delta>,
    /// How many of the created nodes the barrier did not know; none while it is closed.
    pub(crate) recorded: u64,
}

impl Plan<'_> {
    /// Whether it builds on an older state than the newest.
    pub(crate) fn is_fork(&self) -> bool {
        self.base.is_some() && self.base < self.head
    }
}

/// What counting adds to a commit.
pub(crate) struct Booked {
    pub(crate) rows: Batch,
    mode: Mode,
    /// What nothing had marked for certain.
    marked: Vec<u64>,
    marks: Written,
    stored: StoredRecord,
    rest: Rest,
}

/// What is left to do once a commit is written.
enum Rest {
    /// Its entry is for the index, if it is journalled.
    Entry(Option<Entry>),
    /// Nobody has looked for what it gained, in a view of before it.
    Judging {
        entry: Entry,
        gained: Gained,
        view: Arc<dyn View>,
        /// Whether it has marked some of that all the same.
        presumes: bool,
    },
}

impl Counting {
    /// Reads how an earlier process counted, and why it is not so any more, which is to be written BEFORE anything else: a
    /// mark that cannot be read may be the only one of its node, and without their record nobody knows since when counts are
    /// exact. Without a journal nothing is counted from the next commit on.
    pub(crate) fn load(view: &dyn View, config: StoreConfig) -> Result<(Self, Option<CountsLost>), StoreError> {
        let counts = record::if_usable(CountsRecord::load(view))?;
        let mode = counts.flatten().map_or(Mode::Off, Mode::Exact);
        let head = native::read_head(view)?.map_or(Order::GENESIS, |head| Order::new(head.order));
        let (marks, unreadable) = Marks::load(view, head, config.marks_limit)?;
        let (stored, lost) = (StoredRecord::load(view)?, CountsLost::load(view)?);
        let by_mark = unreadable.filter(|_| mode != Mode::Off).map(|_| LostBy::Mark);
        let by = if counts.is_none() { Some(LostBy::Record) } else { by_mark };
        let new = by.map(|by| CountsLost { by, order: head.get() });
        let mode = if new.is_some() { Mode::Off } else { mode };
        Ok((Self { mode, lost: new.or(lost), marks, stored, ..Self::new(config) }, new))
    }

    /// Counts nothing yet.
    pub(crate) fn new(config: StoreConfig) -> Self {
        let StoreConfig { journal, pending_limit, marks_limit, shared_per_presumed, .. } = config;
        let stored = StoredRecord { nodes: 0, has_no_strays: false };
        let (marks, limit, waste) = (Marks::none(marks_limit), pending_limit, Waste::default());
        let (mode, lost, pending, settled, unjudged, owed) = (Mode::Off, None, None, 0, None, None);
        let (failed_look, told) = (None, Arc::default());
        Self {
            mode,
            lost,
            pending,
            settled,
            limit,
            marks,
            stored,
            unjudged,
            owed,
            failed_look,
            told,
            shared_per_presumed,
            waste,
            journal,
        }
    }

    /// Begins with this index, or ends it.
    pub(crate) fn set_index(&mut self, index: Option<Pending>) {
        let before = std::mem::replace(&mut self.pending, index.map(Queue::of));
        before.into_iter().for_each(|before| self.waste.push(before));
    }

    /// Everything that is freed once the gate is let go.
    pub(crate) fn all_waste(&mut self) -> &mut Waste {
        self.marks.take_forgotten().into_iter().for_each(|marks| self.waste.push(marks));
        &mut self.waste
    }

    /// The rows of a commit, read and decided under the gate. Nothing is changed yet that a commit which fails would be wrong about.
    pub(crate) fn book(&mut self, view: &Arc<dyn View>, plan: &Plan<'_>) -> Result<Booked, StoreError> {
        let mut rows = Batch::new();
        let mode = self.mode_of(plan);
        match mode {
            Mode::Exact(counts) if mode != self.mode => counts.put(&mut rows)?,
            Mode::Off if mode != self.mode => CountsRecord::lose(&mut rows, self.lost_by(plan))?,
            Mode::Exact(_) | Mode::Blind(_) | Mode::Off => {}
        }
        let strays = if self.has_no_strays_after(plan) { Strays::None } else { Strays::Possible };
        let (later, presumed) = match self.presumed(plan, mode, strays) {
            Some(presumed) => (true, presumed),
            None => (false, Vec::new()),
        };
        let index = self.pending.as_mut().filter(|_| !later).map(|queue| &*queue.index());
        let known = Memory { marks: &self.marks, index, strays };
        let marked = known.marked(&**view, plan, mode)?;
        let (Counted { mut many, expiring, .. }, gained) = standing::count(plan, mode, &marked);
        let entries = if plan.is_fork() { Entries::OfAnother } else { Entries::Trusted };
        let asks = Asks { delta: plan.delta, gained: &gained, marked: &marked, entries };
        let looked = if later || mode == Mode::Off { Looked::default() } else { known.look(&**view, asks)? };
        many.extend(looked.many);
        self.put_owed(&mut rows)?;
        let marked = self.marks.renew(many.iter().map(NodeHash::fingerprint), plan.order);
        let marks = self.marks.put(&mut rows, (marked.clone(), &presumed), plan.order)?;
        let row = self.journal.then(|| JournalRecord::new(plan.timestamp_ms, plan.delta, &expiring));
        if let Some(row) = &row {
            rows.put(Table::JOURNAL, journal::key(plan.order, plan.commit), record::encode(row)?);
        }
        let stored = self.stored_after(plan, looked.present);
        stored.put(&mut rows)?;
        let Expiring { stale: mut lost, dropped } = expiring;
        lost.extend(dropped);
        let (order, timestamp_ms) = (plan.order, plan.timestamp_ms);
        let lately = looked.asked;
        let entry = row.map(|row| Entry { order, timestamp_ms, created: row.created, lost, lately });
        let rest = match entry {
            Some(entry) if later => {
                Rest::Judging { entry, gained, view: Arc::clone(view), presumes: !presumed.is_empty() }
            }
            entry => Rest::Entry(entry),
        };
        Ok(Booked { rows, mode, marked, marks, stored, rest })
    }

    /// Why this commit ends exact counting.
    fn lost_by(&self, plan: &Plan<'_>) -> CountsLost {
        if let (Mode::Blind(_), Some(lost)) = (self.mode, self.lost) {
            return lost; // it was not exact
        }
        let by = if self.journal { LostBy::Fork } else { LostBy::Unjournalled };
        CountsLost { by, order: plan.order.get() }
    }

    /// How a commit is counted.
    fn mode_of(&self, plan: &Plan<'_>) -> Mode {
        match self.mode {
            Mode::Off | Mode::Blind(_) | Mode::Exact(_) if !self.journal => Mode::Off, // a gap begins here (C11)
            Mode::Off | Mode::Blind(_) | Mode::Exact(_) if plan.base.is_none() => {
                Mode::Exact(CountsRecord { since: plan.order.get(), cycle: None }) // the empty state needs no mark
            }
            Mode::Exact(counts) if plan.is_fork() => {
                let counted = plan.base.is_some_and(|base| base.get() >= counts.since);
                if counted { Mode::Exact(CountsRecord { since: plan.order.get(), ..counts }) } else { Mode::Off }
            }
            Mode::Blind(_) if plan.is_fork() => Mode::Off,
            mode @ (Mode::Off | Mode::Blind(_) | Mode::Exact(_)) => mode,
        }
    }

    /// While a cycle works, a node that is there may be one that it deletes, and comes back only once.
    fn stored_after(&self, plan: &Plan<'_>, present: u64) -> StoredRecord {
        let absent = (plan.delta.created.len() as u64).saturating_sub(present);
        let nodes = self.stored.nodes.saturating_add(absent.max(plan.recorded));
        StoredRecord { nodes, has_no_strays: self.has_no_strays_after(plan) }
    }

    /// Whether there are no strays once this is committed. The first commit is on an empty state, with nothing before it.
    fn has_no_strays_after(&self, plan: &Plan<'_>) -> bool {
        (self.stored.has_no_strays || plan.head.is_none()) && !plan.delta.astray
    }

    /// Takes over what a written commit says.
    pub(crate) fn keep(&mut self, plan: &Plan<'_>, booked: Booked) {
        let before = self.stored.nodes;
        let began = self.mode == Mode::Off && booked.mode != Mode::Off;
        if booked.mode != self.mode {
            self.lost = (booked.mode == Mode::Off).then(|| self.lost_by(plan));
        }
        (self.mode, self.stored, self.owed) = (booked.mode, booked.stored, None);
        let Booked { marked, marks, rest, .. } = booked;
        let entry = match rest {
            Rest::Entry(entry) => entry,
            Rest::Judging { entry, gained, view, presumes } => {
                let strays = if self.stored.has_no_strays { Strays::None } else { Strays::Possible };
                let (delta, recorded, stored) = (Arc::clone(plan.delta), plan.recorded, before);
                let newest = Unjudged { delta, gained, view, strays, recorded, stored, marked, marks, presumes, entry };
                self.unjudged = Some(newest);
                return;
            }
        };
        self.marks.written(plan.order, marks, &[]);
        self.marks.add(marked, plan.order);
        if began {
            self.set_index(Some(Pending::new(self.limit)));
        }
        if self.mode == Mode::Off {
            self.set_index(None);
        }
        let Some(queue) = &mut self.pending else { return };
        if plan.is_fork() {
            self.waste.push(queue.index().give_up());
            self.settled += 1;
        }
        entry.into_iter().for_each(|entry| queue.push(entry));
    }

    /// A cycle is about to delete: which of what was created lately stays is known to nobody.
    pub(crate) fn forget_lately(&mut self) {
        let lately = self.pending.as_mut().map(|queue| queue.index().lately().forget());
        lately.into_iter().for_each(|lately| self.waste.push(lately));
    }

    /// Takes over what a rollback to an order wrote: the counts that it ended, the marks that it took away.
    pub(crate) fn roll_back(&mut self, to: Order, lost: Option<CountsLost>, marks: &[u64]) {
        if lost.is_some() {
            (self.mode, self.lost) = (Mode::Off, lost);
            self.set_index(None);
        }
        if let Mode::Blind(back) = self.mode {
            self.mode = Mode::Blind(Some(back.map_or(to, |back| back.min(to))));
        }
        self.settled += 1;
        self.owed = None; // it is gone with the others above the order
        self.marks.remove(marks);
        self.marks.bundles().roll_back(to);
        if let Some(queue) = &mut self.pending {
            let gone = queue.index().forget_orders((Bound::Excluded(to), Bound::Unbounded));
            self.waste.push(gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use state_tree::StateRoot;

    use super::*;
    use crate::{backend::Durability, many::Orders, pending::Named};

    fn order(n: u64) -> Order {
        Order::new(n)
    }

    /// Exact from order 1 on, and a node waits for each of the orders up to 9.
    fn counting() -> Counting {
        let mut index = Pending::new(99);
        (1..=9).for_each(|n| index.insert(order(n), Some(n), &[NodeHash::new([n as u8; 32])]));
        let mut counting = Counting::new(StoreConfig::new(Durability::Logged));
        counting.mode = Mode::Exact(CountsRecord { since: 1, cycle: Some(1) });
        counting.set_index(Some(index));
        counting
    }

    /// Strays are known of from the first commit on, or never.
    #[test]
    fn a_store_has_no_strays_only_if_its_first_commit_said_so_and_none_since_brought_one() {
        let delta = |astray| {
            let (parent, root) = (StateRoot::EMPTY, StateRoot::EMPTY);
            let (created, replaced, dropped, adopted) = Default::default();
            Delta { parent, root, created, replaced, dropped, adopted, astray }
        };
        let after = |before: bool, head: Option<u64>, astray: bool| {
            let mut counting = Counting::new(StoreConfig::new(Durability::Logged));
            counting.stored.has_no_strays = before;
            let (delta, head) = (Arc::new(delta(astray)), head.map(order));
            let plan =
                Plan { order: order(1), base: head, head, commit: 1, timestamp_ms: 1, delta: &delta, recorded: 0 };
            counting.has_no_strays_after(&plan)
        };
        assert!(after(false, None, false) && !after(false, None, true));
        assert!(after(true, Some(0), false) && !after(true, Some(0), true));
        assert!(!after(false, Some(0), false), "what was committed before is not known");
    }

    /// Keeps an empty commit of order 10 on the state of an order.
    fn keep(counting: &mut Counting, base: u64) {
        let (parent, root) = (StateRoot::EMPTY, StateRoot::EMPTY);
        let (created, replaced, dropped, adopted) = Default::default();
        let delta = Arc::new(Delta { parent, root, created, replaced, dropped, adopted, astray: false });
        let (order, base, head) = (order(10), Some(order(base)), Some(order(9)));
        let plan = Plan { order, base, head, commit: 10, timestamp_ms: 10, delta: &delta, recorded: 0 };
        let (mode, stored) = (counting.mode_of(&plan), counting.stored);
        counting.keep(
            &plan,
            Booked {
                rows: Batch::new(),
                mode,
                marked: Vec::new(),
                marks: Written::Rows,
                stored,
                rest: Rest::Entry(None),
            },
        );
    }

    /// I12: a fork gives the index up, or ends it, and so does a rollback.
    #[test]
    fn an_index_that_is_given_up_is_not_freed_under_the_gate() {
        let mut forked = counting();
        keep(&mut forked, 3);
        assert!(forked.waste.has::<Pending>());
        assert_eq!(forked.pending.as_mut().map(|queue| queue.index().counts().held), Some(0));
        let mut ended = counting();
        keep(&mut ended, 0);
        assert!(ended.mode == Mode::Off && ended.pending.is_none() && ended.waste.has::<Queue>());
        let mut back = counting();
        back.roll_back(order(4), None, &[]);
        assert!(back.waste.has::<Vec<Named>>());
        assert_eq!(back.pending.as_mut().map(|queue| queue.index().counts().held), Some(4));
        back.roll_back(order(0), Some(CountsLost { by: LostBy::Rollback, order: 0 }), &[]);
        assert!(back.mode == Mode::Off && back.pending.is_none() && back.waste.has::<Queue>());
    }

    /// I12: marks that are too many are not freed under the gate either.
    #[test]
    fn marks_that_are_forgotten_are_not_freed_under_the_gate() {
        let mut counting = counting();
        counting.marks.add([1, 2], order(1));
        counting.marks.forget();
        assert!(counting.all_waste().has::<Orders>());
    }
}
